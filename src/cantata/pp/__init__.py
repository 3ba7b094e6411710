"""Before a model: see what is paired, make representations, drop what was not measured."""

from cantata.pp._drop_empty import drop_empty
from cantata.pp._pairing_report import PairingReport, pairing_report
from cantata.pp._preprocess import preprocess

__all__ = ["PairingReport", "drop_empty", "pairing_report", "preprocess"]
