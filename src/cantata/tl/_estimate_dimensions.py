"""How many dimensions modalities share, and how many each has of its own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich.progress import track

from cantata import _keys
from cantata.pp._counts import check_in_memory, saved_record
from cantata.tl._dimension_canonical import SharedVariates, shared_variates
from cantata.tl._dimension_features import Features, modality_kind, read_features
from cantata.tl._dimension_spectrum import Residual, count_components
from cantata.tl._representation import modality_rep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

LEAST = 50
"""Canonical correlations are not cross-validated over fewer cells."""

PER_COMPONENT = 10
"""Cells with all modalities per component that enters the canonical correlations."""

SHOWN = 2_000_000
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
    names, kinds = _checked_modalities(mdata, modalities)
    layers, use_reps = dict(layers or {}), dict(use_reps or {})
    _check_mappings(names, layers=layers, use_reps=use_reps)
    sizes = {"max_shared": max_shared, "max_specific": max_specific, "max_features": max_features}
    _check_numbers(sizes, n_permutations, max_cells, seed)
    _check_shares(alpha, min_correlation)
    rows, n_paired = _choose_cells(mdata, names, max_cells, seed)
    busy = _is_much(mdata, rows, max_features)
    n_scores = max(2, min(max_shared, n_paired // PER_COMPONENT))
    features, scores = {}, {}
    for name in track(names, description="Components", disable=not busy):
        kind = modality_kind(name, mdata[name], kinds.get(name))
        features[name] = read_features(
            name,
            mdata[name],
            rows[name],
            layer=layers.get(name),
            kind=kind,
            max_features=max_features,
        )
        key = use_reps.get(name) or _recorded_rep(mdata, name)
        if key is None:
            scores[name] = _scores(features[name], n_scores)
        else:
            scores[name] = _narrowed(modality_rep(mdata, name, key)[rows[name]], n_scores)
    paired = [x[:n_paired] for x in scores.values()]
    shared = shared_variates(
        paired,
        max_shared,
        least=min_correlation,
        n_permutations=n_permutations,
        alpha=alpha,
        seed=seed,
    )
    counted = {}
    for k, name in enumerate(track(names, description="Specific dimensions", disable=not busy)):
        counted[name] = count_components(
            Residual(features[name], shared.basis(k, scores[name])),
            max_specific,
            n_repetitions=n_permutations,
            alpha=alpha,
            seed=seed,
        )
    n_specific = {name: found for name, (found, _, _) in counted.items()}
    _warn_if_full({"max_shared": (shared.n, max_shared)}, "shared")
    _warn_if_full({name: (n, max_specific) for name, n in n_specific.items()}, "specific")
    return Dimensions(
        n_shared=shared.n,
        n_specific=n_specific,
        correlations=_correlation_table(shared, names),
        variances=_variance_table(counted, features),
        n_paired=n_paired,
        alpha=alpha,
        min_correlation=min_correlation,
    )


def _checked_modalities(
    mdata: MuData, modalities: Sequence[str] | Mapping[str, str] | None
) -> tuple[list[str], dict[str, str]]:
    """Names of the modalities, and the kinds that were told."""
    from cantata.data._checks import check_modalities  # its package imports torch

    if isinstance(modalities, str):
        raise TypeError(f"modalities={modalities!r}: give a list of at least two names.")
    names = check_modalities(mdata, None if modalities is None else list(modalities))
    check_in_memory(mdata)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"modalities={names}: give at least two, each once.")
    return names, dict(modalities) if isinstance(modalities, Mapping) else {}


def _check_mappings(names: list[str], **mappings: Mapping[str, str | None]) -> None:
    from cantata.data._checks import check_mapping

    for argument, mapping in mappings.items():
        check_mapping(argument, mapping, names)


def _check_numbers(
    sizes: dict[str, int], n_permutations: int, max_cells: int | None, seed: int
) -> None:
    least = dict.fromkeys(sizes, 1) | {"max_features": 2, "n_permutations": 2, "seed": 0}
    given = {**sizes, "n_permutations": n_permutations, "seed": seed}
    if max_cells is not None:
        least["max_cells"], given["max_cells"] = LEAST, max_cells
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be an integer, got {value!r}.")
        if value < least[name]:
            raise ValueError(f"{name}={value}: give at least {least[name]}.")


def _check_shares(alpha: float, min_correlation: float) -> None:
    if not 0 <= min_correlation < 1:
        raise ValueError(f"min_correlation={min_correlation!r}: give a number from 0 to below 1.")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha!r}: give a number between 0 and 1.")


def _choose_cells(
    mdata: MuData, names: list[str], max_cells: int | None, seed: int
) -> tuple[dict[str, np.ndarray], int]:
    """Rows of the cells to read in each modality, those with all modalities first, in one order.

    Returns the rows and the number of cells with all modalities.
    """
    from cantata.data._pairing import row_table

    table = row_table(mdata, names)
    everywhere = np.all([rows >= 0 for rows in table.values()], axis=0)
    if everywhere.sum() < LEAST:
        raise ValueError(
            f"Only {everywhere.sum()} cells have all of {names}; canonical correlations need "
            f"{LEAST}. Name modalities that are measured together with modalities=[...]."
        )
    rng = np.random.default_rng([seed, 2])
    paired = _drawn(np.flatnonzero(everywhere), max_cells, rng)
    chosen = {}
    for name, rows in table.items():
        others = np.flatnonzero((rows >= 0) & ~everywhere)
        left = None if max_cells is None else max_cells - len(paired)
        chosen[name] = rows[np.concatenate([paired, _drawn(others, left, rng)])]
    return chosen, len(paired)


def _drawn(cells: np.ndarray, most: int | None, rng: np.random.Generator) -> np.ndarray:
    if most is None or len(cells) <= most:
        return cells
    return np.sort(rng.choice(cells, most, replace=False))


def _is_much(mdata: MuData, rows: dict[str, np.ndarray], max_features: int) -> bool:
    entries = [len(own) * min(mdata[name].n_vars, max_features) for name, own in rows.items()]
    return sum(entries) > SHOWN


def _recorded_rep(mdata: MuData, name: str) -> str | None:
    """Representation that ``pp.preprocess`` wrote, if it is still there."""
    record = saved_record(mdata[name]) or {}
    recorded = mdata.uns.get(_keys.UNS, {}).get(_keys.PREPROCESS, {}).get(name, {})
    key = record.get("rep") or recorded.get("rep")
    return key if key in mdata[name].obsm else None


def _scores(features: Features, n: int) -> np.ndarray:
    """Leading principal components of the features, cells x components."""
    _, axes = Residual(features, np.zeros((features.shape[0], 0))).components(n)
    return features.times(axes)


def _narrowed(values: np.ndarray, n: int) -> np.ndarray:
    """Leading principal components of a representation, where it is wider than `n`."""
    if values.shape[1] <= n:
        return values
    centred = values - values.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ axes[:, ::-1][:, :n])


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


def _warn_if_full(found: Mapping[str, tuple[int, int]], what: str) -> None:
    full = [name for name, (n, most) in found.items() if n >= most]
    if full:
        where = "" if what == "shared" else f" of {', '.join(full)}"
        warnings.warn(
            f"As many {what} dimensions{where} were found as max_{what} allows; there may be "
            "more.",
            UserWarning,
            stacklevel=3,
        )
