"""Networks: tensors in, tensors or distributions out."""

from cantata.nn._covariates import CovariateEffects, Covariates, with_new_categories
from cantata.nn._encoders import CrossEncoder, Featurizer, GroupedLinear, SplitEncoder
from cantata.nn._images import N_VIEWS, ConvDecoder, ConvEncoder, ImageComponents, turned
from cantata.nn._inputs import ARCSINH_COFACTOR, EncoderInput, Transform, sparse_product
from cantata.nn._likelihoods import (
    LIKELIHOODS,
    LOSSES,
    MIN_LIBRARY,
    LikelihoodHead,
    PoissonHead,
    ScaledHead,
    SquaredHead,
)
from cantata.nn._mlp import MLP, BatchNorm1d, BatchNorm2d, WeightInit, initialize_weights
from cantata.nn._precision import in_double

__all__ = [
    "ARCSINH_COFACTOR",
    "LIKELIHOODS",
    "LOSSES",
    "MIN_LIBRARY",
    "MLP",
    "N_VIEWS",
    "BatchNorm1d",
    "BatchNorm2d",
    "ConvDecoder",
    "ConvEncoder",
    "CovariateEffects",
    "Covariates",
    "CrossEncoder",
    "EncoderInput",
    "Featurizer",
    "GroupedLinear",
    "ImageComponents",
    "LikelihoodHead",
    "PoissonHead",
    "ScaledHead",
    "SplitEncoder",
    "SquaredHead",
    "Transform",
    "WeightInit",
    "in_double",
    "initialize_weights",
    "sparse_product",
    "turned",
    "with_new_categories",
]
