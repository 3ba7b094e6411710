"""What components and moments are fitted on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cantata._mudata.kinds import Kind, guess_kind
from cantata._mudata.rows import row_reader
from cantata._numeric.sampling import sample_cells

if TYPE_CHECKING:
    from anndata import AnnData

MAX_CELLS = 20_000
"""Cells that components are fitted on; more are sampled."""


def kind_of(name: str, adata: AnnData) -> Kind:
    """What a modality measures; ``"rna"`` where nothing tells."""
    try:
        return guess_kind(name, adata)[0]
    except ValueError:
        return "rna"


def sampled_rows(matrix: Any, n_obs: int) -> Any:
    """Rows to fit on, in memory; sparse stays sparse."""
    in_memory = sparse.issparse(matrix) or isinstance(matrix, np.ndarray)
    if n_obs <= MAX_CELLS and in_memory:
        return matrix
    rows = sample_cells(n_obs, MAX_CELLS)
    if sparse.issparse(matrix):
        return matrix.tocsr()[rows]
    read = row_reader(matrix)
    blocks = [sparse.csr_matrix(read(rows[i : i + 1024])) for i in range(0, len(rows), 1024)]
    return sparse.vstack(blocks, format="csr")
