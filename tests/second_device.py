"""A stand-in for a second device: torch's operators refuse operands of both, as on a GPU.

Tensors stay in memory of the processor. Which of them "are on the device" is known by their
storage; what is computed from such tensors is there too. ``Tensor.device`` says so, ``to``,
``cpu`` and factories with ``device=`` move, and ``numpy`` refuses. Tensors without dimensions may
meet those of the device, and positions on the processor may index them, as in torch. As
``"mps:0"`` it also refuses double precision.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

DEVICE, MPS = torch.device("cuda:0"), torch.device("mps:0")
INDEXING = ("aten.index.", "aten.index_put", "aten._unsafe_index", "aten._index_put_impl")


def _parts(x: torch.Tensor) -> list[torch.Tensor]:
    """Tensors that hold the values of a dense or sparse tensor."""
    if x.layout == torch.sparse_coo:
        return [x._indices(), x._values()]
    if x.layout == torch.sparse_csr:
        return [x.crow_indices(), x.col_indices(), x.values()]
    return [x]


class _Storages:
    """Storages on the device; they are kept, so that none is taken for another."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._kept: dict[int, Any] = {}

    def has(self, x: torch.Tensor) -> bool:
        return any(part.untyped_storage()._cdata in self._kept for part in _parts(x))

    def add(self, x: torch.Tensor) -> None:
        if self.device == MPS and x.dtype == torch.float64:
            raise TypeError("the MPS framework doesn't support float64. Use float32 instead.")
        for part in _parts(x):
            storage = part.untyped_storage()
            self._kept[storage._cdata] = storage


class _Operators(TorchDispatchMode):
    """Check the operands of every operator, of backward passes too, and follow results."""

    def __init__(self, storages: _Storages) -> None:
        super().__init__()
        self.storages = storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        here = [x for x in tensors if self.storages.has(x)]
        name = str(func)
        if here and not name.startswith("aten.copy_"):
            operands = tensors
            if name.startswith(INDEXING):  # positions may be on the processor
                operands = [args[0], *([args[2]] if len(args) > 2 else [])]
            elsewhere = [x for x in operands if not self.storages.has(x) and x.dim()]
            if elsewhere and len(elsewhere) < len(operands):
                shapes = [(tuple(x.shape), self.storages.has(x)) for x in tensors]
                raise RuntimeError(
                    f"{name}: expected all tensors to be on the same device (shape, on it): "
                    f"{shapes}"
                )
        result = func(*args, **kwargs)
        if here and not name.startswith("aten.copy_"):
            tree_map(self._follow, result)
        return result

    def _follow(self, x: Any) -> None:
        if isinstance(x, torch.Tensor):
            self.storages.add(x)


class _Functions(TorchFunctionMode):
    """Say where tensors are, and move them."""

    def __init__(self, storages: _Storages) -> None:
        super().__init__()
        self.storages = storages

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if func == torch.Tensor.device.__get__:
            return self.storages.device if self.storages.has(args[0]) else func(*args)
        if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return self.storages.has(args[0]) and self.storages.device == DEVICE
        if name in ("numpy", "__array__") and self.storages.has(args[0]):
            raise TypeError("can't convert a tensor of the device to numpy. Use Tensor.cpu().")
        if name in ("to", "cpu"):
            return self._moved(name, *args, **kwargs)
        device = kwargs.pop("device", None)
        if device is None:
            return func(*args, **kwargs)
        result = func(*args, **kwargs)  # a factory, or a change of type
        return self._moved("to", result, device)

    def _moved(self, name: str, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A tensor of the wanted type where it is wanted; itself, where it is there."""
        device: Any = "cpu" if name == "cpu" else None
        for wanted in (*args, *kwargs.values()):
            if isinstance(wanted, torch.dtype):
                x = x.to(wanted)
            elif isinstance(wanted, torch.device | str):
                device = wanted
            elif isinstance(wanted, torch.Tensor):
                x = x.to(wanted.dtype)
                device = self.storages.device if self.storages.has(wanted) else "cpu"
        wants = device is not None and torch.device(device).type == self.storages.device.type
        if device is None or self.storages.has(x) == wants:
            return x
        moved = _Copy.apply(x)
        if wants:
            self.storages.add(moved)
        return moved


class _Copy(torch.autograd.Function):
    """A copy that no operator makes: its storage is neither on the device nor off it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        with torch._C._DisableTorchDispatch():
            return x.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


@contextmanager
def second_device(
    monkeypatch: pytest.MonkeyPatch, device: torch.device = DEVICE
) -> Iterator[torch.device]:
    """Let models train on the stand-in: lightning's root device, and scvi-tools' choice."""
    from lightning.pytorch.accelerators import CPUAccelerator
    from lightning.pytorch.strategies import SingleDeviceStrategy
    from scvi.train import _trainrunner

    monkeypatch.setattr(_trainrunner, "parse_device_args", lambda **_: ("cpu", 1, device))
    monkeypatch.setattr(CPUAccelerator, "setup_device", lambda self, device: None)
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", property(lambda self: device))
    storages = _Storages(device)
    with ExitStack() as stack:
        stack.enter_context(_Functions(storages))
        stack.enter_context(_Operators(storages))
        yield device
