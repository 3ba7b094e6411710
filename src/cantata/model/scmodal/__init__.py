"""scMODAL: alignment of unpaired modalities through linked features."""

from cantata.model.scmodal._model import SCMODAL
from cantata.model.scmodal._module import LossWeights, SCMODALModule, Variates
from cantata.model.scmodal._plan import SCMODALTrainingPlan

__all__ = ["SCMODAL", "LossWeights", "SCMODALModule", "SCMODALTrainingPlan", "Variates"]
