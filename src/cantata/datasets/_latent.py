"""Latent variables of simulated cells, and the features that read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cantata.datasets._design import Kind, exact_shares, stream

LINEAGE_RADIUS = 2.6
SUBTYPE_RADIUS = 1.25
WITHIN_TYPE_SD = (0.7, 0.15)
RAREST_TO_COMMONEST = 0.35
STRENGTH_SD = 0.4
LINK_COSINE = 0.95


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


def type_centres(n_types: int, n_shared: int, rng: np.random.Generator) -> np.ndarray:
    """(n_types, n_shared) centres: lineages far apart, the two types of a lineage close."""
    n_lineages = (n_types + 1) // 2
    vectors = _directions(2 * n_lineages, n_shared, rng)
    lineage, side = np.divmod(np.arange(n_types), 2)
    near = (1 - 2 * side)[:, None] * vectors[n_lineages + lineage]
    return LINEAGE_RADIUS * vectors[lineage] + SUBTYPE_RADIUS * near


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
    centres = type_centres(n_cell_types, n_shared, stream(seed, "centres"))
    within = rng.normal(size=(n_cells, n_shared)) * np.geomspace(*WITHIN_TYPE_SD, n_shared)
    digits = len(str(n_cells - 1))
    names = np.array([f"cell{i:0{digits}d}" for i in range(n_cells)], dtype=object)
    return Cells(names, cell_type, batch, centres[cell_type] + within)


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
    own = target.shared[linked]
    size = np.linalg.norm(own, axis=1, keepdims=True)
    mixed = LINK_COSINE * genes.shared[gene] / strength[gene, None]
    mixed += np.sqrt(1 - LINK_COSINE**2) * own / size
    target.gene[linked] = gene
    target.shared[linked] = size * mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
