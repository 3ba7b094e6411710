"""Which cells of a modality, or of a batch, have counterparts in the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn import preprocessing

from cantata import _keys
from cantata._mudata.checks import check_mudata, name_list, warn_user
from cantata._mudata.embeddings import joint_rep, modality_rep
from cantata._mudata.images import recorded_images
from cantata._mudata.kinds import is_cytometry, kind_of
from cantata._mudata.obs import coalesce_obs, known_batches
from cantata._mudata.pairing import modality_cells, row_table
from cantata._mudata.values import choose_layer, matrix_of, saved_record
from cantata._numeric.components import fit_components, moments, project
from cantata._numeric.counterparts import MIN_CELLS, counterpart_probability
from cantata._numeric.normalise import feature_statistics, normalise, target_total

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData

N_COMPONENTS = 50
"""Components of a modality in which cells are neighbours, as of :func:`cantata.pp.preprocess`."""


def counterparts(
    mdata: MuData,
    *,
    use_rep: str,
    modalities: Sequence[str] | None = None,
    batch_key: str | None = None,
    key_added: str | None = None,
    seed: int = 0,
) -> None:
    """Probability that a cell has a counterpart in another modality, or in another batch.

    Models bring modalities together, also where one of them has a population that the others
    lack: it then lies on the cells of another one, whose labels and values it is given. In mosaic
    data it tells how few of a cell's neighbours were measured in several modalities; with few
    such cells or none, how much farther its nearest cells of the other modalities are than those
    of its own. Neighbours are those of a modality's own components, as
    :func:`cantata.pp.preprocess` made them or else computed as there. What is usual without a
    counterpart is learned by leaving out neighbourhoods in turn, without labels.

    Parameters
    ----------
    mdata
        Any MuData with embeddings in one space, e.g. after ``model.write_results(mdata)``.
    use_rep
        Key of the embedding in ``mdata[m].obsm``, or in ``mdata.obsm`` with `batch_key`, e.g.
        ``"X_clue"``.
    modalities
        Modalities to compare; all with this embedding by default.
    batch_key
        Compare the batches of this annotation, each with all others, by the joint embedding, in
        place of modalities.
    key_added
        Name of the column; by default the method of `use_rep` with ``_counterpart`` behind, e.g.
        ``"clue_counterpart"`` for ``"X_clue"``.
    seed
        Seed of the neighbourhoods, and of the approximate search above 100,000 cells.

    Returns
    -------
    Nothing. ``mdata[m].obs[key_added]`` of every modality, or ``mdata.obs[key_added]`` with
    `batch_key`, are probabilities in [0, 1]; 1 for cells with several of the modalities.

    Raises
    ------
    KeyError
        If a modality, the embedding or the batches are not found.
    ValueError
        If there is one modality or batch alone, one has fewer than 40 cells, a cell has no batch,
        or both `modalities` and `batch_key` are given.

    Warns
    -----
    Where embeddings are not mixed at all, or a modality without components is on disk, so that
    its neighbours are those of the embedding.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> rna, adt = AnnData(np.ones((300, 1))), AnnData(np.ones((200, 1)))
    >>> rna.obs_names, adt.obs_names = "r" + rna.obs_names, "a" + adt.obs_names
    >>> rna.obsm["X_clue"] = rng.normal(size=(300, 2)) + 5
    >>> adt.obsm["X_clue"] = rng.normal(size=(200, 2)) + 5
    >>> rna.obsm["X_clue"][:100] -= 20  # a population that proteins lack
    >>> mdata = mudata.MuData({"rna": rna, "adt": adt})
    >>> cantata.tl.counterparts(mdata, use_rep="X_clue")
    >>> bool(mdata["rna"].obs["clue_counterpart"].iloc[:100].max() < 0.1)
    True
    """
    check_mudata(mdata)
    key = key_added or _keys.counterpart(use_rep.removeprefix("X_"))
    # 1. what is compared, and which cells have a counterpart for certain
    if batch_key is not None and modalities is not None:
        raise ValueError("Give modalities or batch_key, not both.")
    if batch_key is None:
        if modalities is not None:
            modalities = name_list("modalities", modalities)
        else:
            # with none, the first one says which embeddings there are
            modalities = [n for n in mdata.mod if use_rep in mdata[n].obsm] or list(mdata.mod)
        z = {name: modality_rep(mdata, name, use_rep) for name in modalities}
    else:
        joint, names = joint_rep(mdata, use_rep), _batches(mdata, batch_key)
        z = {str(name): joint[names == name] for name in np.unique(names)}
    _check(z, use_rep, batch_key)
    # 2. each beside all others
    found = {}
    for name, cells in z.items():
        if batch_key is None:
            found[name] = counterparts_of(mdata, name, z, seed)
            continue
        others = np.concatenate([part for other, part in z.items() if other != name])
        none = np.zeros(len(cells), dtype=bool)
        found[name] = counterpart_probability(cells, others, none, seed=seed)
    # 3. and then written
    if batch_key is None:
        for name, probability in found.items():
            mdata[name].obs[key] = probability
    else:
        column = np.empty(mdata.n_obs)
        for name, probability in found.items():
            column[names == name] = probability
        mdata.obs[key] = column


def counterparts_of(
    mdata: MuData, name: str, z: Mapping[str, np.ndarray], seed: int
) -> np.ndarray:
    """Probability that each cell of a modality has a counterpart among those of the others.

    `z` are the embeddings of all that are compared.
    """
    others = [other for other in z if other != name]
    table = row_table(mdata, others)
    has_other = np.any([rows >= 0 for rows in table.values()], axis=0)
    return counterpart_probability(
        z[name],
        np.concatenate([z[other] for other in others]),
        has_other[modality_cells(mdata, name)],
        _own_components(mdata, name),
        seed=seed,
    )


def _own_components(mdata: MuData, name: str) -> np.ndarray | None:
    """Components of a modality, of length 1; None where its values have none."""
    adata = mdata[name]
    rep = str((saved_record(adata) or {}).get("rep", _keys.PCA))
    if rep in adata.obsm:
        components = np.asarray(adata.obsm[rep], dtype=np.float64)
    else:
        layer = choose_layer(mdata, name, {})
        if recorded_images(adata) or (layer is None and adata.X is None):
            return None
        values = matrix_of(mdata, name, layer)
        if not (sparse.issparse(values) or isinstance(values, np.ndarray)):
            warn_user(
                f"Modality {name!r} is on disk and has no components, so that neighbours of its "
                "cells are those of the embedding, which tell less. Run cantata.pp.preprocess."
            )
            return None
        n_varying = int((moments(values)[1] > 0).sum())
        n = min(N_COMPONENTS, n_varying - 1, adata.n_obs // 10)
        if n < 2:
            return None
        components = _fitted_components(name, adata, values, n)
    return preprocessing.normalize(components)


def _fitted_components(name: str, adata: AnnData, values: Any, n: int) -> np.ndarray:
    """What :func:`cantata.pp.preprocess` makes of counts; other values are taken as they are."""
    kind, statistics, normalised = kind_of(name, adata), None, values
    stored = values.data if sparse.issparse(values) else values
    if stored.min(initial=0) < 0 or is_cytometry(name, adata):
        kind = None
    if kind is not None:
        statistics = feature_statistics(kind, values)
        normalised = normalise(kind, values, target_total(kind, values), statistics)
    components = fit_components(name, kind, values, normalised, statistics, n)
    return project(components, normalised).astype(np.float64)


def _batches(mdata: MuData, batch_key: str) -> np.ndarray:
    """Batch of every cell."""
    return known_batches(coalesce_obs(mdata, batch_key), batch_key).to_numpy(dtype=str)


def _check(z: Mapping[str, np.ndarray], use_rep: str, batch_key: str | None) -> None:
    """Refuse what cannot be compared."""
    what = "modalities" if batch_key is None else f"batches in {batch_key!r}"
    if len(z) < 2:
        raise ValueError(
            f"Counterparts are cells of others; there are only these {what} with {use_rep!r}: "
            f"{list(z)}."
        )
    widths = {name: cells.shape[1] for name, cells in z.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"{use_rep!r} must be one space; its dimensions are {widths}.")
    few = {name: len(cells) for name, cells in z.items() if len(cells) < MIN_CELLS}
    if few:
        raise ValueError(
            f"Neighbourhoods of {what} with fewer than {MIN_CELLS} cells tell nothing: {few}. "
            "Leave these out."
        )
