"""Models, under the names that scvi-tools and its hub expect."""

from cantata.model.apollo import APOLLO
from cantata.model.clue import CLUE
from cantata.model.scmodal import SCMODAL

__all__ = ["APOLLO", "CLUE", "SCMODAL"]
