"""Training, validation and test cells, drawn within each pairing pattern."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scvi import settings
from scvi.dataloaders import DataSplitter

from cantata import _compat
from cantata._mudata.checks import check_integer
from cantata._mudata.pairing import membership
from cantata._mudata.patterns import pattern_codes
from cantata.data._loader import EpochBatchSampler, MosaicLoader, keeps_sparse
from cantata.data._preload import Preloader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData
    from torch import Tensor

    from cantata.data._dataset import MosaicManager


def stratified_split(
    mdata: MuData,
    modalities: Sequence[str],
    train_size: float,
    validation_size: float | None = None,
    *,
    seed: int = 0,
    shuffle: bool = True,
    groups: np.ndarray | None = None,
    min_pairs: int = 0,
) -> list[np.ndarray]:
    """Split the union of cells so that every pairing pattern, or whole groups, are in a part.

    Parameters
    ----------
    mdata
        Any MuData.
    modalities
        Modalities whose pairing counts.
    train_size
        Fraction of the cells of each pattern to train on; at least one cell of each.
    validation_size
        Fraction to validate on; by default all cells that are not trained on. A pattern of two
        cells or more has at least one validation cell where the fraction is positive.
    seed
        Seed of the split.
    shuffle
        Draw cells at random within each pattern instead of taking the first ones.
    groups
        (n_obs,) groups of cells, such as patients or regions, that are not torn apart; patterns
        do not count then.
    min_pairs
        A pattern of several modalities with fewer cells is trained on as a whole, unless nothing
        would be held out then.

    Returns
    -------
    Sorted positions in ``mdata.obs_names`` of the training, validation and test cells.

    Raises
    ------
    TypeError, ValueError
        If the fractions are no numbers or out of range.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
    >>> [len(part) for part in stratified_split(mdata, ["rna", "adt"], 0.8)]
    [160, 40, 0]
    """
    for name, size in (("train_size", train_size), ("validation_size", validation_size)):
        if not (size is None or isinstance(size, int | float | np.number)):
            raise TypeError(f"{name} must be a fraction of the cells, got {size!r}.")
    if not 0 < train_size <= 1:
        raise ValueError(f"train_size must be in (0, 1], got {train_size}.")
    if validation_size is None:
        validation_size = 1 - train_size
    if validation_size < 0 or train_size + validation_size > 1 + 1e-9:
        raise ValueError(
            f"train_size + validation_size must be at most 1, got {train_size} + "
            f"{validation_size}."
        )
    rng = np.random.default_rng(seed)
    if groups is not None:
        return _split_of_groups(groups, train_size, validation_size, rng)
    member = membership(mdata, modalities)
    codes = pattern_codes(member)
    is_pair = member.sum(axis=1) > 1
    kept_whole = is_pair & (np.bincount(codes)[codes] < min_pairs)
    no_test = train_size + validation_size > 1 - 1e-9
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for code in np.unique(codes):
        cells = np.flatnonzero(codes == code)
        if shuffle:
            cells = rng.permutation(cells)
        if kept_whole[cells[0]] and not kept_whole.all():
            parts[0].append(cells)
            continue
        # 1. a validation cell of every pattern, but not its only cell
        n_valid = round(validation_size * cells.size)
        n_valid = min(max(n_valid, int(validation_size > 0)), cells.size - 1)
        # 2. a training cell of every pattern; all that is left, where none is to be tested on
        n_train = min(max(1, round(train_size * cells.size)), cells.size - n_valid)
        n_train = cells.size - n_valid if no_test else n_train
        bounds = [n_train, n_train + n_valid]
        for part, chosen in zip(parts, np.split(cells, bounds), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]


def _split_of_groups(
    groups: np.ndarray, train_size: float, validation_size: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """The same of whole groups, drawn at random: validation first, then test, the rest trains."""
    names, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    if len(names) < 2:
        raise ValueError(
            f"All cells are of one group, {str(names[0])!r}; parts need two groups or more."
        )
    # groups are held out as long as what is held out comes nearer to what is asked for
    part_of = np.zeros(len(names), dtype=np.int64)
    for part, share in ((1, validation_size), (2, 1 - train_size - validation_size)):
        wanted, taken = share * len(groups), 0.0
        left = [group for group in order if part_of[group] == 0]
        if share <= 1e-9 or len(left) < 2:
            continue
        for group in left[:-1]:
            if abs(taken + sizes[group] - wanted) < abs(taken - wanted):
                part_of[group], taken = part, taken + sizes[group]
            elif taken:
                break
        if not taken:  # all are more than twice as large
            part_of[min(left, key=lambda group: sizes[group])] = part
    return [np.flatnonzero(part_of[codes] == part) for part in range(3)]


class MosaicSplitter(DataSplitter):
    """scvi-tools' :class:`~scvi.dataloaders.DataSplitter`, stratified by pairing pattern.

    Parameters
    ----------
    adata_manager
        :class:`~cantata.data.MosaicManager` with a registered MuData.
    train_size, validation_size
        Fractions of the cells of each pattern; 0.9 and the rest by default.
    shuffle_set_split
        Draw the parts at random.
    external_indexing
        Positions of the training, validation and test cells, in place of a random split.
    min_pairs
        As for :func:`~cantata.data.stratified_split`.
    **kwargs
        Passed to :class:`~cantata.data.MosaicLoader`.
    """

    data_loader_cls = MosaicLoader

    def __init__(
        self,
        adata_manager: MosaicManager,
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        external_indexing: list[np.ndarray] | None = None,
        min_pairs: int = 0,
        **kwargs: Any,
    ) -> None:
        self._preloader: Preloader | None = None
        if "batch_size" in kwargs:
            kwargs["batch_size"] = check_integer("batch_size", kwargs["batch_size"], 1)
        if external_indexing is None:
            mdata, setup_args = adata_manager.adata, adata_manager.registry[_compat.SETUP_ARGS]
            external_indexing = stratified_split(
                mdata,
                setup_args["modalities"],
                0.9 if train_size is None else train_size,
                validation_size,
                seed=settings.seed or 0,
                shuffle=shuffle_set_split,
                min_pairs=min_pairs,
            )
        with warnings.catch_warnings():
            # scvi-tools warns of networks that cannot take a small last minibatch; ours can
            warnings.filterwarnings("ignore", message="Last batch will have a small size")
            super().__init__(
                adata_manager,
                train_size=train_size,
                validation_size=validation_size,
                shuffle_set_split=shuffle_set_split,
                external_indexing=external_indexing,
                **kwargs,
            )

    def on_before_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Values go to the device as they are stored, where it knows sparse tensors."""
        trainer = self.trainer
        if trainer is None or keeps_sparse(trainer.strategy.root_device):
            return batch
        return {key: values.to_dense() for key, values in batch.items()}

    def on_after_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """The network takes sparse values; scvi-tools' splitter would make them dense."""
        return batch

    def train_dataloader(self) -> MosaicLoader:
        """Loader of the training cells, its order set for the trainer's current epoch."""
        loader = super().train_dataloader()
        if self.trainer is not None and isinstance(loader.sampler, EpochBatchSampler):
            loader.sampler.set_epoch(self.trainer.current_epoch)
        return self._preloaded(loader)

    def val_dataloader(self) -> MosaicLoader | None:
        """Loader of the validation cells, if there are any."""
        loader = super().val_dataloader()
        return None if loader is None else self._preloaded(loader)

    def _preloaded(self, loader: MosaicLoader) -> MosaicLoader:
        """The loader, which reads what fits from the memory of the GPU that trains, if one does.

        Processes of a loader's workers have no part in it.
        """
        if self.trainer is not None and not loader.num_workers:
            if self._preloader is None:
                self._preloader = Preloader.on(self.trainer.strategy.root_device)
            loader.mosaic.preloader = self._preloader
        return loader

    def teardown(self, stage: str) -> None:
        """Nothing stays on the GPU when training has ended; the trainer keeps its loaders."""
        if self._preloader is not None:
            self._preloader.release()
