"""From the arguments of ``setup_mudata`` to registered fields."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from scvi.data.fields import MuDataLayerField, MuDataObsmField

from cantata import _keys
from cantata._keys import BATCH, LABELS, rep_key
from cantata._mudata.checks import MatrixStats, check_finite, matrix_stats
from cantata._mudata.values import matrix_of
from cantata.data import MosaicCategoricalField, MosaicNumericalField

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mudata import MuData

logger = logging.getLogger(__name__)


def registered_fields(arguments: Mapping[str, Any]) -> list[Any]:
    """Fields for completed arguments of ``setup_mudata``."""
    names = arguments["modalities"]
    fields: list[Any] = [
        MuDataLayerField(
            name,
            arguments["layers"][name],
            mod_key=name,
            mod_required=True,
            is_count_data=False,
            correct_data_format=False,
        )
        for name in names
    ]
    fields += [
        MuDataObsmField(
            rep_key(name), key, mod_key=name, mod_required=True, correct_data_format=False
        )
        for name, key in arguments["reps"].items()
    ]
    if arguments["batch_key"] is not None:
        fields.append(MosaicCategoricalField(BATCH, arguments["batch_key"], names, "batch_key"))
    if arguments["labels_key"] is not None:
        fields.append(
            MosaicCategoricalField(
                LABELS, arguments["labels_key"], names, "labels_key", allow_missing=True
            )
        )
    for kind, field_cls in (
        ("categorical", MosaicCategoricalField),
        ("continuous", MosaicNumericalField),
    ):
        argument = f"{kind}_covariate_keys"
        fields += [field_cls(f"{kind}_{key}", key, names, argument) for key in arguments[argument]]
    return fields


def recorded_reps(mdata: MuData, names: Sequence[str]) -> dict[str, str]:
    """Representations that :func:`cantata.pp.preprocess` recorded in a MuData."""
    record = mdata.uns.get(_keys.UNS, {}).get(_keys.PREPROCESS, {})
    reps = {
        name: str(record[name]["rep"])
        for name in names
        if name in record and record[name]["rep"] in mdata[name].obsm
    }
    if reps:
        logger.info("Encoders read the representations that preprocess made: %s.", reps)
    return reps


def all_stats(mdata: MuData, layers: Mapping[str, str | None]) -> dict[str, MatrixStats]:
    """One pass over each modality; NaN and infinite values are refused."""
    stats = {}
    for name, layer in layers.items():
        adata = mdata[name]
        stats[name] = matrix_stats(matrix_of(mdata, name, layer), adata.obs_names, adata.n_vars)
        check_finite(name, stats[name])
    return stats
