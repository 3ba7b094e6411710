"""Shape, intensity and texture of single cells."""

from __future__ import annotations

import warnings
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from rich.progress import track
from scipy.ndimage import distance_transform_edt

from cantata._keys import CHANNEL_NAMES, IMAGES
from cantata._mudata.checks import name_list, warn_user
from cantata._mudata.images import (
    ImageLayout,
    StainImages,
    channels_of,
    image_layout,
    stain_limits,
)
from cantata.pp._optional import import_for_images

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SHAPE = (
    "area",
    "perimeter",
    "eccentricity",
    "solidity",
    "axis_major_length",
    "axis_minor_length",
)
INTENSITY = ("mean", "sd", "max", "q10", "q50", "q90")
TEXTURE = ("contrast", "homogeneity", "correlation")
N_LEVELS = 16
"""Grey levels of the texture."""
N_RINGS = 4
"""Rings of the radial profile, from the edge of the cell to its middle."""
MIN_AREA = 9
"""Objects of fewer pixels have no shape."""
BLOCK = 256
"""Cells that are read at once; more have a progress bar."""


def image_features(
    adata: AnnData, *, stains: Sequence[str] | None = None, key: str = IMAGES
) -> AnnData:
    """Measure shape, intensity and texture of each cell.

    The object is what masks cover. Without masks it is, stain by stain, what Otsu's threshold
    leaves in the middle of the image: where a stain moves within the cell, its object moves too.

    Parameters
    ----------
    adata
        Images of cells, see :func:`read_h5sc`; not modified. Integers are scaled as models do.
    stains
        Stains to measure; None: all.
    key
        ``.obsm`` key of the images.

    Returns
    -------
    AnnData of the same cells, with their ``.obs`` and the other entries of ``.obsm``. ``.X`` is
    (cells, features), float32; ``.var`` has the columns ``"channel"`` and ``"feature"``, and names
    such as ``"DAPI_area"``:

    - shape of each mask, or of the object of each stain: ``area``, ``perimeter``,
      ``eccentricity``, ``solidity``, ``axis_major_length`` and ``axis_minor_length`` (pixels);
    - of each stain in its object, or in all masks together: ``mean``, ``sd``, ``max``, the
      quantiles ``q10``, ``q50``, ``q90``; ``contrast``, ``homogeneity`` and ``correlation`` of
      grey levels of neighbouring pixels; ``ring1`` (edge) to ``ring4`` (middle), means of equally
      thick rings relative to the mean.

    Images without an object of 9 pixels have zeros; a warning counts them.

    Raises
    ------
    ImportError
        Without scikit-image: ``pip install 'cantata[images]'``.
    KeyError
        If there are no such images or stains.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> adata = anndata.AnnData(np.ones((1, 1), dtype="float32"))
    >>> adata.var_names = ["DAPI"]
    >>> adata.obsm["single_cell_images"] = np.zeros((1, 1, 48, 48), dtype="float32")
    >>> adata.obsm["single_cell_images"][0, 0, 10:30, 10:20] = 0.5
    >>> image_features(adata).to_df()[["DAPI_area", "DAPI_mean"]]
       DAPI_area  DAPI_mean
    0      200.0        0.5
    """
    import_for_images("skimage")
    layout = image_layout(None, adata, key, any_side=True)
    chosen = list(layout.stains) if stains is None else name_list("stains", stains)
    absent = [stain for stain in chosen if stain not in layout.stains]
    if absent:
        raise KeyError(f"stains: {absent} not among {list(layout.stains)}.")
    array, all_names = adata.obsm[key], channels_of(None, adata, key)[CHANNEL_NAMES]
    positions = tuple(layout.positions[layout.stains.index(stain)] for stain in chosen)
    part = ImageLayout(tuple(chosen), positions, (), layout.side)
    images = StainImages(array, part, stain_limits(array, part))
    names = tuple(all_names[i] for i in layout.masks)
    masks = (
        StainImages(array, ImageLayout(names, layout.masks, (), layout.side)) if names else None
    )
    columns = _columns(names, chosen)
    values = np.zeros((adata.n_obs, len(columns)), dtype=np.float32)
    without = np.zeros(adata.n_obs, dtype=bool)
    cells = track(
        _cells(images, masks), "Image features", total=adata.n_obs, disable=adata.n_obs <= BLOCK
    )
    for cell, (image, mask) in enumerate(cells):
        values[cell], without[cell] = _of_cell(image, mask)
    if without.any():
        warn_user(
            f"{without.sum()} of {without.size} cells have an image without an object, e.g. "
            f"{adata.obs_names[np.argmax(without)]!r}; its features are 0."
        )
    var = pd.DataFrame(columns, columns=["channel", "feature"])
    var.index = pd.Index(var["channel"] + "_" + var["feature"], name=None)
    obsm = {k: v for k, v in adata.obsm.items() if k != key}
    return AnnData(values, obs=adata.obs.copy(), var=var, obsm=obsm)


def _columns(masks: Sequence[str], stains: Sequence[str]) -> list[tuple[str, str]]:
    """Channel and feature of each column, in the order in which :func:`_of_cell` gives them."""
    rings = tuple(f"ring{i + 1}" for i in range(N_RINGS))
    of_stain = (*(() if masks else SHAPE), *INTENSITY, *TEXTURE, *rings)
    shapes = [(mask, feature) for mask in masks for feature in SHAPE]
    return shapes + [(stain, feature) for stain in stains for feature in of_stain]


def _cells(
    images: StainImages, masks: StainImages | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Images and masks of each cell."""
    for start in range(0, len(images), BLOCK):
        rows = slice(start, start + BLOCK)
        yield from zip(images[rows], repeat(None) if masks is None else masks[rows] > 0)  # noqa: B905


def _of_cell(images: np.ndarray, masks: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Features of one cell, and whether an object is absent."""
    parts, absent = [], False
    if masks is not None:
        parts += [_shape(mask) for mask in masks]
        absent = bool((masks.sum(axis=(1, 2)) < MIN_AREA).any())
    for image in images:
        found = _object(image) if masks is None else np.logical_or.reduce(masks)
        if masks is None:
            parts.append(_shape(found))
        if found.sum() < MIN_AREA:
            absent = True
            parts.append(np.zeros(len(INTENSITY) + len(TEXTURE) + N_RINGS))
        else:
            parts += [_intensity(image[found]), _texture(image, found), _rings(image, found)]
    return np.concatenate(parts), absent


def _object(image: np.ndarray) -> np.ndarray:
    """What is brighter than Otsu's threshold, of which the largest part in the middle."""
    filters, measure = (import_for_images(f"skimage.{m}") for m in ("filters", "measure"))
    parts = measure.label(image > filters.threshold_otsu(image))
    height, width = image.shape
    middle = parts[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    sizes = np.bincount(middle.ravel())
    if sizes[1:].max(initial=0) < MIN_AREA:  # nothing but specks
        sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return (parts == sizes.argmax()) & (parts > 0)


def _shape(mask: np.ndarray) -> np.ndarray:
    if mask.sum() < MIN_AREA:
        return np.zeros(len(SHAPE))
    measure = import_for_images("skimage.measure")
    with warnings.catch_warnings():  # a line has no convex hull
        warnings.simplefilter("ignore")
        table = measure.regionprops_table(mask.astype(np.uint8), properties=SHAPE)
        return np.nan_to_num([table[name][0] for name in SHAPE], posinf=0)


def _intensity(pixels: np.ndarray) -> np.ndarray:
    return np.array(
        [pixels.mean(), pixels.std(), pixels.max(), *np.quantile(pixels, (0.1, 0.5, 0.9))]
    )


def _texture(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Of pairs of neighbours in the object, in all four directions."""
    feature = import_for_images("skimage.feature")
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    levels = 1 + np.minimum((image[box].clip(0, 1) * N_LEVELS), N_LEVELS - 1).astype(np.uint8)
    levels[~mask[box]] = 0
    angles = np.arange(4) * np.pi / 4
    pairs = feature.graycomatrix(levels, [1], angles, levels=N_LEVELS + 1, symmetric=True)
    inside = pairs[1:, 1:].sum(axis=3, keepdims=True)  # pairs of two pixels of the object
    return np.array([feature.graycoprops(inside, name)[0, 0] for name in TEXTURE])


def _rings(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Means of rings of equal thickness relative to the mean of all; 1 where a ring is empty."""
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1][mask]
    ring = np.minimum((depth - depth.min()) / max(np.ptp(depth), 1e-9) * N_RINGS, N_RINGS - 1)
    pixels, ring = image[mask], ring.astype(np.int64)
    n = np.bincount(ring, minlength=N_RINGS)
    means = np.bincount(ring, weights=pixels, minlength=N_RINGS) / np.maximum(n, 1)
    mean = pixels.mean()
    return np.where((n > 0) & (mean > 0), means / max(mean, 1e-12), 1.0)
