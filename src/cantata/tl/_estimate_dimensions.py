"""How many dimensions modalities share, and how many each has of its own."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import track

from cantata._mudata.values import saved_record
from cantata.tl._dimension_canonical import shared_variates
from cantata.tl._dimension_features import Features, modality_kind, read_features
from cantata.tl._dimension_options import (
    check_numbers,
    check_shares,
    check_sources,
    checked_modalities,
    choose_cells,
)
from cantata.tl._dimension_spectrum import Residual, count_components
from cantata.tl._dimensions import Dimensions, correlation_table, variance_table
from cantata.tl._representation import modality_rep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mudata import MuData

PER_COMPONENT = 10
"""Cells with all modalities per component that enters the canonical correlations."""

SHOWN = 2_000_000
"""Cells x features from which on a progress bar is shown."""


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
    names, told = checked_modalities(mdata, modalities)
    layers, use_reps = dict(layers or {}), dict(use_reps or {})
    check_sources(mdata, names, layers, use_reps)
    sizes = {"max_shared": max_shared, "max_specific": max_specific, "max_features": max_features}
    check_numbers(sizes, n_permutations, max_cells, seed)
    check_shares(alpha, min_correlation)
    kinds = {name: modality_kind(name, mdata[name], told.get(name)) for name in names}
    reps = _representations(mdata, names, use_reps)
    rows, n_paired = choose_cells(mdata, names, max_cells, seed)
    busy = _is_much(mdata, rows, max_features)
    n_scores = max(2, min(max_shared, n_paired // PER_COMPONENT))
    features, scores = {}, {}
    for name in track(names, description="Components", disable=not busy):
        features[name] = read_features(
            name,
            mdata[name],
            rows[name],
            layer=layers.get(name),
            kind=kinds[name],
            max_features=max_features,
        )
        if name in reps:
            scores[name] = _narrowed(reps[name][rows[name]], n_scores)
        else:
            scores[name] = _scores(features[name], n_scores)
    shared = shared_variates(
        [x[:n_paired] for x in scores.values()],
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
    _warn_if_full(shared.n, max_shared, n_specific, max_specific)
    return Dimensions(
        n_shared=shared.n,
        n_specific=n_specific,
        correlations=correlation_table(shared, names),
        variances=variance_table(counted, features),
        n_paired=n_paired,
        alpha=alpha,
        min_correlation=min_correlation,
    )


def _is_much(mdata: MuData, rows: dict[str, np.ndarray], max_features: int) -> bool:
    entries = [len(own) * min(mdata[name].n_vars, max_features) for name, own in rows.items()]
    return sum(entries) > SHOWN


def _representations(
    mdata: MuData, names: list[str], use_reps: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Representations that the user named, or that ``pp.preprocess`` wrote and are still there."""
    found = {}
    for name in names:
        recorded = (saved_record(mdata[name]) or {}).get("rep")
        key = use_reps.get(name, recorded if recorded in mdata[name].obsm else None)
        if key is not None:
            found[name] = modality_rep(mdata, name, key)
    return found


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


def _warn_if_full(
    n_shared: int, max_shared: int, n_specific: Mapping[str, int], max_specific: int
) -> None:
    full = [name for name, n in n_specific.items() if n >= max_specific]
    limits = []
    if n_shared >= max_shared:
        limits.append(f"{n_shared} shared dimensions, max_shared")
    if full:
        limits.append(f"{max_specific} dimensions of {' and '.join(full)}, max_specific")
    for limit in limits:
        what, argument = limit.rsplit(", ", 1)
        warnings.warn(
            f"There may be more than {what}: {argument} allows no more.", UserWarning, stacklevel=3
        )
