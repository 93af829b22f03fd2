"""Backends on a CUDA device: what is the same whatever their kernels are written in.

`DeviceBackend` is a `RowBackend` that checks arguments, lowers targets, and names what was wrong, on top of fewer and
simpler operations: those under "to implement". What it asks for is queued on the device; only checks of values wait.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np

from softbench.interface import messages
from softbench.interface.dtypes import compute_dtype, formats, name_of, sum_tolerance
from softbench.interface.integers import shifted_rows
from softbench.interface.row_backend import Kind, RowBackend
from softbench.interface.targets import IndexTarget, SoftTarget, Target

__all__ = ["NO_TARGET", "DeviceBackend", "KernelTarget", "kernel_target", "operands", "operation_of", "shadow"]

Array = Any


class KernelTarget(NamedTuple):
    """What rows are compared with, as kernels receive it. Where an array is None there is none: such weights are 1."""

    labels: Array = None
    """``(N,)`` int64."""
    sample_weight: Array = None
    """``(N,)`` float64."""
    class_weight: Array = None
    """``(K,)`` float64."""
    smoothing: float = 0.0
    q: Array = None
    """``(N, K)``: a distribution per row."""
    divisor: Array = None
    """``(2,)`` float64: the divisor as a sum, and what that rounds away. None: it is ``divisor_value``."""
    divisor_value: float = 1.0


NO_TARGET: Final = KernelTarget()


class DeviceBackend(RowBackend):
    """Row kernels on a device. Arrays have ``shape``, ``strides`` in bytes, ``dtype``, ``ndim`` and ``reshape``."""

    kind: ClassVar[Kind] = "gpu"
    waits = True
    install = 'pip install "softbench[cuda13]"  (or [cuda12], to match the driver)'
    dtypes = frozenset(formats)

    # -- to implement, besides the array primitives `empty`, `full`, `as_rows`, `from_rows`, `layout` and `address` ----

    @abc.abstractmethod
    def adopt(self, obj: Any, argument: str) -> Array | None:
        """``obj`` as an array of the backend over the same memory if it lies on a device, else None.

        TypeError where that is another device than the current one.
        """

    @abc.abstractmethod
    def upload(self, host: np.ndarray[Any, Any]) -> Array:
        """A copy of a NumPy array on the device; what users get of `asarray`."""

    @abc.abstractmethod
    def flattened(self, array: Array) -> Array:
        """All elements in C order as a contiguous vector; a copy only where they are not so already."""

    @abc.abstractmethod
    def part(self, vector: Array, first: int, count: int) -> Array:
        """Some elements of a contiguous vector, over the same memory."""

    @abc.abstractmethod
    def fetch(self, vector: Array, first: int, count: int) -> np.ndarray[Any, Any]:
        """Some elements of a contiguous vector in host memory; waits for the device. bfloat16 comes widened."""

    @abc.abstractmethod
    def capturing(self) -> bool:
        """Whether the stream on which work is queued is captured into a graph: then nothing may wait for it."""

    @abc.abstractmethod
    def lower_labels(self, labels: Array, n_classes: int, ignored: int | None, out: Array, find: bool) -> int | None:
        """Labels as a class, IGNORED or INVALID into ``out``, int64; ``ignored``: the label to ignore, as int64.

        With ``find`` the first row whose label is INVALID, if there is one; that waits for the device.
        """

    @abc.abstractmethod
    def find_outside(self, vector: Array, low: float, high: float) -> int | None:
        """The first element that is NaN, or neither 0 nor in ``[low, high]``; waits for the device."""

    @abc.abstractmethod
    def find_no_distribution(self, y: Array, tolerance: float) -> int | None:
        """A row that is negative somewhere, or does not sum to 1, or is NaN; waits for the device."""

    @abc.abstractmethod
    def fold(self, target: KernelTarget, q: Array) -> None:
        """Into ``q``: ``s_i w_k ((1 - smoothing) y_ik + smoothing / K) / divisor``, ``y`` being ``target.q``."""

    @abc.abstractmethod
    def sum_weights(self, target: KernelTarget, pair: Array) -> None:
        """The sum of ``s_i w[y_i]`` over rows not IGNORED (``s_i`` without labels), and what it rounds away."""

    @abc.abstractmethod
    def sum_values(self, values: Array, target: KernelTarget, out: Array) -> None:
        """The sum of float64 ``values`` over the divisor of ``target``, in an order that depends on N alone."""

    @abc.abstractmethod
    def run(self, operation: str, x: Array, out: Array | None, numbers: Array | None, target: KernelTarget) -> None:
        """An operation on rows: ``out`` takes its ``(N, K)`` result, ``numbers`` its ``(N,)`` result.

        Operations are "logsumexp", "softmax", "log_softmax", and those of `operation_of`.
        """

    @abc.abstractmethod
    def run_log_loss(self, p: Array, target: KernelTarget, loss: Array) -> None:
        """Losses of rows of probabilities."""

    # -- in and out ------------------------------------------------------------------------------------

    def accept(self, obj: Any, argument: str) -> Array:
        """An array on this device as the backend takes it.

        TypeError for everything in host memory (naming ``asarray``) and on another device.
        """
        adopted = self.adopt(obj, argument)
        if adopted is None:
            super().accept(obj, argument)  # refuses what makes no array at all
            raise messages.in_host_memory(argument, obj)
        return adopted

    def accept_small(self, obj: Any, argument: str) -> Array:
        """`accept`, and a copy of what is in host memory."""
        adopted = self.adopt(obj, argument)
        return self.adopt(self.upload(super().accept(obj, argument)), argument) if adopted is None else adopted

    def writes_through(self, obj: Any, array: Array) -> bool:
        """Always: what is accepted on a device is no copy."""
        return True

    def shares_memory(self, a: Array, b: Array) -> bool:
        """Whether two arrays overlap, from their addresses, shapes and strides."""
        return super().shares_memory(shadow(self.address(a), a), shadow(self.address(b), b))

    def integer_rows(self, x: Array, axis: int, given: Any) -> tuple[Array, Callable[[Array], Array]]:
        """64-bit integers as float64 rows, shifted in host memory; waits for the device."""
        if self.capturing():
            raise messages.captured_integers(x.dtype.name)
        rows = self.as_rows(x, axis, x.dtype.name)
        shifted, restore = shifted_rows(np, self.host_copy(rows))

        def restored(values: Array) -> Array:
            return self.device_copy(restore(self.host_copy(values)))

        return self.device_copy(shifted), restored

    def host_copy(self, array: Array) -> np.ndarray[Any, Any]:
        """A copy in host memory; waits for the device."""
        return self.fetch(self.flattened(array), 0, array.size).reshape(array.shape)

    def device_copy(self, array: np.ndarray[Any, Any]) -> Array:
        """A copy on the device, made as results of this call are."""
        made = self.empty(array.shape, array.dtype.name)
        if array.size:
            self._fill(made, array)
        return made

    def _fill(self, made: Array, host: np.ndarray[Any, Any]) -> None:
        """Round a NumPy array into a contiguous one of as many elements."""
        row = 1, host.size
        given = self.adopt(self.upload(host.reshape(row)), "the array")
        self.from_rows(given, row, 1, name_of(made.dtype), made.reshape(row))

    def read_rows(self, rows: Array, which: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A copy in host memory; waits for the device."""
        k = rows.shape[1]
        vector = self.flattened(rows)
        runs = [self.fetch(vector, run[0] * k, len(run) * k).reshape(-1, k) for run in _runs(which)]
        return np.concatenate(runs)

    def write_rows(self, rows: Array, which: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> None:
        """A copy to the device for each run of rows that follow each other."""
        k = rows.shape[1]
        vector = rows.reshape((rows.size,))
        done = 0
        for run in _runs(which):
            part = values[done : done + len(run)].astype(np.float64)
            self._fill(self.part(vector, run[0] * k, len(run) * k), part)
            done += len(run)

    # -- targets and weights ---------------------------------------------------------------------------

    def index_labels(self, labels: Array, n_classes: int, ignore_index: int | None, validate: bool) -> Array:
        """Labels as int64: a class, IGNORED or INVALID. With ``validate`` the host waits, and may raise ValueError."""
        given = self.flattened(labels)
        out = self.empty(given.shape, "int64")
        if given.size == 0:
            return out
        if validate:
            self._refuse_capture()
        row = self.lower_labels(given, n_classes, _as_label(ignore_index, given.dtype), out, validate)
        if row is not None:
            raise messages.no_class(row, self.fetch(given, row, 1)[0], n_classes, ignore_index)
        return out

    def check_range(self, values: Array, argument: str, low: float, high: float) -> None:
        """ValueError naming the first entry that is NaN or outside ``[low, high]``; waits for the device."""
        if values.size == 0:
            return
        self._refuse_capture()
        given = self.flattened(values)
        at = self.find_outside(given, low, high)
        if at is not None:
            where = np.unravel_index(at, values.shape)
            raise messages.out_of_range(argument, where, self.fetch(given, at, 1)[0], low, high)

    def all_between(self, values: Array, low: float, high: float) -> bool:
        """Whether all ``values`` are 0 or in ``[low, high]``; waits for the device."""
        if values.size == 0:
            return True
        self._refuse_capture()
        return self.find_outside(self.flattened(values), low, high) is None

    def check_distribution(self, y: Array) -> None:
        """ValueError naming a row that is negative, NaN, or does not sum to 1; waits for the device."""
        self._refuse_capture()
        row = self.find_no_distribution(y, sum_tolerance(y.dtype.name))
        if row is None:
            return
        k = y.shape[1]
        values = self.fetch(self.flattened(y), row * k, k)
        negative = np.flatnonzero(values < 0)
        if negative.size:
            raise messages.negative_target(row, int(negative[0]), values[negative[0]])
        with np.errstate(over="ignore", invalid="ignore"):
            raise messages.not_a_distribution(row, values.sum(dtype=np.float64))

    def _refuse_capture(self) -> None:
        if self.capturing():
            raise messages.captured()

    def soft_rows(
        self,
        y: Array,
        dtype: str,
        smoothing: float,
        class_weight: Array | None,
        sample_weight: Array | None,
        divisor: Any,
    ) -> Array:
        """``s_i w_k ((1 - smoothing) y_ik + smoothing / K) / divisor``; in float32 for half precision rows."""
        q = self.empty(y.shape, compute_dtype(dtype))
        self.fold(operands(None, sample_weight, class_weight, smoothing, y, divisor), q)
        return q

    def divisor(self, labels: Array | None, sample_weight: Array | None, class_weight: Array | None) -> Array:
        """Sum of ``s_i w[y_i]`` over rows not IGNORED (of ``s_i`` without labels); waits for nothing.

        Two float64 whose sum it is: a gradient is divided by it before its one rounding.
        """
        pair = self.empty((2,), "float64")
        self.sum_weights(KernelTarget(labels, sample_weight, class_weight), pair)
        return pair

    def total(self, values: Array, divisor: Any = None) -> Array:
        """Sum of float64 ``values`` in an order that depends on N alone, over ``divisor``; waits for nothing."""
        out = self.empty((), "float64")
        self.sum_values(values, NO_TARGET if divisor is None else operands(divisor=divisor), out)
        return out

    # -- row kernels -----------------------------------------------------------------------------------

    def logsumexp(self, x: Array, out: Array) -> Array:
        """Zhao eq. (3)."""
        self.run("logsumexp", x, None, out, NO_TARGET)
        return out

    def softmax(self, x: Array, out: Array) -> Array:
        """Zhao eq. (4), (5)."""
        self.run("softmax", x, out, None, NO_TARGET)
        return out

    def log_softmax(self, x: Array, out: Array) -> Array:
        """The logarithm of Zhao eq. (4), without its cancellation: ``(d - L) + r``."""
        self.run("log_softmax", x, out, None, NO_TARGET)
        return out

    def loss_and_gradient(self, x: Array, target: Target, divisor: Any, loss: Array, out: Array) -> tuple[Array, Array]:
        """Zhao eq. (9)-(11)."""
        self.run(operation_of(target), x, out, loss, kernel_target(target, divisor))
        return loss, out

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """Zhao eq. (9), (10)."""
        self.run(operation_of(target), x, None, loss, kernel_target(target))
        return loss

    def gradient(self, x: Array, target: Target, divisor: Any, out: Array) -> Array:
        """Zhao eq. (11)."""
        self.run(operation_of(target), x, out, None, kernel_target(target, divisor))
        return out

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """Zhao eq. (6)-(8)."""
        self.run_log_loss(p, kernel_target(target), loss)
        return loss


def operation_of(target: Target) -> str:
    """The operation that losses under this target are: "index", "smooth" or "soft"."""
    if isinstance(target, SoftTarget):
        return "soft"
    return "smooth" if target.smoothing else "index"


def kernel_target(target: Target, divisor: Any = 1.0) -> KernelTarget:
    """A target and the divisor of a mean as kernels receive them."""
    if isinstance(target, IndexTarget):
        return operands(target.labels, target.sample_weight, target.class_weight, target.smoothing, None, divisor)
    return operands(q=target.q, divisor=divisor)


def operands(
    labels: Array | None = None,
    sample_weight: Array | None = None,
    class_weight: Array | None = None,
    smoothing: float = 0.0,
    q: Array | None = None,
    divisor: Any = 1.0,
) -> KernelTarget:
    """A record whose divisor is a number, or what `DeviceBackend.divisor` gave."""
    pair, value = (None, float(divisor)) if isinstance(divisor, (int, float)) else (divisor, 1.0)
    return KernelTarget(labels, sample_weight, class_weight, smoothing, q, pair, value)


def _as_label(ignore_index: int | None, dtype: np.dtype[Any]) -> int | None:
    """``ignore_index`` as a label of this dtype would be as int64 (a large uint64 wraps); None if no label is that."""
    if ignore_index is None:
        return None
    limits = np.iinfo(dtype)
    if not int(limits.min) <= ignore_index <= int(limits.max):
        return None
    return int(np.array(ignore_index, dtype).astype(np.int64))


def _runs(which: np.ndarray[Any, Any]) -> list[list[int]]:
    """Ascending numbers, cut where one does not follow the one before."""
    return [run.tolist() for run in np.split(which, np.flatnonzero(np.diff(which) != 1) + 1)]


class _Shadow:
    """What `numpy.asarray` needs to make an array of memory that this process may not read."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def shadow(address: int, array: Array) -> np.ndarray[Any, Any]:
    """A NumPy array where a device array lies, to reason about overlap; its elements must not be touched."""
    form = {"shape": array.shape, "strides": array.strides, "typestr": f"|V{array.dtype.itemsize}"}
    return np.asarray(_Shadow({"version": 3, "data": (address, True), **form}))
