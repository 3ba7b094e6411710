"""APOLLO: latent optimisation of what paired modalities share and what each keeps."""

from cantata.model.apollo._model import APOLLO
from cantata.model.apollo._module import APOLLOModule, LossWeights
from cantata.model.apollo._plan import EncoderPlan, LatentPlan

__all__ = ["APOLLO", "APOLLOModule", "EncoderPlan", "LatentPlan", "LossWeights"]
