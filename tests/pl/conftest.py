from __future__ import annotations

import matplotlib

matplotlib.use("Agg")


from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from mudata import MuData

from cantata._mudata.parts import no_pull

if TYPE_CHECKING:
    from collections.abc import Iterator

N = 90


@pytest.fixture(autouse=True)
def _close_figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def shown(*args: object, **kwargs: object) -> None:
        raise AssertionError("plt.show was called")

    monkeypatch.setattr(plt, "show", shown)
    yield
    plt.close("all")


@pytest.fixture
def mdata() -> MuData:
    """Cells 0-59 have RNA, 30-89 ADT; annotations at both levels."""
    parts = {"rna": np.arange(60)[::-1], "adt": np.arange(30, N)}
    mod = {}
    for name, cells in parts.items():
        obs = pd.DataFrame(
            {
                "batch": [f"b{i % 12}" for i in cells],
                "level": pd.Categorical(
                    ["low" if i % 2 else "high" for i in cells], ["low", "high"]
                ),
                f"{name}_total": cells.astype(float),
                "own": [f"{name}{i % 2}" for i in cells],
            },
            index=[f"cell{i}" for i in cells],
        )
        mod[name] = AnnData(
            np.ones((len(cells), 2), dtype="float32"),
            obs=obs,
            var=pd.DataFrame(index=[f"{name}0", f"{name}1"]),
        )
    with no_pull():
        out = MuData(mod)
    number = out.obs_names.str[4:].astype(int)
    out.obsm["X_umap"] = np.stack([number, -number], axis=1).astype("float32")
    out.obs["score"] = np.asarray(number, dtype=float)
    return out
