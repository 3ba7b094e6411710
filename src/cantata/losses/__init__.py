"""Pure functions of tensors: each loss is one equation of a paper and holds no state."""

from cantata.losses._alignment import (
    contrastive,
    cosine_to_fused,
    paired_rows,
    squared_to_fused,
)
from cantata.losses._counts import SparseCounts, negative_binomial_log_prob, poisson_log_prob
from cantata.losses._fusion import (
    fuse_mean,
    mean_over_modalities,
    modality_count,
    product_of_experts,
)
from cantata.losses._posterior import kl_to_standard_normal, modality_cross_entropy

__all__ = [
    "SparseCounts",
    "contrastive",
    "cosine_to_fused",
    "fuse_mean",
    "kl_to_standard_normal",
    "mean_over_modalities",
    "modality_count",
    "modality_cross_entropy",
    "negative_binomial_log_prob",
    "paired_rows",
    "poisson_log_prob",
    "product_of_experts",
    "squared_to_fused",
]
