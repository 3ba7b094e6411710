"""Minibatches of modalities that hold different cells: one draw of rows per modality."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from scvi import settings
from torch.utils.data import DataLoader, Dataset, Sampler

from cantata._mudata.checks import check_integer
from cantata.data._dataset import as_tensor
from cantata.data._preload import Preloader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cantata._mudata.values import RowReader

STEPS_PER_EPOCH = 100
"""Minibatches that make one epoch of the history."""


def paired_key(first: str, second: str) -> str:
    """Name of the tensor that says which rows of two modalities are of one cell."""
    return f"{first}_{second}_paired"


class UnpairedDataset(Dataset):
    """Step number to minibatch: rows of every modality, drawn with replacement.

    A minibatch is a flat dictionary of tensors. For each modality every reader gives one tensor of
    `batch_size` rows; for each of `paired` there is a (2, n) tensor of positions in the minibatch
    of rows that are of one cell. What is drawn is a function of the seed and the step alone.

    Parameters
    ----------
    readers
        For every modality, functions from row numbers to values, by name of their tensor.
    rows
        Row numbers of every modality to draw from.
    paired
        For pairs of modalities, (n, 2) row numbers of cells that are in both. One half of the
        minibatch of both is then drawn from these; where a modality is in two pairs a third for
        each pair, and so on, so that as large a part is always drawn from all rows.
    weights
        How often each of `rows` is drawn beside the others, for some modalities; others are drawn
        evenly.
    batch_size
        Rows of each modality.
    first_step
        Steps that were taken before step 0.
    seed
        Seed of the draws; ``scvi.settings.seed`` by default.

    Raises
    ------
    ValueError
        If `batch_size` is less than 1.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.arange(4, dtype=np.float32)[:, None]
    >>> readers = {"rna": {"rna": lambda rows: values[rows]}}
    >>> dataset = UnpairedDataset(readers, {"rna": np.array([2, 3])}, batch_size=5, seed=0)
    >>> dataset[7]["rna"].shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        readers: Mapping[str, Mapping[str, RowReader]],
        rows: Mapping[str, np.ndarray],
        *,
        paired: Mapping[tuple[str, str], np.ndarray] | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
        batch_size: int = 500,
        first_step: int = 0,
        seed: int | None = None,
    ) -> None:
        batch_size = check_integer("batch_size", batch_size, 1)
        self._readers = dict(readers)
        self.preloader: Preloader | None = None
        """Reads what it can from the memory of a device, if there is one."""
        self._rows = {name: np.asarray(r, dtype=np.int64) for name, r in rows.items()}
        self._paired = dict(paired or {})
        self._cumulative = {name: np.cumsum(w) / np.sum(w) for name, w in (weights or {}).items()}
        self._batch_size, self._first_step = batch_size, first_step
        self._seed = (settings.seed or 0) if seed is None else seed
        # every pair that a modality is in has a part of its minibatch to itself
        n_before: Counter[str] = Counter()
        self._parts = {}
        for pair in self._paired:
            self._parts[pair] = [n_before[name] for name in pair]
            n_before.update(pair)
        self._part_size = batch_size // (1 + max(n_before.values(), default=0))

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        """Minibatch of a step."""
        rng = np.random.default_rng((self._seed, self._first_step + step))
        # 1. rows of every modality
        drawn = {name: rows[self._draw(name, rng)] for name, rows in self._rows.items()}
        # 2. in their parts, cells of pairs in place of them
        minibatch: dict[str, torch.Tensor] = {}
        for pair, cells in self._paired.items():
            same = cells[rng.integers(len(cells), size=self._part_size)] if len(cells) else cells
            starts = np.array(self._parts[pair]) * self._part_size
            positions = starts[:, None] + np.arange(len(same))
            for column, name in enumerate(pair):
                drawn[name][positions[column]] = same[:, column]
            minibatch[paired_key(*pair)] = torch.from_numpy(positions)
        # 3. what is read of these rows
        for name, readers in self._readers.items():
            for key, read in readers.items():
                if self.preloader is not None:
                    read = self.preloader.reader(read)
                minibatch[key] = as_tensor(read(drawn[name]))
        return minibatch

    def _draw(self, name: str, rng: np.random.Generator) -> np.ndarray:
        """Positions among the rows of a modality."""
        n_rows = len(self._rows[name])
        if name not in self._cumulative:
            return rng.integers(n_rows, size=self._batch_size)
        found = np.searchsorted(self._cumulative[name], rng.random(self._batch_size), "right")
        return np.minimum(found, n_rows - 1)  # rounding may leave the last sum below 1


class StepSampler(Sampler[int]):
    """Numbers of the steps of an epoch, of `max_steps` in all; the last epoch may be shorter.

    Examples
    --------
    >>> sampler = StepSampler(250, per_epoch=100)
    >>> sampler.set_epoch(2)
    >>> list(sampler) == list(range(200, 250))
    True
    """

    def __init__(self, max_steps: int, per_epoch: int = STEPS_PER_EPOCH) -> None:
        self._max_steps, self._per_epoch = max_steps, per_epoch
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; called by the trainer at its start."""
        self._epoch = epoch

    def __len__(self) -> int:
        return max(0, min(self._per_epoch, self._max_steps - self._epoch * self._per_epoch))

    def __iter__(self) -> Iterator[int]:
        start = self._epoch * self._per_epoch
        return iter(range(start, start + len(self)))


class UnpairedDataModule(pl.LightningDataModule):
    """Loader of `max_steps` training steps, as scvi-tools' trainer takes it.

    Further arguments are passed to :class:`~torch.utils.data.DataLoader`.
    """

    def __init__(self, dataset: UnpairedDataset, max_steps: int, **kwargs: Any) -> None:
        super().__init__()
        self._dataset, self._max_steps = dataset, max_steps
        self._kwargs = {"num_workers": settings.dl_num_workers} | kwargs

    def train_dataloader(self) -> DataLoader:
        """Loader of the steps of the trainer's current epoch."""
        sampler = StepSampler(self._max_steps)
        if self.trainer is not None:
            sampler.set_epoch(self.trainer.current_epoch)
            if self._dataset.preloader is None and not self._kwargs["num_workers"]:
                self._dataset.preloader = Preloader.on(self.trainer.strategy.root_device)
        return DataLoader(self._dataset, batch_size=None, sampler=sampler, **self._kwargs)

    def teardown(self, stage: str) -> None:
        """Nothing stays on the GPU when training has ended; the trainer keeps its loaders."""
        if self._dataset.preloader is not None:
            self._dataset.preloader.release()
