"""Make cells without counts in a modality cells that were not measured there."""

from __future__ import annotations

import logging
import warnings
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from mudata import MuData

from cantata._mudata.checks import check_mapping, check_modalities, warn_user
from cantata._mudata.images import recorded_images
from cantata._mudata.pairing import row_table
from cantata._mudata.parts import copied, no_pull
from cantata._mudata.values import check_in_memory, matrix_of, with_counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)


def drop_empty(
    mdata: MuData,
    *,
    modalities: Sequence[str] | None = None,
    layers: Mapping[str, str | None] | None = None,
) -> MuData:
    """Make cells without counts in a modality unmeasured there.

    A row of zeros is not a measurement; models refuse it. Such cells leave that modality and stay
    in the others. Cells that are then measured nowhere leave the MuData.

    Parameters
    ----------
    mdata
        In memory; it is not modified.
    modalities
        Modalities to look at; all but images by default, of which
        :func:`cantata.pp.split_stains` leaves empty ones out.
    layers
        Layer that holds the counts of a modality; None or not named: ``.X``.

    Returns
    -------
    New MuData with copies of the data, but for images on disk, its cells in the order of `mdata`.

    Raises
    ------
    TypeError
        If `mdata` is no MuData.
    KeyError
        For unknown modalities or layers.
    ValueError
        If a modality keeps no cell, or the MuData is a view or backed.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic()
    >>> mdata["rna"].X[0] = 0
    >>> smaller = cantata.pp.drop_empty(mdata)
    >>> mdata["rna"].n_obs - smaller["rna"].n_obs
    1
    """
    names = check_modalities(mdata, modalities)
    if modalities is None:
        names = [name for name in names if not recorded_images(mdata[name])]
    check_in_memory(mdata)
    layers = dict(layers or {})
    check_mapping("layers", layers, names)
    keep = {}
    for name in names:
        matrix = matrix_of(mdata, name, layers.get(name))
        keep[name] = kept = with_counts(matrix, mdata[name].n_obs)
        if not kept.any():
            raise ValueError(
                f"Modality {name!r}: none of its {kept.size} cells has counts. Remove the "
                "modality, or name the layer that holds its counts with layers={...}."
            )
        if not kept.all():
            empty = mdata[name].obs_names[~kept]
            logger.info(
                "%d of %d cells have no counts in modality %r (e.g. %r); they are unmeasured "
                "there now.",
                empty.size,
                kept.size,
                name,
                empty[0],
            )
    measured = np.zeros(mdata.n_obs, dtype=bool)
    for name, rows in row_table(mdata).items():
        present = np.flatnonzero(rows >= 0)
        measured[present[keep[name][rows[present]]] if name in keep else present] = True
    if not measured.all():
        gone = mdata.obs_names[~measured]
        warn_user(
            f"{gone.size} of {mdata.n_obs} cells have counts in no modality (e.g. {gone[0]!r}) "
            "and are not in the result."
        )
    return _rebuild(mdata, keep, measured)


def _rebuild(mdata: MuData, keep: Mapping[str, np.ndarray], measured: np.ndarray) -> MuData:
    """MuData with these rows of each modality and these cells, annotations taken along."""
    mod = {
        name: adata[keep[name]].copy() if name in keep and not keep[name].all() else copied(adata)
        for name, adata in mdata.mod.items()
    }
    obs = mdata.obs.loc[measured].copy()
    with warnings.catch_warnings(), no_pull():
        warnings.simplefilter("ignore", (UserWarning, FutureWarning))
        new = MuData(mod, obs=obs.iloc[:, :0].copy())
    new.obs = obs
    new.var = mdata.var.copy()
    for key in set(mdata.obsm) - set(mdata.mod):
        new.obsm[key] = mdata.obsm[key][measured].copy()
    for key in mdata.obsp:
        new.obsp[key] = mdata.obsp[key][measured][:, measured].copy()
    for key in set(mdata.varm) - set(mdata.mod):
        new.varm[key] = mdata.varm[key].copy()
    for key in mdata.varp:
        new.varp[key] = mdata.varp[key].copy()
    new.uns.update(deepcopy(dict(mdata.uns)))
    return new
