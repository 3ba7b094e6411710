"""One manager for a whole MuData, whatever its pairing, and the minibatches that it makes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from scvi.data import AnnDataManager, AnnDataManagerValidationCheck
from torch.utils.data import Dataset, Subset

from cantata._keys import CATEGORICAL, CELL, CONTINUOUS, RESERVED, rows_key
from cantata._mudata.pairing import row_table
from cantata._mudata.panels import without_nan
from cantata._mudata.values import MatrixReader
from cantata.data._fields import (
    MosaicCategoricalField,
    MosaicImagesField,
    MosaicNumericalField,
    MosaicObsField,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from cantata.data._preload import Preloader


def as_tensor(rows: Any) -> torch.Tensor:
    """Rows of a matrix as a tensor; CSR stays CSR."""
    if isinstance(rows, torch.Tensor):
        return rows
    if not sparse.issparse(rows):
        return torch.from_numpy(rows)
    starts, columns, values = map(torch.from_numpy, (rows.indptr, rows.indices, rows.data))
    return csr_tensor(starts, columns, values, rows.shape)


def csr_tensor(
    starts: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    """CSR tensor of its three arrays."""
    with warnings.catch_warnings():
        # torch says once that CSR is in beta; we use nothing but its three arrays
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values, size=shape, check_invariants=False)


class MosaicDataset(Dataset):
    """The union of all cells, a whole minibatch per item.

    A minibatch of ``n`` cells is a flat dictionary of tensors. For each modality ``m`` it holds
    the rows that exist, and only those:

    ============================== =========== ====================================================
    key                            shape       content
    ============================== =========== ====================================================
    ``m``                          (n_m, p_m)  float32 values, CSR with `keep_sparse`; of images
                                               (n_m, stains, side, side)
    ``m_rep``                      (n_m, r_m)  float32 representation, where one is registered
    ``m_rows``                     (n_m,)      which of its cells these rows are of, ascending
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
        self.preloader: Preloader | None = None
        """Reads what it can from the memory of a device, if there is one."""
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
                reader = MatrixReader(
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
        """Read the values of modalities from other matrices with the same rows."""
        for modality, matrix in matrices.items():
            others = [item for item in self._readers[modality] if item[0] != modality]
            reader = MatrixReader(matrix, f"modality {modality!r}")
            self._readers[modality] = [(modality, reader), *others]

    def leave_out(self, modalities: Sequence[str]) -> None:
        """Read nothing of modalities, as if no cell had them."""
        self._table |= {name: np.full(self._n_obs, -1) for name in modalities}

    def __len__(self) -> int:
        return self._n_obs

    def __getitem__(self, index: int | slice | Sequence[int]) -> dict[str, torch.Tensor]:
        """Minibatch of the cells at `index`, in that order."""
        if isinstance(index, slice):
            index = range(self._n_obs)[index]
        cells = np.ascontiguousarray(index, dtype=np.int64).reshape(-1)
        # the cells come first, since lightning takes their length for the batch size
        minibatch = {CELL: torch.from_numpy(cells)}
        for modality, readers in self._readers.items():
            rows = self._table[modality][cells]
            minibatch_rows = np.flatnonzero(rows >= 0)
            minibatch[rows_key(modality)] = torch.from_numpy(minibatch_rows)
            for key, read in readers:
                if self.preloader is not None:
                    read = self.preloader.reader(read)
                minibatch[key] = as_tensor(read(rows[minibatch_rows]))
        for key, values in self.columns.items():
            minibatch[key] = values[minibatch[CELL]]
        return minibatch


class MosaicManager(AnnDataManager):
    """scvi-tools' :class:`~scvi.data.AnnDataManager` for modalities that hold different cells.

    It differs from its parent in two points: by default the pairing check is off, and datasets
    line rows up by ``mdata.obsmap`` instead of by position. Parameters, saving, loading and
    transfer to new data are inherited.

    Examples
    --------
    >>> import cantata
    >>> from scvi.data.fields import MuDataLayerField
    >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
    >>> fields = [
    ...     MuDataLayerField(m, None, mod_key=m, correct_data_format=False) for m in mdata.mod
    ... ]
    >>> manager = cantata.data.MosaicManager(fields)
    >>> manager.register_fields(mdata)
    >>> sorted(manager.create_torch_dataset()[[0, 1]])
    ['adt', 'adt_rows', 'cell', 'rna', 'rna_rows']
    """

    def __init__(
        self,
        fields: list[Any] | None = None,
        setup_method_args: dict[str, Any] | None = None,
        validation_checks: AnnDataManagerValidationCheck | None = None,
    ) -> None:
        checks = validation_checks or AnnDataManagerValidationCheck(
            check_fully_paired_mudata=False
        )
        super().__init__(fields, setup_method_args, checks)
        self.fingerprints: dict[str, pd.Series] = {}
        """By registry key, :func:`row_fingerprints` of the values of each cell, by its name."""

    def create_torch_dataset(
        self,
        indices: Sequence[int] | Sequence[bool] | None = None,
        data_and_attributes: Sequence[str] | None = None,
        load_sparse_tensor: bool = False,
    ) -> Dataset:
        """Dataset over the union of cells, with the arguments of the parent.

        `indices` are positions in ``mdata.obs_names`` or a boolean mask, and with
        `load_sparse_tensor` values of sparse matrices come as CSR tensors.
        """
        dataset = MosaicDataset(self, keys=data_and_attributes, keep_sparse=load_sparse_tensor)
        if indices is None:
            return dataset
        chosen = np.asarray(indices)
        cells = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Subset(dataset, cells.tolist())

    def get_from_registry(self, registry_key: str) -> Any:
        """Data of a field; annotations of cells come as the values that minibatches carry."""
        field = next(f for f in self.fields if f.registry_key == registry_key)
        if isinstance(field, MosaicObsField | MosaicImagesField):
            return field.read(self.adata, self.get_state_registry(registry_key))
        values = super().get_from_registry(registry_key)
        has_nan = self.get_state_registry(registry_key).get("has_nan", False)
        return without_nan(values) if has_nan else values
