"""The arguments of :func:`cantata.pp.link_features`, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from cantata._mudata.checks import check_mapping, check_modalities
from cantata.pp._counts import chosen_matrix
from cantata.pp._genomic._modality import check_features
from cantata.pp._links._chromatin import is_chromatin
from cantata.pp._links._components import N_COMPS

if TYPE_CHECKING:
    from mudata import MuData

Transform = Literal["auto", "log1p", "clr", "arcsinh"] | None
Switch = bool | Literal["auto"]

MANY = 200
"""With more links than this, joint components take the place of single links."""

WIDE = 300
"""Counts of more features than this are smoothed."""

CENTER = 50
"""From so many links on cells are centred where the matrices hold single links."""

TRANSFORMS = (*get_args(get_args(Transform)[0]), None)


@dataclass(frozen=True)
class LinkOptions:
    """How each of the two modalities is treated."""

    matrices: dict[str, Any]
    transforms: dict[str, str | None]
    smooth: dict[str, Switch]
    n_comps: int | Literal["auto"] | None
    center: Switch
    shared: Switch
    max_value: float | None
    chromatin: frozenset[str]

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

    def smooths(self, name: str, transform: str | None) -> bool:
        """Whether a modality is smoothed, by its resolved transform."""
        wish = self.smooth[name]
        if isinstance(wish, bool):
            return wish
        return self.matrices[name].shape[1] > WIDE and transform == "log1p"

    def shares(self, n_links: int, *, smoothed: bool) -> bool:
        """Whether only directions in which both modalities vary are kept."""
        if isinstance(self.shared, bool):
            return self.shared
        return smoothed or self.n_components(n_links) > 0

    def centers(self, n_links: int) -> bool:
        """Whether each cell's mean over the links is subtracted."""
        if isinstance(self.center, bool):
            return self.center
        return n_links >= CENTER and not self.n_components(n_links)


def link_options(
    mdata: MuData,
    a: str,
    b: str,
    layers: Mapping[str, str | None] | None,
    transforms: Mapping[str, str | None] | str | None,
    n_comps: int | Literal["auto"] | None,
    smooth: Mapping[str, Switch] | Switch,
    max_value: float | None,
    center: Switch = "auto",
    shared: Switch = "auto",
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
    _check_modalities(mdata, a, b)
    layers = dict(layers or {})
    if not isinstance(transforms, Mapping):
        transforms = {a: transforms, b: transforms}
    if not isinstance(smooth, Mapping):
        smooth = {a: smooth, b: smooth}

    for argument, mapping in (("layers", layers), ("transforms", transforms), ("smooth", smooth)):
        check_mapping(argument, mapping, [a, b])
    _check_values(transforms, n_comps, max_value)
    _check_switches({f"smooth of {name!r}": wish for name, wish in smooth.items()})
    _check_switches({"center": center, "shared": shared})
    return LinkOptions(
        matrices={name: chosen_matrix(name, mdata[name], layers)[0] for name in (a, b)},
        transforms={name: transforms.get(name, "auto") for name in (a, b)},
        smooth={name: smooth.get(name, "auto") for name in (a, b)},
        n_comps=n_comps,
        center=center,
        shared=shared,
        max_value=max_value,
        chromatin=frozenset(name for name in (a, b) if is_chromatin(mdata, name)),
    )


def _check_modalities(mdata: MuData, a: str, b: str) -> None:

    known = check_modalities(mdata, None)
    for argument, name in (("a", a), ("b", b)):
        if name not in known:
            raise KeyError(f"{argument}={name!r} is no modality; there are {known}.")
    if a == b:
        raise ValueError(f"a and b are both {a!r}; give two modalities.")
    check_features(mdata)


def _check_values(
    transforms: Mapping[str, str | None],
    n_comps: int | Literal["auto"] | None,
    max_value: float | None,
) -> None:
    for name, transform in transforms.items():
        if transform not in TRANSFORMS:
            raise ValueError(
                f"transforms={{{name!r}: {transform!r}}}: choose one of "
                f"{', '.join(map(repr, TRANSFORMS))}."
            )
    if isinstance(n_comps, bool) or not (
        n_comps in ("auto", None) or (isinstance(n_comps, int) and n_comps >= 2)
    ):
        raise ValueError(f"n_comps={n_comps!r}: give a number of at least 2, None or 'auto'.")
    if max_value is not None and not max_value > 0:
        raise ValueError(f"max_value={max_value!r}: give a positive number, or None.")


def _check_switches(switches: Mapping[str, Switch]) -> None:
    for argument, wish in switches.items():
        if not (isinstance(wish, bool) or wish == "auto"):
            raise ValueError(f"{argument} is {wish!r}; give True, False or 'auto'.")
