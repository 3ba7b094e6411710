"""What a modality measures: told by the user, or guessed and said."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

logger = logging.getLogger(__name__)

Kind = Literal["rna", "protein", "atac"]

KINDS: dict[str, Kind] = {
    "rna": "rna",
    "protein": "protein",
    "adt": "protein",
    "prot": "protein",
    "atac": "atac",
}
"""What `modalities` accepts, and the kind it means."""

NAMES: dict[Kind, tuple[str, ...]] = {
    "rna": (
        "rna",
        "gex",
        "gene",
        "genes",
        "transcriptome",
        "expression",
        "mrna",
        "scrna",
        "snrna",
    ),
    "protein": ("adt", "prot", "protein", "proteins", "antibody", "cite", "ab", "abseq"),
    "atac": ("atac", "peak", "peaks", "chromatin", "accessibility", "scatac", "snatac"),
}
"""Words that tell the kind when they occur in a modality's name."""

FEATURE_TYPES: dict[str, Kind] = {
    "gene expression": "rna",
    "antibody capture": "protein",
    "protein": "protein",
    "peaks": "atac",
}
"""Values of ``.var["feature_types"]``, as written by common pipelines."""

PANEL = 300
"""Up to this many features, a modality of unknown name is taken as an antibody panel."""

_REGION = re.compile(r"^(chr)?[\w.]+[:_-]\d+[-_]\d+$")


def guess_kind(name: str, adata: AnnData) -> tuple[Kind, str]:
    """Guess what a modality measures.

    Parameters
    ----------
    name
        Name of the modality.
    adata
        The modality; it is not modified.

    Returns
    -------
    The kind and the reason: by ``.var["feature_types"]``, then the name, then the feature names,
    then the number of features.

    Raises
    ------
    ValueError
        If nothing tells.
    """
    if "feature_types" in adata.var:
        types = adata.var["feature_types"].astype(str).str.lower().unique()
        if len(types) == 1 and types[0] in FEATURE_TYPES:
            return FEATURE_TYPES[types[0]], f"feature_types is {types[0]!r}"
    words = set(re.split(r"[^a-z]+", name.lower()))
    for kind, names in NAMES.items():
        if words & set(names):
            return kind, "by its name"
    n_regions = sum(bool(_REGION.match(str(feature))) for feature in adata.var_names[:100])
    if n_regions > 0.9 * min(adata.n_vars, 100):
        return "atac", f"its features are regions, e.g. {adata.var_names[0]!r}"
    if adata.n_vars <= PANEL:
        return "protein", f"it has only {adata.n_vars} features"
    raise ValueError(
        f"Cannot tell what modality {name!r} with {adata.n_vars} features measures. Say it: "
        f"modalities={{{name!r}: 'rna', ...}} (or 'protein', 'atac'); modalities that are not "
        "named are left as they are."
    )


def resolve_kinds(mdata: MuData, modalities: Mapping[str, str] | None) -> dict[str, Kind]:
    """Kind of each modality to be processed.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    modalities
        Modality to kind; None guesses for all modalities and logs what was guessed.

    Returns
    -------
    Modality to kind, in the order given.

    Raises
    ------
    TypeError
        If `modalities` is no mapping.
    KeyError
        For unknown modalities.
    ValueError
        For unknown kinds, or if a kind cannot be guessed.
    """
    kinds: dict[str, Kind] = {}
    if modalities is None:
        for name, adata in mdata.mod.items():
            kinds[name], why = guess_kind(name, adata)
            logger.info("Modality %r is taken as %s (%s).", name, kinds[name], why)
        return kinds
    if not isinstance(modalities, Mapping):
        raise TypeError(
            f"modalities is a {type(modalities).__name__}; give a dict from name to kind, e.g. "
            "{'rna': 'rna', 'adt': 'protein'}."
        )
    for name, value in modalities.items():
        if name not in mdata.mod:
            raise KeyError(
                f"modalities: {name!r} is not in the MuData, which holds {list(mdata.mod)}."
            )
        if value not in KINDS:
            raise ValueError(
                f"modalities={{{name!r}: {value!r}}}: the kinds are {', '.join(get_args(Kind))} "
                "(or adt)."
            )
        kinds[name] = KINDS[value]
    return kinds
