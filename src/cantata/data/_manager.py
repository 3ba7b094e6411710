"""One manager for a whole MuData, whatever its pairing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.data import AnnDataManager, AnnDataManagerValidationCheck
from torch.utils.data import Dataset, Subset

from cantata.data._dataset import MosaicDataset
from cantata.data._fields import MosaicObsField

if TYPE_CHECKING:
    from collections.abc import Sequence


class MosaicManager(AnnDataManager):
    """scvi-tools' :class:`~scvi.data.AnnDataManager` for modalities that hold different cells.

    It differs from its parent in two points: the pairing check is off, and datasets line rows up
    by ``mdata.obsmap`` instead of by position. Saving, loading and transfer to new data are
    inherited.

    Parameters
    ----------
    fields
        Fields to register.
    setup_method_args
        Arguments of ``setup_mudata``, as scvi-tools stores them.
    validation_checks
        Replaced by a check that accepts partially paired cells where None.

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
        super().__init__(
            fields=fields,
            setup_method_args=setup_method_args,
            validation_checks=validation_checks
            or AnnDataManagerValidationCheck(check_fully_paired_mudata=False),
        )

    def create_torch_dataset(
        self,
        indices: Sequence[int] | Sequence[bool] | None = None,
        data_and_attributes: Sequence[str] | None = None,
        load_sparse_tensor: bool = False,
    ) -> Dataset:
        """Dataset over the union of cells.

        Parameters
        ----------
        indices
            Cells of the union, as positions in ``mdata.obs_names`` or a boolean mask; all by
            default.
        data_and_attributes
            Registry keys to load; all by default.
        load_sparse_tensor
            Values of sparse matrices come as CSR tensors.
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
        if isinstance(field, MosaicObsField):
            return field.read(self.adata, self.get_state_registry(registry_key))
        return super().get_from_registry(registry_key)
