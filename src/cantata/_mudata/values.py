"""Matrices of a modality and what is recorded about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cantata import _keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers; anndata 0.13 lists ``.X`` among them, under the name None."""
    return [name for name in adata.layers if name is not None]


def matrix_of(
    mdata: Mapping[str, AnnData] | MuData,
    modality: str,
    layer: str | None = None,
    *,
    argument: str | None = None,
) -> Any:
    """Values of a modality, as they are stored.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    modality
        Its name.
    layer
        Layer; None for ``.X``.
    argument
        How the user named the layer, for errors; by default an entry of ``layers``, of which None
        is ``.X``.

    Raises
    ------
    KeyError
        If the layer or ``.X`` does not exist.
    """
    adata = mdata[modality]
    if layer is not None and layer not in adata.layers:
        known = f"modality {modality!r} has the layers {layer_names(adata)}."
        if argument is not None:
            raise KeyError(f"{argument}: {known}")
        raise KeyError(f"layers={{{modality!r}: {layer!r}}}: {known} Use None for .X.")
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise KeyError(f"Modality {modality!r} has no .X; name a layer: {layer_names(adata)}.")
    return matrix


def saved_record(adata: AnnData) -> dict[str, Any] | None:
    """What :func:`cantata.pp.preprocess` recorded in a modality, or None."""
    record = adata.uns.get(_keys.UNS, {}).get(_keys.PREPROCESS)
    return None if record is None else dict(record)


def check_in_memory(mdata: MuData) -> None:
    """Refuse data on disk.

    Raises
    ------
    ValueError
        If the MuData or one of its modalities is backed.
    """
    backed = [name for name, adata in mdata.mod.items() if adata.isbacked]
    if mdata.isbacked or backed:
        raise ValueError(
            f"The MuData is backed ({', '.join(backed) or 'h5mu'}), and this function needs it in "
            "memory: read it without backed=True, or bring each modality in with "
            "mdata = mudata.MuData({m: mdata[m].to_memory() for m in mdata.mod})."
        )
