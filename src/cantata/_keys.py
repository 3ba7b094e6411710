"""Every key that cantata reads or writes in a MuData, and the names of a minibatch's tensors."""

from __future__ import annotations

UNS = "cantata"
"""``mdata.uns`` entry that holds parameters, versions, seeds and feature names per method."""

COUNTS = "counts"
"""Layer in which :func:`cantata.pp.preprocess` keeps the counts."""

PREPROCESS = "preprocess"
"""Entry of ``uns["cantata"]`` written by :func:`cantata.pp.preprocess`."""

PCA = "X_cantata_pca"
"""Representation of RNA and protein modalities, in ``mdata[m].obsm``.

Not ``"X_pca"``, which scanpy overwrites.
"""

LSI = "X_cantata_lsi"
"""Representation of chromatin modalities, in ``mdata[m].obsm``."""

IMAGES = "single_cell_images"
"""Images of single cells, in ``mdata[m].obsm``, as scPortrait writes them."""

CHANNELS, CHANNEL_MAPPING, CHANNEL_NAMES = "channels", "channel_mapping", "channel_names"
"""What scPortrait says of channels: columns of ``.var``, and entries of ``.uns[IMAGES]``."""

MASK, IMAGE_CHANNEL = "mask", "image_channel"
"""Values of ``"channel_mapping"``."""

LINKS = "links"
"""Prior feature links: ``mdata.varp`` entry, and entry of ``uns["cantata"]`` with their record."""


def linked(other: str) -> str:
    """Key in ``mdata[m].obsm`` of the features linked to modality `other`, ``"X_linked_adt"``."""
    return f"X_linked_{other}"


def link_record(first: str, second: str) -> str:
    """Entry of ``uns["cantata"]["links"]`` for a pair of modalities, e.g. ``"rna|adt"``."""
    return f"{first}|{second}"


def inferred_links(method: str) -> str:
    """Key in ``mdata.varp`` and ``mdata.uns`` of inferred links, e.g. ``"scmodal_links"``."""
    return f"{method}_links"


def embedding(method: str) -> str:
    """Key of a method's embedding in ``mdata.obsm`` and ``mdata[m].obsm``, e.g. ``"X_clue"``."""
    return f"X_{method}"


def denoised(method: str) -> str:
    """Layer of ``mdata[m]`` with reconstructions of observed cells, e.g. ``"clue_denoised"``."""
    return f"{method}_denoised"


def imputed(method: str, modality: str) -> str:
    """Key in ``mdata.obsm`` of imputed features of every cell, e.g. ``"clue_imputed_adt"``."""
    return f"{method}_imputed_{modality}"


def counterpart(method: str) -> str:
    """Column of ``mdata[m].obs`` with probabilities of counterparts, ``"clue_counterpart"``."""
    return f"{method}_counterpart"


def match(method: str) -> str:
    """Key in ``mdata.obsp`` of row-normalised matching probabilities, e.g. ``"clue_match"``."""
    return f"{method}_match"


# Tensors of a minibatch -------------------------------------------------------------------------

CELL = "cell"
BATCH = "batch"
LABELS = "labels"
CATEGORICAL = "categorical_covariates"
CONTINUOUS = "continuous_covariates"
RESERVED = frozenset({CELL, BATCH, LABELS, CATEGORICAL, CONTINUOUS})


def rows_key(modality: str) -> str:
    """Name of the tensor that says where a modality's rows stand in the minibatch."""
    return f"{modality}_rows"


def rep_key(modality: str) -> str:
    """Name of the tensor with a modality's representation."""
    return f"{modality}_rep"
