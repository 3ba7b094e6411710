from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS: dict[str, Callable[[np.ndarray], Any]] = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "dense": np.array,
}

WIDTHS = {"rna": 150, "adt": 14, "atac": 220}
DEPTHS = {"rna": 2.0, "adt": 40.0, "atac": 0.6}


def draw_counts(name: str, cells: np.ndarray, seed: int) -> np.ndarray:
    """Counts of three cell types (cell number modulo 3), none of the cells empty."""
    rng = np.random.default_rng([seed, len(name)])
    rates = rng.gamma(0.5, 2.0, size=(3, WIDTHS[name])) * DEPTHS[name]
    depth = rng.lognormal(0, 0.3, size=cells.size)
    counts = rng.poisson(rates[cells % 3] * depth[:, None])
    counts[:, 0] = 0
    counts[counts.sum(axis=1) == 0, 1] = 1
    return counts


def build(
    sizes: dict[str, np.ndarray], fmt: str = "csr", seed: int = 0, dtype: str = "float32"
) -> MuData:
    """MuData whose modality `m` holds the cells with the numbers ``sizes[m]``, in that order."""
    mod = {}
    for name, cells in sizes.items():
        order = np.argsort(cells)
        counts = np.empty((cells.size, WIDTHS[name]), dtype=dtype)
        counts[order] = draw_counts(name, cells[order], seed)
        names = pd.Index([f"cell{i}" for i in cells])
        obs = pd.DataFrame({"batch": [f"b{i % 2}" for i in cells]}, index=names)
        var = pd.DataFrame(index=pd.Index([f"f{j}" for j in range(WIDTHS[name])]))
        mod[name] = AnnData(FORMATS[fmt](counts), obs=obs, var=var)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MuData(mod)


@pytest.fixture
def make() -> Callable[..., MuData]:
    """Factory of a MuData with full, partial or no pairing of RNA, ADT and ATAC."""

    def factory(pairing: str = "partial", n: int = 120, **kwargs: Any) -> MuData:
        rng = np.random.default_rng(7)
        cells = np.arange(n)
        sizes = {
            "full": dict.fromkeys(WIDTHS, cells),
            "partial": {
                "rna": cells[: n * 3 // 4],
                "adt": cells[n // 4 :],
                "atac": cells[n // 3 :],
            },
            "none": {"rna": cells[::3], "adt": cells[1::3], "atac": cells[2::3]},
        }[pairing]
        return build({name: rng.permutation(part) for name, part in sizes.items()}, **kwargs)

    return factory
