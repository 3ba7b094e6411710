"""What to do with an integration: carry labels over, find corresponding cells."""

from cantata._knn_labels import knn_labels
from cantata.tl._match_cells import match_cells
from cantata.tl._transfer_labels import transfer_labels

__all__ = ["knn_labels", "match_cells", "transfer_labels"]
