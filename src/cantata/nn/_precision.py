"""Double precision where a device has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def in_double(x: Tensor) -> Tensor:
    """Values in double precision; those of a device without it (MPS) on the processor.

    Examples
    --------
    >>> import torch
    >>> in_double(torch.zeros(1)).dtype
    torch.float64
    """
    return (x.cpu() if x.device.type == "mps" else x).double()
