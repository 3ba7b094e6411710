"""Images of single cells: which channels of an array are stains, and their values in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cantata._keys import CHANNEL_MAPPING, CHANNEL_NAMES, CHANNELS, IMAGE_CHANNEL, IMAGES, MASK
from cantata._mudata.checks import MatrixStats, warn_user
from cantata._mudata.values import MatrixReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd
    from anndata import AnnData

MULTIPLE = 16
"""Sides of images are multiples of it: they are halved four times."""
MAX_CHANNELS_LAST = 8
"""Largest last axis of an array that is taken for channels, where the others are longer."""
MAX_BLOCK = 2**22
"""Pixels that are read at once where all images are."""
MAX_CHUNK, MANY = 16, 1_000
"""Cells in a chunk of a file, and in all, above which random minibatches are slow to read."""
RANGE_CELLS, RANGE_PERCENTILES = 500, (0.5, 99.9)
"""Cells whose pixels tell the range of a stain that is stored as integers, and its ends."""


@dataclass(frozen=True)
class ImageLayout:
    """Which channels of an array of images are stains, and which are masks."""

    stains: tuple[str, ...]
    """Names of the stains, in the order of ``.var``."""
    positions: tuple[int, ...]
    """Channels that hold them."""
    masks: tuple[int, ...]
    """Channels that hold masks."""
    side: int
    """Height and width."""


def channels_of(modality: str | None, adata: AnnData, key: str) -> dict[str, list[str]]:
    """Names of all channels of ``adata.obsm[key]``, and what each is, as ``uns[key]`` has them.

    A ``ValueError`` where names are missing or repeat.
    """
    n_channels = adata.obsm[key].shape[1]
    if adata.n_vars == n_channels:
        names, kinds = var_channels(adata), adata.var.get(CHANNEL_MAPPING)
    else:
        found = adata.uns.get(key, {})
        names = found.get(CHANNEL_NAMES, adata.uns.get(f"{key}/{CHANNEL_NAMES}", []))
        kinds = found.get(CHANNEL_MAPPING, adata.uns.get(f"{key}/{CHANNEL_MAPPING}"))
    names = [str(name) for name in names]
    kinds = [IMAGE_CHANNEL] * len(names) if kinds is None else [str(kind) for kind in kinds]
    where = _place(modality, key)
    if not len(names) == len(kinds) == n_channels:
        raise ValueError(
            f"{where} has {n_channels} channels, .var has {adata.n_vars} rows and uns[{key!r}] "
            f"names {len(names)} channels. Name each channel: one row of .var for each, or "
            f"uns[{key!r}]['channel_names']."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or "" in names:
        raise ValueError(
            f"{where} has channels named {names}: {repeated or 'one'} "
            f"{'occurs twice' if repeated else 'has no name'}. Give each a name of its own."
        )
    return {CHANNEL_NAMES: names, CHANNEL_MAPPING: kinds}


def var_channels(adata: AnnData) -> list[str]:
    """Names of the channels that are rows of ``.var``."""
    return [str(name) for name in adata.var.get(CHANNELS, adata.var_names)]


def _place(modality: str | None, key: str) -> str:
    return f"{'adata' if modality is None else f'mdata[{modality!r}]'}.obsm[{key!r}]"


def image_layout(
    modality: str | None, adata: AnnData, key: str, *, any_side: bool = False
) -> ImageLayout:
    """Which channels of ``adata.obsm[key]`` are the stains of a modality.

    The array is (cells, channels, height, width), as scPortrait writes it: its channels are the
    rows of ``.var``, named by the column ``"channels"`` if there is one, where the column
    ``"channel_mapping"`` tells masks from images. ``.var`` may also hold some of the channels
    only; ``uns[key]["channel_names"]`` then names all. `modality` is for errors, None where there
    is no MuData; with `any_side` images may be of any height and width, of which the layout has
    the former.

    Raises
    ------
    KeyError
        If there is no such array, or no channel of a name.
    ValueError
        If the array has another shape, sides differ or are no multiple of 16, names are missing
        or repeat, or no channel is a stain.
    """
    where = _place(modality, key)
    if key not in adata.obsm:
        argument = f"key={key!r}" if modality is None else f"images={{{modality!r}: {key!r}}}"
        raise KeyError(f"{argument}: .obsm has {list(adata.obsm)}.")
    shape = tuple(adata.obsm[key].shape)
    if len(shape) != 4:
        raise ValueError(
            f"{where} has shape {shape}; images are (cells, channels, height, width). One stain "
            "of (cells, height, width) needs a channel: images[:, None]."
        )
    height, width = shape[2:]
    if width <= MAX_CHANNELS_LAST < min(shape[1:3]):
        raise ValueError(
            f"{where} has shape {shape}; images are (cells, channels, height, width). Channels "
            "seem to be last: numpy.moveaxis(images, -1, 1)."
        )
    if not any_side and (height != width or height % MULTIPLE or not height):
        side = max(MULTIPLE, -(-max(height, width) // MULTIPLE) * MULTIPLE)
        raise ValueError(
            f"{where} holds images of {height} x {width} pixels. Sides have to be equal and a "
            f"multiple of {MULTIPLE}; pad them: cantata.pp.pad_images(adata, {side})."
        )
    channels = channels_of(modality, adata, key)
    names, kinds = channels[CHANNEL_NAMES], channels[CHANNEL_MAPPING]
    wanted = var_channels(adata)
    absent = [name for name in wanted if name not in names]
    if absent:
        raise KeyError(f"{where} has the channels {names}, and .var {absent}, which is none.")
    stains = [name for name in wanted if kinds[names.index(name)] != MASK]
    if not stains:
        raise ValueError(
            f"{where} has no stain: {wanted} are masks by .var['channel_mapping']. Masks are no "
            f"measurements; mark stains as {IMAGE_CHANNEL!r}."
        )
    positions = tuple(names.index(name) for name in stains)
    masks = tuple(i for i, kind in enumerate(kinds) if kind == MASK)
    return ImageLayout(tuple(stains), positions, masks, height)


def feature_names_of(adata: AnnData, modality: str, images: Mapping[str, str]) -> np.ndarray:
    """Names of a modality's features, which are stains where `images` names its array."""
    if modality not in images:
        return adata.var_names.to_numpy()
    return np.asarray(image_layout(modality, adata, images[modality]).stains, dtype=object)


class StainImages:
    """The (n, stains, side, side) images of a modality, read and scaled as they are asked for.

    Parameters
    ----------
    array
        (n, channels, side, side) images in memory or on disk.
    layout
        Which channels are stains.
    limits
        (stains, 2) values that become 0 and 1, between which others lie; None: values are taken as
        they are.
    mask_background
        Set what no mask covers to 0.

    Examples
    --------
    >>> import numpy as np
    >>> array = np.full((2, 3, 16, 16), 255, dtype=np.uint8)
    >>> images = StainImages(array, ImageLayout(("DNA",), (2,), (), 16), np.array([[0, 255]]))
    >>> images[np.array([1])].shape, float(images[np.array([1])].max())
    ((1, 1, 16, 16), 1.0)
    """

    def __init__(
        self,
        array: Any,
        layout: ImageLayout,
        limits: np.ndarray | None = None,
        *,
        mask_background: bool = False,
    ) -> None:
        self._layout = layout
        self._limits = None if limits is None else np.asarray(limits, dtype=np.float32)
        self._masked = mask_background and bool(layout.masks)
        used = (*layout.positions, *(layout.masks if self._masked else ()))
        # one range of channels, since files take no two lists at once
        self._first = min(used)
        columns = slice(self._first, max(used) + 1)
        self._read = MatrixReader(array, columns=columns)
        self.shape = (array.shape[0], len(layout.positions), layout.side, layout.side)
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """float32 images of some cells, by number or slice."""
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        channels = self._read(np.asarray(rows, dtype=np.int64))
        images = channels[:, [p - self._first for p in self._layout.positions]]
        if self._limits is not None:
            low, high = self._limits.T[:, None, :, None, None]
            images = np.clip((images - low) / (high - low), 0, 1)
        if self._masked:
            masks = channels[:, [p - self._first for p in self._layout.masks]]
            images = images * (masks > 0).any(axis=1, keepdims=True)
        return np.ascontiguousarray(images, dtype=np.float32)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All images in order, a block at a time, each with the number of its first."""
        size = max(1, MAX_BLOCK // max(int(np.prod(self.shape[1:])), 1))
        for start in range(0, len(self), size):
            yield start, self[start : start + size]


def holds_integers(array: Any) -> bool:
    """Whether images are the integers of a camera."""
    return np.dtype(array.dtype).kind in "iub"


def stain_limits(array: Any, layout: ImageLayout) -> np.ndarray | None:
    """(stains, 2) values of a stain that become 0 and 1; None where images are float already.

    Integers have the range of a camera and not that of a stain: ends are percentiles of the
    pixels of all stained cells, so that differences of intensity between cells remain.
    """
    if not holds_integers(array):
        return None
    raw = StainImages(array, layout)
    n = len(raw)
    cells = np.linspace(0, n - 1, min(n, RANGE_CELLS)).astype(np.int64)
    pixels = raw[cells].swapaxes(0, 1).reshape(len(layout.stains), -1)
    low, high = np.percentile(pixels, RANGE_PERCENTILES, axis=1)
    return np.stack([low, np.where(high > low, high, low + 1)], axis=1)


def image_stats(
    images: StainImages, obs_names: pd.Index, *, integers: bool = False
) -> MatrixStats:
    """Read images once, as they are stored, and count what cannot be modelled.

    Counted are values that are not finite, values outside [0, 1] (under ``n_negative``, whichever
    side they are on) unless they are `integers`, and cells of whose images one is 0 throughout.
    """
    counts = dict.fromkeys(("nonfinite", "outside", "empty"), 0)
    example = dict.fromkeys(counts, "")
    size = 0.0
    for start, block in images.blocks():
        pixels = block.reshape(len(block), block.shape[1], -1)
        found = {
            "nonfinite": (~np.isfinite(pixels)).sum(axis=(1, 2)),
            "outside": (((pixels < 0) | (pixels > 1)) & (not integers)).sum(axis=(1, 2)),
            "empty": (pixels == 0).all(axis=2).any(axis=1),
        }
        size += float(np.abs(np.nan_to_num(pixels)).sum())
        for kind, per_cell in found.items():
            cells = np.flatnonzero(per_cell)
            if cells.size and not counts[kind]:
                example[kind] = str(obs_names[start + int(cells[0])])
            counts[kind] += int(per_cell.sum())
    n_pixels = int(np.prod(images.shape))
    return MatrixStats(
        n_nonfinite=counts["nonfinite"],
        nonfinite_example=example["nonfinite"],
        n_negative=counts["outside"],
        negative_example=example["outside"],
        n_noninteger=n_pixels,
        noninteger_example="",
        n_empty_cells=counts["empty"],
        empty_cell_example=example["empty"],
        n_empty_features=0,
        n_features=images.shape[1],
        mean_size=size / max(n_pixels, 1),
        n_values=n_pixels,
        largest=1.0,
    )


def check_images(modality: str, stats: MatrixStats) -> None:
    """Refuse images that are not finite, not in [0, 1], or empty (``ValueError``)."""
    where = f"Images of modality {modality!r}"
    if stats.n_nonfinite:
        raise ValueError(
            f"{where} have {stats.n_nonfinite} NaN or infinite pixels, e.g. in cell "
            f"{stats.nonfinite_example!r}. Leave cells that were not imaged out of the modality."
        )
    if stats.n_negative:
        raise ValueError(
            f"{where} have {stats.n_negative} pixels outside [0, 1], e.g. in cell "
            f"{stats.negative_example!r}. Scale them, or store the integers of the camera, whose "
            "range is found."
        )
    if stats.n_empty_cells:
        raise ValueError(
            f"{where}: {stats.n_empty_cells} cells have a stain that is 0 in every pixel, e.g. "
            f"{stats.empty_cell_example!r}. They were not imaged; leave them out of the modality: "
            "mdata = cantata.pp.split_stains(adata, drop_empty=True)."
        )


def check_chunks(modality: str, array: Any) -> None:
    """Warn where images are stored in chunks of many cells: minibatches read whole chunks."""
    chunks = getattr(array, "chunks", None)
    if chunks is None:
        return
    size = int(np.max(chunks[0]))  # dask lists those of all chunks
    if size > MAX_CHUNK and array.shape[0] > MANY:
        warn_user(
            f"Images of modality {modality!r} are stored in chunks of {size} cells, all of which "
            "are read for any one of them: training will wait for the file. Store each cell in a "
            "chunk of its own: anndata.io.write_elem(zarr.open_group('images.zarr'), "
            f"{modality!r}, images, dataset_kwargs={{'chunks': (1, *images.shape[1:])}})."
        )


def recorded_images(adata: AnnData) -> bool:
    """Whether a modality has images under the usual key."""
    return IMAGES in adata.obsm and len(adata.obsm[IMAGES].shape) > 2


def describe_images(modality: str, adata: AnnData) -> str:
    """Size and stains of a modality's images, of which no pixel is read; they may be wrong."""
    height, width = adata.obsm[IMAGES].shape[2:]
    try:
        stains = image_layout(modality, adata, IMAGES, any_side=True).stains
    except (KeyError, ValueError):
        stains = tuple(var_channels(adata))
    return f"images, {height} x {width}, stains {', '.join(stains)}"
