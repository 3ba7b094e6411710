"""Library sizes that a user asks imputed counts for."""

from __future__ import annotations

import numpy as np
import torch


class LibrarySize:
    """The user's choice of library sizes, checked.

    Parameters
    ----------
    choice
        ``"auto"``, ``"observed"``, ``"predicted"``, a positive number, or one per cell.
    n_cells
        Number of cells that are imputed.

    Examples
    --------
    >>> LibrarySize(100.0, 3).values(slice(0, 2))
    array([100., 100.])
    """

    def __init__(self, choice: str | float | np.ndarray, n_cells: int) -> None:
        self.name = choice if isinstance(choice, str) else "given"
        if self.name not in ("auto", "observed", "predicted", "given"):
            raise ValueError(
                f"library_size={choice!r}: use 'auto', 'observed', 'predicted', a number, or one "
                f"per cell."
            )
        self._values: np.ndarray | None = None
        if not isinstance(choice, str):
            values = np.asarray(choice, dtype=np.float64)
            if values.ndim and values.shape != (n_cells,):
                raise ValueError(
                    f"library_size has shape {values.shape} for {n_cells} imputed cells."
                )
            if not np.isfinite(values).all() or (values <= 0).any():
                raise ValueError("library_size must be positive and finite.")
            self._values = np.broadcast_to(values, (n_cells,))

    def values(self, part: slice) -> np.ndarray | None:
        """Given sizes of some cells; None where they are observed or predicted."""
        return None if self._values is None else self._values[part].copy()

    def tensor(self, part: slice, device: torch.device) -> torch.Tensor | None:
        """:meth:`values` in single precision on a device."""
        given = self.values(part)
        if given is None:
            return None
        return torch.as_tensor(given, dtype=torch.float32, device=device)
