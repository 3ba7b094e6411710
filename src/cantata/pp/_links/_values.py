"""Values of linked features: read, normalised on their own, smoothed and brought to z-scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from cantata._mudata.checks import MAX_LOG, check_mapping, check_pair, check_varmap, warn_user
from cantata._mudata.values import choose_layer, iter_blocks, matrix_of
from cantata._numeric.batches import sample_cells
from cantata._numeric.components import Components, fit_lsi, fit_pca, project
from cantata._numeric.normalise import (
    RNA_TOTAL,
    column_sums,
    feature_statistics,
    log1p,
    normalise,
    target_total,
    variable_genes,
)
from cantata.pp._gene_activity import sum_linked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mudata import MuData

    from cantata._mudata.kinds import Kind

Transform = Literal["auto", "log1p", "clr", "arcsinh"] | None

TRANSFORMS = (*get_args(get_args(Transform)[0]), None)

COFACTOR = 5.0
"""Intensities are divided by this before the inverse hyperbolic sine, as is usual for CyTOF."""

BLOCK_CELLS = 4096
"""Cells that are read at a time."""

MIN_TOTAL = 20.0
"""Smallest total to which the linked counts of a cell are scaled."""

MIN_SCALED_LINKS = 12
"""Counts of proteins with fewer links than this are not scaled to their sum over linked ones."""

MAX_KEPT_ENTRIES = 2**26
"""Up to so many entries (cells x linked features) are kept in memory after the reading."""

KINDS: dict[str | None, Kind] = {"log1p": "rna", "clr": "protein"}
"""Kind of modality that is normalised by a transform."""

N_COMPONENTS = 30
"""Components of a modality on which its linked features are regressed."""

N_VARIABLE = 4000
"""Number of highly variable features that the components are made of."""

MAX_FIT_CELLS = 20_000
"""Components are fitted on at most so many cells of a modality."""


def choose_values(
    mdata: MuData,
    a: str,
    b: str,
    layers: Mapping[str, str | None] | None,
    transforms: Mapping[str, str | None] | str | None,
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Matrices of two modalities as they are stored, and the transforms that were asked for.

    Arguments and errors are those of :func:`cantata.pp.link_features`.
    """
    check_pair(mdata, a=a, b=b)
    check_varmap(mdata)
    layers = dict(layers or {})
    if not isinstance(transforms, Mapping):
        transforms = {a: transforms, b: transforms}
    check_mapping("layers", layers, [a, b])
    check_mapping("transforms", transforms, [a, b])
    for name, transform in transforms.items():
        if transform not in TRANSFORMS:
            raise ValueError(
                f"transforms={{{name!r}: {transform!r}}}: choose one of "
                f"{', '.join(map(repr, TRANSFORMS))}."
            )
    matrices = {name: matrix_of(mdata, name, choose_layer(mdata, name, layers)) for name in (a, b)}
    return matrices, {name: transforms.get(name, "auto") for name in (a, b)}


def row_blocks(matrix: Any, n_cells: int) -> Iterator[tuple[slice, Any]]:
    """Blocks of rows with their positions; sparse blocks are CSR."""
    for start, block in iter_blocks(matrix, n_cells, BLOCK_CELLS):
        block = block.tocsr() if sparse.issparse(block) else np.asarray(block)
        yield slice(start, start + block.shape[0]), block


# Chromatin --------------------------------------------------------------------------------------


def sum_peaks(
    mdata: MuData, genes: str, peaks: str, links: pd.DataFrame, matrix: Any, *, genes_first: bool
) -> tuple[pd.DataFrame, sparse.csr_matrix]:
    """Gene activity in place of peaks: a gene is compared with the weighted sum of its peaks.

    `matrix` holds the values of the peaks; with `genes_first` genes are the sources of `links`.

    Returns
    -------
    One link per gene, of weight 1 and of which the other end is a column of the second result:
    the values of the peaks of each gene, summed and weighted by the links.
    """
    gene_end, peak_end = "source_index", "target_index"
    if not genes_first:
        gene_end, peak_end = peak_end, gene_end
    linked, column = np.unique(links[gene_end].to_numpy(), return_inverse=True)
    weights = sparse.csr_matrix(
        (links["weight"].to_numpy(np.float32), (links[peak_end].to_numpy(), column)),
        shape=(mdata[peaks].n_vars, linked.size),
    )
    names = mdata[genes].var_names.to_numpy()[linked]
    table = pd.DataFrame(
        {"source": names, "target": names, "weight": 1.0, "type": "gene activity"}
    )
    table[gene_end], table[peak_end] = linked, np.arange(linked.size)
    return table, sum_linked(matrix, weights)


# Reading and normalising ------------------------------------------------------------------------


@dataclass(frozen=True)
class Smoother:
    """Linear regression of the linked features on components of their modality.

    ``scores`` is cells x components, its last column 1; ``weights`` components x features.
    """

    scores: np.ndarray
    weights: np.ndarray

    def predict(self, rows: slice) -> np.ndarray:
        """Smoothed values of cells, float64 (cells, features)."""
        return self.scores[rows].astype(np.float64) @ self.weights


@dataclass(frozen=True)
class LinkedValues:
    """Values of the linked features of one modality, each feature once.

    ``features`` are their positions in the modality, in order. ``matrix`` may be on disk, and
    ``columns`` are the features' positions in it. ``transform`` is ``"log1p"``, ``"clr"``,
    ``"arcsinh"`` or None. ``totals``, the cells' sums over the linked features, and ``target``,
    what they are scaled to, matter to ``"log1p"`` only; ``log_means``, the features' means of
    log(1 + x), to ``"clr"``. With a ``smoother`` its predictions take the place of the values.
    """

    name: str
    matrix: Any
    n_cells: int
    features: np.ndarray
    columns: np.ndarray
    transform: str | None
    totals: np.ndarray
    log_means: np.ndarray
    target: float = 0.0
    smoother: Smoother | None = None

    def positions(self, index: Any) -> np.ndarray:
        """For features of the modality, which of the linked ones they are."""
        return np.searchsorted(self.features, np.asarray(index))

    def measured(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows, and normalised values of the linked features, float64 (cells, features)."""
        for rows, block in row_blocks(self.matrix, self.n_cells):
            chosen = block[:, self.columns]
            values = chosen.toarray() if sparse.issparse(chosen) else chosen
            values = np.asarray(values, dtype=np.float64)
            if self.transform == "log1p":
                totals = self.totals[rows]
                factors = np.divide(
                    self.target, totals, out=np.zeros_like(totals), where=totals > 0
                )
                values = np.log1p(values * factors[:, None])
            elif self.transform == "clr":
                values = np.log1p(values * np.exp(-self.log_means))
            elif self.transform == "arcsinh":
                values = np.arcsinh(values / COFACTOR)
            yield rows, values

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """As :meth:`measured`, smoothed if there is a smoother."""
        if self.smoother is None:
            yield from self.measured()
            return
        for start in range(0, self.n_cells, BLOCK_CELLS):
            rows = slice(start, min(start + BLOCK_CELLS, self.n_cells))
            yield rows, self.smoother.predict(rows)


@dataclass(frozen=True)
class _Scan:
    """What one reading finds: of all features whether they are counts, and of linked ones sums.

    ``kept`` holds blocks of the linked features, nothing if they are too many.
    """

    integers: bool
    lowest: float
    highest: float
    totals: np.ndarray
    log_means: np.ndarray
    kept: list[Any]


def read_linked(
    name: str, matrix: Any, index: Any, transform: str | None, kind: Kind | None = None
) -> LinkedValues:
    """Read a modality once: its linked features, with `transform` resolved and no target total.

    Parameters
    ----------
    name
        Name of the modality, for errors.
    matrix
        Cells x features, in memory or on disk.
    index
        Position of the linked feature of each link.
    transform
        ``"auto"``, ``"log1p"``, ``"clr"``, ``"arcsinh"`` or None.
    kind
        What the modality measures. ``"auto"`` takes ``"clr"`` for counts of proteins that have
        few links: the sum of few proteins is no depth.

    Raises
    ------
    ValueError
        If values are not finite, or there are negative ones where logarithms are taken.
    """
    if sparse.issparse(matrix) and matrix.format != "csr":
        matrix = matrix.tocsr()
    features = np.unique(np.asarray(index))
    scan = _scan(name, matrix, features)
    few = kind == "protein" and len(index) < MIN_SCALED_LINKS
    transform = _resolve(name, transform, scan, "clr" if few else "log1p")
    columns = features
    if scan.kept:
        stack = sparse.vstack if sparse.issparse(scan.kept[0]) else np.vstack
        matrix, columns = stack(scan.kept), np.arange(features.size)
    return LinkedValues(
        name, matrix, scan.totals.size, features, columns, transform, scan.totals, scan.log_means
    )


def _scan(name: str, matrix: Any, features: np.ndarray) -> _Scan:
    n_cells = matrix.shape[0]
    totals, logs, kept = np.zeros(n_cells), np.zeros(features.size), []
    integers, lowest, highest = True, 0.0, 0.0
    for rows, block in row_blocks(matrix, n_cells):
        # 1. all features: are they finite, and are they counts?
        values = block.data if sparse.issparse(block) else block
        finite = np.isfinite(values)
        if not finite.all():
            n_bad = finite.size - int(finite.sum())
            raise ValueError(
                f"Modality {name!r} has {n_bad} NaN or infinite values among rows {rows.start} to "
                f"{rows.stop - 1}. Cells that were not measured are left out of the modality, not "
                "filled with NaN."
            )
        lowest = min(lowest, float(values.min(initial=0)))
        integers = integers and bool(np.all(values == np.rint(values)))
        highest = max(highest, float(values.max(initial=0)))
        # 2. linked features: totals of cells, means of logarithms
        chosen = block[:, features]
        totals[rows] = np.asarray(chosen.sum(axis=1, dtype=np.float64)).ravel()
        if lowest >= 0:
            # logarithms of bool and 8 bit integers would be half precision
            logs += column_sums(log1p(_float(chosen)))
        # 3. they are kept where that is cheap, so that the modality is read once
        if n_cells * features.size <= MAX_KEPT_ENTRIES:
            kept.append(chosen)
    return _Scan(integers, lowest, highest, totals, logs / n_cells, kept)


def choose_transform(
    name: str, *, integers: bool, lowest: float, highest: float, of_counts: str = "log1p"
) -> str | None:
    """What ``"auto"`` stands for: `of_counts` for counts, else None.

    Counts that were corrected (by SoupX or alevin, say) are no integers, but larger than any
    logarithm. They count as counts, with a warning, since intensities look the same.
    """
    if lowest >= 0 and integers:
        return of_counts
    if highest <= MAX_LOG:
        return None
    treated = f"taken as corrected counts ({of_counts!r})" if lowest >= 0 else "taken as they are"
    warn_user(
        f"The values of modality {name!r} are no counts and reach {highest:,.4g}; they are "
        f"{treated}. If they are intensities that were not transformed, use "
        f"transforms={{{name!r}: 'arcsinh'}}; None takes values as they are."
    )
    return of_counts if lowest >= 0 else None


def _resolve(name: str, transform: str | None, scan: _Scan, of_counts: str) -> str | None:
    if transform == "auto":
        return choose_transform(
            name,
            integers=scan.integers,
            lowest=scan.lowest,
            highest=scan.highest,
            of_counts=of_counts,
        )
    if transform in ("log1p", "clr") and scan.lowest < 0:
        raise ValueError(
            f"Modality {name!r} has negative values (down to {scan.lowest:.3g}), of which "
            f"{transform!r} cannot take logarithms. Name the layer of the counts, or use "
            f"transforms={{{name!r}: None}} (or 'arcsinh')."
        )
    return transform


def set_targets(a: LinkedValues, b: LinkedValues) -> tuple[LinkedValues, LinkedValues]:
    """Totals to which the linked counts are scaled (Wang et al. 2025, scMODAL, the recipes).

    Both are scaled: to the median total of the shallower modality, at least 20. One is: to the
    median sum of expm1 of the other if its values can be logarithms, else to its own median
    total, at least 20.
    """
    scaled = [values.transform == "log1p" for values in (a, b)]
    if all(scaled):
        shared = min(_median_total(a), _median_total(b))
        return replace(a, target=shared), replace(b, target=shared)
    if scaled[0]:
        return replace(a, target=_total_of_logs(b) or _median_total(a)), b
    if scaled[1]:
        return a, replace(b, target=_total_of_logs(a) or _median_total(b))
    return a, b


def _median_total(values: LinkedValues) -> float:
    return max(float(np.median(values.totals)), MIN_TOTAL)


def _total_of_logs(logs: LinkedValues) -> float | None:
    """Median sum of expm1 of values that are logarithms; None if they are not."""
    if logs.transform == "clr":
        return None
    sums = np.zeros(logs.n_cells)
    for rows, values in logs.measured():
        if values.min(initial=0) < 0 or values.max(initial=0) > MAX_LOG:
            return None
        sums[rows] = np.expm1(values).sum(axis=1)
    return float(np.median(sums)) or None


# Smoothing --------------------------------------------------------------------------------------


def fit_smoother(linked: LinkedValues, matrix: Any, *, chromatin: bool = False) -> Smoother:
    """Regress linked features on the leading principal components of all features.

    Parameters
    ----------
    linked
        The linked features with their normalisation complete.
    matrix
        All features of the modality, cells x features. Where `linked` takes ``"log1p"`` they are
        scaled to 10,000 per cell, log1p, where it takes ``"clr"`` so are they; other values are
        taken as they are.
    chromatin
        Use latent semantic components in place of principal ones.

    Returns
    -------
    The regression, fitted on all cells; components are fitted on at most 20,000.
    """
    n_cells, n_features = matrix.shape
    # 1. normalise a sample of cells
    rows = sample_cells(n_cells, MAX_FIT_CELLS)
    sample = _take(matrix, rows)
    kind = "atac" if chromatin else KINDS.get(linked.transform)
    total = target_total("atac", sample) if chromatin else RNA_TOTAL
    statistics = np.zeros(n_features) if kind is None else feature_statistics(kind, sample)
    normalised = _float(sample) if kind is None else normalise(kind, sample, total, statistics)
    # 2. fit components on it
    components = _fit_components(linked.name, kind, sample, normalised, statistics)
    # 3. project all cells, block by block where they are more
    scores = np.ones((n_cells, components.loadings.shape[1] + 1), dtype=np.float32)
    if rows.size == n_cells:
        scores[:, :-1] = project(components, normalised)
    else:
        for block_rows, block in row_blocks(matrix, n_cells):
            block = _float(block) if kind is None else normalise(kind, block, total, statistics)
            scores[block_rows, :-1] = project(components, block)
    # 4. least squares of the linked features on the scores and the constant
    inner = scores.astype(np.float64).T @ scores.astype(np.float64)
    cross = np.zeros((scores.shape[1], linked.columns.size))
    for block_rows, values in linked.measured():
        cross += scores[block_rows].astype(np.float64).T @ values
    return Smoother(scores, np.linalg.lstsq(inner, cross, rcond=None)[0])


def _fit_components(
    name: str, kind: Kind | None, sample: Any, normalised: Any, statistics: np.ndarray
) -> Components:
    if kind == "atac":
        return fit_lsi(name, normalised, statistics > 0, N_COMPONENTS)
    used = np.ones(normalised.shape[1], dtype=bool)
    if kind == "rna":
        used = variable_genes(name, sample, normalised, None, N_VARIABLE)
    return fit_pca(name, normalised, used, N_COMPONENTS)


def _float(values: Any) -> Any:
    """Values in single precision at least."""
    return values.astype(np.promote_types(values.dtype, np.float32), copy=False)


def _take(matrix: Any, rows: np.ndarray) -> Any:
    """Rows in order, in memory; sparse stays sparse."""
    if sparse.issparse(matrix) or isinstance(matrix, np.ndarray):
        return matrix if rows.size == matrix.shape[0] else matrix[rows]
    chosen = np.zeros(matrix.shape[0], dtype=bool)
    chosen[rows] = True
    parts = [block[chosen[span]] for span, block in row_blocks(matrix, matrix.shape[0])]
    return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.vstack(parts)


# Z-scores ---------------------------------------------------------------------------------------


def moments(blocks: Iterator[tuple[slice, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each column; 0 where it does not vary."""
    n, mean, spread = 0, np.zeros(()), np.zeros(())
    for _, values in blocks:
        # sums of squares about the means of two parts, and what lies between their means
        size = values.shape[0]
        shift = values.mean(axis=0) - mean
        spread = spread + values.var(axis=0) * size + shift**2 * (n * size / (n + size))
        mean = mean + shift * (size / (n + size))
        n += size
    sd = np.sqrt(spread / n)
    return mean, np.where(sd > 1e-6 * np.maximum(np.abs(mean), 1e-6), sd, 0.0)


@dataclass(frozen=True)
class ZScores:
    """Z-scores of linked features, one column per link.

    ``order`` says for each link which of the linked features it is, and ``weights`` are those of
    the links. With ``center`` the weighted mean over links is subtracted from each cell.
    """

    linked: LinkedValues
    mean: np.ndarray
    sd: np.ndarray
    order: np.ndarray
    weights: np.ndarray
    max_value: float | None
    center: bool

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and float32 values (cells, links): z-scores times the root of the weight."""
        sd = np.where(self.sd > 0, self.sd, 1.0)
        roots = np.sqrt(self.weights).astype(np.float32)
        shares = (self.weights / self.weights.sum()).astype(np.float32)
        for rows, values in self.linked.blocks():
            scores = (values - self.mean) / sd
            if self.max_value is not None:
                np.clip(scores, -self.max_value, self.max_value, out=scores)
            scores = scores.astype(np.float32)[:, self.order]
            if self.center:
                scores -= (scores @ shares)[:, None]
            yield rows, scores * roots

    def array(self, basis: np.ndarray | None = None) -> np.ndarray:
        """All cells x links, or x columns of a basis (links, columns), float32."""
        width = self.order.size if basis is None else basis.shape[1]
        result = np.empty((self.linked.n_cells, width), dtype=np.float32)
        for rows, scores in self.blocks():
            result[rows] = scores if basis is None else scores @ basis
        return result
