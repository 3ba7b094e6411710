"""Which features change along the principal components of a latent space."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from cantata._mudata.checks import MAX_LOG, check_integer
from cantata._mudata.embeddings import find_space
from cantata.tl._feature_values import cell_groups, check_modality, normalized_values
from cantata.tl._latent._components import (
    GROUPS,
    N_CODES,
    bin_cells,
    check_cells,
    principal_axes,
)
from cantata.tl._latent._differences import (
    GroupTest,
    Reference,
    Scale,
    TTest,
    replicate,
    split_cells,
    split_groups,
)
from cantata.tl._latent._interpretation import (
    LatentInterpretation,
    cell_tables,
    check_gene_sets,
    component_table,
    feature_tables,
    gene_set_table,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mudata import MuData

    from cantata.tl._feature_values import NormalizedValues

MIN_TEST_CELLS = 5
"""With smaller groups in the test parts, hardly anything is significant."""


def interpret_latent(
    mdata: MuData,
    modality: str,
    *,
    use_rep: str,
    layer: str | None = None,
    n_components: int = 20,
    n_bins: int = 11,
    central: float = 0.15,
    n_central: int | None = None,
    n_splits: int = 36,
    groups: str | None = None,
    train_size: float = 0.8,
    reference: Reference = "others",
    test: TTest = "both",
    fold_changes: Sequence[float] | None = None,
    scale: Scale = "auto",
    pseudocount: float = 1e-9,
    alpha: float = 0.05,
    gene_sets: Mapping[str, Iterable[str]] | None = None,
    min_share: float = 0.5,
    seed: int = 0,
) -> LatentInterpretation:
    """Find the features that change along the principal components of a latent space.

    Cells are cut into bins of equal size along each component. Of those cells that lie near the
    origin in all other components, the ones at the low end, in the center and at the high end
    are compared: a feature counts in a random split of the cells if it is significant in both of
    its parts, with the sign that it has in all cells. How often it counts, over thresholds of fold
    change, ranks it
    (Zhang et al. 2026, APOLLO, figure 2b-c and methods, "interpretation of the latent spaces").
    Nothing is written.

    Parameters
    ----------
    mdata
        Any MuData.
    modality
        Its features are tested, in its cells.
    use_rep
        Latent space (cells x dimensions): key in ``mdata[modality].obsm``, e.g.
        ``"X_apollo_shared"``; or in ``mdata.obsm``; ``"atac:X_apollo_specific"`` is that of
        another modality, in the cells that both have.
    layer
        Layer with the values of the features; None: ``.X``. Counts are scaled to 10,000 per cell
        and log(1 + x) is taken; anything else is used as it is.
    n_components
        Components to interpret; fewer if the latent space has fewer dimensions.
    n_bins
        Bins along a component, an odd number. The first two are the low end, the one in the
        middle is the center, the last two are the high end.
    central
        Share of the cells that lie near the origin in the other components: those with the
        smallest sum of squares of the other coordinates.
    n_central
        Only the first so many components enter that sum: 10 in the paper. None: all, also those
        beyond `n_components`.
    n_splits
        Random splits of the cells.
    groups
        Column of cells with the donors or samples. They are split as wholes, so that what counts
        holds in donors that the training part does not have; the paper splits its patients so
        (12 splits). No two splits are alike: with few donors there are fewer than `n_splits`.
        None: cells are split one by one, and a feature of a single donor counts.
    train_size
        Share of the cells, or of `groups`, in the training part of a split. Components, bins and
        the radius of what is central are those of the training part; the test part is cut by them
        too.
    reference
        What a group is compared with: ``"others"``, the other two groups (the paper), or
        ``"rest"``, these and the central cells in the bins between.
    test
        ``"both"``: the p value is the larger of Welch's and of Student's t-test. ``"welch"``:
        Welch's alone, as in the paper. It trusts the variance within a group: of few cells, in
        which a feature happens to be zero throughout, it makes a significant difference.
    fold_changes
        Thresholds of fold change, rising. None: 1.2 to 8 in steps of 0.2, as for RNA in the
        paper.
    scale
        What values are, for fold changes: ``"log1p"``, natural logarithm of 1 + amount;
        ``"log"``, natural logarithm, or another scale on which differences count; ``"linear"``,
        amounts. ``"auto"``: ``"log"`` if any value is negative, ``"linear"`` if one is above 50,
        which no logarithm reaches (areas of :func:`cantata.pp.image_features`), else ``"log1p"``.
    pseudocount
        Added to both mean amounts of a fold change (not for ``"log"``). The default is scanpy's
        and lets features that the reference lacks have any fold change; 0.1 or so, of counts per
        10,000, tames those that are rarely detected.
    alpha
        Largest p value after Benjamini-Hochberg adjustment over features.
    gene_sets
        Names of features by name of the set, to be tested for enrichment.
    min_share
        Share of the splits in which a feature is significant at the smallest fold change, to
        count as significant for `gene_sets`.
    seed
        Seed of the first split; the others follow.

    Returns
    -------
    A :class:`LatentInterpretation`; ``print`` shows the best features of both ends of each
    component. :func:`cantata.pl.latent_features` and :func:`cantata.pl.latent_traversal` draw it.

    Raises
    ------
    KeyError
        If the modality, layer, latent space or column does not exist.
    TypeError, ValueError
        If an option is out of its range, a cell has no group or all have the same, values are not
        finite or negative where `scale` does not allow it, the latent space does not vary, feature
        names repeat, there are fewer than ten cells per bin, or no gene set has a feature of the
        modality.

    Notes
    -----
    Components of a split come in another order and with other signs. They are matched one to one
    to the components of all cells such that the absolute correlations of their scores are largest
    in sum, and turned accordingly: "PC1, low" is the same end everywhere. ``stability`` tells how
    well that works: the features of a component with a low value (two components of about the same
    variance mix freely) are those of a plane, not of an axis.

    In the paper splits need not agree with one another; but where cell types are clusters, a small
    turn of a component can put another one at its end. Here a feature counts in the splits that
    agree with all cells. Fold changes are those of the values themselves, as in the paper's text;
    the reference implementation divides them by their standard deviations before.

    A latent space was fitted to the features that are tested: p values do not show that a
    component exists, but which features change along it. Cells of one donor are not independent:
    within a split p values are too small for statements about donors, and that a feature is found
    in both parts says something about them with `groups` only. Expect few features with few
    cells: a group of the test part has about ``0.15 x 0.2 x 2 / 11`` of them, 22 of 4,000, and
    there is a warning if it has fewer than 5.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> latent = rng.normal(size=(1000, 3)) * [3, 2, 1]
    >>> rate = np.full((1000, 8), 5.0)
    >>> rate[:, 0] *= np.exp(0.4 * latent[:, 0])
    >>> rate[:, 1] *= np.exp(-0.4 * latent[:, 1])
    >>> rna = AnnData(rng.poisson(rate).astype(float), obsm={"X_apollo_shared": latent})
    >>> mdata = mudata.MuData({"rna": rna})
    >>> found = cantata.tl.interpret_latent(
    ...     mdata, "rna", use_rep="X_apollo_shared", layer=None, n_splits=5, train_size=0.5
    ... )
    >>> found.top("PC1", 1)[["group", "feature", "rank"]]
      group feature  rank
    0  high       0     1
    >>> found.top("PC2", 1)["feature"].item()
    '1'
    """
    options = {
        "n_components": n_components,
        "n_bins": n_bins,
        "central": central,
        "n_central": n_central,
        "n_splits": n_splits,
        "groups": groups,
        "train_size": train_size,
        "reference": reference,
        "test": test,
        "scale": scale,
        "pseudocount": pseudocount,
        "alpha": alpha,
        "min_share": min_share,
        "seed": seed,
    }
    _check_options(options)
    thresholds = _thresholds(fold_changes)
    check_modality(mdata, modality, "modality")
    names = mdata[modality].var_names.to_numpy(dtype=object)
    sets = None if gene_sets is None else check_gene_sets(gene_sets, names, modality)
    space, rows = find_space(mdata, modality, use_rep)
    check_cells(space, n_bins)
    training = _training_parts(
        mdata, space.cells, groups, n_bins, n_splits=n_splits, train_size=train_size, seed=seed
    )
    options["n_splits"] = n_splits = len(training)
    values = normalized_values(mdata, modality, layer, rows)
    scale = _resolved_scale(scale, values)

    # 1. Groups of all cells along each component.
    axes = principal_axes(space.values)
    n_components = min(n_components, len(axes.variances))
    binned = bin_cells(
        space.values,
        axes,
        np.arange(n_components),
        n_bins=n_bins,
        central=central,
        n_central=n_central,
    )

    # 2. Fold changes and t of every feature in all cells (components, groups, features).
    tests = GroupTest(
        values.matrix,
        scale=scale,
        pseudocount=pseudocount,
        alpha=alpha,
        test=test,
        reference=reference,
    )
    changes, statistics = np.empty((2, n_components, len(GROUPS), len(names)))
    for component, codes in enumerate(binned.codes.T):
        sums = tests.sums(codes, N_CODES)
        for group in range(len(GROUPS)):
            difference = tests.along_component(sums, group)
            changes[component, group] = difference.log2_fold_change
            statistics[component, group] = difference.t
    all_cells = tests.sums(np.zeros(len(space.values), dtype=np.int8), 1)
    varies = all_cells.moments([0])[2] > 0

    # 3. What random splits find in both of their parts.
    splits = replicate(
        space.values,
        axes,
        n_components,
        tests,
        n_bins=n_bins,
        central=central,
        n_central=n_central,
        training=training,
    )
    typical = float(np.median(splits.sizes))
    if typical < MIN_TEST_CELLS:
        warnings.warn(
            f"The smallest group of cells in the test part of a split has {typical:g} cells "
            f"(median): little can be significant. Lower train_size={train_size!r}, or raise "
            f"central={central!r}.",
            UserWarning,
            stacklevel=2,
        )

    # 4. Tables.
    features, counts = feature_tables(
        splits.findings, names, changes, statistics, thresholds, n_splits
    )
    enriched = None
    if sets is not None:
        enriched = gene_set_table(features, sets, names, varies, max(1, min_share * n_splits))
    variance_ratio = axes.variances / axes.variances.sum()
    return LatentInterpretation(
        features=features,
        counts=counts,
        components=component_table(binned, splits, variance_ratio),
        gene_sets=enriched,
        parameters={
            "modality": modality,
            "use_rep": space.name,
            "layer": layer,
            "n_features": len(names),
            "fold_changes": thresholds,
            **options,
            "scale": scale,
        },
        **cell_tables(binned, mdata[modality].obs_names[rows]),
    )


def _check_options(given: Mapping[str, Any]) -> None:
    """Refuse options out of range."""
    for name in ("n_components", "n_splits", "n_central"):
        if given[name] is not None:
            check_integer(name, given[name])
    check_integer("seed", given["seed"], 0)
    n_bins = check_integer("n_bins", given["n_bins"])
    if n_bins < 5 or n_bins % 2 == 0:
        raise ValueError(
            f"n_bins={n_bins!r} must be odd and at least 5: two bins at each end and one in the "
            "middle."
        )
    for name in ("central", "alpha"):
        if not 0 < given[name] <= 1:
            raise ValueError(f"{name}={given[name]!r} must be above 0 and at most 1.")
    if not 0 < given["train_size"] < 1:
        raise ValueError(f"train_size={given['train_size']!r} must be between 0 and 1.")
    if not 0 <= given["min_share"] <= 1:
        raise ValueError(f"min_share={given['min_share']!r} must be within [0, 1].")
    if not given["pseudocount"] > 0:
        raise ValueError(f"pseudocount={given['pseudocount']!r} must be positive.")
    for name, choices in (("reference", Reference), ("test", TTest), ("scale", Scale)):
        if given[name] not in get_args(choices):
            raise ValueError(
                f"{name}={given[name]!r} is unknown; choose from {get_args(choices)}."
            )


def _training_parts(
    mdata: MuData,
    cells: np.ndarray,
    groups: str | None,
    n_bins: int,
    *,
    n_splits: int,
    train_size: float,
    seed: int,
) -> np.ndarray:
    """Which of the cells are in the training part of each split (splits x cells)."""
    if groups is None:
        seeds = range(seed, seed + n_splits)
        training = np.stack([split_cells(len(cells), train_size, own) for own in seeds])
    else:
        codes = cell_groups(mdata, groups, cells, argument="groups")
        if not codes.any():
            raise ValueError(
                f"groups={groups!r}: all {len(codes)} cells are of one group, which cannot be "
                "split. Name another column, or leave groups out."
            )
        training = split_groups(codes, train_size, n_splits, seed)
    sizes = training.sum(axis=1)
    smallest = int(min(sizes.min(), (len(cells) - sizes).min()))
    if smallest < n_bins:
        raise ValueError(
            f"A part of a split has {smallest} of {len(cells)} cells for {n_bins} bins: change "
            f"train_size={train_size!r}"
            + ("." if groups is None else f", or leave out small groups of {groups!r}.")
        )
    return training


def _thresholds(fold_changes: Sequence[float] | None) -> np.ndarray:
    """Thresholds of fold change, rising from 1 or more."""
    if fold_changes is None:
        return np.linspace(1.2, 8.0, 35).round(6)
    thresholds = np.asarray(fold_changes, dtype=np.float64)
    if thresholds.ndim != 1 or not thresholds.size:
        raise ValueError("fold_changes is no list of numbers; give at least one.")
    if not (thresholds >= 1).all() or not (np.diff(thresholds) > 0).all():
        raise ValueError(f"fold_changes={list(fold_changes)!r} must rise from 1 or more.")
    return thresholds


def _resolved_scale(scale: Scale, values: NormalizedValues) -> Scale:
    """What values are, if the user left it open."""
    if values.from_counts:
        if scale not in ("auto", "log1p"):
            raise ValueError(
                f"scale={scale!r}: {values.where} holds counts, which are normalised and become "
                "'log1p'. Leave scale out, or name a layer with other values."
            )
        return "log1p"
    if scale == "auto":
        if values.any_negative:
            return "log"
        return "linear" if values.largest > MAX_LOG else "log1p"
    if scale != "log" and values.any_negative:
        raise ValueError(
            f"scale={scale!r}: {values.where} holds negative values, which have no fold change. "
            "Use scale='log', for which differences of means count."
        )
    return scale
