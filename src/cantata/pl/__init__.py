"""What people would rather look at."""

from cantata.pl._embedding import embedding
from cantata.pl._history import history
from cantata.pl._pairing import pairing

__all__ = ["embedding", "history", "pairing"]
