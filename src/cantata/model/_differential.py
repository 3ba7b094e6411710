"""Differences between groups of cells, of expected values by scvi-tools, and of abundance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.special import logsumexp
from scvi.model.base import DifferentialComputation
from scvi.utils import track

from cantata._mudata.checks import warn_user
from cantata._mudata.obs import category_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MIN_CELLS = 3
"""Cells of a group, at least."""


def compared_groups(
    column: pd.Series, group1: Any, group2: Any, key: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Masks of the cells of both groups of every comparison; all others if no second is named.

    Raises
    ------
    KeyError
        If a group does not exist.
    ValueError
        If there is one group alone, a group is compared with itself, or has fewer than 3 cells.
    """
    sizes = column.value_counts()
    names = sizes.index.tolist()
    if group1 is None:
        small = sorted(sizes.index[sizes < MIN_CELLS])
        if small:
            warn_user(f"Groups with fewer than {MIN_CELLS} cells are not compared: {small}.")
        first = sorted(sizes.index[sizes >= MIN_CELLS])
    else:
        is_one = isinstance(group1, str) or np.ndim(group1) == 0
        first = [category_name(name) for name in ([group1] if is_one else group1)]
    group2 = None if group2 is None else category_name(group2)
    if len(names) < 2 or not first:
        raise ValueError(
            f"groupby={key!r} has the groups {names}, group1={group1}: two are needed."
        )
    unknown = [
        name for name in [*first, *([] if group2 is None else [group2])] if name not in names
    ]
    if unknown:
        raise KeyError(f"groupby={key!r} has no group {unknown[0]!r}; it has {sorted(names)}.")
    found = {}
    for name in first:
        if name == group2:
            if group1 is None:
                continue
            raise ValueError(f"group1 and group2 are both {name!r}.")
        one = (column == name).to_numpy()
        two = (
            (column.notna().to_numpy() & ~one) if group2 is None else (column == group2).to_numpy()
        )
        for cells, what in ((one, name), (two, group2 or "all other groups")):
            if cells.sum() < MIN_CELLS:
                raise ValueError(f"{what!r} has {cells.sum()} cells; {MIN_CELLS} are needed.")
        found[name] = (one, two)
    return found


def check_comparison(mode: str, delta: Any, pseudocounts: Any, fdr_target: Any) -> None:
    """Refuse what cannot be compared by (``ValueError``)."""
    if mode not in ("change", "vanilla"):
        raise ValueError(f"mode={mode!r} is not 'change' or 'vanilla'.")
    bounds = {"delta": np.inf, "pseudocounts": np.inf, "fdr_target": 1}
    values = {"delta": delta, "pseudocounts": pseudocounts, "fdr_target": fdr_target}
    for name, value in values.items():
        is_learned = name == "delta" and value is None
        if not (is_learned or (isinstance(value, int | float) and 0 <= value < bounds[name])):
            raise ValueError(f"{name}={value!r} is not a number in [0, {bounds[name]}).")


def differences(
    obs: pd.DataFrame,
    groups: Mapping[str, tuple[np.ndarray, np.ndarray]],
    sample: Callable[[np.ndarray, str | None], np.ndarray],
    features: np.ndarray,
    batches: Sequence[str] | None,
    *,
    n_samples: int,
    fdr_target: float,
    silent: bool,
    **options: Any,
) -> pd.DataFrame:
    """One table per comparison, below each other, features with the largest probability first.

    Parameters
    ----------
    obs
        Annotation of all cells that are compared.
    groups
        Masks of the two groups of every comparison.
    sample
        From positions of n cells, some of them repeated, and a batch (None: their own) to (n, p)
        samples of values.
    features
        Names of the p features.
    batches
        Batches to hold cells against each other in; None: each in its own.
    n_samples
        Samples of each group.
    fdr_target
        Expected share of false discoveries among those that are called different.
    silent
        Show no progress.
    **options
        Of :meth:`scvi.model.base.DifferentialComputation.get_bayes_factors`.
    """
    rng = np.random.default_rng(0)

    def values(
        _: Any, indices: np.ndarray, transform_batch: str | None, n_samples_overall: int
    ) -> np.ndarray:
        # every cell as often as any other; in random order, as the i-th samples of both groups are
        # compared
        n_rounds = -(-n_samples_overall // len(indices))
        order = np.concatenate([rng.permutation(indices) for _ in range(n_rounds)])
        return sample(order[:n_samples_overall], transform_batch)

    state = SimpleNamespace(categorical_mapping=np.asarray(batches or [], dtype=object))
    manager = SimpleNamespace(adata=AnnData(obs=obs), get_state_registry=lambda _: state)
    computation = DifferentialComputation(values, None, manager)
    tables = []
    for name, (one, two) in track(groups.items(), description="DE...", disable=silent):
        table = pd.DataFrame(
            computation.get_bayes_factors(
                one,
                two,
                use_observed_batches=batches is None,
                n_samples_overall=n_samples,
                m_permutation=n_samples,
                **options,
            ),
            index=features,
        )
        by = "proba_de" if "proba_de" in table else "bayes_factor"
        table = table.sort_values(by=by, ascending=False, kind="stable")
        if by == "proba_de":
            # expected share of false ones among this one and those above it
            expected = (1 - table[by]).cumsum() / (1 + np.arange(len(table)))
            table[f"is_de_fdr_{fdr_target}"] = (expected <= fdr_target).to_numpy()
        tables.append(table.assign(group1=name))
    return pd.concat(tables)


def checked_samples(column: pd.Series, key: str) -> pd.Categorical:
    """Sample of every cell.

    Raises
    ------
    ValueError
        If there are fewer than two samples, or one has fewer than 3 cells.
    """
    sizes = column.value_counts()
    if len(sizes) < 2:
        raise ValueError(f"sample_key={key!r} has the samples {list(sizes.index)}: name two.")
    if sizes.min() < MIN_CELLS:
        raise ValueError(
            f"Sample {sizes.index[-1]!r} has {sizes.min()} cells; {MIN_CELLS} are needed."
        )
    return pd.Categorical(column, categories=sorted(sizes.index))


def conditions_of(samples: pd.Categorical, column: pd.Series, key: str) -> pd.Series:
    """Condition of each sample; of samples without one it is missing.

    Raises
    ------
    ValueError
        If a sample has cells of several conditions, or there are fewer than two conditions.
    """
    pairs = pd.DataFrame({"sample": samples, "condition": column.to_numpy()}).dropna()
    pairs = pairs.drop_duplicates()
    mixed = pairs.loc[pairs["sample"].duplicated(), "sample"].unique()
    if len(mixed):
        raise ValueError(
            f"groupby={key!r}: {len(mixed)} samples have cells of several conditions, e.g. "
            f"{mixed[0]!r}. Name as sample_key what lies within conditions."
        )
    found = pairs.set_index("sample")["condition"].reindex(samples.categories)
    if found.nunique() < 2:
        raise ValueError(f"groupby={key!r} has the conditions {list(found.unique())}: name two.")
    return found


def abundance_contrasts(densities: pd.DataFrame, conditions: pd.Series) -> pd.DataFrame:
    """Log of the mean density of each condition's samples over that of all others.

    Parameters
    ----------
    densities
        (cells, samples) log densities.
    conditions
        Condition of each sample.
    """
    known = conditions.notna().to_numpy()

    def mean(chosen: np.ndarray) -> np.ndarray:
        return logsumexp(densities.loc[:, chosen], axis=1) - np.log(chosen.sum())

    return pd.DataFrame(
        {
            f"DA_{name}": mean(is_it) - mean(known & ~is_it)
            for name in sorted(conditions.dropna().unique())
            for is_it in [(conditions == name).to_numpy()]
        },
        index=densities.index,
    )
