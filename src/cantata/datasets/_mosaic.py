"""A mosaic of several modalities with known answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.special import expit

from cantata._mudata.kinds import Kind
from cantata.datasets._assemble import assemble, check_integer, stream

if TYPE_CHECKING:
    from mudata import MuData

Pairing = Literal["partial", "full", "none"] | Mapping[str | tuple[str, ...], float]
SparseFormat = Literal["csr", "csc", "dense"]

KIND_OF_NAME: dict[str, Kind] = {
    "rna": "rna",
    "gex": "rna",
    "adt": "protein",
    "protein": "protein",
    "prot": "protein",
    "atac": "atac",
    "peaks": "atac",
}
MAX_MODALITIES = 5

LINEAGE_RADIUS, SUBTYPE_RADIUS = 2.6, 1.25
"""Distance of lineages from the origin, and of the two types of a lineage from its center."""

WITHIN_TYPE_SD = (0.7, 0.15)
"""Spread of the cells of a type along the first and the last factor."""

RAREST_TO_COMMONEST = 0.35
"""Frequency of the rarest type, as a share of that of the commonest."""

STRENGTH_SD = 0.4
"""Spread of the logarithms of features' strengths and dispersions."""

LINK_COSINE = 0.95
"""Cosine of the loadings of a linked feature with those of its gene, about."""

BACKGROUND, FOREGROUND, POSITIVE_SLOPE = 4.0, 25.0, 3.0
"""Levels of a protein in negative and positive cells, and how fast cells turn positive."""

BLOCK_CELLS = 256
"""Cells that are drawn at a time."""


def simulate_mosaic(
    n_cells: int = 1600,
    *,
    n_features: Mapping[str, int] | None = None,
    kinds: Mapping[str, Kind] | None = None,
    n_shared: int = 8,
    n_private: int = 4,
    n_cell_types: int = 6,
    n_batches: int = 2,
    pairing: Pairing = "partial",
    batch_effect: float = 0.25,
    curvature: float = 0.0,
    depth: float | Mapping[str, float] = 1.0,
    seed: int = 0,
    sparse_format: SparseFormat = "csr",
    shuffle: bool = True,
    keep_expected: bool = False,
) -> MuData:
    r"""Simulate counts of one to five modalities with any pairing, and return the truth with them.

    Parameters
    ----------
    n_cells
        Cells in the whole MuData.
    n_features
        Features of each modality, one to five of them; ``{"rna": 500, "adt": 40}`` by default.
    kinds
        What a modality measures: ``"rna"``, ``"protein"`` or ``"atac"``. Needed only for names
        that do not tell (known: rna, gex, adt, protein, prot, atac, peaks).
    n_shared
        Shared factors, read by every modality.
    n_private
        Factors of each modality's own; 0 is allowed.
    n_cell_types
        Cell types, of unequal frequency (the commonest about three times the rarest). Types come
        in pairs: those of one lineage are harder to tell apart.
    n_batches
        Batches of equal size, independent of type and pairing.
    pairing
        ``"full"``: every cell has every modality. ``"none"``: every cell has one. ``"partial"``:
        half of the cells have every modality, the rest one each. Or the share of each pattern,
        such as ``{("rna",): 0.25, ("adt",): 0.25, ("rna", "adt"): 0.5}``; shares sum to 1 and are
        met exactly up to rounding.
    batch_effect
        Standard deviation of the shift that a batch causes in the log rate of a feature.
    curvature
        How far each modality reads squares of the shared factors, its own ones, beside the factors
        themselves. At 0 what modalities have in common is linear in log rates, which favours
        canonical correlation; real counts are curved.
    depth
        Factor on the library sizes, for all modalities or by name.
    seed
        The same seed gives the same bits. Cells do not depend on the pairing: with another
        `pairing` and the same seed the same cells are hidden or shown, so that
        ``pairing="full"`` holds the counts that a mosaic hides.
    sparse_format
        ``"csr"``, ``"csc"`` or ``"dense"`` matrices.
    shuffle
        Give the rows of each modality an order of their own.
    keep_expected
        Store the expected counts, dense, in ``layers["truth_expected"]`` of each modality.

    Returns
    -------
    MuData with counts (float32) in ``X`` of each modality and

    - ``obs["cell_type"]``, ``obs["batch"]`` in the MuData and in each modality;
    - ``obsm["truth_shared"]`` (n_obs, n_shared): the factors :math:`z`;
    - ``mdata[m].obsm["truth_private"]`` (cells of m, n_private): the factors :math:`u^m`;
    - ``mdata[m].var["gene"]`` of protein and chromatin modalities, where genes are simulated: the
      linked gene, ``""`` for none;
    - ``uns["truth"]``: the arguments, and ``"links"``, a table with columns source_modality,
      source, target_modality, target.

    Every cell has a count in each of its modalities and every feature has a count: where the draw
    gives none, one count is added.

    Raises
    ------
    ValueError
        If a number, a kind, a pattern or the format is not usable, or there are too few cells for
        the types, the batches or the patterns.
    KeyError
        If `kinds`, `pairing` or `depth` names a modality that is not in `n_features`.

    Notes
    -----
    The cell :math:`i` of type :math:`t` and batch :math:`b` has shared factors
    :math:`z_i = c_t + \varepsilon_i` with :math:`\varepsilon_{ik} \sim N(0, \sigma_k^2)`, where
    the centers :math:`c_t` are the sum of a lineage and a smaller subtype vector and
    :math:`\sigma_k` falls geometrically from 0.7 to 0.15; factors :math:`u_i^m \sim N(0, I)` of
    each modality; and a log-normal library size :math:`l_i^m`. Feature :math:`j` reads them by
    Gaussian loadings of log-normal strength,

    .. math:: h_{ij} = w_j^\top z_i + v_j^\top u_i^m, \qquad
              \eta_{ij} = a_j + h_{ij} + \beta_{bj}, \qquad
              \beta_{bj} \sim N(0, \mathtt{batch\_effect}^2).

    RNA: :math:`x_{ij} \sim NB(l_i\, \mathrm{softmax}(\eta_i)_j, \theta_j)`. Chromatin:
    :math:`x_{ij} \sim Poisson(l_i\, \mathrm{softmax}(\eta_i)_j)`. Protein: background and
    foreground,

    .. math:: x_{ij} \sim NB\bigl(l_i e^{a_j + \beta_{bj}} (4 + 25\, y_{ij} e^{h_{ij}}),
              \theta_j\bigr), \qquad y_{ij} \sim Bernoulli(\mathrm{logit}^{-1}(3 h_{ij})).

    With a `curvature` :math:`\kappa`, modality :math:`m` reads :math:`(z_i + \kappa\, S Q_m\,
    q(P_m S^{-1} z_i)) / \sqrt{1 + \kappa^2}` in place of :math:`z_i`, with
    :math:`q(y) = (y^2 - 1) / \sqrt 2`, rotations :math:`P_m` and :math:`Q_m` of its own, and the
    spread :math:`S` of the factors, around their mean.

    The median library of p features is :math:`9\sqrt p` for RNA and :math:`2.5\sqrt p` for
    chromatin, so more features make an easier task; `depth` makes a harder one. Links: 80 % of
    the proteins and 30 % of the peaks have :math:`w_j` turned to a cosine of about 0.95 with that
    of a well expressed gene of the first RNA modality.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic(200, n_features={"rna": 50, "adt": 10}, seed=1)
    >>> mdata.n_obs, mdata["rna"].shape, mdata["adt"].shape
    (200, (150, 50), (150, 10))
    >>> mdata.obsm["truth_shared"].shape
    (200, 8)
    """
    sizes = {"n_shared": n_shared, "n_private": n_private, "n_batches": n_batches}
    _check_numbers(
        batch_effect,
        curvature,
        sparse_format,
        n_cells=n_cells,
        n_cell_types=n_cell_types,
        seed=seed,
        **sizes,
    )
    widths = resolve_features(n_features)
    names = list(widths)
    measures = resolve_kinds(names, kinds)
    depths = _depths(depth, names)
    shares = resolve_pairing(pairing, names)
    member = assign_patterns(n_cells, shares, names, stream(seed, "pairing"))
    cells = draw_cells(
        n_cells, n_cell_types=n_cell_types, n_batches=n_batches, n_shared=n_shared, seed=seed
    )
    drawn, source = draw_linked_features(
        widths, measures, seed, batch_effect=batch_effect, **sizes
    )
    labels = {name: feature_names(name, widths[name], measures) for name in names}
    modalities = {}
    for column, name in enumerate(names):
        adata = draw_modality(
            name,
            measures[name],
            drawn[name],
            cells,
            measured=member[:, column],
            depth=depths[name],
            curvature=curvature,
            seed=seed,
            sparse_format=sparse_format,
            shuffle=shuffle,
            keep_expected=keep_expected,
        )
        genes = labels[source] if source is not None and measures[name] != "rna" else None
        adata.var = var_table(drawn[name], labels[name], genes)
        modalities[name] = adata
    groups = {
        "cell_type": _labels("type", cells.cell_type),
        "batch": _labels("batch", cells.batch),
    }
    mdata = assemble(modalities, pd.DataFrame(groups, index=cells.names))
    shared = pd.DataFrame(cells.shared.astype(np.float32), index=cells.names)
    mdata.obsm["truth_shared"] = shared.loc[mdata.obs_names].to_numpy()
    mdata.uns["truth"] = {
        **sizes,
        "n_cell_types": n_cell_types,
        "seed": seed,
        "batch_effect": batch_effect,
        "curvature": curvature,
        "depth": depths,
        "kinds": measures,
        "pairing": {" + ".join(pattern): share for pattern, share in shares.items()},
        "links": links_table(drawn, labels, source),
    }
    return mdata


# Design of the study -----------------------------------------------------------------------------


def _check_numbers(
    batch_effect: float, curvature: float, sparse_format: str, **sizes: int
) -> None:
    for name, value in sizes.items():
        check_integer(name, value, 0 if name in ("n_private", "seed") else 1)
    for name, number in (("batch_effect", batch_effect), ("curvature", curvature)):
        if not 0 <= number < np.inf:
            raise ValueError(f"{name}={number!r}: give a number of at least 0.")
    if sparse_format not in get_args(SparseFormat):
        raise ValueError(
            f"sparse_format={sparse_format!r}: choose one of {list(get_args(SparseFormat))}."
        )


def _depths(depth: float | Mapping[str, float], names: list[str]) -> dict[str, float]:
    """Factor on the library sizes of each modality; 1 where a mapping does not name it."""
    depths = dict(depth) if isinstance(depth, Mapping) else dict.fromkeys(names, depth)
    for name, value in depths.items():
        if name not in names:
            raise KeyError(f"depth names {name!r}, but the modalities are {names}.")
        if not 0 < value < np.inf:
            raise ValueError(f"depth of modality {name!r} is {value}; it must be positive.")
    return {name: float(depths.get(name, 1.0)) for name in names}


def _labels(prefix: str, codes: np.ndarray) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, [f"{prefix} {c + 1}" for c in range(codes.max() + 1)])


def resolve_features(n_features: Mapping[str, int] | None) -> dict[str, int]:
    """Modality names and widths, checked."""
    features = {"rna": 500, "adt": 40} if n_features is None else dict(n_features)
    if not 1 <= len(features) <= MAX_MODALITIES:
        raise ValueError(
            f"n_features names {len(features)} modalities; give between 1 and {MAX_MODALITIES}."
        )
    for name, width in features.items():
        if not name or "/" in name or ":" in name:
            raise ValueError(
                f"n_features: {name!r} is no modality name (no '/', no ':', not empty)."
            )
        if width < 1:
            raise ValueError(f"n_features[{name!r}] is {width}; a modality needs a feature.")
    return features


def resolve_kinds(names: Sequence[str], kinds: Mapping[str, Kind] | None) -> dict[str, Kind]:
    """What each modality measures: as stated in `kinds`, otherwise by its name."""
    stated = dict(kinds or {})
    unknown = [name for name in stated if name not in names]
    if unknown:
        raise KeyError(f"kinds names {unknown[0]!r}, but the modalities are {list(names)}.")
    resolved: dict[str, Kind] = {}
    for name in names:
        kind = stated.get(name, KIND_OF_NAME.get(name.lower()))
        if kind is None:
            raise ValueError(
                f"Nothing tells what modality {name!r} measures. Give kinds={{{name!r}: kind}} "
                f"with one of {list(get_args(Kind))}, or use one of the names "
                f"{list(KIND_OF_NAME)}."
            )
        if kind not in get_args(Kind):
            raise ValueError(f"kinds[{name!r}] is {kind!r}; choose one of {list(get_args(Kind))}.")
        resolved[name] = kind
    return resolved


def resolve_pairing(pairing: Pairing, names: Sequence[str]) -> dict[tuple[str, ...], float]:
    """Share of the cells for each pairing pattern, a tuple in the order of `names`."""
    everything, singles = tuple(names), [(name,) for name in names]
    if isinstance(pairing, str):
        if pairing == "full" or (len(names) == 1 and pairing in ("partial", "none")):
            return {everything: 1.0}
        if pairing == "partial":
            return dict.fromkeys(singles, 0.5 / len(singles)) | {everything: 0.5}
        if pairing == "none":
            return dict.fromkeys(singles, 1 / len(singles))
        raise ValueError(
            f"pairing={pairing!r}: choose 'partial', 'full', 'none' or give a dict such as "
            f"{{{everything!r}: 1.0}}."
        )
    return _checked_patterns(pairing, names)


def _checked_patterns(
    pairing: Mapping[str | tuple[str, ...], float], names: Sequence[str]
) -> dict[tuple[str, ...], float]:
    shares: dict[tuple[str, ...], float] = {}
    for pattern, share in pairing.items():
        members = (pattern,) if isinstance(pattern, str) else tuple(pattern)
        unknown = [name for name in members if name not in names]
        if unknown or not members:
            raise KeyError(
                f"pairing: pattern {pattern!r} is not made of the modalities {list(names)}."
            )
        ordered = tuple(name for name in names if name in members)
        if ordered in shares or len(ordered) < len(members):
            raise ValueError(f"pairing: pattern {pattern!r} repeats a pattern or a modality.")
        if not share > 0:
            raise ValueError(
                f"pairing: the share of pattern {pattern!r} is {share}; it must be > 0."
            )
        shares[ordered] = float(share)
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(
            f"pairing: the {len(shares)} shares sum to {total:g}; they must sum to 1."
        )
    missing = [name for name in names if not any(name in pattern for pattern in shares)]
    if missing:
        raise ValueError(
            f"pairing: no pattern contains modality {missing[0]!r}; add one or drop the modality."
        )
    return shares


def exact_shares(n: int, shares: Sequence[float] | np.ndarray) -> np.ndarray:
    """Integers that sum to `n`, each within one of ``n * shares`` (largest remainder)."""
    ideal = n * np.asarray(shares, dtype=float) / np.sum(shares)
    counts = np.floor(ideal + 1e-9).astype(np.int64)
    order = np.argsort(counts - ideal, kind="stable")
    counts[order[: n - counts.sum()]] += 1
    return counts


def assign_patterns(
    n_cells: int,
    shares: Mapping[tuple[str, ...], float],
    names: Sequence[str],
    rng: np.random.Generator,
) -> np.ndarray:
    """Boolean matrix (cells x modalities) with exact shares in random order."""
    table = np.array([[name in pattern for name in names] for pattern in shares])
    counts = exact_shares(n_cells, list(shares.values()))
    member = cast("np.ndarray", table[rng.permutation(np.repeat(np.arange(len(table)), counts))])
    empty = np.flatnonzero(~member.any(axis=0))
    if empty.size:
        raise ValueError(
            f"With n_cells={n_cells} and this pairing modality {names[empty[0]]!r} gets no cell; "
            "raise n_cells or the share of a pattern that contains it."
        )
    return member


# Cells and features ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Assay:
    """Typical figures of one kind of measurement, set for tasks as hard as on real data."""

    feature: str
    """What its features are called."""
    counts: float
    """Median library size of p features: ``counts * p**counts_power``."""
    counts_power: float
    library_sd: float
    """Spread of the log library size."""
    baseline_sd: float
    """Spread of the features' log rates in the average cell."""
    shared_sd: float
    """Spread of the log rate that shared factors of unit variance cause."""
    private_sd: float
    """The same for the modality's own factors."""
    dispersion: float
    """Typical inverse overdispersion; infinite is Poisson."""
    linked: float
    """Share of the features that are linked to a gene."""


ASSAYS: dict[Kind, Assay] = {
    "rna": Assay("gene", 9.0, 0.5, 0.35, 1.2, 0.8, 0.7, 3.0, 0.0),
    "protein": Assay("protein", 1.0, 0.0, 0.3, 0.6, 0.75, 0.6, 8.0, 0.8),
    "atac": Assay("peak", 2.5, 0.5, 0.4, 0.6, 0.8, 0.7, np.inf, 0.3),
}


@dataclass(frozen=True)
class Cells:
    """The cells of a study, before any of them is measured."""

    names: np.ndarray
    """(n,) names."""
    cell_type: np.ndarray
    """(n,) type codes."""
    batch: np.ndarray
    """(n,) batch codes."""
    shared: np.ndarray
    """(n, n_shared) shared factors."""


@dataclass
class Features:
    """Parameters of the p features of one modality."""

    baseline: np.ndarray
    """(p,) log rate of the average cell."""
    shared: np.ndarray
    """(p, n_shared) loadings on the shared factors."""
    private: np.ndarray
    """(p, n_private) loadings on the modality's own factors."""
    batch: np.ndarray
    """(n_batches, p) shift of the log rate in each batch."""
    dispersion: np.ndarray
    """(p,) inverse overdispersion."""
    gene: np.ndarray
    """(p,) position of the linked gene, -1 for none."""


def _directions(n: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """`n` unit vectors, orthogonal within each run of `dim`."""
    runs = range(-(-n // dim))
    return np.concatenate([np.linalg.qr(rng.normal(size=(dim, dim)))[0] for _ in runs])[:n]


def type_centers(n_types: int, n_shared: int, rng: np.random.Generator) -> np.ndarray:
    """(n_types, n_shared) centers: lineages far apart, the two types of a lineage close."""
    n_lineages = (n_types + 1) // 2
    vectors = _directions(2 * n_lineages, n_shared, rng)
    lineage, side = np.divmod(np.arange(n_types), 2)
    subtype = (1 - 2 * side)[:, None] * vectors[n_lineages + lineage]
    return LINEAGE_RADIUS * vectors[lineage] + SUBTYPE_RADIUS * subtype


def draw_cells(
    n_cells: int, *, n_cell_types: int, n_batches: int, n_shared: int, seed: int
) -> Cells:
    """Cells with exact shares of types and batches, and their shared factors."""
    rng = stream(seed, "cells")
    groups = []
    for what, weights in (
        ("n_cell_types", np.linspace(1.0, RAREST_TO_COMMONEST, n_cell_types)),
        ("n_batches", np.ones(n_batches)),
    ):
        counts = exact_shares(n_cells, weights)
        if counts.min() < 1:
            raise ValueError(
                f"n_cells={n_cells} is too few for {what}={len(weights)}: {np.sum(counts < 1)} of "
                f"them would be empty. Raise n_cells or lower {what}."
            )
        groups.append(rng.permutation(np.repeat(np.arange(len(weights)), counts)))
    cell_type, batch = groups
    # the name is part of the seed: another spelling would give other cells
    centers = type_centers(n_cell_types, n_shared, stream(seed, "centres"))
    within = rng.normal(size=(n_cells, n_shared)) * np.geomspace(*WITHIN_TYPE_SD, n_shared)
    digits = len(str(n_cells - 1))
    names = np.array([f"cell{i:0{digits}d}" for i in range(n_cells)], dtype=object)
    return Cells(names, cell_type, batch, centers[cell_type] + within)


def draw_features(
    kind: Kind,
    n_features: int,
    *,
    n_shared: int,
    n_private: int,
    n_batches: int,
    batch_effect: float,
    rng: np.random.Generator,
) -> Features:
    """Parameters of all features of a modality, none of them linked."""
    assay = ASSAYS[kind]
    strength = rng.lognormal(0.0, STRENGTH_SD, size=(n_features, 1))
    shared = rng.normal(size=(n_features, n_shared)) * assay.shared_sd / np.sqrt(n_shared)
    private = rng.normal(size=(n_features, n_private)) * assay.private_sd
    return Features(
        baseline=rng.normal(0.0, assay.baseline_sd, size=n_features),
        shared=strength * shared,
        private=strength * private / np.sqrt(max(n_private, 1)),
        batch=rng.normal(0.0, batch_effect, size=(n_batches, n_features)),
        dispersion=assay.dispersion * rng.lognormal(0.0, STRENGTH_SD, size=n_features),
        gene=np.full(n_features, -1, dtype=np.int64),
    )


def link_to_genes(target: Features, genes: Features, kind: Kind, rng: np.random.Generator) -> None:
    """Turn the shared loadings of some features towards those of a gene, in place.

    Candidates are the quarter of the genes that are seen best (baseline plus strength of the
    loadings). Each of them is used once before any is used again.
    """
    strength = np.linalg.norm(genes.shared, axis=1)
    order = np.argsort(-(genes.baseline + np.log(strength)), kind="stable")
    visible = order[: (len(order) + 3) // 4]
    n_linked = round(ASSAYS[kind].linked * len(target.gene))
    if n_linked == 0:
        return
    linked = np.sort(rng.choice(len(target.gene), size=n_linked, replace=False))
    rounds = [rng.permutation(visible) for _ in range(-(-n_linked // len(visible)))]
    gene = np.concatenate(rounds)[:n_linked]
    # unit vectors of the gene and of the feature itself, mixed to the cosine; the size is kept
    unlinked = target.shared[linked]
    size = np.linalg.norm(unlinked, axis=1, keepdims=True)
    mixed = LINK_COSINE * genes.shared[gene] / strength[gene, None]
    mixed += np.sqrt(1 - LINK_COSINE**2) * unlinked / size
    target.gene[linked] = gene
    target.shared[linked] = size * mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


# Counts ------------------------------------------------------------------------------------------


def library_sizes(
    kind: Kind, n_cells: int, n_features: int, depth: float, rng: np.random.Generator
) -> np.ndarray:
    """(n_cells,) log-normal sizes: expected counts, but for proteins a factor around `depth`."""
    assay = ASSAYS[kind]
    median = depth * assay.counts * n_features**assay.counts_power
    return median * rng.lognormal(0.0, assay.library_sd, size=n_cells)


def _composition(features: Features, effect: np.ndarray, library: np.ndarray) -> np.ndarray:
    """Expected counts (cells, p) whose rows sum to the library sizes."""
    rates = effect + features.baseline
    rates -= rates.max(axis=1, keepdims=True)
    np.exp(rates, out=rates)
    rates *= (library / rates.sum(axis=1))[:, None]
    return rates


def _negative_binomial(
    mean: np.ndarray, dispersion: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    return rng.poisson(rng.gamma(dispersion, mean / dispersion))


def draw_block(
    kind: Kind,
    features: Features,
    signal: np.ndarray,
    batch: np.ndarray,
    library: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Counts and expected counts of a block of cells, both (cells, p).

    `signal` (cells, p) is what the latent variables add to the log rates.
    """
    shift = features.batch[batch]
    if kind == "protein":  # background everywhere, foreground in the cells that are positive
        scale = library[:, None] * np.exp(features.baseline + shift)
        foreground = FOREGROUND * np.exp(signal)
        positive = expit(POSITIVE_SLOPE * signal)
        on = rng.random(signal.shape) < positive
        counts = _negative_binomial(
            scale * (BACKGROUND + on * foreground), features.dispersion, rng
        )
        return counts, scale * (BACKGROUND + positive * foreground)
    expected = _composition(features, signal + shift, library)
    if kind == "atac":
        return rng.poisson(expected), expected
    return _negative_binomial(expected, features.dispersion, rng), expected


def seed_empty_cells(counts: np.ndarray, expected: np.ndarray, rng: np.random.Generator) -> None:
    """Give every cell without counts one count, at a feature drawn by its rates, in place."""
    for row in np.flatnonzero(counts.sum(axis=1) == 0):
        counts[row, rng.choice(counts.shape[1], p=expected[row] / expected[row].sum())] = 1


def seed_empty_features(
    counts: sparse.csr_matrix, library: np.ndarray, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Give every feature without counts one count, in a cell drawn by its library size."""
    empty = np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel() == 0)
    if empty.size == 0:
        return counts
    rows = rng.choice(counts.shape[0], size=empty.size, p=library / library.sum())
    ones = np.ones(empty.size, dtype=counts.dtype)
    return sparse.csr_matrix(counts + sparse.csr_matrix((ones, (rows, empty)), shape=counts.shape))


def draw_counts(
    kind: Kind,
    features: Features,
    *,
    shared: np.ndarray,
    private: np.ndarray,
    batch: np.ndarray,
    library: np.ndarray,
    measured: np.ndarray,
    keep_expected: bool,
    rng: np.random.Generator,
) -> tuple[sparse.csr_matrix, np.ndarray | None]:
    """Counts of the measured cells, in the order of the cells.

    Unmeasured cells are drawn too and thrown away, so that another pairing of the same seed hides
    or shows cells but does not change them.

    Returns
    -------
    Matrix (measured cells, p) of float32 integers; the expected counts (dense float32) or None.
    """
    blocks, means = [], []
    for start in range(0, len(measured), BLOCK_CELLS):
        rows = slice(start, start + BLOCK_CELLS)
        signal = shared[rows] @ features.shared.T + private[rows] @ features.private.T
        counts, expected = draw_block(kind, features, signal, batch[rows], library[rows], rng)
        seed_empty_cells(counts, expected, rng)
        keep = measured[rows]
        blocks.append(sparse.csr_matrix(counts[keep].astype(np.float32)))
        if keep_expected:
            means.append(expected[keep].astype(np.float32))
    matrix = sparse.csr_matrix(sparse.vstack(blocks, format="csr"))
    matrix = seed_empty_features(matrix, library[measured], rng)
    return matrix, np.concatenate(means) if keep_expected else None


# Modalities --------------------------------------------------------------------------------------


def feature_names(name: str, n: int, kinds: Mapping[str, Kind]) -> list[str]:
    """Such as ``gene007``; with the modality in front where two modalities are of one kind."""
    prefix = f"{name}_" if list(kinds.values()).count(kinds[name]) > 1 else ""
    return [f"{prefix}{ASSAYS[kinds[name]].feature}{j:0{len(str(n - 1))}d}" for j in range(n)]


def draw_linked_features(
    features: Mapping[str, int], kinds: Mapping[str, Kind], seed: int, **sizes: Any
) -> tuple[dict[str, Features], str | None]:
    """Parameters of every modality, and the name of the one that the links start from."""
    drawn = {
        name: draw_features(kinds[name], width, rng=stream(seed, f"{name}/features"), **sizes)
        for name, width in features.items()
    }
    source = next((name for name in features if kinds[name] == "rna"), None)
    if source is not None:
        for name in features:
            if kinds[name] != "rna":
                rng = stream(seed, f"{name}/links")
                link_to_genes(drawn[name], drawn[source], kinds[name], rng)
    return drawn, source


def links_table(
    drawn: Mapping[str, Features], names: Mapping[str, list[str]], source: str | None
) -> pd.DataFrame:
    columns = ["source_modality", "source", "target_modality", "target"]
    rows = [
        (source, names[source][gene], name, names[name][j])
        for name, features in drawn.items()
        if source is not None
        for j, gene in enumerate(features.gene)
        if gene >= 0
    ]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def var_table(features: Features, names: list[str], genes: list[str] | None) -> pd.DataFrame:
    """Feature table; the column ``gene`` holds the linked gene, ``""`` for none."""
    var = pd.DataFrame(index=pd.Index(names))
    if genes is not None:
        var["gene"] = [genes[g] if g >= 0 else "" for g in features.gene]
    return var


def bent(shared: np.ndarray, curvature: float, rng: np.random.Generator) -> np.ndarray:
    """(n, k) shared factors as a modality reads them: squares added, with the spread as before."""
    if curvature == 0:
        return shared
    mean, sd = shared.mean(axis=0), np.maximum(shared.std(axis=0), 1e-12)
    into, back = (np.linalg.qr(rng.normal(size=(sd.size, sd.size)))[0] for _ in range(2))
    squares = ((shared - mean) / sd @ into) ** 2 - 1
    added = curvature * sd * (squares / np.sqrt(2) @ back)
    return mean + (shared - mean + added) / np.sqrt(1 + curvature**2)


def draw_modality(
    name: str,
    kind: Kind,
    features: Features,
    cells: Cells,
    *,
    measured: np.ndarray,
    depth: float,
    curvature: float,
    seed: int,
    sparse_format: SparseFormat,
    shuffle: bool,
    keep_expected: bool,
) -> AnnData:
    """Counts of the measured cells, the modality's own factors, expected counts if asked for."""
    n_cells, n_private = len(cells.names), features.private.shape[1]
    private = stream(seed, f"{name}/private").normal(size=(n_cells, n_private))
    library = library_sizes(
        kind, n_cells, len(features.gene), depth, stream(seed, f"{name}/library")
    )
    counts, expected = draw_counts(
        kind,
        features,
        shared=bent(cells.shared, curvature, stream(seed, f"{name}/curvature")),
        private=private,
        batch=cells.batch,
        library=library,
        measured=measured,
        keep_expected=keep_expected,
        rng=stream(seed, f"{name}/counts"),
    )
    order = np.arange(counts.shape[0])
    if shuffle:
        order = stream(seed, f"{name}/rows").permutation(order)
    rows = np.flatnonzero(measured)[order]
    obs = pd.DataFrame(index=cells.names[rows])
    matrix = counts[order].toarray() if sparse_format == "dense" else counts[order]
    adata = AnnData(matrix.tocsc() if sparse_format == "csc" else matrix, obs=obs)
    adata.obsm["truth_private"] = private[rows].astype(np.float32)
    if expected is not None:
        adata.layers["truth_expected"] = expected[order]
    return adata
