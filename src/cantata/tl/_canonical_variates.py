"""What paired modalities have in common, in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.preprocessing import normalize

from cantata import _keys
from cantata._mudata.checks import check_integer, check_modalities
from cantata._mudata.embeddings import modality_rep
from cantata._mudata.obs import coalesce_obs, known_batches
from cantata._mudata.pairing import row_table
from cantata._mudata.values import saved_record
from cantata._numeric.canonical import MIN_PAIRS, are_connected, chosen_variates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mudata import MuData


def canonical_variates(
    mdata: MuData,
    modalities: Sequence[str] | None = None,
    *,
    use_rep: str | Mapping[str, str] | None = None,
    n_variates: int = 20,
    batch_key: str | None = None,
    cells: np.ndarray | None = None,
    key_added: str = "X_cca",
) -> pd.Series:
    """Embed mosaic data by canonical correlation analysis, the measure of any model of pairs.

    The directions along which components of two modalities (Hotelling 1936) or several (MAXVAR;
    Kettenring 1971) correlate most over the cells that have both. Left-out pairs choose the ridge
    of the covariances, and each variate counts by its correlation over them. This is also where
    encoders of :class:`cantata.CLUE` start from.

    Parameters
    ----------
    mdata
        Data of which some cells have several modalities.
    modalities
        Names of the modalities; all by default.
    use_rep
        Key in ``mdata[m].obsm`` of components, for all modalities or for each; by default those
        of :func:`cantata.pp.preprocess`.
    n_variates
        Wanted number of variates; fewer where a modality has fewer components.
    batch_key
        Annotation whose differences are not to be found in common.
    cells
        (n_obs,) mask of the cells to fit on; all by default.
    key_added
        Key in ``.obsm`` to write to.

    Returns
    -------
    Correlation of each variate over left-out cells. Written are unit vectors of all cells,
    ``mdata[m].obsm[key_added]`` from each modality alone and ``mdata.obsm[key_added]`` the mean
    over the modalities that a cell has, again of unit length.

    Raises
    ------
    KeyError
        If a modality, a representation or the batches are not found.
    ValueError
        If fewer than 20 cells connect some of the modalities, a cell has no batch, or a
        representation is the same in all cells.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic(n_cells=300)
    >>> cantata.pp.preprocess(mdata)
    >>> correlations = cantata.tl.canonical_variates(mdata)
    >>> mdata.obsm["X_cca"].shape == (300, len(correlations))
    True
    """
    names = check_modalities(mdata, modalities)
    check_integer("n_variates", n_variates, 1)
    reps = {name: modality_rep(mdata, name, _rep(mdata, name, use_rep)) for name in names}
    table = row_table(mdata, names)
    fit_on = np.ones(mdata.n_obs, dtype=bool) if cells is None else np.asarray(cells)
    if fit_on.dtype != bool or fit_on.shape != (mdata.n_obs,):
        raise ValueError(f"cells must be a mask of the {mdata.n_obs} cells of the MuData.")
    # 1. the variates, from the cells to fit on
    rows = [table[name][fit_on] for name in names]
    n_paired = int(((np.stack(rows) >= 0).sum(axis=0) > 1).sum())
    if len(names) < 2 or not are_connected(rows):
        raise ValueError(
            f"{n_paired} cells have several of the modalities {names}; canonical variates need "
            f"{MIN_PAIRS} that connect any two of them, directly or by a chain. Where no cell is "
            "paired use cantata.SCMODAL."
        )
    design = None
    if batch_key is not None:
        batches = known_batches(coalesce_obs(mdata, batch_key, names)[fit_on], batch_key)
        design = pd.get_dummies(batches, drop_first=True).to_numpy(dtype=float)
    blocks = [reps[name].astype(np.float64) for name in names]
    for name, block, own in zip(names, blocks, rows, strict=True):
        if not np.ptp(block[own[own >= 0]], axis=0).any():
            key = _rep(mdata, name, use_rep)
            raise ValueError(
                f"mdata[{name!r}].obsm[{key!r}] is the same in all {(own >= 0).sum()} cells. "
                f"Leave {name!r} out, or name another representation in use_rep."
            )
    variates, weights = chosen_variates(blocks, n_variates, rows, covariates=design)
    # 2. all cells, by each modality and by all that they have
    joint = np.zeros((mdata.n_obs, variates.n))
    for k, name in enumerate(names):
        unit = normalize(variates.transform(k, blocks[k]) * weights)
        mdata[name].obsm[key_added] = unit.astype(np.float32)
        has = np.flatnonzero(table[name] >= 0)
        joint[has] += unit[table[name][has]]
    mdata.obsm[key_added] = normalize(joint).astype(np.float32)
    return pd.Series(weights, name="correlation")


def _rep(mdata: MuData, name: str, use_rep: str | Mapping[str, str] | None) -> str:
    """Key of the components of a modality."""
    given = use_rep if isinstance(use_rep, str) or use_rep is None else use_rep.get(name)
    record = saved_record(mdata[name]) or {}
    return str(given or record.get("rep", _keys.PCA))
