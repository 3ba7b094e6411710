"""Networks: tensors in, tensors or distributions out."""

from cantata.nn._blocks import BatchNorm1d, Covariates, GroupedLinear, mlp
from cantata.nn._components import ComponentInput
from cantata.nn._decoder import Decoder
from cantata.nn._encoder import CrossEncoder, normalised_log_counts
from cantata.nn._likelihoods import LIKELIHOODS, LikelihoodHead

__all__ = [
    "LIKELIHOODS",
    "BatchNorm1d",
    "ComponentInput",
    "Covariates",
    "CrossEncoder",
    "Decoder",
    "GroupedLinear",
    "LikelihoodHead",
    "mlp",
    "normalised_log_counts",
]
