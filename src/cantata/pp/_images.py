"""Images of single cells: read, split by stain, padded."""

from __future__ import annotations

import logging
import warnings
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import read_elem
from mudata import MuData

from cantata._keys import CHANNEL_NAMES, CHANNELS, IMAGES
from cantata._mudata.checks import as_list, check_integer, warn_user
from cantata._mudata.images import StainImages, channels_of, image_layout, var_channels
from cantata._mudata.parts import no_pull
from cantata._mudata.values import iter_blocks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from cantata._mudata.images import ImageLayout

logger = logging.getLogger(__name__)


# Reading ----------------------------------------------------------------------------------------


def read_h5sc(path: str | PathLike[str], *, in_memory: bool = False) -> AnnData:
    """Read images of single cells as scPortrait writes them.

    Parameters
    ----------
    path
        File of scPortrait (``.h5sc``), or an ``.h5ad`` file or ``.zarr`` folder of that layout:
        (cells, channels, height, width) images in ``obsm["single_cell_images"]``, channels in
        ``.var``.
    in_memory
        Read the images too. Otherwise they stay on disk, in a file that is open for reading, and
        a minibatch reads its own.

    Returns
    -------
    AnnData whose ``.var_names`` are names of channels. Images on disk cannot be copied:
    ``adata.to_memory()`` reads them, and so does a view ``adata[cells]``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    KeyError
        If it has no images.
    ValueError
        If it is neither HDF5 nor zarr, or its channels have no names.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> adata = anndata.AnnData(var={"channels": ["nucleus", "DAPI"]}, shape=(3, 2))
    >>> adata.var["channel_mapping"] = ["mask", "image_channel"]
    >>> adata.obsm["single_cell_images"] = np.ones((3, 2, 16, 16), dtype="float16")
    >>> adata.write_h5ad("cells.h5sc")
    >>> read_h5sc("cells.h5sc").obsm["single_cell_images"]
    <HDF5 dataset "single_cell_images": shape (3, 2, 16, 16), type "<f2">
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    with ExitStack() as stack:
        if path.is_dir():
            root = zarr.open_group(path, mode="r")
        elif h5py.is_hdf5(path):
            root = stack.enter_context(h5py.File(path, "r"))
        else:
            raise ValueError(f"{path} is no HDF5 file and no folder of zarr.")
        adata = _read(root, path, in_memory)
        if not in_memory:
            stack.pop_all()
    return adata


def _read(root: Any, path: Path, in_memory: bool) -> AnnData:
    found = list(root["obsm"]) if "obsm" in root else []
    if IMAGES not in found:
        raise KeyError(
            f"{path} has no obsm[{IMAGES!r}], which holds the images; .obsm has {found}. Make "
            "images from whole fields with cantata.pp.crop_cells."
        )
    names = ("X", "obs", "var", "uns", "layers", "varm", "obsp", "varp")
    parts = {name: read_elem(root[name]) for name in names if name in root}
    obsm = {key: read_elem(root["obsm"][key]) for key in found if key != IMAGES}
    images = root["obsm"][IMAGES]
    adata = AnnData(**parts, obsm=obsm | {IMAGES: images[:] if in_memory else images})
    if CHANNELS in adata.var:
        adata.var_names = adata.var[CHANNELS].astype(str).to_numpy()
    image_layout(None, adata, IMAGES, any_side=True)
    return adata


# Splitting --------------------------------------------------------------------------------------


def split_stains(
    adata: AnnData,
    stains: Mapping[str, str | Sequence[str]] | None = None,
    *,
    measured: Any = None,
    drop_empty: bool = False,
    key: str = IMAGES,
) -> MuData:
    """Make a modality of each stain.

    Images in memory are shared with `adata` where a modality keeps all cells. Images on disk stay
    there; a modality that keeps some of the cells then needs dask.

    Parameters
    ----------
    adata
        Images of stained cells, see :func:`read_h5sc`.
    stains
        Name of a modality to its stain or stains. None: one modality per stain, of its name.
    measured
        Which stains a cell has: a boolean (cells, stains) array, stains in the order of ``.var``
        without masks; a DataFrame with columns named by stains; or the ``.obsm`` key of either.
    drop_empty
        Also leave out cells of which a stain is 0 throughout.
    key
        ``.obsm`` key of the images.

    Returns
    -------
    MuData. A modality holds the cells that have all its stains, with their columns of ``.obs`` and
    entries of ``.obsm`` and ``.uns``; masks stay in its images.

    Raises
    ------
    KeyError
        If there are no such images, stains, or entries of ``.obsm``.
    TypeError
        If `measured` is not boolean.
    ValueError
        If a channel is a mask, `measured` has another shape, or no cell has a stain.
    ImportError
        If some cells of images on disk are to be kept, without dask.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> adata = anndata.AnnData(np.ones((3, 2), dtype="float32"))
    >>> adata.var_names = ["DAPI", "488"]
    >>> adata.obsm["single_cell_images"] = np.ones((3, 2, 16, 16), dtype="float16")
    >>> measured = np.array([[True, True], [True, True], [True, False]])
    >>> mdata = split_stains(adata, {"dna": "DAPI", "protein": "488"}, measured=measured)
    >>> mdata["dna"].n_obs, mdata["protein"].n_obs
    (3, 2)
    """
    if not isinstance(adata, AnnData):
        raise TypeError(
            f"split_stains takes an AnnData with images in .obsm[{key!r}] and channels in .var, "
            f"not a {type(adata).__name__}."
        )
    layout = image_layout(None, adata, key, any_side=True)
    groups = _stain_groups(adata, stains, layout, key)
    has = _measured(adata, measured, layout)
    if drop_empty:
        for start, block in StainImages(adata.obsm[key], layout).blocks():
            has[start : start + len(block)] &= (block != 0).any(axis=(2, 3))
    mod, anywhere = {}, np.zeros(adata.n_obs, dtype=bool)
    for name, chosen in groups.items():
        some = has[:, [layout.stains.index(stain) for stain in chosen]]
        rows = np.logical_and.reduce(some, axis=1)
        if not rows.any():
            raise ValueError(f"Modality {name!r}: none of {rows.size} cells has {chosen}.")
        if n_partial := int(some.any(axis=1).sum() - rows.sum()):
            warn_user(
                f"{n_partial} cells have some of the stains {chosen} of modality {name!r}, which "
                "holds cells that have all. Make a modality of each to keep them."
            )
        if not rows.all():
            logger.info("Modality %r has %d of %d cells.", name, rows.sum(), rows.size)
        mod[name] = _modality(adata, layout, chosen, rows, key)
        anywhere |= rows
    if not anywhere.all():
        gone = adata.obs_names[~anywhere]
        warn_user(f"{gone.size} cells have no modality and are left out, e.g. {gone[0]!r}.")
    obs = adata.obs[anywhere]
    with warnings.catch_warnings(), no_pull():
        warnings.simplefilter("ignore", (UserWarning, FutureWarning))
        mdata = MuData(mod, obs=obs.iloc[:, :0].copy())
    mdata.obs = obs.copy()
    return mdata


def _stain_groups(
    adata: AnnData,
    stains: Mapping[str, str | Sequence[str]] | None,
    layout: ImageLayout,
    key: str,
) -> dict[str, list[str]]:
    """Stains of each modality, all of which exist."""
    groups = {s: [s] for s in layout.stains} if stains is None else {}
    for name, given in (stains or {}).items():
        groups[name] = list(dict.fromkeys(as_list(f"stains[{name!r}]", given)))
        absent = [stain for stain in groups[name] if stain not in layout.stains]
        if absent and absent[0] in channels_of(None, adata, key)[CHANNEL_NAMES]:
            raise ValueError(f"stains: {absent[0]!r} is a mask, which every modality keeps.")
        if absent or not groups[name]:
            raise KeyError(
                f"stains={{{name!r}: {given!r}}}: the stains are {list(layout.stains)}."
            )
    return groups


def _measured(adata: AnnData, measured: Any, layout: ImageLayout) -> np.ndarray:
    """Boolean (cells, stains)."""
    shape = (adata.n_obs, len(layout.stains))
    if measured is None:
        return np.ones(shape, dtype=bool)
    if isinstance(measured, str):
        if measured not in adata.obsm:
            raise KeyError(f"measured={measured!r}: .obsm has {list(adata.obsm)}.")
        measured = adata.obsm[measured]
    if isinstance(measured, pd.DataFrame):
        absent = [s for s in layout.stains if s not in measured.columns]
        absent += [c for c in adata.obs_names if c not in measured.index]
        if absent:
            raise KeyError(f"measured has no {absent[0]!r}; it needs every stain and every cell.")
        measured = measured.loc[adata.obs_names, list(layout.stains)].to_numpy()
    values = np.array(measured)
    if values.shape != shape:
        raise ValueError(f"measured has shape {values.shape}; {shape} are cells and stains.")
    if values.dtype != bool:
        raise TypeError(f"measured holds {values.dtype}; give True where a cell has the stain.")
    return values


def _modality(
    adata: AnnData, layout: ImageLayout, stains: list[str], rows: np.ndarray, key: str
) -> AnnData:
    """Some cells of some stains, with all masks."""
    array, channels = adata.obsm[key], channels_of(None, adata, key)
    used = sorted({*layout.masks, *(layout.positions[layout.stains.index(s)] for s in stains)})
    if not rows.all():
        array = _rows_of(array, np.flatnonzero(rows))
    if hasattr(array, "compute") or (not rows.all() and isinstance(array, np.ndarray)):
        array = array[:, used]
    elif isinstance(array, np.ndarray) and len(set(np.diff(used))) <= 1:
        # evenly spaced, so that they are a view
        array = array[:, used[0] : used[-1] + 1 : used[1] - used[0] if len(used) > 1 else 1]
    else:
        used = list(range(array.shape[1]))
    columns = [var_channels(adata).index(stain) for stain in stains]
    part = _without_images(adata, key)[rows, columns].copy()
    part.obsm[key] = array
    part.uns[key] = {
        entry: np.array([values[i] for i in used]) for entry, values in channels.items()
    }
    return part


def _rows_of(array: Any, rows: np.ndarray) -> Any:
    """Some images; those on disk stay there."""
    on_disk = isinstance(array, h5py.Dataset | zarr.Array | np.memmap)
    if not on_disk:
        return array[rows]
    try:
        import dask.array
    except ImportError as error:
        raise ImportError(
            f"The images are on disk, and {rows.size} of {array.shape[0]} cells are to be kept: "
            "that needs dask (pip install 'dask[array]'), or images in memory "
            "(cantata.pp.read_h5sc(path, in_memory=True))."
        ) from error
    # chunks hold as few cells as can be read at once, since minibatches read cells at random
    per_chunk = (getattr(array, "chunks", None) or (1,))[0]
    return dask.array.from_array(array, chunks=(per_chunk, -1, -1, -1))[rows]


def _without_images(adata: AnnData, key: str) -> AnnData:
    """All of an AnnData but its images; nothing is copied."""
    uns = {k: v for k, v in adata.uns.items() if k != key and not k.startswith(f"{key}/")}
    return AnnData(
        adata.X,
        obs=adata.obs,
        var=adata.var,
        uns=deepcopy(uns),
        obsm={k: v for k, v in adata.obsm.items() if k != key},
        layers={k: v for k, v in adata.layers.items() if k is not None},
    )


# Padding ----------------------------------------------------------------------------------------


def pad_images(adata: AnnData, side: int, *, key: str = IMAGES) -> None:
    """Pad images to a square, each in its centre, with its smallest value; masks with zeros.

    Parameters
    ----------
    adata
        Images of cells, written to; those on disk are read into memory.
    side
        Height and width of the padded images. A model takes multiples of 16.
    key
        ``.obsm`` key of the images.

    Returns
    -------
    None; ``adata.obsm[key]`` is (cells, channels, `side`, `side`), of the same dtype.

    Raises
    ------
    KeyError
        If there are no such images.
    ValueError
        If images are larger than `side`.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> adata = anndata.AnnData(np.ones((2, 1), dtype="float32"))
    >>> adata.obsm["single_cell_images"] = np.ones((2, 1, 40, 45), dtype="uint8")
    >>> pad_images(adata, 48)
    >>> adata.obsm["single_cell_images"].shape
    (2, 1, 48, 48)
    """
    check_integer("side", side)
    masks = image_layout(None, adata, key, any_side=True).masks
    array = adata.obsm[key]
    n, n_channels, height, width = array.shape
    if max(height, width) > side:
        raise ValueError(
            f"Images of {height} x {width} pixels are larger than side={side}. Crop them: "
            f"adata.obsm[{key!r}][..., top:top + {side}, left:left + {side}]."
        )
    padded = np.zeros((n, n_channels, side, side), dtype=array.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    for start, block in iter_blocks(array, n, 256):
        part = padded[start : start + len(block)]
        part[:] = block.min(axis=(2, 3), keepdims=True)  # the offset of a camera is no edge
        part[:, list(masks)] = 0
        part[:, :, top : top + height, left : left + width] = block
    adata.obsm[key] = padded
