"""ONNX Runtime: the operators Softmax, LogSoftmax, ReduceLogSumExp, ArgMax and SoftmaxCrossEntropyLoss on the CPU."""

from __future__ import annotations

import functools
import os
from typing import Any, ClassVar, Final, TypeGuard

import numpy as np

from softbench.interface import IGNORED, Array, IndexTarget, SoftTarget, Target, messages
from softbench.interface.dtypes import name_of
from softbench_backends.composed import DEVIATIONS, ComposedLoss

__all__ = ["OnnxRuntimeBackend"]

_OPSET: Final = 17
_IR: Final = 8
_SESSIONS: Final = 64
"""Sessions that are kept: each has threads of its own."""

_used_by: Final[dict[str, int]] = {}
"""The process that has made the sessions: their threads are not there in a fork of it."""


_OWN: Final = frozenset({"accuracy-log-loss", "reductions/loss-mean-of-large-float64"})
"""What does not deviate as where everything is composed, or more than there."""


class OnnxRuntimeBackend(ComposedLoss):
    """ONNX Runtime on NumPy arrays: a model of one operator, and a session of it, for each shape and dtype.

    Losses of class indices without smoothing or sample weights are the operator SoftmaxCrossEntropyLoss, and
    NegativeLogLikelihoodLoss of probabilities. The runtime is made for inference and has no gradients: those, and the
    other losses, are composed with NumPy of its Softmax and LogSoftmax (`softbench_backends.composed`). ``out=`` is
    filled by way of an I/O binding.

    Parameters
    ----------
    threads
        Threads of each session; by default one for each core that this process may use.
    """

    name = "onnxruntime"
    requires = ("onnxruntime", "onnx")
    install = 'pip install "softbench[peers]"'
    dtypes = frozenset({"float16", "float32", "float64"})
    writes_out: ClassVar = frozenset({"softmax", "log_softmax"})
    compiles_per_shape = True

    deviations: ClassVar = {
        **{row: why for row, why in DEVIATIONS.items() if row not in _OWN},
        "signal-handlers": "asked in a forked child, where ONNX Runtime refuses after its process has used it",
        "plus-infinity": "log_softmax of a float64 row with +inf is -inf beside it, not NaN",
        "nan-row": (
            "ArgMax does not find NaN, for the maximum passes it over "
            "(https://github.com/microsoft/onnxruntime/issues/10514)"
        ),
        "label-range": "beside rows without a class losses are composed, and the last digit differs",
        "ignore-index": "the loss of an ignored row is -0, and NaN logits of such a row reach its gradient",
        "all-ignored": "the loss of an ignored row is -0",
        "label-smoothing": "as accuracy-soft, in half precision",
        "long-targets": "the float32 sum of a long row reaches the gradient: as accuracy-soft",
        "size/classes-loss": "as accuracy-log-softmax: a sum of 2**24 terms in float32",
        "size/classes-gradient": "as size/classes-loss",
        "reductions": "sums are taken in the logits' dtype: in float16 they overflow",
        "out": "as equivalent-calls",
        "determinism": "float64 rows differ in their last digit by the batch they are in",
        "accuracy-logsumexp": "log(sum) instead of log1p, which shows where lse is near 0; long float32 sums",
        "accuracy-loss": "as accuracy-log-softmax",
        "every-k": "as determinism; as accuracy-softmax and accuracy-log-softmax",
    }

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or _usable_cores()

    def info(self) -> dict[str, object]:
        """Version and threads."""
        import onnxruntime

        return {"device": "cpu", "threads": self.threads, "onnxruntime": onnxruntime.__version__}

    def argmax(self, x: Array, out: Array) -> Array:
        """ArgMax."""
        return self._run("ArgMax", x, axis=1, keepdims=0).reshape(-1)

    def logsumexp(self, x: Array, out: Array) -> Array:
        """ReduceLogSumExp."""
        return self._run("ReduceLogSumExp", x, axes=(1,), keepdims=0).reshape(-1)

    def softmax(self, x: Array, out: Array) -> Array:
        """Softmax."""
        return self._map("Softmax", x, out)

    def log_softmax(self, x: Array, out: Array) -> Array:
        """LogSoftmax."""
        return self._map("LogSoftmax", x, out)

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """SoftmaxCrossEntropyLoss; else composed."""
        if not _is_native(target):
            return super().loss(x, target, loss)
        return self._index_loss("SoftmaxCrossEntropyLoss", x, target)

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """NegativeLogLikelihoodLoss of the logarithm; else composed."""
        if not _is_native(target):
            return super().log_loss(p, target, loss)
        return self._index_loss("NegativeLogLikelihoodLoss", p, target)

    def _index_loss(self, operator: str, x: Array, target: IndexTarget) -> Array:
        labels = target.labels.reshape(x.shape[0], *x.shape[2:])
        w = target.class_weight
        weight = () if w is None else (w.astype(x.dtype),)
        losses = self._run(operator, x, labels, *weight, ignore_index=IGNORED, reduction=target.reduction)
        return losses.reshape(-1) if target.reduction == "none" else losses

    def _map(self, operator: str, x: Array, out: Array) -> Array:
        if out is None or out is x:
            return self._run(operator, x, axis=1)
        session = self._session(operator, (x,), {"axis": 1})
        binding = session.io_binding()
        binding.bind_cpu_input("x0", x)
        binding.bind_output("y", "cpu", 0, out.dtype, out.shape, out.ctypes.data)
        session.run_with_iobinding(binding)
        return out

    def _run(self, operator: str, *inputs: Array, **attributes: Any) -> Array:
        """An operator applied to arrays."""
        session = self._session(operator, inputs, attributes)
        return session.run(None, {f"x{i}": array for i, array in enumerate(inputs)})[0]

    def _session(self, operator: str, inputs: tuple[Array, ...], attributes: dict[str, Any]) -> Any:
        if _used_by.setdefault("process", os.getpid()) != os.getpid():
            raise messages.forked("ONNX Runtime")
        forms = tuple((array.shape, name_of(array.dtype)) for array in inputs)
        return _session(operator, forms, tuple(attributes.items()), self.threads)


def _is_native(target: Target) -> TypeGuard[IndexTarget]:
    """Whether the operators' own loss is meant. They refuse labels that are no class, which the contract makes NaN."""
    if isinstance(target, SoftTarget) or target.may_be_invalid:
        return False
    return target.smoothing == 0.0 and target.sample_weight is None


@functools.lru_cache(maxsize=_SESSIONS)
def _session(
    operator: str,
    inputs: tuple[tuple[tuple[int, ...], str], ...],
    attributes: tuple[tuple[str, Any], ...],
    threads: int,
) -> Any:
    """A session of a model of one operator."""
    import onnxruntime
    from onnx import TensorProto, helper

    kinds = {np.dtype(name).name: getattr(TensorProto, name.upper()) for name in ("float16", "int64")}
    kinds |= {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
    names = [f"x{i}" for i in range(len(inputs))]
    given = [helper.make_tensor_value_info(n, kinds[d], shape) for n, (shape, d) in zip(names, inputs, strict=True)]
    result = helper.make_tensor_value_info("y", kinds["int64" if operator == "ArgMax" else inputs[0][1]], None)
    nodes = [helper.make_node(operator, names, ["y"], **dict(attributes))]
    if operator == "NegativeLogLikelihoodLoss":  # of the logarithm of its input
        nodes = [
            helper.make_node("Log", ["x0"], ["log"]),
            helper.make_node(operator, ["log", *names[1:]], ["y"], **dict(attributes)),
        ]
    graph = helper.make_graph(nodes, operator, given, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # warnings about a model mean nothing to users of a softmax
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
