"""Images of cells in chromatin and proteins, whose shape and texture follow known factors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.special import expit, ndtr

from cantata._keys import CHANNEL_MAPPING, CHANNEL_NAMES, CHANNELS, IMAGE_CHANNEL, IMAGES, MASK
from cantata._mudata.checks import name_list
from cantata.datasets._assemble import assemble, check_integer, stream
from cantata.datasets._mosaic import assign_patterns, resolve_pairing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

    from cantata.datasets._mosaic import Pairing

RADIUS, RADIUS_SD = 0.18, 0.16
"""Median radius of a nucleus, as a share of the side, and the spread of its logarithm."""
ASPECT = (1.2, 2.2)
"""Range of the ratio of a nucleus' axes."""
CELL = 1.5
"""Axes of a cell, as multiples of those of its nucleus."""
BACKGROUND = 0.04
PHENOTYPES = ("control", "large", "ring", "large + ring")
BLOCK_PIXELS = 2**18
"""Pixels that are drawn at a time."""


def simulate_images(
    n_cells: int = 1500,
    *,
    side: int = 32,
    stains: Sequence[str] = ("dna", "protein"),
    pairing: Pairing | None = None,
    masks: bool = False,
    noise: float = 0.05,
    phenotype_effect: float = 2.0,
    seed: int = 0,
) -> MuData:
    r"""Simulate images of cells in chromatin and proteins that share some factors and not others.

    Size, elongation and orientation show in every stain. How chromatin is distributed shows in
    its own image alone, and so does where a protein is. A method that disentangles finds each in
    its own space, and nowhere else.

    Parameters
    ----------
    n_cells
        Cells in the whole MuData.
    side
        Height and width of the images, in pixels.
    stains
        Names of the modalities, each an image of one stain: chromatin, then proteins.
    pairing
        Which cells have which stains, as in :func:`simulate_mosaic`. None: all have chromatin and
        one protein each, the proteins in equal shares.
    masks
        Put a mask before each stain: the nucleus before chromatin, the cell before proteins.
    noise
        Standard deviation of the noise of a white pixel; that of others falls with the root of
        their intensity, as that of counted photons does.
    phenotype_effect
        Difference between phenotypes, in standard deviations of the cells of one.
    seed
        The same seed gives the same bits. Cells do not depend on `pairing`, `masks` and `noise`:
        ``pairing="full"`` holds the images that another pairing hides, and ``noise=0`` those that
        noise was added to.

    Returns
    -------
    MuData with, in each modality,

    - ``obsm["single_cell_images"]``: (cells, channels, side, side) float16 in [0, 1];
    - ``X``: their means over pixels; ``var`` and ``uns["single_cell_images"]``: what the channels
      are, as scPortrait writes it;

    and with

    - ``obs`` columns, in the MuData and in each modality: ``phenotype`` and the factors below;
    - ``uns["factors"]``: the block (``"shared"`` or a stain) that should hold each factor, as
      :func:`cantata.metrics.disentanglement` takes it;
    - ``uns["truth"]``: the arguments.

    Raises
    ------
    ValueError
        If a number or pattern is not usable, there are too few cells for the patterns, or stains
        are fewer than two or not distinct.
    KeyError
        If `pairing` names a modality that is not in `stains`.

    Notes
    -----
    All factors are independent of each other.

    ==================================  ==========  ==========================================
    factor                              block       what it changes
    ==================================  ==========  ==========================================
    size                                shared      logarithm of the radius (standardised)
    elongation                          shared      ratio of the axes, 1.2 to 2.2
    orientation_cos, orientation_sin    shared      twice the angle of the long axis: half a
                                                    turn leaves an ellipse as it is
    dna_contrast                        dna         how dark the center of the nucleus is
    dna_granularity                     dna         how bright four foci of chromatin are
    protein_ring                        protein     0: diffuse, 1: a thin ring
    protein_side_x, protein_side_y      protein     direction of the pole with more protein
    ==================================  ==========  ==========================================

    Elongation shows in pixels as its product with the orientation, which no linear probe undoes.

    The first protein is diffuse in the cytoplasm or a ring around the nucleus, the second diffuse
    in the nucleus or a ring at the membrane, the third as the first.

    The four phenotypes are as frequent: ``"control"``, ``"large"`` (larger cells: a shared
    factor), ``"ring"`` (more protein in rings: a private one) and both. Half of them can be told
    from what is shared, with an accuracy of :math:`\Phi(e / 2)` for an effect :math:`e`.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_images(200, stains=["dna", "lamin", "actin"])
    >>> mdata["lamin"].obsm["single_cell_images"].shape
    (100, 1, 32, 32)
    >>> mdata.uns["factors"]["lamin_ring"]
    'lamin'
    """
    check_integer("n_cells", n_cells, 2)
    check_integer("side", side, 8)
    check_integer("seed", seed, 0)
    for name, value in (("noise", noise), ("phenotype_effect", phenotype_effect)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name}={value!r}: give a number of at least 0.")
    stains = name_list("stains", stains)
    if len(stains) < 2:
        raise ValueError(f"stains={stains}: give two or more distinct names, chromatin first.")
    proteins = stains[1:]
    if pairing is None:
        pairing = {(stains[0], protein): 1 / len(proteins) for protein in proteins}
    shares = resolve_pairing(pairing, stains)
    member = assign_patterns(n_cells, shares, stains, stream(seed, "pairing"))
    names = pd.Index([f"cell{i:0{len(str(n_cells - 1))}d}" for i in range(n_cells)])
    factors, blocks = _draw_factors(n_cells, stains, phenotype_effect, seed)
    factors.index = names
    modalities = {}
    for number, stain in enumerate(stains):
        has = member[:, number]
        images = _draw_images(factors, stain, number, side, noise, seed, masks=masks)[has]
        modalities[stain] = _as_anndata(images, names[has], stain)
    mdata = assemble(modalities, factors)
    mdata.uns["factors"] = blocks
    mdata.uns["truth"] = {
        "side": int(side),
        "stains": stains,
        "pairing": {" + ".join(pattern): share for pattern, share in shares.items()},
        "noise": float(noise),
        "phenotype_effect": float(phenotype_effect),
        "seed": int(seed),
    }
    return mdata


def _draw_factors(
    n_cells: int, stains: Sequence[str], effect: float, seed: int
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Phenotype and factors of all cells, and the block of each factor."""
    codes = stream(seed, "phenotype").permutation(np.arange(n_cells) % len(PHENOTYPES))

    def normal(name: str, shifted: np.ndarray | None = None) -> np.ndarray:
        """N(0, 1), or as much of two normals of which one is that of the shifted cells."""
        values: np.ndarray = stream(seed, name).standard_normal(n_cells)
        if shifted is None:
            return values
        return (values + effect * (shifted - 0.5)) / np.sqrt(1 + effect**2 / 4)

    def direction(name: str, labels: Sequence[str]) -> dict[str, np.ndarray]:
        angle = stream(seed, name).uniform(0, 2 * np.pi, n_cells)
        return dict(zip(labels, (np.cos(angle), np.sin(angle)), strict=True))

    low, high = ASPECT
    shared = {
        "size": normal("size", codes % 2),
        "elongation": low + (high - low) * ndtr(normal("elongation")),
        **direction("orientation", ("orientation_cos", "orientation_sin")),
    }
    blocks, columns = dict.fromkeys(shared, "shared"), dict(shared)
    for number, stain in enumerate(stains):
        own = {
            f"{stain}_{name}": ndtr(normal(f"{number}/{name}"))
            for name in (() if number else ("contrast", "granularity"))
        }
        if number:
            ring = ndtr(normal(f"{number}/ring", codes // 2))
            sides = direction(f"{number}/side", (f"{stain}_side_x", f"{stain}_side_y"))
            own = {f"{stain}_ring": ring, **sides}
        blocks |= dict.fromkeys(own, stain)
        columns |= own
    table = pd.DataFrame(columns)
    table.insert(0, "phenotype", pd.Categorical.from_codes(codes, list(PHENOTYPES)))
    return table, blocks


def _draw_images(
    factors: pd.DataFrame,
    stain: str,
    number: int,
    side: int,
    noise: float,
    seed: int,
    *,
    masks: bool,
) -> np.ndarray:
    """(cells, channels, side, side) float16 images of one stain of all cells."""
    images = np.empty((len(factors), 1 + masks, side, side), dtype=np.float16)
    rng = stream(seed, f"{number}/noise")
    for start in range(0, len(factors), max(1, BLOCK_PIXELS // side**2)):
        part = slice(start, start + max(1, BLOCK_PIXELS // side**2))
        own = {
            name: factors[f"{stain}_{name}"].to_numpy(np.float32)[part, None, None]
            for name in (("ring", "side_x", "side_y") if number else ("contrast", "granularity"))
        }
        cells = _Ellipses(factors.iloc[part], side)
        drawn = _protein(cells, number, **own) if number else _chromatin(cells, **own)
        error = rng.standard_normal(drawn.shape, dtype=np.float32)
        images[part, -1] = np.clip(drawn + noise * np.sqrt(drawn) * error, 0, 1)
        if masks:
            images[part, 0] = cells.distance < (CELL if number else 1)
    return images


class _Ellipses:
    """Nuclei on a grid of pixels; arrays are (cells, side, side), or (cells, 1, 1)."""

    def __init__(self, factors: pd.DataFrame, side: int) -> None:
        size, aspect, cos, sin = (
            factors[name].to_numpy(np.float32)[:, None, None]
            for name in ("size", "elongation", "orientation_cos", "orientation_sin")
        )
        grid = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
        self.x, self.y = np.meshgrid(grid, -grid)  # y points up
        self.radius = side * RADIUS * np.exp(RADIUS_SD * size)
        angle, root = np.arctan2(sin, cos) / 2, np.sqrt(aspect)
        self.long = (self.x * np.cos(angle) + self.y * np.sin(angle)) / (self.radius * root)
        self.short = (self.y * np.cos(angle) - self.x * np.sin(angle)) / (self.radius / root)
        self.distance = np.hypot(self.long, self.short)
        """From the center; 1 at the nuclear envelope."""
        self.pixel = side / 32
        """Widths of edges and rings are so many pixels."""

    def inside(self, limit: float) -> np.ndarray:
        """1 inside an ellipse, 0 outside, with a soft edge."""
        return expit((limit - self.distance) * self.radius / (0.5 * self.pixel))

    def ring(self, limit: float) -> np.ndarray:
        """1 on an ellipse, falling to both sides."""
        return np.exp(-(((limit - self.distance) * self.radius / (1.2 * self.pixel)) ** 2))


def _chromatin(cells: _Ellipses, contrast: np.ndarray, granularity: np.ndarray) -> np.ndarray:
    # four foci, so that half a turn and a flip leave a nucleus as it is
    foci = np.exp(-((abs(cells.long) - 0.5) ** 2 + (abs(cells.short) - 0.5) ** 2) / 0.28**2)
    center = np.exp(-((cells.distance / 0.5) ** 2))
    inner = 0.5 - 0.45 * contrast * center + 0.45 * granularity * foci
    return BACKGROUND + cells.inside(1) * inner


def _protein(
    cells: _Ellipses, number: int, ring: np.ndarray, side_x: np.ndarray, side_y: np.ndarray
) -> np.ndarray:
    if number % 2:
        diffuse, thin = cells.inside(CELL) * (1 - 0.8 * cells.inside(1)), cells.ring(1)
    else:
        diffuse, thin = cells.inside(1), cells.ring(CELL)
    toward = np.tanh((cells.x * side_x + cells.y * side_y) / cells.radius)
    amount = 0.4 * (1 - ring) * diffuse + 0.5 * ring * thin
    return BACKGROUND + amount * (1 + 0.8 * toward)


def _as_anndata(images: np.ndarray, names: pd.Index, stain: str) -> AnnData:
    """Images in the layout of scPortrait."""
    n_masks = images.shape[1] - 1
    channels = [f"{stain}_mask"] * n_masks + [stain]
    kinds = [MASK] * n_masks + [IMAGE_CHANNEL]
    adata = AnnData(images.mean(axis=(2, 3), dtype=np.float32), obs=pd.DataFrame(index=names))
    adata.var = pd.DataFrame({CHANNELS: channels, CHANNEL_MAPPING: kinds}, index=channels)
    adata.obsm[IMAGES] = images
    adata.uns[IMAGES] = {
        CHANNEL_NAMES: np.array(channels),
        CHANNEL_MAPPING: np.array(kinds),
        "n_cells": len(images),
        "n_channels": len(channels),
        "n_masks": n_masks,
        "n_image_channels": 1,
        "image_size_x": images.shape[3],
        "image_size_y": images.shape[2],
    }
    return adata
