"""The five simulations of the APOLLO paper: factors that two modalities share, or do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from cantata.datasets._assemble import assemble, check_integer, stream

if TYPE_CHECKING:
    from mudata import MuData

FACTORS = ("Z1", "Z2", "Z3", "Z4", "Z5")

OWN_BLOCK = {"Z1": "shared", "Z2": "shared", "Z3": "x", "r4": "x", "r5": "y"}
"""Block that should hold a factor; r4 and r5 are what Z4 and Z5 have beside shared factors."""

GROUP_SIZE = 10
"""Features per set of parents."""

Parents = tuple[str, ...]

SINGLE: dict[str, list[Parents]] = {
    "x": [("Z4",), ("Z3",), ("Z2",), ("Z1",)],
    "y": [("Z5",), ("Z2",), ("Z1",)],
}

MIXED: dict[str, list[Parents]] = {
    "x": [
        ("Z4",),
        ("Z3",),
        ("Z2",),
        ("Z2", "Z3"),
        ("Z2", "Z4"),
        ("Z3", "Z4"),
        ("Z2", "Z3", "Z4"),
        ("Z1", "Z2", "Z3", "Z4"),
    ],
    "y": [("Z5",), ("Z2",), ("Z2", "Z5"), ("Z1", "Z2", "Z5")],
}

TANH_GAIN = 1.5
"""Root mean square of what enters a hyperbolic tangent."""

NONLINEAR_NOISE = 0.1


@dataclass(frozen=True)
class _Setting:
    """What sets a simulation apart."""

    dependent: bool
    layout: dict[str, list[Parents]]
    single_sd: float = 1.0


SETTINGS = {
    1: _Setting(dependent=False, layout=SINGLE),
    2: _Setting(dependent=False, layout=MIXED),
    3: _Setting(dependent=True, layout=SINGLE),
    4: _Setting(dependent=True, layout=MIXED),
    5: _Setting(dependent=True, layout=MIXED, single_sd=4.0),
}


def simulate_disentangled(
    setting: int = 1,
    *,
    n_cells: int = 2000,
    nonlinear: bool = False,
    noise: float | None = None,
    batch_effect: float = 0.0,
    seed: int = 0,
) -> MuData:
    r"""Simulate two modalities of the same cells that share some factors and not others.

    The five simulations of Zhang et al. 2026 (APOLLO, Methods and Extended Data Figs 1 to 4).
    Factors Z1 and Z2 act on both modalities, Z3 and Z4 on ``"x"`` alone, Z5 on ``"y"`` alone. A
    method that disentangles finds Z1 and Z2 in its shared space, Z3 and Z4 in the space of
    ``"x"``, Z5 in that of ``"y"``, and none of them elsewhere.

    Parameters
    ----------
    setting
        Number of the simulation, 1 to 5, see Notes.
    n_cells
        Number of cells; every cell has both modalities.
    nonlinear
        Pass the features through two layers of hyperbolic tangents; beyond the paper. The linear
        settings are solved by canonical correlations with residual principal components, without
        any training; these are not.
    noise
        Standard deviation of the Gaussian noise that is added to a feature, as a share of the
        feature's own. None: no noise, as in the paper, or 0.1 if `nonlinear`.
    batch_effect
        Add to half of the cells, chosen at random, a Gaussian number for each feature of both
        modalities, with so many of the feature's standard deviations; beyond the paper. Both show
        it, so that it is shared unless it is registered.
    seed
        The same seed gives the same bits. Factors are the same in settings 1 and 2, and in 3 to
        5; loadings in 1 and 3, and in 2, 4 and 5 (there up to their scale).

    Returns
    -------
    MuData of the modalities ``"x"`` and ``"y"`` (float32, dense, not scaled) with

    - ``obs`` columns Z1 to Z5, and r4 and r5: what Z4 and Z5 have beside their shared parents
      (:math:`Z_4 - 2 Z_2` and :math:`Z_5 - Z_2` in settings 3 to 5, else Z4 and Z5 themselves);
      in the MuData and in each modality; with a `batch_effect` also ``"batch"``, b0 or b1;
    - ``mdata[m].var["parents"]``: the factors that a feature depends on, such as ``"Z2 + Z3"``;
    - ``mdata[m].varm["loadings"]``: a table of features x factors Z1 to Z5, if linear;
    - ``uns["factors"]``: the block (``"shared"``, ``"x"`` or ``"y"``) that should hold Z1, Z2, Z3,
      r4 and r5, as :func:`cantata.metrics.disentanglement` takes it;
    - ``uns["truth"]``: the arguments.

    Raises
    ------
    ValueError
        If `setting` is not one of 1 to 5, or a number is out of range.

    Notes
    -----
    Causal graphs (an arrow points from a parent to its child)::

        settings 1 and 2             settings 3, 4 and 5

        shared   x          y        shared    x           y
        Z1       Z3         Z5       Z1        Z3
        |        |                   |         |
        v        v                   v         v
        Z2       Z4                  Z2 -----> Z4
                                     |
                                     +-------------------> Z5

    With gamma variables by shape and scale,

    .. math::
        Z_1, Z_3 &\sim Bernoulli(0.5), \qquad
        Z_2 = Z_1 + \sqrt{0.0045}\, \Gamma(5, 1), \\
        Z_4 &= s\, 2 Z_2 + Z_3 + \sqrt{0.00125}\, \Gamma(2, 2), \\
        Z_5 &= s\, Z_2 + (1 - s)\, B + \sqrt{0.0075}\, \Gamma(3, 2), \qquad
        B \sim Bernoulli(0.5),

    where :math:`s` is 0 in settings 1 and 2 and 1 in settings 3 to 5. There Z2 explains some 80 %
    of the variance of Z4 and Z5: a shared space that holds Z2 and nothing else predicts them as
    well, so leakage is to be measured on r4 and r5.

    A feature is a weighted sum of its parents, with weights :math:`N(0, 1)`. There are ten
    features per set of parents:

    ========  ========================================================  ==========================
    settings  x                                                         y
    ========  ========================================================  ==========================
    1, 3      Z4; Z3; Z2; Z1                                            Z5; Z2; Z1
    2, 4, 5   Z4; Z3; Z2; Z2, Z3; Z2, Z4; Z3, Z4; Z2, Z3, Z4; Z1 to Z4  Z5; Z2; Z2, Z5; Z1, Z2, Z5
    ========  ========================================================  ==========================

    In setting 5 features of one parent have weights :math:`N(0, 16)`. The paper gives 40 and 30
    features for settings 2, 4 and 5; its own list of parents makes 80 and 40.

    Nonlinear: :math:`t(t(F)\, W)` with :math:`t(A) = \tanh(1.5\, (A - \bar A) / \sigma)`, where
    :math:`F` are the features above, :math:`\bar A` the means of the columns, :math:`\sigma` the
    root mean square of all entries of :math:`A - \bar A`, and :math:`W` is a square Gaussian
    matrix. Every feature then depends on all factors of its modality.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_disentangled(4, n_cells=200, seed=1)
    >>> mdata["x"].shape, mdata["y"].shape
    ((200, 80), (200, 40))
    >>> mdata.uns["factors"]
    {'Z1': 'shared', 'Z2': 'shared', 'Z3': 'x', 'r4': 'x', 'r5': 'y'}
    >>> mdata["y"].var["parents"].iloc[25]
    'Z2 + Z5'
    """
    _check(setting, n_cells, noise, batch_effect, seed)
    share = (NONLINEAR_NOISE if nonlinear else 0.0) if noise is None else float(noise)
    chosen = SETTINGS[int(setting)]
    names = [f"cell{i:0{len(str(n_cells - 1))}d}" for i in range(n_cells)]
    factors = _draw_factors(n_cells, seed, dependent=chosen.dependent)
    factors.index = pd.Index(names)
    in_second = stream(seed, "batch").permutation(n_cells) < n_cells // 2
    modalities = {}
    for name, layout in chosen.layout.items():
        modalities[name] = _draw_modality(
            name, layout, factors, chosen.single_sd, seed, nonlinear=nonlinear, noise=share
        )
        if batch_effect:
            _shift(modalities[name], in_second, batch_effect, stream(seed, f"{name}/batch"))
    if batch_effect:
        factors["batch"] = np.where(in_second, "b1", "b0")
    mdata = assemble(modalities, factors)
    mdata.uns["factors"] = dict(OWN_BLOCK)
    mdata.uns["truth"] = {
        "setting": int(setting),
        "nonlinear": bool(nonlinear),
        "noise": share,
        "batch_effect": float(batch_effect),
        "seed": int(seed),
    }
    return mdata


def _check(
    setting: int, n_cells: int, noise: float | None, batch_effect: float, seed: int
) -> None:
    if isinstance(setting, bool) or setting not in SETTINGS:
        raise ValueError(f"setting={setting!r}: the simulations are numbered {list(SETTINGS)}.")
    check_integer("n_cells", n_cells, 2)
    check_integer("seed", seed, 0)
    if noise is not None and not 0 <= noise < np.inf:
        raise ValueError(f"noise={noise!r}: give a number of at least 0, or None.")
    if not 0 <= batch_effect < np.inf:
        raise ValueError(f"batch_effect={batch_effect!r}: give a number of at least 0.")


def _draw_factors(n_cells: int, seed: int, *, dependent: bool) -> pd.DataFrame:
    """Factors Z1 to Z5 and the innovations r4 and r5, float64."""

    def coin(name: str) -> np.ndarray:
        return stream(seed, name).integers(0, 2, n_cells).astype(np.float64)

    def gamma(name: str, shape: float, scale: float) -> np.ndarray:
        return stream(seed, f"{name}/gamma").gamma(shape, scale, n_cells)

    z1, z3 = coin("Z1"), coin("Z3")
    z2 = z1 + np.sqrt(0.0045) * gamma("Z2", 5, 1)
    r4 = z3 + np.sqrt(0.00125) * gamma("Z4", 2, 2)
    r5 = np.sqrt(0.0075) * gamma("Z5", 3, 2)
    if not dependent:
        r5 = r5 + coin("Z5")
    z4, z5 = (2 * z2 + r4, z2 + r5) if dependent else (r4, r5)
    columns = {"Z1": z1, "Z2": z2, "Z3": z3, "Z4": z4, "Z5": z5, "r4": r4, "r5": r5}
    return pd.DataFrame(columns)


def _draw_modality(
    name: str,
    layout: list[Parents],
    factors: pd.DataFrame,
    single_sd: float,
    seed: int,
    *,
    nonlinear: bool,
    noise: float,
) -> AnnData:
    # 1. weighted sums of the parents
    n_features = GROUP_SIZE * len(layout)
    loadings = pd.DataFrame(0.0, columns=list(FACTORS), index=_feature_names(name, n_features))
    rng = stream(seed, f"{name}/loadings")
    for group, parents in enumerate(layout):
        sd = single_sd if len(parents) == 1 else 1.0
        columns = [FACTORS.index(parent) for parent in parents]
        rows = slice(GROUP_SIZE * group, GROUP_SIZE * (group + 1))
        loadings.iloc[rows, columns] = sd * rng.standard_normal((GROUP_SIZE, len(parents)))
    values = factors[list(FACTORS)].to_numpy() @ loadings.to_numpy().T
    named = [" + ".join(sorted(parents)) for parents in layout for _ in range(GROUP_SIZE)]
    # 2. two layers of hyperbolic tangents
    if nonlinear:
        mixing = stream(seed, f"{name}/mixing").standard_normal((n_features, n_features))
        values = _squashed(_squashed(values) @ mixing)
        named = [" + ".join(sorted({parent for group in layout for parent in group}))] * n_features
    # 3. noise in proportion to each feature
    error = stream(seed, f"{name}/noise").standard_normal(values.shape)
    values = values + noise * values.std(axis=0) * error
    adata = AnnData(values.astype(np.float32), obs=pd.DataFrame(index=factors.index))
    adata.var = pd.DataFrame({"parents": named}, index=loadings.index)
    if not nonlinear:
        adata.varm["loadings"] = loadings.astype(np.float32)
    return adata


def _shift(
    adata: AnnData, in_second: np.ndarray, batch_effect: float, rng: np.random.Generator
) -> None:
    """Add to each feature of some of the cells a number of its own."""
    shift = batch_effect * adata.X.std(axis=0) * rng.standard_normal(adata.n_vars)
    adata.X = (adata.X + in_second[:, None] * shift).astype(np.float32)


def _feature_names(name: str, n: int) -> pd.Index:
    return pd.Index([f"{name}{j:0{len(str(n - 1))}d}" for j in range(n)])


def _squashed(values: np.ndarray) -> np.ndarray:
    """Hyperbolic tangents of centered columns, with one scale for all: strong ones saturate."""
    centered = values - values.mean(axis=0)
    return np.tanh(TANH_GAIN * centered / np.sqrt(np.mean(centered**2)))
