"""Which features change along the principal components of a latent space."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cantata.tl._expression import Expression, Scale, expression
from cantata.tl._interpret_axes import GROUPS, principal_axes
from cantata.tl._interpret_options import Options, check_fold_changes, resolve_scale
from cantata.tl._interpret_sets import check_sets, set_table
from cantata.tl._interpret_splits import (
    N_CODES,
    Placed,
    Replication,
    compare,
    place_cells,
    replicate,
)
from cantata.tl._interpret_tables import cell_tables, component_table, feature_tables
from cantata.tl._interpret_tests import Features, Reference, Test
from cantata.tl._interpretation import LatentInterpretation
from cantata.tl._latent_spaces import LatentSpace, space_of
from cantata.tl._link_values import check_modality

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mudata import MuData

FEW = 5
"""With smaller groups in the test parts, hardly anything is significant."""

CELLS_PER_BIN = 10
"""Fewer cells per bin are refused."""

PER_TEST = 10
"""Additions that the test of one feature is worth."""


def interpret_latent(
    mdata: MuData,
    modality: str,
    *,
    use_rep: str,
    layer: str | None = None,
    n_comps: int = 20,
    n_bins: int = 11,
    central: float = 0.15,
    n_central: int | None = None,
    n_splits: int = 36,
    train_size: float = 0.8,
    reference: Reference = "others",
    test: Test = "both",
    fold_changes: Sequence[float] | None = None,
    scale: Scale = "auto",
    pseudocount: float = 1e-9,
    alpha: float = 0.05,
    gene_sets: Mapping[str, Iterable[str]] | None = None,
    min_share: float = 0.5,
    random_state: int = 0,
) -> LatentInterpretation:
    """Find the features that change along the principal components of a latent space.

    Cells are cut into bins of equal size along each component. Of those cells that lie near the
    origin in all other components, the ones at the low end, in the centre and at the high end
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
    n_comps
        Components to interpret; fewer if the latent space has fewer dimensions.
    n_bins
        Bins along a component, an odd number. The first two are the low end, the one in the
        middle is the centre, the last two are the high end.
    central
        Share of the cells that lie near the origin in the other components: those with the
        smallest sum of squares of the other coordinates.
    n_central
        Only the first so many components enter that sum: 10 in the paper. None: all, also those
        beyond `n_comps`.
    n_splits
        Random splits of the cells.
    train_size
        Share of the cells in the training part of a split. Components, bins and the radius of
        what is central are those of the training part; the test part is cut by them too.
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
        amounts. ``"auto"``: ``"log"`` if any value is negative, else ``"log1p"``.
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
    random_state
        Seed of the first split; the others follow.

    Returns
    -------
    A :class:`LatentInterpretation`; ``print`` shows the best features of both ends of each
    component. :func:`cantata.pl.latent_features` and :func:`cantata.pl.latent_traversal` draw it.

    Raises
    ------
    KeyError
        If the modality, layer or latent space does not exist.
    TypeError
        If the latent space holds no numbers, or `gene_sets` is no dict of lists.
    ValueError
        If an option is out of its range, values are not finite or negative where `scale` does
        not allow it, the latent space does not vary, feature names repeat, there are fewer than
        ten cells per bin, or no gene set has a feature of the modality.

    Warns
    -----
    UserWarning
        If the smallest group of the test parts has fewer than 5 cells in most splits.

    Notes
    -----
    Components of a split come in another order and with other signs. They are matched one to one
    to the components of all cells such that the absolute correlations of their scores are largest
    in sum, and turned accordingly: "PC1, low" is the same end everywhere. ``stability`` tells how
    well that works; of a component with a low value (two components of about the same variance
    mix freely) the features are those of a plane, not of an axis. Signs of the components
    of all cells are chosen such that the loading that is largest in size is positive.

    Tests are computed from sums and sums of squares of the groups: sparse stays sparse. The
    reference implementation divides values by their standard deviations before; here, as in
    the paper's text, fold changes are those of the values themselves.

    In the paper the parts of a split have to agree in sign, and splits need not agree with one
    another. Where cell types are clusters, a small turn of a component can put another one at its
    end, and a feature then rises in some splits and falls in others; here it counts in those that
    agree with all cells.

    A latent space was fitted to the features that are tested, so p values do not show that a
    component exists; they show which features change along it. Expect few features with
    few cells: a group of the test part has about ``0.15 x 0.2 x 2 / 11`` of them, 22 of 4,000.

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
    options = Options(
        n_comps=n_comps,
        n_bins=n_bins,
        central=central,
        n_central=n_central,
        n_splits=n_splits,
        train_size=train_size,
        reference=reference,
        test=test,
        scale=scale,
        pseudocount=pseudocount,
        alpha=alpha,
        min_share=min_share,
        random_state=random_state,
    )
    thresholds = check_fold_changes(fold_changes)
    check_modality(mdata, modality, "modality")
    names = mdata[modality].var_names.to_numpy(dtype=object)
    sets = check_sets(gene_sets, names, modality)
    space, rows = space_of(mdata, modality, use_rep)
    check_cells(space, n_bins)
    values = expression(mdata, modality, layer, rows)
    options = replace(options, scale=resolve_scale(scale, values))
    found = _analyse(space.values, values, options)
    features, counts = feature_tables(
        found.replication.hits, names, found.changes, found.statistics, thresholds, n_splits
    )
    enriched = None
    if sets is not None:
        least = max(1, min_share * n_splits)
        enriched = set_table(features, sets, names, found.varies, least)
    return LatentInterpretation(
        features=features,
        counts=counts,
        components=component_table(found.placed, found.replication, found.variance_ratio),
        gene_sets=enriched,
        parameters={
            "modality": modality,
            "use_rep": space.name,
            "layer": layer,
            "n_features": len(names),
            "fold_changes": thresholds,
            **asdict(options),
        },
        **cell_tables(found.placed, mdata[modality].obs_names[rows]),
    )


@dataclass(frozen=True)
class _Analysis:
    """What is found in all cells and in the splits.

    ``placed``, all cells along their components; ``changes`` and ``statistics``, their log2 fold
    changes and t (components, groups, features); ``variance_ratio`` of all components;
    ``varies``, which features do.
    """

    placed: Placed
    replication: Replication
    changes: np.ndarray
    statistics: np.ndarray
    variance_ratio: np.ndarray
    varies: np.ndarray


def check_cells(space: LatentSpace, n_bins: int) -> None:
    """Refuse a space with too few cells, or one that does not vary.

    Raises
    ------
    ValueError
        If there are fewer than ten cells per bin, or all cells are the same.
    """
    if len(space.cells) < CELLS_PER_BIN * n_bins:
        raise ValueError(
            f"{space.where} has {len(space.cells)} cells for {n_bins} bins; at least "
            f"{CELLS_PER_BIN * n_bins} are needed. Take fewer bins: n_bins=."
        )
    if not np.ptp(space.values, axis=0).any():
        raise ValueError(f"{space.where} is the same in all cells: it has no components.")


def _analyse(latent: np.ndarray, values: Expression, options: Options) -> _Analysis:
    axes = principal_axes(latent)
    n_comps = min(options.n_comps, len(axes.variances))
    placed = place_cells(latent, axes, np.arange(n_comps), options)
    work = options.n_splits * n_comps * (options.central * values.n_stored + _tests(values))
    features = Features(values.matrix)
    changes, statistics = np.empty((2, n_comps, len(GROUPS), len(values.names)))
    for component, codes in enumerate(placed.codes.T):
        sums = features.sums(codes, N_CODES)
        for group in range(len(GROUPS)):
            compared = compare(sums, group, features.offset, options)
            changes[component, group] = compared.log2_fold_change
            statistics[component, group] = compared.t
    everything = features.sums(np.zeros(len(latent), dtype=np.int8), 1)
    varies = everything.moments([0])[2] > 0
    replication = replicate(latent, axes, n_comps, features, options, int(work))
    _warn_of_few(replication, options)
    shares = axes.variances / axes.variances.sum()
    return _Analysis(placed, replication, changes, statistics, shares, varies)


def _tests(values: Expression) -> int:
    return PER_TEST * len(GROUPS) * len(values.names)


def _warn_of_few(replication: Replication, options: Options) -> None:
    typical = float(np.median(replication.sizes))
    if typical < FEW:
        warnings.warn(
            f"The smallest group of cells in the test part of a split has {typical:g} cells "
            f"(median): little can be significant. Lower train_size={options.train_size!r}, or "
            f"raise central={options.central!r}.",
            UserWarning,
            stacklevel=4,
        )
