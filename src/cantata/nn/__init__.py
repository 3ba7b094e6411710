"""Networks: tensors in, tensors or distributions out."""

from cantata.nn._covariates import CovariateEffects, Covariates, with_new_categories
from cantata.nn._encoders import CrossEncoder, GroupedLinear, SplitEncoder
from cantata.nn._inputs import ARCSINH_COFACTOR, EncoderInput, Transform
from cantata.nn._likelihoods import (
    LIKELIHOODS,
    LOSSES,
    MIN_LIBRARY,
    LikelihoodHead,
    ScaledHead,
    SquaredHead,
)
from cantata.nn._mlp import MLP, BatchNorm1d, WeightInit, initialize_weights

__all__ = [
    "ARCSINH_COFACTOR",
    "LIKELIHOODS",
    "LOSSES",
    "MIN_LIBRARY",
    "MLP",
    "BatchNorm1d",
    "CovariateEffects",
    "Covariates",
    "CrossEncoder",
    "EncoderInput",
    "GroupedLinear",
    "LikelihoodHead",
    "ScaledHead",
    "SplitEncoder",
    "SquaredHead",
    "Transform",
    "WeightInit",
    "initialize_weights",
    "with_new_categories",
]
