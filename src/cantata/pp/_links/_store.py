"""Where feature links are kept in a MuData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cantata import _keys

if TYPE_CHECKING:
    import pandas as pd
    from mudata import MuData


def joint_positions(mdata: MuData, modality: str) -> np.ndarray:
    """Place of each feature of a modality on the joint axis of features."""
    rows = np.asarray(mdata.varmap[modality]).astype(np.int64).ravel() - 1
    place = np.flatnonzero(rows >= 0)
    positions = np.empty(place.size, dtype=np.int64)
    positions[rows[place]] = place
    return positions


def merged_links(mdata: MuData, a: str, b: str, links: pd.DataFrame) -> sparse.csr_matrix:
    """``mdata.varp["links"]`` with the links of one pair of modalities put in or replaced.

    Returns
    -------
    Symmetric CSR float32 matrix over the joint axis of features.
    """
    size = mdata.n_vars
    left, right = joint_positions(mdata, a), joint_positions(mdata, b)
    i = left[links["source_index"].to_numpy()]
    j = right[links["target_index"].to_numpy()]
    weight = links["weight"].to_numpy(dtype=np.float32)
    row, column, data = [i, j], [j, i], [weight, weight]
    if _keys.LINKS in mdata.varp:
        old = sparse.coo_matrix(mdata.varp[_keys.LINKS])
        of_a, of_b = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        of_a[left], of_b[right] = True, True
        ours = (of_a[old.row] & of_b[old.col]) | (of_b[old.row] & of_a[old.col])
        kept = ~ours & (np.asarray(old.data) != 0)
        row.append(old.row[kept])
        column.append(old.col[kept])
        data.append(old.data[kept].astype(np.float32))
    places = np.concatenate(row), np.concatenate(column)
    return sparse.csr_matrix((np.concatenate(data), places), shape=(size, size))


def write_links(
    mdata: MuData,
    a: str,
    b: str,
    links: pd.DataFrame,
    matrices: tuple[np.ndarray, np.ndarray],
    settings: dict[str, Any],
) -> None:
    """Write linked matrices, links and their record; other pairs of modalities are kept."""
    from cantata import __version__  # not yet there when this module is imported

    joint = merged_links(mdata, a, b, links)
    records = dict(mdata.uns.get(_keys.UNS, {}))
    pairs = dict(records.get(_keys.LINKS, {}))
    pairs.pop(_keys.link_record(b, a), None)
    pairs[_keys.link_record(a, b)] = {
        "source": links["source"].to_numpy(dtype=object),
        "target": links["target"].to_numpy(dtype=object),
        "type": links["type"].to_numpy(dtype=object),
        "weight": links["weight"].to_numpy(dtype=np.float64),
        "source_index": links["source_index"].to_numpy(dtype=np.int64),
        "target_index": links["target_index"].to_numpy(dtype=np.int64),
        **settings,
        "version": __version__,
    }
    records[_keys.LINKS] = pairs
    mdata[a].obsm[_keys.linked(b)], mdata[b].obsm[_keys.linked(a)] = matrices
    mdata.varp[_keys.LINKS] = joint
    mdata.uns[_keys.UNS] = records
