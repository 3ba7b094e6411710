"""CLUE: cross-linked unified embedding of mosaic data (Tu et al. 2022)."""

from cantata.model.clue._model import CLUE
from cantata.model.clue._module import CLUEModule, LossWeights
from cantata.model.clue._plan import CLUETrainingPlan

__all__ = ["CLUE", "CLUEModule", "CLUETrainingPlan", "LossWeights"]
