"""A data loader whose order depends on the seed and the epoch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from scvi import settings
from torch.sparse import check_sparse_tensor_invariants
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler, Subset

from cantata._mudata.checks import check_integer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Sized

    from cantata.data._dataset import MosaicDataset, MosaicManager


def keeps_sparse(device: torch.device) -> bool:
    """Whether a device knows sparse tensors."""
    return device.type in ("cpu", "cuda")


class EpochSampler(Sampler[int]):
    """A new permutation of `data`, anything with a length, every epoch.

    It is a function of `seed` and the epoch alone: training that is resumed at an epoch sees the
    order that uninterrupted training would have seen, and the global random state is not touched.

    Examples
    --------
    >>> sampler = EpochSampler(range(4), seed=0)
    >>> sampler.set_epoch(3)
    >>> list(sampler) == list(sampler)
    True
    """

    def __init__(self, data: Sized, seed: int) -> None:
        self._n = len(data)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; called by the trainer at the start of each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._n)
        return iter(order.tolist())


class EpochBatchSampler(BatchSampler):
    """Minibatches of an :class:`EpochSampler`; passes the epoch on, unless it is fixed."""

    is_fixed = False

    def set_epoch(self, epoch: int) -> None:
        if isinstance(self.sampler, EpochSampler) and not self.is_fixed:
            self.sampler.set_epoch(epoch)


class MosaicLoader(DataLoader):
    """Loader over the union of cells, one read per modality and minibatch.

    Parameters
    ----------
    adata_manager
        :class:`~cantata.data.MosaicManager` with a registered MuData.
    indices
        Cells to load, as positions in ``mdata.obs_names`` or a mask; all by default.
    batch_size
        Cells per minibatch.
    shuffle
        Draw a new order every epoch.
    drop_last
        Leave out the last, smaller minibatch.
    data_and_attributes
        Registry keys to load; all by default.
    seed
        Seed of the order; ``scvi.settings.seed`` by default.
    load_sparse_tensor
        Values of sparse matrices come as CSR tensors.
    distributed_sampler
        Not supported (``ValueError``).
    **kwargs
        Passed to :class:`~torch.utils.data.DataLoader`.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
    >>> cantata.CLUE.setup_mudata(mdata)
    >>> loader = cantata.data.MosaicLoader(cantata.CLUE(mdata).adata_manager, batch_size=64)
    >>> [len(minibatch["cell"]) for minibatch in loader]
    [64, 64, 64, 8]
    """

    def __init__(
        self,
        adata_manager: MosaicManager,
        indices: Sequence[int] | Sequence[bool] | None = None,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        data_and_attributes: Sequence[str] | None = None,
        seed: int | None = None,
        load_sparse_tensor: bool = False,
        distributed_sampler: bool = False,
        **kwargs: Any,
    ) -> None:
        if distributed_sampler:
            raise ValueError("Training over several devices is not supported yet; pass devices=1.")
        batch_size = check_integer("batch_size", batch_size, 1)
        dataset = adata_manager.create_torch_dataset(
            indices, data_and_attributes, load_sparse_tensor
        )
        if load_sparse_tensor and not check_sparse_tensor_invariants.is_enabled():
            # they are off; saying so keeps torch from warning of it when workers send tensors
            check_sparse_tensor_invariants.disable()
        if seed is None:
            seed = settings.seed or 0
        cells: Sized = dataset  # type: ignore[assignment]
        order = EpochSampler(cells, seed) if shuffle else SequentialSampler(cells)
        kwargs.setdefault("num_workers", settings.dl_num_workers)
        kwargs.setdefault("persistent_workers", bool(kwargs["num_workers"]))
        super().__init__(
            dataset,
            batch_size=None,
            sampler=EpochBatchSampler(order, batch_size, drop_last),
            generator=torch.Generator().manual_seed(seed),
            **kwargs,
        )

    @property
    def mosaic(self) -> MosaicDataset:
        """Dataset of all cells, of which the loader's are some."""
        dataset = self.dataset.dataset if isinstance(self.dataset, Subset) else self.dataset
        return cast("MosaicDataset", dataset)
