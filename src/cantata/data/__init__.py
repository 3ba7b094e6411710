"""From a MuData to minibatches, whatever the pairing.

A minibatch holds only the rows that exist: a cell without a modality is an absence there, never a
row of zeros.
"""

from cantata._keys import BATCH, CATEGORICAL, CELL, CONTINUOUS, LABELS, rep_key, rows_key
from cantata._mudata.pairing import membership, row_table
from cantata.data._dataset import MosaicDataset, MosaicManager, as_tensor
from cantata.data._fields import (
    MosaicCategoricalField,
    MosaicNumericalField,
    MosaicObsField,
    MosaicRepField,
    MosaicValuesField,
    registered_fields,
)
from cantata.data._loader import EpochBatchSampler, EpochSampler, MosaicLoader, keeps_sparse
from cantata.data._query import align_query, without_cells
from cantata.data._splitter import MosaicSplitter, stratified_split
from cantata.data._unpaired import (
    STEPS_PER_EPOCH,
    StepSampler,
    UnpairedDataModule,
    UnpairedDataset,
    paired_key,
)

__all__ = [
    "BATCH",
    "CATEGORICAL",
    "CELL",
    "CONTINUOUS",
    "LABELS",
    "STEPS_PER_EPOCH",
    "EpochBatchSampler",
    "EpochSampler",
    "MosaicCategoricalField",
    "MosaicDataset",
    "MosaicLoader",
    "MosaicManager",
    "MosaicNumericalField",
    "MosaicObsField",
    "MosaicRepField",
    "MosaicSplitter",
    "MosaicValuesField",
    "StepSampler",
    "UnpairedDataModule",
    "UnpairedDataset",
    "align_query",
    "as_tensor",
    "keeps_sparse",
    "membership",
    "paired_key",
    "registered_fields",
    "rep_key",
    "row_table",
    "rows_key",
    "stratified_split",
    "without_cells",
]
