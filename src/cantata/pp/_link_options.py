"""The arguments of :func:`cantata.pp.link_features`, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cantata.pp._counts import layer_names, saved_record
from cantata.pp._genomic_modality import check_features

if TYPE_CHECKING:
    from mudata import MuData

MANY = 200
"""With more links than this, joint components take the place of single links."""

N_COMPS = 30
"""Number of joint components, unless another one is asked for."""

WIDE = 500
"""Counts of more features than this are smoothed, unless it is forbidden."""

TRANSFORMS = ("auto", "log1p", "arcsinh", None)


@dataclass(frozen=True)
class LinkOptions:
    """How each of the two modalities is treated."""

    matrices: dict[str, Any]
    transforms: dict[str, str | None]
    smooth: dict[str, bool | Literal["auto"]]
    n_comps: int | Literal["auto"] | None
    max_value: float | None

    def smooths(self, name: str, transform: str | None) -> bool:
        """Whether a modality is smoothed, by its transform."""
        wish = self.smooth[name]
        if isinstance(wish, bool):
            return wish
        return transform == "log1p" and self.matrices[name].shape[1] > WIDE

    def n_components(self, n_links: int) -> int:
        """Number of joint components; 0 for one column per link.

        Raises
        ------
        ValueError
            If as many were asked for as there are links.
        """
        if self.n_comps == "auto":
            return N_COMPS if n_links > MANY else 0
        if self.n_comps is None:
            return 0
        if self.n_comps >= n_links:
            raise ValueError(
                f"n_comps={self.n_comps} with {n_links} links; give less, or None for one column "
                "per link."
            )
        return self.n_comps


def link_options(
    mdata: MuData,
    a: str,
    b: str,
    layers: Mapping[str, str | None] | None,
    transforms: Mapping[str, str | None] | str,
    n_comps: int | Literal["auto"] | None,
    smooth: Mapping[str, bool | Literal["auto"]] | bool | Literal["auto"],
    max_value: float | None,
) -> LinkOptions:
    """Check the arguments of :func:`cantata.pp.link_features`.

    Raises
    ------
    TypeError
        If `mdata` is no MuData.
    KeyError
        For unknown modalities or layers.
    ValueError
        For a view, features that changed since the MuData was made, twice the same modality, or
        values that an argument does not take.
    """
    from cantata.data._checks import check_mapping, check_modalities  # its package imports torch

    known = check_modalities(mdata, None)
    for argument, name in (("a", a), ("b", b)):
        if name not in known:
            raise KeyError(f"{argument}={name!r} is no modality; there are {known}.")
    if a == b:
        raise ValueError(f"a and b are both {a!r}; give two modalities.")
    check_features(mdata)
    layers = dict(layers or {})
    if isinstance(transforms, str):
        transforms = dict.fromkeys((a, b), transforms)
    if not isinstance(smooth, Mapping):
        smooth = {a: smooth, b: smooth}
    for argument, mapping in (("layers", layers), ("transforms", transforms), ("smooth", smooth)):
        check_mapping(argument, mapping, [a, b])
    for name, transform in transforms.items():
        if transform not in TRANSFORMS:
            raise ValueError(
                f"transforms={{{name!r}: {transform!r}}}: choose one of "
                f"{', '.join(map(repr, TRANSFORMS))}."
            )
    for name, wish in smooth.items():
        if wish not in (True, False, "auto"):
            raise ValueError(f"smooth={{{name!r}: {wish!r}}}: give True, False or 'auto'.")
    if not (n_comps in ("auto", None) or (isinstance(n_comps, int) and n_comps >= 2)):
        raise ValueError(f"n_comps={n_comps!r}: give a number of at least 2, None or 'auto'.")
    if max_value is not None and not max_value > 0:
        raise ValueError(f"max_value={max_value!r}: give a positive number, or None.")
    return LinkOptions(
        matrices={name: _matrix(mdata, name, layers) for name in (a, b)},
        transforms={name: transforms.get(name, "auto") for name in (a, b)},
        smooth={name: smooth.get(name, "auto") for name in (a, b)},
        n_comps=n_comps,
        max_value=max_value,
    )


def _matrix(mdata: MuData, name: str, layers: Mapping[str, str | None]) -> Any:
    adata = mdata[name]
    layer = layers.get(name)
    if name not in layers:
        layer = (saved_record(adata) or {}).get("counts_layer")
        layer = layer if layer in adata.layers else None
    if layer is not None and layer not in adata.layers:
        raise KeyError(
            f"layers={{{name!r}: {layer!r}}}: modality {name!r} has the layers "
            f"{layer_names(adata)}. Use None for .X."
        )
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise KeyError(f"Modality {name!r} has no .X; name a layer: {layer_names(adata)}.")
    return matrix
