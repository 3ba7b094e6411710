"""Look at a model between epochs without changing what its training does."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness import Arrays, Recorder


@contextmanager
def undisturbed(network: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards mode and random states are as before."""
    training = network.training
    random_torch, random_numpy = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    network.eval()
    try:
        yield
    finally:
        network.train(training)
        torch.set_rng_state(random_torch)
        np.random.set_state(random_numpy)  # noqa: NPY002


def epoch_callback(recorder: Recorder, model: Any, embed: Callable[[], Arrays] | None) -> Any:
    """Lightning callback that notes the end of every epoch and stops at the time limit.

    Parameters
    ----------
    recorder
        Where epochs are noted.
    model
        scvi-tools model in training.
    embed
        Function that returns the arrays to score.
    """
    from lightning.pytorch.callbacks import Callback

    def look() -> Arrays:
        trained, model.is_trained_ = model.is_trained_, True
        with undisturbed(model.module):
            arrays = embed()
        model.is_trained_ = trained
        return arrays

    class Watch(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if recorder.epoch_end(None if embed is None else look):
                trainer.should_stop = True

    return Watch()


def quiet() -> None:
    """Leave out the messages of the libraries that do not bear on a result."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "scvi", "scglue"):
        logging.getLogger(name).setLevel(logging.ERROR)
