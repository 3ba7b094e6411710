"""How many dimensions modalities share, and how many each has of its own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich.progress import track

from cantata._mudata.checks import check_mapping, check_modalities
from cantata._mudata.embeddings import modality_rep
from cantata._mudata.values import check_in_memory, matrix_of, saved_record
from cantata.tl._dimensions._input import (
    MIN_PAIRED_CELLS,
    choose_cells,
    modality_kind,
    read_features,
)
from cantata.tl._dimensions._parallel_analysis import Residual, count_components
from cantata.tl._dimensions._shared_variates import shared_variates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

    from cantata.tl._dimensions._input import ScaledFeatures
    from cantata.tl._dimensions._shared_variates import SharedVariates

CELLS_PER_COMPONENT = 10
"""Cells with all modalities per component that enters the canonical correlations."""

PROGRESS_ENTRIES = 2_000_000
"""Cells x features from which on a progress bar is shown."""


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
    """

    n_shared: int
    n_specific: dict[str, int]
    correlations: pd.DataFrame
    variances: pd.DataFrame
    n_paired: int
    alpha: float
    min_correlation: float

    def __repr__(self) -> str:
        specific = ", ".join(f"{name} {n}" for name, n in self.n_specific.items())
        table = self.correlations
        values = [f"{value:.2f}" for value in table["correlation"].iloc[: self.n_shared]]
        if len(values) > 6:
            values = [*values[:3], "...", *values[-2:]]
        after = table["correlation"].iloc[self.n_shared : self.n_shared + 1]
        following = f"; the next {after.iloc[0]:.2f}" if len(after) else ""
        listed = f": held-out correlations {', '.join(values)}" if values else ""
        return (
            f"shared    {self.n_shared}{listed}{following}, by chance "
            f"{table['null'].iloc[0]:.2f}, of {self.n_paired:,} cells\n"
            f"specific  {specific}\n"
            f"APOLLO(mdata, n_shared={max(self.n_shared, 1)}, n_specific="
            f"{ {name: max(n, 1) for name, n in self.n_specific.items()} })"
        )


def estimate_dimensions(
    mdata: MuData,
    *,
    modalities: Sequence[str] | Mapping[str, str] | None = None,
    layers: Mapping[str, str | None] | None = None,
    use_reps: Mapping[str, str] | None = None,
    max_shared: int = 50,
    max_specific: int = 50,
    min_correlation: float = 0.1,
    n_permutations: int = 10,
    alpha: float = 0.05,
    max_cells: int | None = 10_000,
    max_features: int = 4000,
    seed: int = 0,
) -> Dimensions:
    r"""Estimate how many dimensions modalities share, and how many each has of its own.

    Sizes for the latent spaces of APOLLO before it is trained, which the paper leaves open (Zhang
    et al. 2026, Discussion). Shared: canonical correlations that hold on held-out cells and exceed
    those of permuted cells. Specific: principal components of what a modality's own shared
    variates leave of it, that exceed those of independent features: parallel analysis (Horn 1965),
    component by component (Dobriban and Owen 2019), with random signs in place of permutations
    (Hong, Sheng and Dobriban 2020), since cells differ in depth.

    Parameters
    ----------
    mdata
        In memory; it is not modified. Cells are matched by name.
    modalities
        At least two names, or a mapping from name to kind (``"rna"``, ``"protein"``, ``"atac"``).
        None: all; kinds are those that ``pp.preprocess`` recorded, or guessed.
    layers
        Layer with the values of a modality; None or not named: ``.X``. Counts are normalised as in
        :func:`cantata.pp.preprocess`, anything else is taken as it is.
    use_reps
        Key in ``mdata[m].obsm`` of components that the canonical correlations read. Modalities
        that are not named: what ``pp.preprocess`` recorded, else the leading principal components
        of the features. Specific dimensions are always counted on features, which components
        that are uncorrelated by construction cannot replace.
    max_shared, max_specific
        Most dimensions that are looked for.
    min_correlation
        A smaller canonical correlation, however real, is not counted: at 0.1 a variate of one
        modality explains 1 % of its partner.
    n_permutations
        Number of repetitions by chance, at least 2: permutations of the cells between modalities,
        and random signs of the features' deviations.
    alpha
        Level of each comparison with chance. Dimensions are counted up to the first that fails.
    max_cells
        At most so many cells of a modality are read, drawn at random, those with all modalities
        first. None: all.
    max_features
        At most so many features of a modality: highly variable genes, elsewhere those of the
        largest variance.
    seed
        Seed of the draw, the halves, the permutations and the signs.

    Returns
    -------
    The numbers and the tables behind them; :func:`cantata.pl.dimensions` draws it.

    Raises
    ------
    TypeError
        If `mdata` is no MuData, or a matrix is neither dense nor sparse.
    KeyError
        For unknown modalities, layers or representations.
    ValueError
        For data on disk, fewer than two modalities, fewer than 50 cells with all of them, values
        that are not finite, counts of unknown kind, or options out of range.

    Notes
    -----
    What counts is linear: a nonlinear function of a factor is a dimension of its own here, while a
    network may need none, so that the numbers are upper bounds for a model with nonlinear decoders
    (the nonlinear simulations have 2 shared factors, and more correlations than that). Any
    structure counts, technical as well: batches and sequencing depth that both modalities show
    are shared dimensions. With many cells weak structure becomes real; the tables tell how weak.

    A modality's own variates are removed from it, so that a shared direction which the other
    modality measures badly does not come back as a specific one. With more than two modalities
    the canonical correlations are generalised (MAXVAR) and include what only some of them share;
    from a modality that has no part in a variate it is not removed.

    Wide sparse modalities stay sparse.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_disentangled(1, n_cells=500)
    >>> cantata.tl.estimate_dimensions(mdata)
    shared    2: held-out correlations 1.00, 1.00; the next -0.03, by chance 0.07, of 500 cells
    specific  x 2, y 1
    APOLLO(mdata, n_shared=2, n_specific={'x': 2, 'y': 1})
    """
    names, given_kinds = _check_modalities(mdata, modalities)
    for argument, given in (("layers", layers), ("use_reps", use_reps)):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"{argument}={given!r} must be a dict from modalities to names.")
    layers, use_reps = dict(layers or {}), dict(use_reps or {})
    check_mapping("layers", layers, names)
    check_mapping("use_reps", use_reps, names)
    for name in names:
        matrix_of(mdata, name, layers.get(name))
    _check_counts(
        max_shared=(max_shared, 1),
        max_specific=(max_specific, 1),
        max_features=(max_features, 2),
        n_permutations=(n_permutations, 2),
        seed=(seed, 0),
        max_cells=(MIN_PAIRED_CELLS if max_cells is None else max_cells, MIN_PAIRED_CELLS),
    )
    if not 0 <= min_correlation < 1:
        raise ValueError(f"min_correlation={min_correlation!r}: give a number from 0 to below 1.")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha!r}: give a number between 0 and 1.")
    kinds = {name: modality_kind(name, mdata[name], given_kinds.get(name)) for name in names}
    reps = _representations(mdata, names, use_reps)
    rows, n_paired = choose_cells(mdata, names, max_cells, seed)
    entries = sum(len(rows[name]) * min(mdata[name].n_vars, max_features) for name in names)
    quick = entries <= PROGRESS_ENTRIES

    # 1. Scaled features, and the components that the canonical correlations read.
    n_scores = max(2, min(max_shared, n_paired // CELLS_PER_COMPONENT))
    features, scores = {}, {}
    for name in track(names, description="Components", disable=quick):
        features[name] = read_features(
            name,
            mdata[name],
            rows[name],
            layer=layers.get(name),
            kind=kinds[name],
            max_features=max_features,
        )
        if name in reps:
            scores[name] = _leading_scores(reps[name][rows[name]], n_scores)
        else:
            nothing = np.zeros((len(rows[name]), 0))
            _, axes = Residual(features[name], nothing).components(n_scores)
            scores[name] = features[name].times(axes)

    # 2. What the cells with all modalities share.
    shared = shared_variates(
        [x[:n_paired] for x in scores.values()],
        max_shared,
        min_correlation=min_correlation,
        n_permutations=n_permutations,
        alpha=alpha,
        seed=seed,
    )

    # 3. What that leaves of each modality.
    counted = {}
    for k, name in enumerate(track(names, description="Specific dimensions", disable=quick)):
        counted[name] = count_components(
            Residual(features[name], shared.basis(k, scores[name])),
            max_specific,
            n_repetitions=n_permutations,
            alpha=alpha,
            seed=seed,
        )
    n_specific = {name: n for name, (n, _, _) in counted.items()}
    _warn_if_full(shared.n, max_shared, n_specific, max_specific)
    return Dimensions(
        n_shared=shared.n,
        n_specific=n_specific,
        correlations=_correlation_table(shared, names),
        variances=_variance_table(counted, features),
        n_paired=n_paired,
        alpha=alpha,
        min_correlation=min_correlation,
    )


def _check_modalities(
    mdata: MuData, modalities: Sequence[str] | Mapping[str, str] | None
) -> tuple[list[str], dict[str, str]]:
    """Names of the modalities, and the kinds that were given."""
    if isinstance(modalities, str):
        raise TypeError(f"modalities={modalities!r}: give a list of at least two names.")
    names = check_modalities(mdata, None if modalities is None else list(modalities))
    check_in_memory(mdata)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"modalities={names}: give at least two, each once.")
    return names, dict(modalities) if isinstance(modalities, Mapping) else {}


def _check_counts(**given: tuple[int, int]) -> None:
    """Refuse arguments that are no integers, or less than what stands behind them."""
    for name, (value, least) in given.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be an integer, got {value!r}.")
        if value < least:
            raise ValueError(f"{name}={value}: give at least {least}.")


def _representations(
    mdata: MuData, names: list[str], use_reps: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Representations that the user named, or that ``pp.preprocess`` wrote and are still there."""
    reps = {}
    for name in names:
        recorded = (saved_record(mdata[name]) or {}).get("rep")
        key = use_reps.get(name, recorded if recorded in mdata[name].obsm else None)
        if key is not None:
            reps[name] = modality_rep(mdata, name, key)
    return reps


def _leading_scores(values: np.ndarray, n: int) -> np.ndarray:
    """Leading principal components of a representation, where it is wider than `n`."""
    if values.shape[1] <= n:
        return values
    centred = values - values.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ axes[:, ::-1][:, :n])


def _warn_if_full(
    n_shared: int, max_shared: int, n_specific: Mapping[str, int], max_specific: int
) -> None:
    full = [name for name, n in n_specific.items() if n >= max_specific]
    limits = []
    if n_shared >= max_shared:
        limits.append((f"{n_shared} shared dimensions", "max_shared"))
    if full:
        limits.append((f"{max_specific} dimensions of {' and '.join(full)}", "max_specific"))
    for what, argument in limits:
        warnings.warn(
            f"There may be more than {what}: {argument} allows no more.", UserWarning, stacklevel=3
        )


def _correlation_table(shared: SharedVariates, names: list[str]) -> pd.DataFrame:
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


def _variance_table(
    counted: Mapping[str, tuple[int, np.ndarray, np.ndarray]],
    features: Mapping[str, ScaledFeatures],
) -> pd.DataFrame:
    tables = []
    for name, (n, values, null) in counted.items():
        total = features[name].variance.sum()
        columns = {
            "modality": name,
            "component": np.arange(1, len(values) + 1),
            "variance": values / total,
            "null": null / total,
            "specific": np.arange(len(values)) < n,
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
