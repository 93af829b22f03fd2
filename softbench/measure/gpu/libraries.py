"""What is timed on a GPU: softbench's GPU backends beside PyTorch and CuPy's own functions.

No library is imported before it is asked for; one that is missing, or that cannot do an operation, says so by an
exception, whose text is the record.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final, Literal, get_args

import numpy as np

from softbench.measure.gpu.clocks import Call, Clock, CupyClock, NumbaClock, TorchClock
from softbench.registry import available_backends, get_backend

__all__ = ["OPS", "Library", "libraries"]

Op = Literal["softmax", "log_softmax", "loss", "loss_and_gradient"]
OPS: Final[tuple[Op, ...]] = get_args(Op)
Host = np.ndarray[Any, Any]


class Library(abc.ABC):
    """One implementation of the operations on device arrays."""

    name: str
    clock: Clock
    ours: ClassVar[bool] = False

    @abc.abstractmethod
    def upload(self, host: Host) -> Any:
        """A host array on the device, in memory of its own."""

    @abc.abstractmethod
    def download(self, array: Any) -> Host:
        """A result on the host."""

    def to_numpy(self, result: Any) -> Host:
        """What `judged` returned, for a judge: it is on the host already."""
        return result  # type: ignore[no-any-return]

    @abc.abstractmethod
    def call(self, op: Op, logits: Any, labels: Any) -> Call:
        """One call of an operation: losses summed, array results preallocated where the library allows."""

    @abc.abstractmethod
    def judged(self, op: Op, logits: Any, labels: Any) -> Host | tuple[Host, Host]:
        """Results for the oracle, on the host: losses row by row, and the gradient, where there are both."""

    def copy(self, source: Any, target: Any) -> Call | None:
        """A copy within the device's memory, to measure the ceiling; None where the library has none."""
        return None

    def read(self, source: Any) -> Call | None:
        """A reduction that reads every byte, to measure the ceiling; None where the library has none."""
        return None


class BackendLibrary(Library):
    """A GPU backend of softbench, through its public functions."""

    ours = True

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.backend = get_backend(name)

    def boundaries(self, dtype: str) -> list[int]:
        """The largest K of each of the backend's kernels but the last."""
        rows: Any = self.backend.rows
        return list(rows.boundaries(dtype))

    def upload(self, host: Host) -> Any:
        return self.backend.asarray(host)

    def download(self, array: Any) -> Host:
        return self.backend.to_numpy(array)

    def call(self, op: Op, logits: Any, labels: Any) -> Call:
        function = getattr(self.backend, op)
        if op in ("softmax", "log_softmax"):
            return functools.partial(function, logits, out=self._like(logits))
        # Labels were checked once, by `judged`: the check waits for the device, which a training loop switches off.
        options = {"reduction": "sum", "validate": False}
        if op == "loss_and_gradient":
            options["out"] = self._like(logits)
        return functools.partial(function, logits, labels, **options)

    def _like(self, logits: Any) -> Any:
        return self.backend.rows.empty(logits.shape, logits.dtype.name)

    def judged(self, op: Op, logits: Any, labels: Any) -> Host | tuple[Host, Host]:
        if op in ("softmax", "log_softmax"):
            return self.download(getattr(self.backend, op)(logits))
        if op == "loss":
            return self.download(self.backend.loss(logits, labels, reduction="none"))
        losses, gradient = self.backend.loss_and_gradient(logits, labels, reduction="none")
        return self.download(losses), self.download(gradient)

    def copy(self, source: Any, target: Any) -> Call:
        rows = self.backend.rows
        return lambda: rows.from_rows(source, source.shape, 1, source.dtype.name, target)


READ: Final = """
extern "C" __global__ void read_all(const float4* from, long long n, float* never) {
    float sum = 0;
    const long long step = (long long)gridDim.x * blockDim.x;
#pragma unroll 4
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        const float4 v = from[i];
        sum += (v.x + v.y) + (v.z + v.w);
    }
    if (sum == 1.2345e38f) *never = sum;
}
"""
"""CUDA C++ that reads every byte and does next to nothing with it: the ceiling of a loss, which writes nothing."""
READ_BLOCK: Final = 512
READ_BLOCKS: Final = 16  # per multiprocessor: four waves, so that none waits long for the last


class CupyxLibrary(Library):
    """CuPy's port of SciPy's functions; its arrays also measure the ceilings."""

    name = "cupyx"

    def __init__(self) -> None:
        self.clock = CupyClock()
        self.cp = importlib.import_module("cupy")
        self.special = importlib.import_module("cupyx.scipy.special")

    def upload(self, host: Host) -> Any:
        return self.cp.asarray(host)

    def download(self, array: Any) -> Host:
        return self.cp.asnumpy(array)  # type: ignore[no-any-return]

    def call(self, op: Op, logits: Any, labels: Any) -> Call:
        if op not in ("softmax", "log_softmax"):
            raise NotImplementedError(f"cupyx has no {op}")
        return functools.partial(getattr(self.special, op), logits, axis=1)

    def judged(self, op: Op, logits: Any, labels: Any) -> Host | tuple[Host, Host]:
        return self.download(self.call(op, logits, labels)())

    def copy(self, source: Any, target: Any) -> Call:
        return functools.partial(self.cp.copyto, target, source)

    def read(self, source: Any) -> Call:
        kernel = self.cp.RawKernel(READ, "read_all")
        blocks = READ_BLOCKS * self.cp.cuda.Device().attributes["MultiProcessorCount"]
        arguments = (source, np.int64(source.nbytes // 16), self.cp.empty(1, np.float32))
        return functools.partial(kernel, (blocks,), (READ_BLOCK,), arguments)


class TorchLibrary(Library):
    """PyTorch, eager or compiled."""

    def __init__(self, name: str, *, compiled: bool) -> None:
        self.clock = TorchClock()
        import torch

        self.torch = torch
        self.name = name
        self.compiled = compiled
        if compiled:
            _allow_recompiling()

    def upload(self, host: Host) -> Any:
        if host.dtype.name == "bfloat16":  # which torch.from_numpy does not know
            return self.torch.from_numpy(host.view(np.int16)).view(self.torch.bfloat16).cuda()
        return self.torch.from_numpy(host).cuda()

    def download(self, array: Any) -> Host:
        array = array.detach()
        if array.dtype == self.torch.bfloat16:
            import ml_dtypes

            return array.view(self.torch.int16).cpu().numpy().view(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
        return array.cpu().numpy()  # type: ignore[no-any-return]

    def _function(self, op: Op, reduction: str) -> Callable[..., Any]:
        functional = self.torch.nn.functional
        table: dict[str, Callable[..., Any]] = {
            "softmax": lambda x, y: self.torch.softmax(x, 1),
            "log_softmax": lambda x, y: self.torch.log_softmax(x, 1),
            "loss": lambda x, y: functional.cross_entropy(x, y, reduction=reduction),
        }
        function = table["loss" if op == "loss_and_gradient" else op]
        return self.torch.compile(function, dynamic=False) if self.compiled else function

    def call(self, op: Op, logits: Any, labels: Any) -> Call:
        function = self._function(op, "sum")
        if op != "loss_and_gradient":
            return functools.partial(function, logits, labels)
        leaf = logits.detach().requires_grad_()

        def both() -> None:
            leaf.grad = None
            function(leaf, labels).backward()

        return both

    def judged(self, op: Op, logits: Any, labels: Any) -> Host | tuple[Host, Host]:
        result = self._function("loss" if op == "loss_and_gradient" else op, "none")
        if op != "loss_and_gradient":
            return self.download(result(logits, labels))
        leaf = logits.detach().clone().requires_grad_()
        losses = result(leaf, labels)
        losses.sum().backward()
        return self.download(losses), self.download(leaf.grad)

    def copy(self, source: Any, target: Any) -> Call:
        return functools.partial(target.copy_, source)

    def read(self, source: Any) -> Call:
        return source.amax  # type: ignore[no-any-return]


def _allow_recompiling() -> None:
    """After eight shapes of one function torch.compile would run it eagerly, and say so in a warning only."""
    config = importlib.import_module("torch._dynamo").config
    for limit in ("recompile_limit", "accumulated_recompile_limit", "cache_size_limit", "accumulated_cache_size_limit"):
        if hasattr(config, limit):  # the latter two are their former names
            setattr(config, limit, 1 << 12)


_CLOCKS: Final[dict[str, type[Clock]]] = {"cupy": CupyClock, "numba_cuda": NumbaClock}
"""Whose events see the work of which backend."""


def libraries() -> Iterator[Library | str]:
    """All that can run here; for the others a sentence on why not."""
    for name, state in available_backends().items():
        if name not in _CLOCKS:
            continue
        if not state.ok or state.kind != "gpu":
            yield f"{name}: {state.reason or state.kind}"
            continue
        yield BackendLibrary(name, _CLOCKS[name]())
    yield from _peer("cupyx", "cupy", CupyxLibrary)
    yield from _peer("torch", "torch", functools.partial(TorchLibrary, "torch", compiled=False))
    yield from _peer("torch.compile", "torch", functools.partial(TorchLibrary, "torch.compile", compiled=True))


def _peer(name: str, module: str, make: Callable[[], Library]) -> Iterator[Library | str]:
    if importlib.util.find_spec(module) is None:
        yield f"{name}: {module} is not installed"
        return
    try:
        made = make()
        made.upload(np.zeros((1, 1), np.float32))
    except Exception as error:  # a library without a device says so in its own way
        yield f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        return
    with contextlib.suppress(Exception):
        made.clock.synchronize()
    yield made
