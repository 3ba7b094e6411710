"""Scores of an integration, from arrays or from a MuData.

Every score takes arrays, or a MuData with ``use_rep=`` (a key in ``.obsm``), names of columns in
place of labels, and ``source=`` and ``target=`` where two modalities are compared; cells are then
found by name.

:func:`foscttm`, :func:`pair_distance` and :func:`matching_score` need the true pairs,
:func:`label_transfer_accuracy`, :func:`silhouette` and :func:`silhouette_batch` need labels,
:func:`mixing_metric` and :func:`kbet` neither. :func:`matching_matrix` is what the matching score
is computed from. :func:`disentanglement` needs known factors of the cells, and the blocks of
latents that should hold them; :func:`disentanglement_summary` sums it up. :func:`image_agreement`
compares images.
"""

from cantata.metrics._disentanglement import disentanglement, disentanglement_summary
from cantata.metrics._images import image_agreement
from cantata.metrics._label_transfer import label_transfer_accuracy
from cantata.metrics._matching import matching_matrix, matching_score
from cantata.metrics._mixing import kbet, mixing_metric, silhouette, silhouette_batch
from cantata.metrics._pairs import foscttm, pair_distance

__all__ = [
    "disentanglement",
    "disentanglement_summary",
    "foscttm",
    "image_agreement",
    "kbet",
    "label_transfer_accuracy",
    "matching_matrix",
    "matching_score",
    "mixing_metric",
    "pair_distance",
    "silhouette",
    "silhouette_batch",
]
