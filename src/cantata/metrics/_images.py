"""How near predicted images of cells are to the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy.spatial.distance import cdist

from cantata._keys import IMAGES
from cantata._mudata.checks import positions_of
from cantata._mudata.images import StainImages, image_layout, stain_limits

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

N_BINS = 256
"""Bins of [0, 1] whose fullest one is the mode of an image."""
BLOCK_CELLS = 512
"""Cells that are compared with all others at once."""


def image_agreement(
    predicted: AnnData | ArrayLike,
    real: AnnData | ArrayLike,
    *,
    stain: str | None = None,
    mean_image: AnnData | ArrayLike | None = None,
) -> pd.DataFrame:
    """Agreement of predicted images with the real images of the same cells, cell by cell.

    Parameters
    ----------
    predicted
        What :meth:`cantata.APOLLO.impute` returns, or images (cells, side, side) or (cells, 1,
        side, side) in [0, 1].
    real
        AnnData with the images of these cells, found by name, or images in [0, 1] in the same
        order. Integers of an AnnData are scaled by the range of their stain, as by the model.
    stain
        Stain to compare, where there are several.
    mean_image
        What predictions have to beat: AnnData with the training cells, whose mean it is, or a
        (side, side) image in [0, 1]; by default the mean of the real ones.

    Returns
    -------
    DataFrame of cells with the columns

    - ``"pearson"``: correlation over pixels; NaN for an image of one value;
    - ``"l1"``: mean absolute difference after both are set to 0 below the commonest value of the
      real image (Zhang et al. 2026, methods);
    - ``"r2"``: 1 less the squared error over that of the mean image; above 0 is better than it;
    - ``"rank"``: how many real images are as near to the prediction as the cell's own, which is
      1 where its own is the nearest (Euclidean).

    Raises
    ------
    ValueError
        If shapes or stains differ, there are several stains and none is chosen, or images are
        not in [0, 1].
    KeyError
        If cells of `predicted` are not in `real`, or the stain does not exist.

    Notes
    -----
    L1 misleads by itself: setting each image to 0 below its *own* mode, a linear filter with a
    correlation of .49 beats a network with .79. Read it beside the others.

    Examples
    --------
    >>> import numpy as np
    >>> real = np.random.default_rng(0).random((5, 16, 16))
    >>> image_agreement(0.5 * real, real)[["pearson", "rank"]].mean().to_dict()
    {'pearson': 1.0, 'rank': 1.0}
    """
    # 1. images in rows, lined up
    if isinstance(predicted, AnnData) and isinstance(real, AnnData):
        names = predicted.obs_names
        lacking = names[~names.isin(real.obs_names)]
        if len(lacking):
            raise KeyError(
                f"{len(lacking)} of {len(names)} predicted cells have no real image, e.g. "
                f"{lacking[0]!r}. Leave them out: predicted[predicted.obs_names.isin(...)]."
            )
        if stain is None:
            _check_stains(predicted, real)
        # integers are scaled by the range of all real images
        truth = _rows(real, stain)[positions_of(names, real.obs_names)]
    else:
        truth = _rows(real, stain)
        names = pd.RangeIndex(len(truth))
    guess = _rows(predicted, stain)
    if guess.shape != truth.shape:
        raise ValueError(
            f"Predicted and real images differ in shape: {len(guess)} of {guess.shape[1]} pixels, "
            f"{len(truth)} of {truth.shape[1]}."
        )
    if mean_image is None:
        mean = truth.mean(axis=0)
    elif isinstance(mean_image, AnnData):
        mean = _rows(mean_image, stain).mean(axis=0)
    else:
        mean = _rows(np.asarray(mean_image)[None], stain)[0]
    # 2. correlation, and squared error beside that of the mean image
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (guess, truth))
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        pearson = np.where(size > 0, (a * b).sum(axis=1) / size, np.nan)
        r2 = 1 - ((guess - truth) ** 2).sum(axis=1) / ((mean - truth) ** 2).sum(axis=1)
    # 3. difference above the mode of the real image
    bins = np.clip((truth * N_BINS).astype(int), 0, N_BINS - 1)
    modes = np.array([np.bincount(row, minlength=N_BINS).argmax() for row in bins])
    floor = (modes / N_BINS)[:, None]
    above = np.where(guess > floor, guess, 0) - np.where(truth > floor, truth, 0)
    # 4. how many real images are as near, a block of cells at a time
    rank = np.empty(len(guess), dtype=np.int64)
    for start in range(0, len(guess), BLOCK_CELLS):
        rows = np.arange(start, min(start + BLOCK_CELLS, len(guess)))
        distance = cdist(guess[rows], truth, "sqeuclidean")
        own = distance[np.arange(len(rows)), rows]
        rank[rows] = (distance <= own[:, None]).sum(axis=1)
    columns = {"pearson": pearson, "l1": np.abs(above).mean(axis=1), "r2": r2, "rank": rank}
    return pd.DataFrame(columns, index=names)


def _check_stains(predicted: AnnData, real: AnnData) -> None:
    of_both = [image_layout("", adata, IMAGES).stains for adata in (predicted, real)]
    if of_both[0] != of_both[1] and len(of_both[0]) == len(of_both[1]) == 1:
        raise ValueError(
            f"The predicted stain is {of_both[0][0]!r}, the real one {of_both[1][0]!r}."
        )


def _rows(images: Any, stain: str | None) -> np.ndarray:
    """(cells, pixels) values of one stain."""
    if isinstance(images, MuData):
        raise TypeError(
            f"Give one modality of the MuData, e.g. mdata[{next(iter(images.mod))!r}]."
        )
    if isinstance(images, AnnData):
        layout, array = image_layout("", images, IMAGES), images.obsm[IMAGES]
        values = StainImages(array, layout, stain_limits(array, layout))[:]
        if stain is None and len(layout.stains) > 1:
            raise ValueError(f"There are the stains {list(layout.stains)}; name one: stain=.")
        if stain is not None and stain not in layout.stains:
            raise KeyError(f"stain={stain!r} is none of {list(layout.stains)}.")
        values = values[:, 0 if stain is None else layout.stains.index(stain)]
    else:
        values = np.asarray(images)
        if values.ndim == 4 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 3:
            raise ValueError(f"Images have shape {values.shape}; give (cells, side, side).")
        if values.size and (values.min() < 0 or values.max() > 1):
            raise ValueError(
                f"Images reach from {values.min():.4g} to {values.max():.4g}; they are compared "
                "in [0, 1]. Give the AnnData in place of its images, of which integers are scaled."
            )
    return values.reshape(len(values), -1).astype(np.float64)
