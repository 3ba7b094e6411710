"""Which cells of one modality correspond to which of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from cantata import _keys
from cantata._mudata.embeddings import modality_rep
from cantata._mudata.obs import coalesce_obs, known_batches
from cantata._mudata.pairing import modality_cells
from cantata.metrics import matching_matrix

if TYPE_CHECKING:
    from mudata import MuData

N_NEIGHBORS = 20
"""Neighbours with which values come close to the share of right matches, on real data."""


def match_cells(
    mdata: MuData,
    *,
    use_rep: str,
    source: str,
    target: str,
    batch_key: str | None = None,
    k: int | None = None,
    one_to_one: bool = False,
    normalize: bool = True,
    key_added: str | None = None,
    seed: int = 0,
) -> sparse.csr_matrix:
    """Matching probabilities between the cells of two modalities.

    Shared nearest neighbours of ``mdata[source].obsm[use_rep]`` and
    ``mdata[target].obsm[use_rep]`` as in :func:`cantata.metrics.matching_matrix` (Tu et al. 2022,
    equation 16). It works on the two embeddings alone: known pairs are not used.

    Parameters
    ----------
    mdata
        Any MuData with embeddings in one space, e.g. after ``model.write_results(mdata)``.
    use_rep
        Key of the embedding in both modalities, e.g. ``"X_clue"``.
    source, target
        The modality whose cells are matched, and the modality that they are matched to.
    batch_key
        Match within batches only. Looked up in ``mdata.obs``, then in the two modalities.
    k
        Number of neighbours in each modality; by default 20, in each batch as many as it has
        cells for. With few, as the published scores have (1), the matrix is sparser
        and its values are no probabilities: held against known pairs of real data, a match of .8
        is the right cell in 1 of 50.
    one_to_one
        Keep one cell of `target` for each of `source`, and no cell twice, such that the sum of
        their probabilities is the largest. Cells may be left over, and their rows empty.
    normalize, seed
        As in :func:`cantata.metrics.matching_matrix`.
    key_added
        Key in ``mdata.obsp``; by default the method of `use_rep` with ``_match`` behind, e.g.
        ``"clue_match"`` for ``"X_clue"``. An entry of that name is replaced.

    Returns
    -------
    A sparse matrix (n_obs, n_obs) over the cells of `mdata`, which is also written to
    ``mdata.obsp[key_added]``. Rows are cells of `source` and sum to 1 (with `one_to_one` they
    have one value), columns are cells of `target`. Rows of other cells, and of cells whose batch
    `target` does not have, are empty. Probabilities are of cells that have a counterpart, which
    :func:`cantata.tl.counterparts` judges.

    Raises
    ------
    KeyError
        If a modality, the embedding or the batches are not found.
    TypeError, ValueError
        If `source` is `target`, a cell has no batch or contradicting ones, and as
        :func:`cantata.metrics.matching_matrix`.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> rna, adt = AnnData(np.ones((2, 3))), AnnData(np.ones((2, 4)))
    >>> rna.obs_names, adt.obs_names = ["a", "b"], ["c", "d"]
    >>> rna.obsm["X_clue"] = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> adt.obsm["X_clue"] = np.array([[0.1, 0.9], [0.9, 0.1]])
    >>> mdata = mudata.MuData({"rna": rna, "adt": adt})
    >>> matched = cantata.tl.match_cells(mdata, use_rep="X_clue", source="rna", target="adt", k=1)
    >>> matched.toarray()
    array([[0., 0., 0., 1.],
           [0., 0., 1., 0.],
           [0., 0., 0., 0.],
           [0., 0., 0., 0.]])
    """
    if source == target:
        raise ValueError(f"source and target are both {source!r}; give two modalities.")
    embeddings = modality_rep(mdata, source, use_rep), modality_rep(mdata, target, use_rep)
    if embeddings[0].shape[1] != embeddings[1].shape[1]:
        raise ValueError(
            f"obsm[{use_rep!r}] has {embeddings[0].shape[1]} dimensions in {source!r} and "
            f"{embeddings[1].shape[1]} in {target!r}: both must be in one space."
        )
    cells = [modality_cells(mdata, name) for name in (source, target)]
    batches = _batches(mdata, batch_key, (source, target), cells)
    options: dict[str, Any] = {"normalize": normalize, "seed": seed}
    if k is not None or batches[0] is None:
        if k is None:
            k = min(N_NEIGHBORS, *(len(z) for z in embeddings))
        groups: dict[str, Any] = {"groups_x": batches[0], "groups_y": batches[1]}
        matched = matching_matrix(embeddings[0], embeddings[1], k=k, **groups, **options)
    else:
        matched = _within_batches(embeddings, batches, options)
    matched = (_one_to_one(matched) if one_to_one else matched).tocoo()
    ends = cells[0][matched.row], cells[1][matched.col]
    result = sparse.csr_matrix((matched.data, ends), shape=(mdata.n_obs, mdata.n_obs))
    mdata.obsp[key_added or _keys.match(use_rep.removeprefix("X_"))] = result
    return result


def _within_batches(
    embeddings: tuple[np.ndarray, np.ndarray],
    batches: list[np.ndarray | None],
    options: dict[str, Any],
) -> sparse.csr_matrix:
    """Matches within each batch, with as many neighbours as it has cells for."""
    x, y = embeddings
    of_x, of_y = (pd.Series(batch) for batch in batches)
    rows, columns, values = [np.empty(0, dtype=int)], [np.empty(0, dtype=int)], [np.empty(0)]
    common = sorted(set(of_x) & set(of_y))
    if not common:
        raise ValueError(
            f"The two modalities have no batch in common, e.g. {of_x[0]!r} and {of_y[0]!r}."
        )
    for batch in common:
        here, there = (np.flatnonzero(column == batch) for column in (of_x, of_y))
        k = min(N_NEIGHBORS, len(here), len(there))
        block = matching_matrix(x[here], y[there], k=k, **options).tocoo()
        rows.append(here[block.row])
        columns.append(there[block.col])
        values.append(block.data)
    ends = np.concatenate(rows), np.concatenate(columns)
    return sparse.csr_matrix((np.concatenate(values), ends), shape=(len(x), len(y)))


def _one_to_one(probabilities: sparse.csr_matrix) -> sparse.csr_matrix:
    """The entries of the assignment of rows to columns with the largest sum."""
    n, m = probabilities.shape
    # a column of its own that is worth next to nothing for each row that finds no other
    alone = sparse.identity(n, format="csr") * (probabilities.data.min(initial=1.0) * 1e-3)
    rows, columns = min_weight_full_bipartite_matching(
        sparse.hstack([probabilities, alone], format="csr"), maximize=True
    )
    rows, columns = rows[columns < m], columns[columns < m]
    values = np.asarray(probabilities[rows, columns]).ravel()
    return sparse.csr_matrix((values, (rows, columns)), shape=(n, m))


def _batches(
    mdata: MuData, batch_key: str | None, modalities: tuple[str, str], cells: list[np.ndarray]
) -> list[np.ndarray | None]:
    """Batch of every row of the two modalities; None without a key."""
    if batch_key is None:
        return [None, None]
    column = coalesce_obs(mdata, batch_key, modalities)
    return [
        known_batches(column.iloc[rows], batch_key, f" of {name!r}").to_numpy(dtype=object)
        for name, rows in zip(modalities, cells, strict=True)
    ]
