"""What a modality measures: named by the user, or guessed and logged."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

from cantata._mudata.images import recorded_images

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

WORDS: dict[Kind, set[str]] = {
    "rna": {"rna", "gex", "gene", "genes", "transcriptome", "expression"}
    | {"mrna", "scrna", "snrna"},
    "protein": {"adt", "prot", "protein", "proteins", "antibody", "cite", "ab", "abseq"},
    "atac": {"atac", "peak", "peaks", "chromatin", "accessibility", "scatac", "snatac"},
}
"""Words that tell the kind when they occur in a modality's name."""

FEATURE_TYPES: dict[str, Kind] = {
    "gene expression": "rna",
    "antibody capture": "protein",
    "protein": "protein",
    "peaks": "atac",
}
"""Values of ``.var["feature_types"]``, as written by common pipelines."""

CYTOMETRY = {"cytof", "cytometry", "flow", "facs", "imc", "mibi", "codex", "cycif"}
"""Words in a modality's name that tell intensities of cytometry or imaging."""
MAX_LISTED = 16
"""Up to so many hashtags are listed in full."""

MAX_PANEL_FEATURES = 300
"""Up to this many features, a modality of unknown name is taken as an antibody panel."""

_HASHTAG = re.compile(
    r"hash[-_. ]?tag|sample[-_. ]?tag|cell[-_. ]?hash|(?:^|[-_.: ])(?:hto|cmo)(?=\d|[-_.: ]|$)",
    re.IGNORECASE,
)

_REGION = re.compile(r"^(chr)?[\w.]+[:_-]\d+[-_]\d+$")
_ISOTOPE = re.compile(r"^(\d{2,3}[A-Z][a-z]|[A-Z][a-z]\d{2,3}(Di)?)([-_. ].*)?$")


def guess_kind(name: str, adata: AnnData) -> tuple[Kind, str]:
    """Guess what a modality measures, and say why.

    By ``.var["feature_types"]``, then its name, then the names of features, then their number;
    a ``ValueError`` if nothing tells.
    """
    if "feature_types" in adata.var:
        types = adata.var["feature_types"].astype(str).str.lower().unique()
        if len(types) == 1 and types[0] in FEATURE_TYPES:
            return FEATURE_TYPES[types[0]], f"feature_types is {types[0]!r}"
    for kind, known in WORDS.items():
        if _words(name) & known:
            return kind, "by its name"
    n_regions = sum(bool(_REGION.match(str(feature))) for feature in adata.var_names[:100])
    if n_regions > 0.9 * min(adata.n_vars, 100):
        return "atac", f"its features are regions, e.g. {adata.var_names[0]!r}"
    if adata.n_vars <= MAX_PANEL_FEATURES:
        return "protein", f"it has only {adata.n_vars} features"
    raise ValueError(
        f"Cannot tell what modality {name!r} with {adata.n_vars} features measures. Say it: "
        f"modalities={{{name!r}: 'rna', ...}} (or 'protein', 'atac'); modalities that are not "
        "named are left as they are."
    )


def is_cytometry(name: str, adata: AnnData) -> bool:
    """Whether a modality holds intensities, by its name or the isotopes its features name."""
    features = [str(feature) for feature in adata.var_names[:100]]
    n_isotopes = sum(bool(_ISOTOPE.match(feature)) for feature in features)
    return bool(_words(name) & CYTOMETRY) or n_isotopes > 0.5 * len(features)


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))


def kind_of(name: str, adata: AnnData) -> Kind | None:
    """What a modality measures by :func:`guess_kind`, None where nothing tells."""
    try:
        return guess_kind(name, adata)[0]
    except ValueError:
        return None


def hashtag_hint(name: str, adata: AnnData) -> str | None:
    """What to do about hashtags among the proteins of a modality; None where there are none."""
    found = [feature for feature in map(str, adata.var_names) if _HASHTAG.search(feature)]
    if not found or kind_of(name, adata) != "protein":
        return None
    return (
        f"{len(found)} of {adata.n_vars} features of {name!r} look like hashtags, e.g. "
        f"{found[0]!r}. They mark samples and steer which cells are neighbours; leave them out: "
        f"mdata.mod[{name!r}] = mdata[{name!r}][:, ~mdata[{name!r}].var_names.isin("
        f"{found if len(found) <= MAX_LISTED else '[...]'})].copy(); mdata.update()."
    )


def resolve_kinds(mdata: MuData, modalities: Mapping[str, str] | None) -> dict[str, Kind]:
    """Kind of each modality to be processed, in the order given.

    `modalities` maps names to kinds; None guesses for all but images, and logs it. Errors are
    a ``TypeError`` for no mapping, a ``KeyError`` for unknown modalities, and a ``ValueError``
    for unknown kinds, or if one cannot be guessed.
    """
    kinds: dict[str, Kind] = {}
    if modalities is None:
        for name, adata in mdata.mod.items():
            if recorded_images(adata):
                continue
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
