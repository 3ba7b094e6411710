"""From a MuData to minibatches, whatever the pairing.

A minibatch holds only the rows that exist: a cell without a modality is an absence there, never a
row of zeros.
"""

from cantata.data._dataset import MosaicDataset
from cantata.data._fields import MosaicCategoricalField, MosaicNumericalField
from cantata.data._loader import EpochSampler, MosaicLoader
from cantata.data._manager import MosaicManager
from cantata.data._pairing import membership, row_table
from cantata.data._splitter import MosaicSplitter, stratified_split
from cantata.data._unpaired import StepSampler, UnpairedDataModule, UnpairedDataset, paired_key

__all__ = [
    "EpochSampler",
    "MosaicCategoricalField",
    "MosaicDataset",
    "MosaicLoader",
    "MosaicManager",
    "MosaicNumericalField",
    "MosaicSplitter",
    "StepSampler",
    "UnpairedDataModule",
    "UnpairedDataset",
    "membership",
    "paired_key",
    "row_table",
    "stratified_split",
]
