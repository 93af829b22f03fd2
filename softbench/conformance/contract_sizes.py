"""The contract: what holds for small arrays holds for large ones, at every place in them."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.case import FLOATS, NONE, Requirement, check
from softbench.conformance.failures import Failure, NotApplicable, NotRefused, mismatch, near
from softbench.errors import NotProvidedError
from softbench.interface.dtypes import numpy_dtype

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]


# -- refused wherever it is ----------------------------------------------------------------------------


class _Call:
    """A right call of a loss, to be made wrong in one place."""

    def __init__(self, n: int, k: int, form: str) -> None:
        rng = np.random.default_rng([n, k])
        self.x = rng.standard_normal((n, k)).astype(np.float32)
        self.p = rng.dirichlet(np.ones(k), n).astype(np.float32)
        self.target: Array = rng.integers(0, k, n) if form == "index" else rng.dirichlet(np.ones(k), n)
        self.options: dict[str, Any] = {
            "sample_weight": rng.uniform(0.5, 2.0, n),
            "class_weight": rng.uniform(0.5, 2.0, k),
        }


def _put(part: str, value: float, form: str = "index") -> tuple[str, str, float]:
    return form, part, value


_WRONG: Final[dict[str, tuple[str, str, float]]] = {
    "label-beyond": _put("target", 5),
    "label-negative": _put("target", -1),
    "label-far": _put("target", 2**31),
    "target-negative": _put("target", -1e-3, "soft"),
    "target-nan": _put("target", math.nan, "soft"),
    "target-sum": _put("target", 0.75, "soft"),
    "probability-nan": _put("p", math.nan),
    "probability-above-1": _put("p", 1.0 + 2.0**-20),
    "probability-negative": _put("p", -1e-30),
    "sample-weight-nan": _put("sample_weight", math.nan),
    "sample-weight-negative": _put("sample_weight", -1e-30),
    "class-weight-nan": _put("class_weight", math.nan),
    "class-weight-negative": _put("class_weight", -1e-30),
}
_SIZES: Final = {"compiled": (1, 33, 257, 4097, 65_537), "interpreted": (1, 33), "simulated": (2,)}


def _refused(backend: BackendUnderTest, wrong: str) -> None:
    """ValueError wherever the wrong value is, in arrays of any size."""
    form, part, value = _WRONG[wrong]
    ops = backend.provided("log_loss") if part == "p" else backend.provided("loss", "gradient", "log_loss")
    for n in _SIZES[backend.cost]:
        call = _Call(n, 5, form)
        array = {"p": call.p, "target": call.target}.get(part)
        flat = (call.options[part] if array is None else array).reshape(-1)
        for i in sorted({0, flat.size // 2, flat.size - 1}):
            right, flat[i] = flat[i], value
            for op in ops:
                logits = call.p if op == "log_loss" else call.x
                said = f"{op} of float32 {logits.shape}, {part}.flat[{i}] = {value:g},"
                try:
                    backend.call(op, logits, call.target, **call.options)
                except ValueError:
                    continue
                except (NotApplicable, NotProvidedError):
                    raise
                except Exception as error:
                    raise NotRefused(f"{said} raises {error!r}, expected ValueError") from error
                raise NotRefused(f"{said} is accepted, expected ValueError")
            flat[i] = right


REFUSED = Requirement(
    "refused-anywhere",
    "a label, target, probability or weight that is not valid, at the first, a middle or the last place of arrays of "
    "up to 65,537 rows",
    "ValueError",
    checks=check("refused-anywhere", _refused, name="value", wrong=_WRONG),
)


# -- sums of many --------------------------------------------------------------------------------------


_NUMBERS: Final = {
    "compiled": (17, 4097, 30_000, 65_537, 131_075),
    "interpreted": (17, 600),
    "simulated": (3,),
}


def _spoilt_sum(backend: BackendUnderTest, op: str, reduction: str) -> None:
    """One NaN, or one infinite loss, among many others decides the sum, wherever it is; ignored, it does not."""
    numbers = _NUMBERS[backend.cost]
    for n in numbers if backend.profile != "quick" else numbers[:2]:
        rng = np.random.default_rng(n)
        x = rng.standard_normal((n, 3)).astype(np.float32)
        p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
        labels = rng.integers(0, 3, n)
        logits = p if op == "log_loss" else x
        for i in sorted({0, n // 2, n - 1}):
            for value, due in ((np.nan, np.nan), (0.0 if op == "log_loss" else -np.inf, np.inf)):
                kept = logits[i].copy()
                logits[i, labels[i]] = value
                said = f"{reduction} {op} of {n} rows, row {i} with {value:g} at its label"
                result = backend.call(op, logits, labels, reduction=reduction, validate=False)
                mismatch(result, np.asarray(due), said)
                ignored = labels.copy()
                ignored[i] = -5
                result = backend.call(op, logits, ignored, reduction=reduction, validate=False, ignore_index=-5)
                if not np.isfinite(result):
                    raise Failure(f"{said}, which is ignored, is {float(result)!r}")
                logits[i] = kept


SPOILT = Requirement(
    "spoilt-sums",
    "one NaN or infinite loss among up to 131,075",
    "the sum and the mean are NaN or infinite; not where its row is ignored",
    checks=check("spoilt-sums", _spoilt_sum, name="row", op=("loss", "log_loss"), reduction=("sum", "mean")),
)


# -- long distributions of little precision ------------------------------------------------------------


def _long_target(backend: BackendUnderTest, dtype: str, target_dtype: str) -> None:
    """A uniform target of 4096 classes sums to 1, whatever precision its entries have."""
    k = min(4096, 1 << (backend.max_k.bit_length() - 1))
    x = (np.random.default_rng(k).standard_normal((3, k)) * 2.0).astype(numpy_dtype(dtype))
    q = np.full((3, k), 1.0 / k).astype(numpy_dtype(target_dtype))
    for op in backend.provided("loss", "gradient"):
        result = backend.call(op, x, q, **NONE)
        backend.judge(op, result, x, q, made=f"N(0,2) {dtype}[3,{k}], 1/{k} {target_dtype} everywhere", **NONE)


LONG_TARGETS = Requirement(
    "long-targets",
    "soft targets of many classes, in half precision",
    "sums in float64: accepted, and within the gates",
    checks=check("long-targets", _long_target, name="uniform", dtype=FLOATS, target_dtype=FLOATS),
)


# -- more classes and elements than narrow integers and floats count ------------------------------------

_BEYOND: Final = (1 << 24) + 3


def _beyond_float32(backend: BackendUnderTest, op: str) -> None:
    """Class 2**24 + 1, which is no float32."""
    k, top = _BEYOND, (1 << 24) + 1
    x = np.zeros((1, k), np.float32)
    x[0, top - 1 : top + 2] = 3.0, 20.0, 5.0
    said = f"{op} of zeros((1, 2**24 + 3), float32) but for 3, 20 and 5 at classes 2**24, 2**24 + 1, 2**24 + 2"
    if op == "argmax":
        mismatch(backend.call(op, x), np.array([top]), said)
        return
    lse = math.log(math.fsum([k - 3, math.exp(3.0), math.exp(20.0), math.exp(5.0)]))
    label = np.array([top])
    if op == "log_loss":
        x /= 32.0
        mismatch(backend.call(op, x, label, **NONE), -np.log(x[0, label]), said)
    elif op == "loss":
        gap = backend.loosened(8.0, op, "float32")
        near(backend.call(op, x, label, **NONE), np.array([lse - 20.0]), gap, "float32", said, "exactly")
    else:
        result = backend.call(op, x, label, **NONE)[0]
        found = result[top - 1 : top + 2]
        due = np.exp(np.array([3.0, 20.0, 5.0]) - lse) - np.array([0.0, 1.0, 0.0])
        gap = backend.loosened(16.0, op, "float32")
        near(found, due, gap, "float32", f"{said}: classes 2**24, 2**24 + 1, 2**24 + 2", "exactly")


def _beyond_32_bits(backend: BackendUnderTest, op: str) -> None:
    """More than 2**31 logits, the ones that matter at the end. Untouched pages of zeros cost no memory."""
    k, n = 1 << 20, 2049 + 2
    needed = 4 * k * n
    try:
        x = np.zeros((n, k), np.float32)  # never written but at the end: the system maps one page of zeros for all
    except MemoryError:
        raise NotApplicable(f"{needed >> 30} GiB of address space cannot be had") from None
    x[-1, -1] = x[-2, 3] = 50.0
    if op == "argmax":
        result = backend.call("argmax", x)
        due = np.zeros(n, np.int64)
        due[-1], due[-2] = k - 1, 3
        mismatch(result, due, f"argmax of {n} x 2**20 zeros but for (-1, -1) and (-2, 3)")
        return
    result = backend.call("logsumexp", x[-3:])
    whole = backend.call("logsumexp", x)
    mismatch(
        whole[-3:], result, f"logsumexp of {n} x 2**20 float32 ({n * k} logits): the last three rows", than=" (alone)"
    )


SIZE = Requirement(
    "size",
    "more than 2^31 elements, more than 2^24 classes",
    "64-bit indexing everywhere",
    checks=check(
        "size", _beyond_32_bits, name="logits", needs=("host",), profile="standard", max_k=1 << 20, op=("argmax",)
    )
    + check("size", _beyond_32_bits, name="logits", needs=("host",), profile="deep", max_k=1 << 20, op=("logsumexp",))
    + check(
        "size",
        _beyond_float32,
        name="classes",
        profile="standard",
        max_k=_BEYOND,
        op=("argmax", "loss", "gradient", "log_loss"),
    ),
)

REQUIREMENTS = (REFUSED, SPOILT, LONG_TARGETS, SIZE)
