"""Models, under the names that scvi-tools and its hub expect."""

from cantata.model.clue import CLUE

__all__ = ["CLUE"]
