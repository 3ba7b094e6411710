"""Counts from latent variables, drawn block by block so that memory stays bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.special import expit

from cantata.datasets._latent import ASSAYS, Features

if TYPE_CHECKING:
    from cantata.datasets._design import Kind

BLOCK = 256
BACKGROUND = 4.0
FOREGROUND = 25.0
POSITIVE_SLOPE = 3.0


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
    if kind == "protein":
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
    for start in range(0, len(measured), BLOCK):
        rows = slice(start, start + BLOCK)
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
