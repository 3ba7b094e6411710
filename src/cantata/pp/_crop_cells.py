"""Crops of single cells from whole fields with label masks."""

from __future__ import annotations

import logging
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cantata._keys import CHANNEL_MAPPING, CHANNEL_NAMES, CHANNELS, IMAGE_CHANNEL, IMAGES, MASK
from cantata._mudata.checks import check_integer, warn_user
from cantata._mudata.images import image_layout
from cantata.pp._optional import import_for_images

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)


def crop_cells(
    image: Any,
    labels: Any,
    side: int,
    *,
    channels: Sequence[str] | None = None,
    mask: bool = True,
    drop_border: bool = True,
    pad: bool = True,
    sdata: Any = None,
) -> AnnData:
    """Crop an image of each cell from a field, around the centre of its mask.

    Parameters
    ----------
    image
        (channels, height, width) or (height, width) array, also one of xarray, whose coordinate
        ``"c"`` names channels; or the path of such a TIFF file.
    labels
        (height, width) integers: the number of the cell at a pixel, 0 for none. Array or path.
    side
        Height and width of the crops. A model takes multiples of 16.
    channels
        Names of the channels. None: those of the coordinate, else ``"channel0"`` and so on.
    mask
        Put the cell's own mask, 0 and 1, before the channels. Pixels of the channels stay as they
        are, neighbours among them; ``setup_mudata(mask_background=True)`` sets those to 0.
    drop_border
        Leave out cells that touch the border of the field, of which a part is missing.
    pad
        Fill crops that leave the field with zeros; False leaves their cells out.
    sdata
        A ``SpatialData``. `image` and `labels` are then names of its elements, of which the finest
        scale is taken; pixel units.

    Returns
    -------
    AnnData of the cells in the order of their numbers, which name them:

    - ``.obsm["single_cell_images"]`` (cells, channels, `side`, `side`), of the dtype of `image`;
      integers are scaled at set-up,
    - ``.var`` and ``.uns["single_cell_images"]``: channels, and which of them is a mask,
    - ``.X``: mean of each channel over the crop,
    - ``.obs["label"]`` and ``["area"]``; ``.obsm["spatial"]``: centres (x, y) in pixels.

    Raises
    ------
    ImportError
        Without scikit-image, or tifffile to read a file: ``pip install 'cantata[images]'``.
    TypeError
        If `labels` are no integers.
    ValueError
        If image and labels differ in size, names and channels in number, or no cell is left.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.zeros((100, 100), dtype=int)
    >>> labels[20:30, 60:80] = 7
    >>> adata = crop_cells(np.ones((1, 100, 100), dtype="uint8"), labels, 32, channels=["DAPI"])
    >>> adata.obsm["single_cell_images"].shape, adata.obsm["spatial"].tolist()
    ((1, 2, 32, 32), [[69.5, 24.5]])
    """
    check_integer("side", side)
    measure = import_for_images("skimage.measure")
    if sdata is not None:
        image, labels = _element(sdata, "images", image), _element(sdata, "labels", labels)
    if channels is None and "c" in getattr(image, "coords", {}):
        channels = [str(name) for name in np.atleast_1d(image.coords["c"].values)]
    field, numbers = _array(image), _array(labels)
    numbers = numbers[0] if numbers.ndim == 3 and len(numbers) == 1 else numbers
    field = field[None] if field.ndim == 2 else field
    if field.ndim != 3 or field.shape[1:] != numbers.shape:
        raise ValueError(
            f"image has shape {field.shape} and labels {numbers.shape}; they should be (channels, "
            "height, width) and (height, width) of one field."
        )
    if numbers.dtype.kind not in "iu":
        raise TypeError(
            f"labels hold {numbers.dtype}; give the number of the cell at each pixel, e.g. "
            "skimage.measure.label(mask)."
        )
    names = [f"channel{i}" for i in range(len(field))] if channels is None else list(channels)
    if len(names) != len(field):
        raise ValueError(f"channels names {len(names)} channels; the image has {len(field)}.")
    # 1. cells, and where their crops begin
    properties = ("label", "area", "centroid", "bbox")
    cells = pd.DataFrame(measure.regionprops_table(numbers, properties=properties))
    size = np.array(numbers.shape)
    first, last = (cells[[f"bbox-{i}" for i in pair]].to_numpy() for pair in ((0, 1), (2, 3)))
    start = np.rint(cells[["centroid-0", "centroid-1"]].to_numpy()).astype(np.int64) - side // 2
    at_border = (first == 0).any(axis=1) | (last == size).any(axis=1)
    outside = (start < 0).any(axis=1) | (start + side > size).any(axis=1)
    kept = np.flatnonzero(~(drop_border & at_border) & (pad | ~outside))
    if not kept.size:
        raise ValueError(
            f"None of {len(cells)} cells is left: {at_border.sum()} touch the border of the field "
            f"(drop_border={drop_border}), crops of {outside.sum()} leave it (pad={pad})."
        )
    if kept.size < len(cells):
        logger.info("%d of %d cells are left out.", len(cells) - kept.size, len(cells))
    larger = kept[((first < start) | (last > start + side)).any(axis=1)[kept]]
    if larger.size:
        warn_user(
            f"{larger.size} of {kept.size} cells do not fit into crops of {side} pixels, e.g. "
            f"cell {cells['label'].iloc[larger[0]]}."
        )
    # 2. their crops
    dtype = np.dtype(np.uint8) if field.dtype == bool else field.dtype
    images = np.zeros((kept.size, mask + len(field), side, side), dtype=dtype)
    for crop, cell in zip(images, kept, strict=True):
        low, high = np.maximum(start[cell], 0), np.minimum(start[cell] + side, size)
        source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        target = tuple(slice(a, b) for a, b in zip(*(low, high) - start[cell], strict=True))
        crop[mask:, *target] = field[:, *source]
        if mask:
            crop[0, *target] = numbers[source] == cells["label"].iloc[cell]
    # 3. what they are
    return _annotated(images, cells.iloc[kept], names, mask)


def _annotated(images: np.ndarray, cells: pd.DataFrame, names: list[str], mask: bool) -> AnnData:
    kinds = [MASK] * mask + [IMAGE_CHANNEL] * len(names)
    names = [MASK] * mask + names
    adata = AnnData(
        images.mean(axis=(2, 3), dtype=np.float32),
        obs=cells[["label", "area"]].set_index(cells["label"].astype(str).rename(None)),
        var=pd.DataFrame({CHANNELS: names, CHANNEL_MAPPING: kinds}, index=names),
        uns={IMAGES: {CHANNEL_NAMES: np.array(names), CHANNEL_MAPPING: np.array(kinds)}},
        obsm={IMAGES: images, "spatial": cells[["centroid-1", "centroid-0"]].to_numpy()},
    )
    image_layout(None, adata, IMAGES, any_side=True)  # names repeat, or are empty
    return adata


def _array(given: Any) -> np.ndarray:
    """An array, or what a TIFF file holds."""
    if isinstance(given, str | PathLike):
        given = import_for_images("tifffile").imread(given)
    return given if isinstance(given, np.ndarray) else np.asarray(given)


def _element(sdata: Any, kind: str, name: Any) -> Any:
    """An element of a SpatialData, of several scales the finest."""
    elements = getattr(sdata, kind)
    if name not in elements:
        raise KeyError(f"sdata.{kind} has {list(elements)}, and no {name!r}.")
    element = elements[name]
    if hasattr(element, "children"):  # a tree of scales
        element = next(iter(next(iter(element.children.values())).data_vars.values()))
    return element
