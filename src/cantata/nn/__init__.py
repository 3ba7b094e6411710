"""Networks: tensors in, tensors or distributions out."""

from cantata.nn._blocks import BatchNorm1d, Covariates, GroupedLinear, OpenCovariates, mlp
from cantata.nn._components import ComponentInput
from cantata.nn._decoder import Decoder
from cantata.nn._encoder import CrossEncoder, normalised_log_counts
from cantata.nn._feature_input import COFACTOR, FeatureInput, Transform
from cantata.nn._likelihoods import LIKELIHOODS, MIN_LIBRARY, LikelihoodHead
from cantata.nn._perceptron import Perceptron, Start, initialise
from cantata.nn._scaled_heads import LOSSES, ScaledHead, SquaredHead
from cantata.nn._split_encoder import SplitEncoder

__all__ = [
    "COFACTOR",
    "LIKELIHOODS",
    "LOSSES",
    "MIN_LIBRARY",
    "BatchNorm1d",
    "ComponentInput",
    "Covariates",
    "CrossEncoder",
    "Decoder",
    "FeatureInput",
    "GroupedLinear",
    "LikelihoodHead",
    "OpenCovariates",
    "Perceptron",
    "ScaledHead",
    "SplitEncoder",
    "SquaredHead",
    "Start",
    "Transform",
    "initialise",
    "mlp",
    "normalised_log_counts",
]
