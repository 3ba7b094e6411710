"""Pure functions of tensors: each loss is one equation of a paper and holds no state."""

from cantata.losses._adversarial import pair_discriminator_loss
from cantata.losses._alignment import (
    contrastive,
    cosine_to_fused,
    paired_rows,
    squared_to_fused,
)
from cantata.losses._anchors import anchor_loss, mutual_neighbors, paired_loss
from cantata.losses._autoencoding import cycle_loss, reconstruction_loss
from cantata.losses._counts import SparseCounts, negative_binomial_log_prob, poisson_log_prob
from cantata.losses._distribution import maximum_mean_discrepancy
from cantata.losses._fusion import (
    fuse_mean,
    mean_over_modalities,
    modality_count,
    product_of_experts,
)
from cantata.losses._geometry import gaussian_kernel, geometry_loss, squared_distances
from cantata.losses._independence import dependence
from cantata.losses._linked import linked_loss
from cantata.losses._posterior import kl_to_standard_normal, modality_cross_entropy
from cantata.losses._scaled import ScaledValues, min_max_scaled, norm_penalty
from cantata.losses._scaled_entropy import linear_scaled_cross_entropy, scaled_cross_entropy

__all__ = [
    "ScaledValues",
    "SparseCounts",
    "anchor_loss",
    "contrastive",
    "cosine_to_fused",
    "cycle_loss",
    "dependence",
    "fuse_mean",
    "gaussian_kernel",
    "geometry_loss",
    "kl_to_standard_normal",
    "linear_scaled_cross_entropy",
    "linked_loss",
    "maximum_mean_discrepancy",
    "mean_over_modalities",
    "min_max_scaled",
    "modality_count",
    "modality_cross_entropy",
    "mutual_neighbors",
    "negative_binomial_log_prob",
    "norm_penalty",
    "pair_discriminator_loss",
    "paired_loss",
    "paired_rows",
    "poisson_log_prob",
    "product_of_experts",
    "reconstruction_loss",
    "scaled_cross_entropy",
    "squared_distances",
    "squared_to_fused",
]
