"""Scores of an integration, from arrays.

:func:`foscttm` and :func:`matching_score` need the true pairs,
:func:`label_transfer_accuracy` needs labels. :func:`matching_matrix` is what the matching score is
computed from.
"""

from cantata.metrics._foscttm import foscttm
from cantata.metrics._label_transfer import label_transfer_accuracy
from cantata.metrics._matching import matching_matrix, matching_score

__all__ = ["foscttm", "label_transfer_accuracy", "matching_matrix", "matching_score"]
