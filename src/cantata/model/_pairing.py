"""What models that learn from paired cells ask of the pairing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_linked(member: np.ndarray, modalities: Sequence[str], method: str) -> None:
    """Refuse modalities that no chain of paired cells connects.

    Parameters
    ----------
    member
        (n_obs, K) which cell has which modality.
    modalities
        Their names.
    method
        Name of the model, for the error.

    Raises
    ------
    ValueError
        With the groups that nothing connects.
    """
    shared = member.astype(np.int64).T @ member.astype(np.int64)
    n_groups, group = connected_components(csr_matrix(shared > 0), directed=False)
    if n_groups < 2:
        return
    groups = [
        [m for m, g in zip(modalities, group, strict=True) if g == i] for i in range(n_groups)
    ]
    raise ValueError(
        f"No cell connects the modalities {groups}: 0 of {len(member)} cells have one of each. "
        f"{method} learns from paired cells. For unpaired data use SCMODAL, which aligns linked "
        "features; if cells are paired, give them the same obs_names in every modality."
    )
