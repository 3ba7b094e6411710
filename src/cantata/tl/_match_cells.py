"""Which cells of one modality correspond to which of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scipy import sparse

from cantata import _keys
from cantata._mudata.embeddings import modality_rep
from cantata._mudata.obs import category_names, coalesce_obs
from cantata._mudata.pairing import modality_cells
from cantata.metrics import matching_matrix

if TYPE_CHECKING:
    import numpy as np
    from mudata import MuData


def match_cells(
    mdata: MuData,
    *,
    use_rep: str,
    source: str,
    target: str,
    batch_key: str | None = None,
    k: int = 1,
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
    k, normalize, seed
        As in :func:`cantata.metrics.matching_matrix`.
    key_added
        Key in ``mdata.obsp``; by default the method of `use_rep` with ``_match`` behind, e.g.
        ``"clue_match"`` for ``"X_clue"``. An entry of that name is replaced.

    Returns
    -------
    A sparse matrix (n_obs, n_obs) over the cells of `mdata`, which is also written to
    ``mdata.obsp[key_added]``. Rows are cells of `source` and sum to 1, columns are cells of
    `target`. Rows of other cells, and of cells whose batch `target` does not have, are empty.

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
    >>> matched = cantata.tl.match_cells(mdata, use_rep="X_clue", source="rna", target="adt")
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
    matched = matching_matrix(
        *embeddings,
        groups_x=batches[0],
        groups_y=batches[1],
        k=k,
        normalize=normalize,
        seed=seed,
    ).tocoo()
    ends = cells[0][matched.row], cells[1][matched.col]
    result = sparse.csr_matrix((matched.data, ends), shape=(mdata.n_obs, mdata.n_obs))
    mdata.obsp[key_added or _keys.match(use_rep.removeprefix("X_"))] = result
    return result


def _batches(
    mdata: MuData, batch_key: str | None, modalities: tuple[str, str], cells: list[np.ndarray]
) -> list[np.ndarray | None]:
    """Batch of every row of the two modalities; None without a key."""
    if batch_key is None:
        return [None, None]
    batches = category_names(coalesce_obs(mdata, batch_key, modalities))
    columns: list[np.ndarray | None] = []
    for name, rows in zip(modalities, cells, strict=True):
        column = batches.iloc[rows]
        missing = column.index[column.isna()]
        if len(missing):
            raise ValueError(
                f"{len(missing)} of {len(column)} cells of {name!r} have no batch in "
                f"batch_key={batch_key!r}, e.g. {missing[0]!r}. Fill it in or leave them out."
            )
        columns.append(column.to_numpy(dtype=object))
    return columns
