"""Whether two sets of measurements of the same cells depend on each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cantata._numeric.components import fit_lsi, fit_pca, moments, project
from cantata._numeric.normalise import feature_statistics, normalise, row_sums, target_total

if TYPE_CHECKING:
    from cantata._mudata.kinds import Kind

N_COMPONENTS = 10
"""Components of a set of cells that are compared."""

N_VARIABLE = 2000
"""Number of features that the components are made of, those that vary most."""


def profile(name: str, kind: Kind | None, values: Any) -> np.ndarray:
    """Leading components of cells, of equal length and uncorrelated, and their depth.

    Parameters
    ----------
    name
        Name of the modality, for errors.
    kind
        What is measured: normalised so where values are not negative; None: as RNA.
    values
        Cells x features, sparse or dense.

    Returns
    -------
    float64 array (cells, at most 11).

    Raises
    ------
    ValueError
        If values are not finite, or too few cells or features vary.
    """
    stored = values.data if sparse.issparse(values) else np.asarray(values)
    if not np.isfinite(stored).all():
        raise ValueError(f"Modality {name!r} has NaN or infinite values.")
    # 1. normalise, take components
    depth = np.zeros(values.shape[0])
    k = max(min(N_COMPONENTS, values.shape[0] // 5), 1)
    if stored.min(initial=0) >= 0:
        kind = kind or "rna"
        depth = np.log1p(row_sums(values))
        statistics = feature_statistics(kind, values)
        values = normalise(kind, values, target_total(kind, values), statistics)
    if kind == "atac" and depth.any():
        components = fit_lsi(name, values, statistics > 0, k)
    else:
        spread = moments(values)[1]
        used = np.zeros(spread.size, dtype=bool)
        used[np.argsort(-spread, kind="stable")[:N_VARIABLE]] = True
        components = fit_pca(name, values, used, k)
    scores = project(components, values).astype(np.float64)
    # 2. none counts more than another, the depth as much as a component
    scores = np.linalg.svd(scores - scores.mean(axis=0), full_matrices=False)[0]
    depth -= depth.mean()
    length = np.linalg.norm(depth)
    return np.column_stack([scores, depth / length]) if length > 0 else scores


def dependence_p(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None, n_permutations: int = 99
) -> float:
    """Probability that permuted cells covary as much, by permutations within groups of cells.

    Parameters
    ----------
    x, y
        Two sets of columns for the same cells; the statistic is the sum of squares of their cross
        products.
    groups
        Integer per cell; cells are permuted within their group. None: among all.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> dependence_p(x, x), dependence_p(x, x[::-1]) > 0.05
    (0.01, True)
    """
    rng = np.random.default_rng(0)
    groups = np.zeros(len(x), dtype=np.int64) if groups is None else groups
    order = np.argsort(groups, kind="stable")
    x, y, groups = x[order] - x.mean(axis=0), y[order] - y.mean(axis=0), groups[order]
    observed = np.square(x.T @ y).sum()
    as_large = 1
    for _ in range(n_permutations):
        # sorting by group and then at random permutes within groups
        permuted = np.lexsort((rng.random(len(x)), groups))
        as_large += int(np.square(x.T @ y[permuted]).sum() >= observed)
    return as_large / (n_permutations + 1)
