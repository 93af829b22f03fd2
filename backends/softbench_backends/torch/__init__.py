"""PyTorch, on the CPU and on a CUDA GPU: softmax, log_softmax, logsumexp, argmax, cross_entropy and its autograd."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar, Final

import numpy as np

from softbench.interface import INVALID, Array, Availability, IndexTarget, SoftTarget, Target, messages
from softbench.interface.device_backend import shadow
from softbench.interface.dtypes import name_of, numpy_dtype
from softbench_backends.library_arrays import LibraryArrays, NamespaceChecks, View
from softbench_backends.torch import functions
from softbench_backends.torch.installed import no_gpu

__all__ = ["TorchBackend", "TorchCudaBackend"]

_KNOWN: Final = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")
_UNSIGNED: Final = ("uint16", "uint32", "uint64")
_INT16: Final = np.dtype("int16")  # bfloat16 passes between NumPy and torch in this disguise


class TorchBackend(LibraryArrays):
    """PyTorch on tensors in host memory.

    Each function is torch's own: weights, smoothing, ``ignore_index`` and reductions go to
    `torch.nn.functional.cross_entropy`, gradients come from autograd. Sample weights, which it does not have, multiply
    its row losses. NumPy arrays share their memory with tensors and come back as NumPy arrays.

    Parameters
    ----------
    compile
        Run every function through `torch.compile`, anew for each shape and dtype. It needs a C++ compiler. ``out=`` is
        then filled by a copy.
    """

    name = "torch"
    requires = ("torch",)
    install = 'pip install "softbench[peers]"'
    dtypes = frozenset({"float16", "bfloat16", "float32", "float64"})
    accepts_strided = True
    writes_out: ClassVar = frozenset({"softmax", "log_softmax"})
    device: ClassVar[str] = "cpu"

    deviations: ClassVar = {
        "one-class": "a loss of 0 is -0",
        "callers-own/first-calls": "the first backward pass imports SymPy, which adds a warning filter",
        "absent-classes": "as accuracy-softmax and accuracy-log-softmax; a loss of 0 is -0",
        "subnormal": "gradients of the smallest probabilities are off by many spacings: p_y - 1 is rounded",
        "wide-accumulator": "float16 log_softmax, logsumexp and loss of 70000 equal logits are infinite or far off",
        "log-loss": "a loss of 0 is -0",
        "axes": "along another axis than the last it has another kernel, of other roundings",
        "soft-targets": "half precision: a gradient is off by more than its gate",
        "soft-zero": "0 times the logarithm of an absent class is NaN",
        "ignore-index": (
            "NaN and infinite logits of ignored rows reach their gradient "
            "(https://github.com/pytorch/pytorch/issues/11551); sums are taken in the logits' dtype"
        ),
        "weight-0": "0 times an infinite loss is NaN",
        "class-weight": "as accuracy-loss and accuracy-soft: weights of 1e300 show what is lost",
        "weight-sizes": "as weight-0 and class-weight: products of weights overflow, and 0 times infinity is NaN",
        "label-smoothing": "as accuracy-soft, in half precision",
        "label-dtypes": "as accuracy-gradient",
        "large-integers": "torch has hardly a function for uint64: such logits are converted to float64",
        "settings": "an infinite weight that was not validated gives an infinite loss, not NaN",
        "reductions": "sums are taken in the logits' dtype: in float16 they overflow",
        "out": "as axes",
        "accuracy-softmax": "the shift x - max is rounded",
        "accuracy-log-softmax": "log(sum) instead of log1p (https://github.com/pytorch/pytorch/issues/113708)",
        "accuracy-logsumexp": "log(sum) instead of log1p, which shows where lse is near 0",
        "accuracy-loss": "as accuracy-log-softmax (https://github.com/pytorch/pytorch/issues/113708)",
        "accuracy-gradient": "p_y - 1 cancels where p_y is near 1",
        "accuracy-weighted": "as accuracy-loss and accuracy-gradient",
        "accuracy-soft": "as accuracy-softmax and accuracy-log-softmax",
        "symmetries": "a permutation changes results by more than the gates leave",
        "bounds": "gradient rows do not sum to 0 within the gates of their entries; a loss of 0 is -0",
        "every-k": "as accuracy-softmax and accuracy-log-softmax",
        "every-n": "as accuracy-softmax",
        "every-index": "as accuracy-log-softmax and accuracy-gradient",
        "long-rows": "as accuracy-softmax and accuracy-log-softmax",
        "size/classes-loss": "as accuracy-log-softmax: a sum of 2**24 terms in float32",
        "size/classes-gradient": "as size/classes-loss",
        "long-targets": "half precision: gradients of distributions are off by more than their gate",
        "changed-arguments": "as accuracy-softmax and accuracy-log-softmax",
        "sequences": "as accuracy-softmax and accuracy-log-softmax",
        "combinations": "as accuracy-softmax, accuracy-log-softmax, weight-0 and soft-zero",
    }

    def __init__(self, compile: bool = False) -> None:
        super().__init__()
        self.xp = importlib.import_module("torch")
        self._here = f"is_{self.device}"  # in a third of the time that the name of a tensor's device takes
        self.compile = bool(compile)
        if self.compile:
            self.writes_out = frozenset[str]()  # type: ignore[misc]  # of this instance
        self._dtypes: dict[Any, np.dtype[Any]] = {}
        for name in _KNOWN:
            if name != "bfloat16":
                self._dtypes[getattr(self.xp, name)] = np.dtype(name)

    def info(self) -> dict[str, object]:
        """Version, threads, and whether functions are compiled."""
        threads = self.xp.get_num_threads()
        return {"device": self.device, "threads": threads, "torch": self.xp.__version__, "compile": self.compile}

    # -- arrays ----------------------------------------------------------------------------------------

    def in_child(self) -> None:
        """One thread, as in the workers of torch's own DataLoader: with more a forked child hangs (#17199)."""
        self.xp.set_num_threads(1)

    def knows(self, obj: Any) -> bool:
        """Whether it is a tensor."""
        return isinstance(obj, self.xp.Tensor)

    def check_own(self, array: Any, argument: str) -> None:
        """TypeError for a tensor elsewhere, within autograd, or of another layout than strided."""
        if array.requires_grad:
            raise TypeError(f"{argument} requires grad, and softbench is outside of autograd: pass {argument}.detach()")
        if not getattr(array, self._here):
            raise messages.elsewhere(argument, array, array.device, self.device)
        if array.layout is not self.xp.strided:
            raise TypeError(f"{argument} is a torch tensor of layout {array.layout}: pass a dense one")

    def view(self, array: Any, source: np.ndarray[Any, Any] | None = None) -> View:
        """A tensor."""
        try:
            dtype = self._dtypes[array.dtype]
        except KeyError:  # made when first met: bfloat16 needs a module that may be missing
            dtype = self._dtypes[array.dtype] = _numpy_dtype(array.dtype)
        return View(array, tuple(array.shape), dtype, self.xp, source)

    def from_host(self, host: np.ndarray[Any, Any], argument: str) -> Any:
        """A NumPy array as a tensor on the same memory, or on a copy where torch has no such layout."""
        if argument == "out" and not _is_shareable(host):
            return host
        array = host
        if name_of(host.dtype) in _UNSIGNED:  # torch has hardly a function for these
            array = host.astype(np.int64 if argument == "target" else np.float64)
        elif name_of(host.dtype) not in _KNOWN:
            return host
        return self.view(self._tensor(array), host)

    def _tensor(self, host: np.ndarray[Any, Any]) -> Any:
        shareable = host if _is_shareable(host) else host.astype(host.dtype.newbyteorder("="), order="C")
        if name_of(host.dtype) != "bfloat16":
            return self.xp.from_numpy(shareable)
        return self.xp.from_numpy(shareable.view(_INT16)).view(self.xp.bfloat16)

    def host(self, view: View) -> np.ndarray[Any, Any]:
        """The tensor's memory as a NumPy array."""
        if name_of(view.dtype) != "bfloat16":
            array: np.ndarray[Any, Any] = view.array.numpy()
            return array
        return view.array.view(self.xp.int16).numpy().view(view.dtype)  # type: ignore[no-any-return]

    def asarray(self, obj: Any) -> Any:
        """A tensor, on the same memory where that is possible."""
        if self.is_own(obj):
            if obj.is_meta:
                raise messages.elsewhere("the array", obj, obj.device, self.device)
            return obj.detach().to(self.device)
        return self._tensor(np.asarray(obj))

    def astype(self, view: View, dtype: str) -> Any:
        """`torch.Tensor.to`."""
        return view.array.to(getattr(self.xp, dtype))

    def contiguous(self, array: Any) -> Any:
        """`torch.Tensor.contiguous`."""
        return array.contiguous()

    def fill(self, out: Array, result: View) -> None:
        """`torch.Tensor.copy_`."""
        if isinstance(out, np.ndarray):
            super().fill(out, result)
        else:
            out.array.copy_(result.array)

    # -- kernels ---------------------------------------------------------------------------------------

    def argmax(self, x: Array, out: Array) -> Array:
        """`torch.argmax`."""
        return self.view(self._call(functions.argmax, x.array)).reshape(-1)

    def logsumexp(self, x: Array, out: Array) -> Array:
        """`torch.logsumexp`."""
        return self.view(self._call(functions.logsumexp, x.array)).reshape(-1)

    def softmax(self, x: Array, out: Array) -> Array:
        """`torch.softmax`, with its ``out=``."""
        return self._map(functions.softmax, x, out)

    def log_softmax(self, x: Array, out: Array) -> Array:
        """`torch.log_softmax`, with its ``out=``."""
        return self._map(functions.log_softmax, x, out)

    def _map(self, function: Callable[..., Any], x: View, out: Any) -> View:
        if out is None or self.compile:
            return self.view(self._call(function, x.array))
        function(x.array, out=out.array)
        return out  # type: ignore[no-any-return]

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """`torch.nn.functional.cross_entropy`."""
        function, arguments = self._loss(x, target)
        with self.xp.no_grad():
            return self.view(self._call(function, x.array, *arguments)).reshape(*functions.loss_shape(target))

    def gradient(self, x: Array, target: Target, divisor: Any, out: Array) -> Array:
        """Of `loss`, by autograd."""
        return self.loss_and_gradient(x, target, divisor, None, out)[1]

    def loss_and_gradient(self, x: Array, target: Target, divisor: Any, loss: Array, out: Array) -> tuple[Array, Array]:
        """`torch.nn.functional.cross_entropy` and its backward pass."""
        torch = self.xp
        function, arguments = self._loss(x, target)
        leaf = x.array.detach().requires_grad_()
        with torch.enable_grad():
            losses = self._call(function, leaf, *arguments)
        seed = None if target.reduction != "none" else torch.ones_like(losses)
        (gradient,) = torch.autograd.grad(losses, leaf, seed)
        if isinstance(target, IndexTarget) and target.may_be_invalid:
            invalid = arguments[0] == INVALID
            gradient = gradient.masked_fill_(invalid.unsqueeze(1), float("nan"))
        return self.view(losses.detach()).reshape(*functions.loss_shape(target)), self.view(gradient)

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """`torch.nn.functional.nll_loss` of the logarithm; of a distribution `torch.xlogy`."""
        function, arguments = self._loss(p, target, of_probabilities=True)
        return self.view(self._call(function, p.array, *arguments))

    def _loss(
        self, x: View, target: Target, of_probabilities: bool = False
    ) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The loss that a target asks for as a function of the logits, and the rest of its arguments."""
        w = None if target.class_weight is None else target.class_weight.array.to(x.array.dtype)
        s = None if target.sample_weight is None else target.sample_weight.array
        soft = isinstance(target, SoftTarget)
        invalid = isinstance(target, IndexTarget) and target.may_be_invalid
        function = functions.loss_function(
            soft, of_probabilities, target.smoothing, target.reduction, s is not None, invalid
        )
        y = target.q.array if isinstance(target, SoftTarget) else target.labels.array
        if x.ndim == 3:
            outer = (x.shape[0], x.shape[2])
            y, s = y.reshape(outer), None if s is None else s.reshape(outer)
        return function, (y, w, s)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(*arguments)``, compiled if that was asked for."""
        if not self.compile:
            return function(*arguments)
        forms = tuple(None if a is None else (a.shape, a.dtype) for a in arguments)
        return functions.compiled(function, forms)(*arguments)


class TorchCudaBackend(NamespaceChecks, TorchBackend):
    """PyTorch on tensors of a CUDA (or ROCm) device; results of NumPy's kind only by ``to_numpy``.

    Checks of values are torch's functions on the device. The options are those of `TorchBackend`.
    """

    name = "torch_cuda"
    kind = "gpu"
    install = "see https://pytorch.org/get-started/locally/"
    device = "cuda"

    @classmethod
    def availability(cls) -> Availability:
        """Whether torch is built for a GPU, and finds one. Only such a torch is imported to be asked."""
        reason = no_gpu()
        return Availability(not reason, "gpu", reason, cls.install if reason else "")

    def info(self) -> dict[str, object]:
        """Version, device and compute capability."""
        cuda = self.xp.cuda
        major, minor = cuda.get_device_capability()
        device = {"device": cuda.get_device_name(), "compute_capability": f"{major}.{minor}"}
        return {**device, "torch": self.xp.__version__, "cuda": self.xp.version.cuda, "compile": self.compile}

    def check_own(self, array: Any, argument: str) -> None:
        """TypeError for a tensor elsewhere, within autograd, or of another layout than strided."""
        super().check_own(array, argument)
        if array.is_cuda and array.device.index != self.xp.cuda.current_device():
            raise messages.on_another_device(argument, array.device.index, self.xp.cuda.current_device())

    def accept(self, obj: Any, argument: str) -> Array:
        """A `View` of a tensor, or of another library's array on the device."""
        if not self.is_own(obj) and _dlpack_device(obj) in _CUDA:
            obj = self.xp.from_dlpack(obj)
        accepted = super().accept(obj, argument)
        if not self.is_own(obj):
            raise messages.in_host_memory(argument, obj)
        return accepted

    def accept_small(self, obj: Any, argument: str) -> Array:
        """`accept`, and a copy of what is in host memory."""
        on_device = self.is_own(obj) or _dlpack_device(obj) in _CUDA
        return self.accept(obj, argument) if on_device else super().accept(obj, argument)

    def wrap(self, result: Array, like: Any) -> Any:
        """The tensor."""
        return result.array

    def _tensor(self, host: np.ndarray[Any, Any]) -> Any:
        return super()._tensor(host).to(self.device)

    def host(self, view: View) -> np.ndarray[Any, Any]:
        """A copy in host memory."""
        return super().host(self.view(view.array.cpu()))

    def memory(self, array: Array) -> np.ndarray[Any, Any]:
        """A NumPy array with the addresses of a tensor on the device, which is never read."""
        if isinstance(array, np.ndarray) or array.source is not None:
            return super().memory(array)
        tensor = array.array
        return shadow(tensor.data_ptr(), array)

    def synchronize(self) -> None:
        """Wait for the current stream."""
        self.xp.cuda.current_stream().synchronize()

    # -- checks: each waits for the device -------------------------------------------------------------

    def index_labels(self, labels: View, n_classes: int, ignore_index: int | None, validate: bool) -> View:
        """Labels as int64: a class, IGNORED or INVALID."""
        if validate:
            self._refuse_capture()
        return super().index_labels(labels, n_classes, ignore_index, validate)

    def check_range(self, values: View, argument: str, low: float, high: float) -> None:
        """ValueError naming the first entry that is NaN or outside ``[low, high]``."""
        self._refuse_capture()
        super().check_range(values, argument, low, high)

    def check_distribution(self, y: View) -> None:
        """ValueError naming the first row of soft targets that is negative, NaN, or does not sum to 1."""
        self._refuse_capture()
        super().check_distribution(y)

    def _refuse_capture(self) -> None:
        if self.xp.cuda.is_available() and self.xp.cuda.is_current_stream_capturing():
            raise messages.captured()


# -- arrays ---------------------------------------------------------------------------------------


_CUDA: Final = (2, 13)  # kDLCUDA, kDLCUDAManaged


def _is_shareable(host: np.ndarray[Any, Any]) -> bool:
    """Whether a tensor can have the same memory."""
    flags = host.flags
    if not (flags.writeable and flags.aligned and host.dtype.isnative and name_of(host.dtype) in _KNOWN):
        return False
    return flags.c_contiguous or all(step >= 0 and step % host.itemsize == 0 for step in host.strides)


def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """NumPy's dtype of a torch dtype; one that NumPy lacks is void, which the front refuses."""
    name = str(dtype).removeprefix("torch.")
    try:
        return numpy_dtype(name)
    except TypeError:
        return np.dtype("V1")


def _dlpack_device(obj: Any) -> int:
    probe = getattr(obj, "__dlpack_device__", None)
    return 1 if probe is None or isinstance(obj, np.ndarray) else int(probe()[0])
