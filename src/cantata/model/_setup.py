"""Arguments of ``setup_mudata``, checked, and what is remembered of the data."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from cantata._mudata.checks import as_list, row_fingerprints
from cantata._mudata.values import matrix_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mudata import MuData

TRANSFER_ARGUMENTS = {"source_registry", "extend_categories", "allow_absent"}
"""What scvi-tools and queries pass to ``setup_mudata`` beside the arguments of a user."""
MIN_LIKENESS = 0.7
"""How alike a mistyped name and the right one are, by :mod:`difflib`."""
MODULE_NAMES = {*dir(torch.nn.ModuleDict()), "shared"}
"""Names that no part of a network can have, and that of APOLLO's shared latents."""


def covariate_columns(setup_args: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Columns of the batch and of all covariates, each after the argument that named it."""
    arguments = ("batch_key", "categorical_covariate_keys", "continuous_covariate_keys")
    return [(name, key) for name in arguments for key in as_list(name, setup_args[name])]


def as_pairs(pairs: Any) -> list[tuple[str, str]] | None:
    """Pairs of modalities; two names are one pair."""
    if pairs is None:
        return None
    found = as_list("pairs", pairs)
    if len(found) == 2 and all(isinstance(name, str) for name in found):
        found = [(found[0], found[1])]
    for pair in found:
        if isinstance(pair, str) or len(as_list("pairs", pair)) != 2:
            raise TypeError(f"pairs={pairs!r}: give a list of pairs, e.g. [('rna', 'adt')].")
    return [(first, second) for first, second in found]


def parameters_of(call: Callable[..., Any] | None) -> list[str]:
    """Names of what a function, or a class, takes; none of None."""
    if call is None:
        return []
    every = inspect.signature(call).parameters.values()
    return [p.name for p in every if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def check_known(
    call: str, given: Mapping[str, Any], known: Sequence[str], passed_on: Sequence[str] = ()
) -> None:
    """Refuse arguments that are neither `known` nor `passed_on` (``TypeError``)."""
    unknown = [name for name in given if name not in (*known, *passed_on)]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=MIN_LIKENESS)
        hint = f"Did you mean {near[0]}?" if near else f"It takes {', '.join(known)}."
        raise TypeError(f"{call} has no argument {unknown[0]!r}. {hint}")


def check_setup_arguments(
    setup: Callable[..., Any], kwargs: Mapping[str, Any], **columns: Any
) -> None:
    """Refuse arguments that ``setup_mudata`` does not have, and `columns` that are no name."""
    given = {name: value for name, value in kwargs.items() if name not in TRANSFER_ARGUMENTS}
    check_known("setup_mudata", given, parameters_of(setup))
    for argument, key in columns.items():
        if key is not None and not isinstance(key, str):
            raise TypeError(f"{argument}={key!r}: give the name of one column.")


def check_module_names(modalities: Sequence[str]) -> None:
    """Refuse names of modalities that no part of a network can have."""
    for name in modalities:
        if not name or "." in name or "/" in name or name in MODULE_NAMES:
            other = name.replace(".", "_").replace("/", "_").strip("_") + "_1"
            raise ValueError(
                f"Modality {name!r} has a name that parts of a network, or groups of a file, "
                f"cannot have. Rename it: mdata = mudata.MuData({{{other!r}: "
                f"mdata[{name!r}], ...}})."
            )


def fingerprints(mdata: MuData, setup_args: Mapping[str, Any]) -> dict[str, pd.Series]:
    """Fingerprints of the values of each cell, of every matrix in memory that a model reads."""
    matrices = {
        f"modality {name!r}": (name, matrix_of(mdata, name, layer))
        for name, layer in setup_args["layers"].items()
    } | {
        f"mdata[{name!r}].obsm[{key!r}]": (name, mdata[name].obsm[key])
        for name, key in setup_args["reps"].items()
    }
    fingerprints = {key: (name, row_fingerprints(m)) for key, (name, m) in matrices.items()}
    return {
        key: pd.Series(values, index=mdata[name].obs_names)
        for key, (name, values) in fingerprints.items()
        if values is not None
    }
