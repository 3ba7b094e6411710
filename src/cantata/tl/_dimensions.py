"""Estimated numbers of dimensions, with the tables that they rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cantata.tl._dimension_canonical import SharedVariates
    from cantata.tl._dimension_features import Features


@dataclass(frozen=True, repr=False)
class Dimensions:
    """What :func:`cantata.tl.estimate_dimensions` found.

    Parameters
    ----------
    n_shared
        Number of shared dimensions.
    n_specific
        Number of dimensions of each modality's own.
    correlations
        One row per canonical variate: ``variate`` (from 1), ``correlation`` on held-out cells,
        ``null`` (what permuted cells rarely exceed), ``shared`` (whether it counts), and with more
        than two modalities the correlation of each with the mean of the others.
    variances
        One row per modality and component of what shared variates leave: ``modality``,
        ``component`` (from 1), ``variance`` and ``null`` (what independent features rarely
        exceed) as shares of the modality's variance, ``specific`` (whether it counts).
    n_paired
        Number of cells with all modalities on which the correlations were taken.
    alpha
        Level of ``null``.
    min_correlation
        Correlation from which on a variate counts.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_disentangled(1, n_cells=500)
    >>> cantata.tl.estimate_dimensions(mdata).n_specific
    {'x': 2, 'y': 1}
    """

    n_shared: int
    n_specific: dict[str, int]
    correlations: pd.DataFrame
    variances: pd.DataFrame
    n_paired: int
    alpha: float
    min_correlation: float

    def __repr__(self) -> str:
        own = ", ".join(f"{name} {n}" for name, n in self.n_specific.items())
        table = self.correlations
        values = [f"{value:.2f}" for value in table["correlation"].iloc[: self.n_shared]]
        if len(values) > 6:
            values = [*values[:3], "...", *values[-2:]]
        after = table["correlation"].iloc[self.n_shared : self.n_shared + 1]
        following = f"; the next {after.iloc[0]:.2f}" if len(after) else ""
        held = f": held-out correlations {', '.join(values)}" if values else ""
        return (
            f"shared    {self.n_shared}{held}{following}, by chance {table['null'].iloc[0]:.2f}, "
            f"of {self.n_paired:,} cells\n"
            f"specific  {own}\n"
            f"APOLLO(mdata, n_shared={max(self.n_shared, 1)}, n_specific="
            f"{ {name: max(n, 1) for name, n in self.n_specific.items()} })"
        )


def correlation_table(shared: SharedVariates, names: list[str]) -> pd.DataFrame:
    n = len(shared.correlations)
    table = pd.DataFrame(
        {
            "variate": np.arange(1, n + 1),
            "correlation": shared.correlations,
            "null": shared.null,
            "shared": np.arange(n) < shared.n,
        }
    )
    if len(names) > 2:
        table[names] = shared.by_block.T
    return table


def variance_table(
    counted: Mapping[str, tuple[int, np.ndarray, np.ndarray]], features: Mapping[str, Features]
) -> pd.DataFrame:
    tables = []
    for name, (found, values, null) in counted.items():
        total = features[name].variance.sum()
        columns = {
            "modality": name,
            "component": np.arange(1, len(values) + 1),
            "variance": values / total,
            "null": null / total,
            "specific": np.arange(len(values)) < found,
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
