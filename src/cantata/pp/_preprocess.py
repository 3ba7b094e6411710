"""Counts to representations, modality by modality; a query as its reference was."""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse

from cantata import _keys
from cantata._mudata.checks import (
    check_mapping,
    check_modalities,
    match_features,
    matrix_stats,
    warn_user,
)
from cantata._mudata.images import recorded_images
from cantata._mudata.kinds import Kind, hashtag_hint, resolve_kinds
from cantata._mudata.obs import category_names, coalesce_obs
from cantata._mudata.pairing import modality_cells
from cantata._mudata.values import (
    check_in_memory,
    choose_layer,
    layer_names,
    matrix_of,
    saved_record,
)
from cantata._numeric.components import Components, fit_lsi, fit_pca, project
from cantata._numeric.normalise import feature_statistics, normalise, target_total, variable_genes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

logger = logging.getLogger(__name__)

MOMENTS = "cantata_moments"
"""``.varm`` entry with one row per feature: the statistic of its normalisation, and the mean,
standard deviation and centre of :class:`cantata._numeric.components.Components`."""

LOADINGS = {_keys.PCA: "cantata_pca", _keys.LSI: "cantata_lsi"}
"""``.varm`` entry with the loadings of a representation."""


@dataclass(frozen=True)
class Recipe:
    """What takes counts of a modality to its representation, as fitted on a reference."""

    kind: Kind
    statistics: np.ndarray
    total: float
    components: Components

    def digest(self, features: pd.Index) -> int:
        """Number that tells recipes apart, whatever the order of the `features`."""
        c, order = self.components, np.argsort(features.to_numpy(dtype=object).astype(str))
        digest = zlib.crc32(np.float64(self.total).tobytes())
        for values in (self.statistics, c.mean, c.sd, c.centre, c.loadings):
            ordered = np.ascontiguousarray(values[order], dtype=np.float64)
            digest = zlib.crc32(ordered.tobytes(), digest)
        return digest


@dataclass(frozen=True)
class Preprocessed:
    """Values of one modality, to be written."""

    kind: Kind
    counts: Any
    layer: str
    normalised: Any
    representation: np.ndarray
    recipe: int
    """Digest of what made the representation."""
    highly_variable: np.ndarray | None = None

    @property
    def rep(self) -> str:
        """Key of the representation in ``.obsm``."""
        return _keys.LSI if self.kind == "atac" else _keys.PCA


def preprocess(
    mdata: MuData,
    *,
    modalities: Mapping[str, str] | None = None,
    batch_key: str | None = None,
    layers: Mapping[str, str | None] | None = None,
    n_top_genes: int = 4000,
    n_components: int = 50,
    reference: MuData | None = None,
) -> None:
    """Normalise every modality and compute the representations that encoders read.

    - RNA: ``.X`` holds counts scaled to 10,000 per cell, log1p; ``obsm["X_cantata_pca"]`` the
      principal components of the highly variable genes' z-scores, clipped at 10.
    - Protein: ``.X`` holds the centred log ratio of each protein over the cells;
      ``obsm["X_cantata_pca"]`` the principal components of its z-scores, clipped at 10.
    - ATAC: ``.X`` holds TF-IDF without logarithms, scaled to ten times the median count per cell,
      log1p; ``obsm["X_cantata_lsi"]`` its singular vectors, each cell scaled to a root mean
      square of 1.

    Principal components are scaled by one factor, such that the first has a standard deviation
    of 3.

    Parameters
    ----------
    mdata
        In memory; written to (to keep it, pass ``mdata.copy()``). Counts of each modality in
        ``.X``, in the layer named in `layers`, or in the layer that an earlier run recorded.
    modalities
        Modality to kind (``"rna"``, ``"protein"`` or ``"adt"``, ``"atac"``); others are left as
        they are. None: all but images; kinds are guessed from ``.var["feature_types"]``, names
        and numbers of features, and logged.
    batch_key
        Column at MuData or modality level; highly variable genes are then chosen within batches.
    layers
        Layer that holds the counts of a modality; None or not named: see `mdata`.
    n_top_genes
        Number of highly variable genes, flagged in ``.var["highly_variable"]``; no gene is
        removed.
    n_components
        Number of components; a modality with fewer features gets one less than it has.
    reference
        A preprocessed MuData. Its statistics and loadings are used instead of new ones: features
        are matched by name in any order; absent ones count as 0. `batch_key`, `n_top_genes` and
        `n_components` must then be left alone.

    Returns
    -------
    None. Nothing is written before all modalities have been computed; then, per modality:

    - ``mdata[m].layers["counts"]``: the counts (not if they came from a layer, which stays),
    - ``mdata[m].X``: normalised values; sparse stays sparse,
    - ``mdata[m].obsm["X_cantata_pca"]`` or ``["X_cantata_lsi"]``: the representation, float32,
    - ``mdata[m].var["highly_variable"]`` (RNA),
    - ``mdata[m].varm["cantata_pca"]`` or ``["cantata_lsi"]``, ``varm["cantata_moments"]`` and
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
    >>> cantata.pp.preprocess(mdata, n_components=20)
    >>> mdata["rna"].obsm["X_cantata_pca"].shape[1]
    20
    """
    check_modalities(mdata, None if modalities is None else list(modalities))
    check_in_memory(mdata)
    layers = dict(layers or {})
    check_mapping("layers", layers, list(mdata.mod))
    if reference is not None:
        if (batch_key, n_top_genes, n_components) != (None, 4000, 50):
            raise ValueError(
                "batch_key, n_top_genes and n_components are those of the reference; leave them "
                "out when reference is given."
            )
        _preprocess_query(mdata, reference, modalities, layers)
        return
    if min(n_components, n_top_genes) < 2:
        raise ValueError(
            f"n_components={n_components}, n_top_genes={n_top_genes}: both must be at least 2."
        )
    kinds = resolve_kinds(mdata, modalities)
    batches = _batches(mdata, batch_key, [name for name, kind in kinds.items() if kind == "rna"])
    fits = {}
    for name, kind in kinds.items():
        batch = batches.get(name)
        fits[name] = _fit(name, mdata, kind, layers, batch, n_top_genes, n_components)
    for name, (recipe, values) in fits.items():
        _write_fit(mdata, name, recipe, values)
        logger.info(
            "Modality %r (%s): %d components in obsm[%r].",
            name,
            values.kind,
            values.representation.shape[1],
            values.rep,
        )


def _batches(mdata: MuData, batch_key: str | None, names: list[str]) -> dict[str, np.ndarray]:
    """Batch of each cell of the named modalities, in the modality's own order."""
    if batch_key is None:
        return {}
    column = coalesce_obs(mdata, batch_key)
    batches = {}
    for name in names:
        batch = column.iloc[modality_cells(mdata, name)]
        if batch.isna().any():
            missing = batch.index[batch.isna()]
            raise ValueError(
                f"batch_key={batch_key!r}: {missing.size} cells of modality {name!r} have no "
                f"batch, e.g. {missing[0]!r}. Fill the column in, e.g. with 'unknown'."
            )
        batches[name] = category_names(batch).to_numpy(dtype=object)
    return batches


def _fit(
    name: str,
    mdata: MuData,
    kind: Kind,
    layers: Mapping[str, str | None],
    batches: np.ndarray | None,
    n_top_genes: int,
    n_components: int,
) -> tuple[Recipe, Preprocessed]:
    counts, layer = _find_counts(name, mdata[name], layers)
    hint = hashtag_hint(name, mdata[name]) if kind == "protein" else None
    if hint:
        warn_user(hint)
    total = target_total(kind, counts)
    statistics = feature_statistics(kind, counts)
    normalised = normalise(kind, counts, total, statistics)
    highly_variable = None
    used = np.ones(normalised.shape[1], dtype=bool)
    if kind == "rna":
        used = highly_variable = variable_genes(name, counts, normalised, batches, n_top_genes)
    if kind == "atac":
        components = fit_lsi(name, normalised, statistics > 0, n_components)
    else:
        components = fit_pca(name, normalised, used, n_components)
    representation = project(components, normalised)
    recipe = Recipe(kind, statistics, total, components)
    digest = recipe.digest(mdata[name].var_names)
    return recipe, Preprocessed(
        kind, counts, layer, normalised, representation, digest, highly_variable
    )


def _find_counts(name: str, adata: AnnData, layers: Mapping[str, str | None]) -> tuple[Any, str]:
    """Counts of a modality, checked, and the layer that holds or will hold them."""
    layer = choose_layer({name: adata}, name, layers)
    matrix = matrix_of({name: adata}, name, layer)
    where = ".X" if layer is None else f".layers[{layer!r}]"
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    if not (isinstance(matrix, np.ndarray) or sparse.issparse(matrix)):
        raise TypeError(
            f"Modality {name!r}: {where} is a {type(matrix).__name__}; preprocess reads numpy "
            "arrays and scipy sparse matrices. Load it first: mdata[m].to_memory()."
        )
    if sparse.issparse(matrix) and matrix.format != "csr":
        matrix = matrix.tocsr()
    _check_values(name, adata, matrix, where)
    if layer is None and not _same(matrix, adata.layers.get(_keys.COUNTS, matrix)):
        raise ValueError(
            f"Modality {name!r}: .layers[{_keys.COUNTS!r}] and .X both exist and differ. Start "
            f"from the layer with layers={{{name!r}: {_keys.COUNTS!r}}}, or delete it to start "
            "from .X."
        )
    return matrix, layer or _keys.COUNTS


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if sparse.issparse(a) and sparse.issparse(b):
        return abs(a - b).max() == 0
    return not np.any(abs(a - b))


def _check_values(name: str, adata: AnnData, matrix: Any, where: str) -> None:
    stats = matrix_stats(matrix, adata.obs_names, adata.n_vars)
    corrected = (
        ""
        if stats.n_negative
        else (
            " Counts that were corrected (by SoupX or alevin, say) can be rounded: "
            f"mdata[{name!r}].X = np.rint(mdata[{name!r}].X)."
        )
    )
    for n, example, what, remedy in (
        (stats.n_nonfinite, stats.nonfinite_example, "NaN or infinite values", ""),
        (stats.n_negative, stats.negative_example, "negative values", ""),
        (stats.n_noninteger, stats.noninteger_example, "values that are no integers", corrected),
    ):
        if n:
            raise ValueError(
                f"Modality {name!r}: {where} has {n} {what}, e.g. in cell {example!r}; preprocess "
                f"starts from counts. Name their layer with layers={{{name!r}: ...}} (there are "
                f"{layer_names(adata)}), or leave the modality out with modalities={{...}}."
                f"{remedy}"
            )
    if stats.n_empty_cells:
        raise ValueError(
            f"Modality {name!r} has {stats.n_empty_cells} cells without counts, e.g. "
            f"{stats.empty_cell_example!r}. Make them unmeasured there: mdata = "
            "cantata.pp.drop_empty(mdata)."
        )


# Queries ----------------------------------------------------------------------------------------


def _preprocess_query(
    mdata: MuData,
    reference: MuData,
    modalities: Mapping[str, str] | None,
    layers: Mapping[str, str | None],
) -> None:
    if not isinstance(reference, MuData):
        raise TypeError(f"reference is a {type(reference).__name__}; expected a MuData.")
    if modalities is None:
        names = [name for name, adata in mdata.mod.items() if not recorded_images(adata)]
    else:
        names = list(resolve_kinds(mdata, modalities))
    unknown = [name for name in names if name not in reference.mod]
    if unknown:
        raise KeyError(
            f"The reference has no modality {unknown[0]!r}; it holds {list(reference.mod)}. Name "
            "those to project with modalities={...}."
        )
    results = {}
    for name in names:
        recipe = _read_recipe(name, reference[name])
        counts, layer = _find_counts(name, mdata[name], layers)
        columns = match_features(
            name,
            mdata[name].var_names,
            reference[name].var_names,
            owner="reference",
            stacklevel=3,
        )
        normalised, representation = _project(recipe, counts, columns)
        digest = recipe.digest(reference[name].var_names)
        results[name] = Preprocessed(
            recipe.kind, counts, layer, normalised, representation, digest
        )
    for name, values in results.items():
        record = _write(mdata, name, values)
        if mdata[name] is not reference[name]:
            _remove_fit(mdata[name], values.rep)
            _set_record(mdata[name].uns, None, record)
        logger.info(
            "Modality %r: projected on %d components.", name, values.representation.shape[1]
        )


def _project(recipe: Recipe, counts: Any, columns: np.ndarray) -> tuple[Any, np.ndarray]:
    """Normalised values of all the query's features, and its representation.

    `columns` are those of the reference's features, -1 where absent. Features that the reference
    lacks are normalised by the query's own statistics and enter neither the totals of the cells
    nor the representation.
    """
    statistics = feature_statistics(recipe.kind, counts)
    present = columns >= 0
    statistics[columns[present]] = recipe.statistics[present]
    known = np.zeros(statistics.size, dtype=bool)
    known[columns[present]] = True
    normalised = normalise(recipe.kind, counts, recipe.total, statistics, known)
    return normalised, project(recipe.components, normalised, columns)


def _read_recipe(name: str, adata: AnnData) -> Recipe:
    """Recipe of a modality that was preprocessed, not itself projected, and kept its features."""
    record = saved_record(adata)
    if record is None:
        raise ValueError(
            f"The reference's modality {name!r} was not preprocessed. Run "
            "cantata.pp.preprocess(reference) first."
        )
    if MOMENTS not in adata.varm or LOADINGS[record["rep"]] not in adata.varm:
        raise ValueError(
            f"The reference's modality {name!r} holds no loadings: it was itself projected, or "
            "they were deleted. Pass the MuData on which cantata.pp.preprocess was fitted."
        )
    if adata.n_vars != record["n_vars"]:
        raise ValueError(
            f"The reference's modality {name!r} has {adata.n_vars} features but was preprocessed "
            f"with {record['n_vars']}. Pass it with all of them."
        )
    statistics, mean, sd, center = np.asarray(adata.varm[MOMENTS], dtype=np.float64).T
    values = record.get("singular_values")
    components = Components(
        loadings=np.asarray(adata.varm[LOADINGS[record["rep"]]]),
        mean=mean,
        sd=sd,
        centre=center,
        factor=float(record["factor"]),
        singular_values=None if values is None else np.asarray(values, dtype=np.float64),
    )
    recipe = Recipe(record["kind"], statistics, float(record["total"]), components)
    if recipe.digest(adata.var_names) != int(record["recipe"]):
        raise ValueError(
            f"The reference's modality {name!r} holds other loadings or moments in .varm than "
            "preprocess wrote. Run cantata.pp.preprocess(reference) again, or pass the MuData as "
            "it left it."
        )
    return recipe


# Writing ----------------------------------------------------------------------------------------


def _write(mdata: MuData, name: str, values: Preprocessed) -> dict[str, Any]:
    """Write counts, normalised values, representation and the MuData's record.

    Returned is the record of the modality.
    """
    adata = mdata[name]
    if values.layer not in adata.layers:
        adata.layers[values.layer] = values.counts
    adata.X = values.normalised
    adata.obsm[values.rep] = values.representation
    record = {
        "kind": str(values.kind),
        "rep": values.rep,
        "n_components": int(values.representation.shape[1]),
        "counts_layer": values.layer,
    }
    _set_record(mdata.uns, name, record)
    return record | {"recipe": values.recipe}


def _write_fit(mdata: MuData, name: str, recipe: Recipe, values: Preprocessed) -> None:
    """Write a fitted modality with all that projects a query."""
    record = _write(mdata, name, values)
    adata, components = mdata[name], recipe.components
    if values.highly_variable is not None:
        adata.var["highly_variable"] = values.highly_variable
    adata.varm[LOADINGS[values.rep]] = components.loadings
    adata.varm[MOMENTS] = np.column_stack(
        [recipe.statistics, components.mean, components.sd, components.centre]
    )
    record = {
        **record,
        "n_vars": int(adata.n_vars),
        "total": float(recipe.total),
        "factor": float(components.factor),
    }
    if components.singular_values is not None:
        record["singular_values"] = components.singular_values
    _set_record(adata.uns, None, record)


def _remove_fit(adata: AnnData, rep: str) -> None:
    """Remove what an earlier fit left behind: it projects no query of what is written now."""
    if MOMENTS in adata.varm:
        del adata.varm[MOMENTS]
        adata.varm.pop(LOADINGS[rep], None)


def _set_record(uns: Any, modality: str | None, record: dict[str, Any]) -> None:
    """Put a record under ``uns["cantata"]["preprocess"]``, without touching other entries."""
    entries = dict(uns.get(_keys.UNS, {}))
    if modality is not None:
        record = {**entries.get(_keys.PREPROCESS, {}), modality: record}
    entries[_keys.PREPROCESS] = record
    uns[_keys.UNS] = entries
