"""Counts to representations, modality by modality, thin over scanpy and muon."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from cantata._mudata.checks import check_mapping, check_modalities
from cantata._mudata.kinds import Kind, resolve_kinds
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import row_table
from cantata._mudata.values import check_in_memory
from cantata._numeric.components import fit_lsi, fit_pca, project
from cantata._numeric.normalise import feature_statistics, normalise, target_total, variable_genes
from cantata.pp._counts import find_counts
from cantata.pp._store import Fitted, plain_copy, rep_key, write_fitted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudata import MuData

logger = logging.getLogger(__name__)


def preprocess(
    mdata: MuData,
    *,
    modalities: Mapping[str, str] | None = None,
    batch_key: str | None = None,
    layers: Mapping[str, str | None] | None = None,
    n_top_genes: int = 4000,
    n_comps: int = 50,
    reference: MuData | None = None,
    copy: bool = False,
) -> MuData | None:
    """Normalise every modality and compute the representations that encoders read.

    - RNA: ``.X`` holds counts scaled to 10,000 per cell, log1p; ``obsm["X_pca"]`` the principal
      components of the highly variable genes' z-scores, clipped at 10.
    - Protein: ``.X`` holds the centred log ratio of each protein over the cells; ``obsm["X_pca"]``
      the principal components of its z-scores, clipped at 10.
    - ATAC: ``.X`` holds TF-IDF without logarithms, scaled to ten times the median count per cell,
      log1p; ``obsm["X_lsi"]`` its singular vectors, each cell scaled to a root mean square of 1.

    Principal components are scaled by one factor, such that the first has a standard deviation
    of 3.

    Parameters
    ----------
    mdata
        In memory. Counts of each modality in ``.X``, in the layer named in `layers`, or in the
        layer that an earlier run recorded.
    modalities
        Modality to kind (``"rna"``, ``"protein"`` or ``"adt"``, ``"atac"``); others are left as
        they are. None: all; kinds are guessed from ``.var["feature_types"]``, names and numbers of
        features, and logged.
    batch_key
        Column at MuData or modality level; highly variable genes are then chosen within batches.
    layers
        Layer that holds the counts of a modality; None or not named: see `mdata`.
    n_top_genes
        Number of highly variable genes, flagged in ``.var["highly_variable"]``; no gene is
        removed.
    n_comps
        Number of components; a modality with fewer features gets one less than it has.
    reference
        A preprocessed MuData. Its statistics and loadings are used instead of new ones: features
        are matched by name in any order; absent ones count as 0. `batch_key`, `n_top_genes` and
        `n_comps` must then be left alone.
    copy
        Work on a copy and return it.

    Returns
    -------
    None, or the copy. Nothing is written before all modalities have been computed; then, per
    modality:

    - ``mdata[m].layers["counts"]``: the counts (not if they came from a layer, which stays),
    - ``mdata[m].X``: normalised values; sparse stays sparse,
    - ``mdata[m].obsm["X_pca"]`` or ``["X_lsi"]``: the representation, float32,
    - ``mdata[m].var["highly_variable"]`` (RNA),
    - ``mdata[m].varm["PCs"]`` or ``["LSI"]``, ``mdata[m].varm["cantata_moments"]`` and
      ``mdata[m].uns["cantata"]["preprocess"]``: what projects a query,
    - ``mdata.uns["cantata"]["preprocess"][m]``: kind, representation, number of components, counts
      layer.

    Raises
    ------
    TypeError
        If `mdata` is no MuData, or a matrix is neither dense nor sparse.
    KeyError
        For unknown modalities, layers or batch columns, or a modality that the reference lacks.
    ValueError
        For a view or backed data, values that are no counts, cells without counts, cells without a
        batch, unknown kinds, a reference that was not preprocessed, or a query that lacks more
        than 20 % of a modality's features.

    Notes
    -----
    The centred log ratio is taken for each protein over the cells (Stoeckius et al. 2017, axis 0
    of :func:`muon.prot.pp.clr`): it keeps sparse matrices sparse, does not let one abundant
    protein of a small panel move all others of the cell, and projects a query whose panel lacks a
    few proteins. TF-IDF takes the logarithm once and last (Tu et al. 2022, competition entry). The
    first LSI component is mostly sequencing depth; it is kept, and scaling the rows removes the
    depth. The decomposition is exact (ARPACK): a randomised one loses much of the later components
    of sparse chromatin data.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic()
    >>> cantata.pp.preprocess(mdata, n_comps=20)
    >>> mdata["rna"].obsm["X_pca"].shape[1]
    20
    """
    check_modalities(mdata, None if modalities is None else list(modalities))
    check_in_memory(mdata)
    layers = dict(layers or {})
    check_mapping("layers", layers, list(mdata.mod))
    if reference is not None:
        from cantata.pp._project import preprocess_query

        if (batch_key, n_top_genes, n_comps) != (None, 4000, 50):
            raise ValueError(
                "batch_key, n_top_genes and n_comps are those of the reference; leave them out "
                "when reference is given."
            )
        return preprocess_query(mdata, reference, modalities, layers, copy=copy)
    if min(n_comps, n_top_genes) < 2:
        raise ValueError(f"n_comps={n_comps}, n_top_genes={n_top_genes}: both must be at least 2.")
    kinds = resolve_kinds(mdata, modalities)
    batches = _batches(mdata, batch_key, [name for name, kind in kinds.items() if kind == "rna"])
    fitted = {}
    for name, kind in kinds.items():
        fitted[name] = _fit(name, mdata, kind, layers, batches.get(name), n_top_genes, n_comps)
    target = plain_copy(mdata) if copy else mdata
    for name, result in fitted.items():
        write_fitted(target, name, result)
        logger.info(
            "Modality %r (%s): %d components in obsm[%r].",
            name,
            result.kind,
            result.representation.shape[1],
            rep_key(result.kind),
        )
    return target if copy else None


def _batches(mdata: MuData, batch_key: str | None, names: list[str]) -> dict[str, np.ndarray]:
    """Batch of each cell of the named modalities, in the modality's own order."""
    if batch_key is None:
        return {}
    column = coalesce_obs(mdata, batch_key)
    found = {}
    for name, rows in row_table(mdata, names).items():
        present = np.flatnonzero(rows >= 0)
        cells = np.empty(present.size, dtype=np.int64)
        cells[rows[present]] = present
        own = column.iloc[cells]
        if own.isna().any():
            missing = own.index[own.isna()]
            raise ValueError(
                f"batch_key={batch_key!r}: {missing.size} cells of modality {name!r} have no "
                f"batch, e.g. {missing[0]!r}. Fill the column in, e.g. with 'unknown'."
            )
        found[name] = own.astype(str).to_numpy(dtype=object)
    return found


def _fit(
    name: str,
    mdata: MuData,
    kind: Kind,
    layers: Mapping[str, str | None],
    batches: np.ndarray | None,
    n_top_genes: int,
    n_comps: int,
) -> Fitted:
    counts = find_counts(name, mdata[name], layers)
    total = target_total(kind, counts.matrix)
    statistics = feature_statistics(kind, counts.matrix)
    normalised = normalise(kind, counts.matrix, total, statistics)
    highly_variable = None
    used = np.ones(normalised.shape[1], dtype=bool)
    if kind == "rna":
        used = highly_variable = variable_genes(
            name, counts.matrix, normalised, batches, n_top_genes
        )
    if kind == "atac":
        components = fit_lsi(name, normalised, statistics > 0, n_comps)
    else:
        components = fit_pca(name, normalised, used, n_comps)
    return Fitted(
        kind=kind,
        counts=counts,
        normalised=normalised,
        statistics=statistics,
        total=total,
        components=components,
        representation=project(components, normalised),
        highly_variable=highly_variable,
    )
