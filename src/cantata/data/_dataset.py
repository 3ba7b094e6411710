"""Minibatches of a MuData whose modalities hold different cells."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch.utils.data import Dataset

from cantata._keys import CATEGORICAL, CELL, CONTINUOUS, RESERVED, rows_key
from cantata._mudata.pairing import row_table
from cantata._mudata.rows import row_reader
from cantata.data._fields import MosaicCategoricalField, MosaicNumericalField, MosaicObsField

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cantata.data._manager import MosaicManager


def as_tensor(rows: Any) -> torch.Tensor:
    """Rows of a matrix as a tensor; CSR stays CSR."""
    if not sparse.issparse(rows):
        return torch.from_numpy(rows)
    starts, columns, values = map(torch.from_numpy, (rows.indptr, rows.indices, rows.data))
    with warnings.catch_warnings():
        # torch says once that CSR is in beta; we use nothing but its three arrays
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            starts, columns, values, size=rows.shape, check_invariants=False
        )


class MosaicDataset(Dataset):
    """The union of all cells, a whole minibatch per item.

    A minibatch of ``n`` cells is a flat dictionary of tensors. For each modality ``m`` it holds
    the rows that exist, and only those:

    ============================== =========== ====================================================
    key                            shape       content
    ============================== =========== ====================================================
    ``m``                          (n_m, p_m)  float32 values, CSR with `keep_sparse`
    ``m_rep``                      (n_m, r_m)  float32 representation, where one is registered
    ``m_rows``                     (n_m,)      places of these rows in the minibatch, ascending
    ``cell``                       (n,)        position of the cell in ``mdata.obs_names``
    ``batch``, ``labels``          (n,)        codes, where registered; -1 is an unknown label
    ``categorical_covariates``     (n, c)      codes, where registered
    ``continuous_covariates``      (n, d)      standardised values, where registered
    ============================== =========== ====================================================

    A missing modality is an absence: ``m`` then has no row. Nothing is padded.

    Parameters
    ----------
    manager
        Manager with a registered MuData.
    keys
        Registry keys to load; all by default.
    keep_sparse
        Leave the values of sparse matrices sparse.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
    >>> cantata.CLUE.setup_mudata(mdata, batch_key="batch")
    >>> dataset = cantata.CLUE(mdata).adata_manager.create_torch_dataset()
    >>> minibatch = dataset[[5, 3, 199]]
    >>> minibatch["cell"]
    tensor([  5,   3, 199])
    """

    def __init__(
        self,
        manager: MosaicManager,
        keys: Sequence[str] | None = None,
        *,
        keep_sparse: bool = False,
    ) -> None:
        mdata = manager.adata
        wanted = set(manager.data_registry) if keys is None else set(keys)
        self._n_obs = mdata.n_obs
        self._readers: dict[str, list] = {}
        self.columns: dict[str, torch.Tensor] = {}
        categorical, continuous = [], []
        for field in manager.fields:
            key = field.registry_key
            if field.is_empty or key not in wanted:
                continue
            if isinstance(field, MosaicObsField):
                values = torch.from_numpy(manager.get_from_registry(key))
                if key in RESERVED:
                    self.columns[key] = values
                elif isinstance(field, MosaicCategoricalField):
                    categorical.append(values)
                elif isinstance(field, MosaicNumericalField):
                    continuous.append(values)
            else:
                reader = row_reader(
                    manager.get_from_registry(key),
                    f"modality {field.mod_key!r}",
                    keep_sparse=keep_sparse,
                )
                self._readers.setdefault(field.mod_key, []).append((key, reader))
        self._table = row_table(mdata, list(self._readers))
        if categorical:
            self.columns[CATEGORICAL] = torch.stack(categorical, dim=1)
        if continuous:
            self.columns[CONTINUOUS] = torch.stack(continuous, dim=1)

    def replace_values(self, matrices: Mapping[str, Any]) -> None:
        """Read a modality's values from another matrix, whose rows are those of the modality.

        Parameters
        ----------
        matrices
            For each modality (n_m, any width) values.
        """
        for modality, matrix in matrices.items():
            kept = [item for item in self._readers[modality] if item[0] != modality]
            reader = row_reader(matrix, f"modality {modality!r}")
            self._readers[modality] = [(modality, reader), *kept]

    def __len__(self) -> int:
        return self._n_obs

    def __getitem__(self, index: int | slice | Sequence[int]) -> dict[str, torch.Tensor]:
        """Minibatch of the cells at `index`, in that order."""
        if isinstance(index, slice):
            index = range(self._n_obs)[index]
        cells = np.ascontiguousarray(index, dtype=np.int64).reshape(-1)
        minibatch: dict[str, torch.Tensor] = {}
        for modality, readers in self._readers.items():
            rows = self._table[modality][cells]
            places = np.flatnonzero(rows >= 0)
            minibatch[rows_key(modality)] = torch.from_numpy(places)
            for key, read in readers:
                minibatch[key] = as_tensor(read(rows[places]))
        position = torch.from_numpy(cells)
        minibatch[CELL] = position
        for key, values in self.columns.items():
            minibatch[key] = values[position]
        return minibatch
