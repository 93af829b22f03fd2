"""A recorded call, and calls that say less than it: fewer rows, classes and options, plainer numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.layouts import LAYOUTS

__all__ = ["Call", "copy_of", "in_c_order", "is_rows", "layout_of", "rows_of", "smaller_calls", "waves"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Call:
    """A call of a public function."""

    op: str
    logits: Any
    target: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, backend: BackendUnderTest) -> Any:
        """Its result; the arguments are copies."""
        options = {name: copy_of(value) for name, value in self.options.items()}
        return backend.call(self.op, copy_of(self.logits), copy_of(self.target), **options)


def copy_of(value: Any) -> Any:
    """A copy that lies in memory as the array does: of all the memory that the array is a view of."""
    if not isinstance(value, np.ndarray):
        return value
    base = value
    while isinstance(base.base, np.ndarray):
        base = base.base
    if base is value or not (base.flags.c_contiguous or base.flags.f_contiguous):
        return np.array(value, order="K")
    memory = bytearray(base.tobytes(order="A"))
    offset = value.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    made: Array = np.ndarray(value.shape, value.dtype, memory, offset, value.strides)
    made.flags.writeable = value.flags.writeable
    return made


def in_c_order(call: Call) -> Call:
    """The call with C-contiguous arrays."""
    options = {k: _ordered(v) for k, v in call.options.items()}
    return Call(call.op, _ordered(call.logits), _ordered(call.target), options)


def _ordered(value: Any) -> Any:
    return np.array(value, value.dtype.newbyteorder("="), order="C") if isinstance(value, np.ndarray) else value


def layout_of(array: Array) -> str:
    """The name of the layout of an array in `softbench.conformance.layouts.LAYOUTS`."""
    flags, wide = array.flags, [s for s, n in zip(array.strides, array.shape, strict=True) if n > 1]
    if not flags.aligned:
        return "unaligned"
    if not flags.c_contiguous:
        if flags.f_contiguous:
            return "F"
        return "broadcast" if 0 in wide else "reversed" if min(wide) < 0 else "strided"
    return "C" if flags.writeable else "read-only"


# -- making a call smaller -----------------------------------------------------------------------------


def is_rows(call: Call) -> bool:
    """Whether the logits are ``(N, K)``, the classes along the last axis."""
    return isinstance(call.logits, np.ndarray) and call.logits.ndim == 2 and call.options.get("axis", -1) in (-1, 1)


def _laid(array: Array, like: Array) -> Array:
    """The elements of an array in the layout of another."""
    return LAYOUTS[layout_of(like)](np.array(array, order="C"))


def rows_of(call: Call, rows: slice) -> Call:
    """The call for some of its rows, which are along the first axis."""
    return _cut(call, 0, rows)


def _cut(call: Call, axis: int, part: slice) -> Call:
    """The call for a part of its logits along an axis."""
    place = [slice(None)] * call.logits.ndim
    place[axis] = part
    here = tuple(place)
    classes = call.options.get("axis", -1) % call.logits.ndim
    outer = here[:classes] + here[classes + 1 :]  # of what has no axis of classes
    options, target = dict(call.options), call.target
    if axis != classes:
        if isinstance(weight := options.get("sample_weight"), np.ndarray):
            options["sample_weight"] = weight[outer]
        if target is not None:
            target = target[here if target.ndim == call.logits.ndim else outer]
        return replace(call, logits=_laid(call.logits[here], call.logits), target=target, options=options)
    logits = _laid(call.logits[here], call.logits)
    k = logits.shape[axis]
    if isinstance(options.get("class_weight"), np.ndarray):
        options["class_weight"] = options["class_weight"][part]
    if target is not None and target.ndim == call.logits.ndim:
        target = target[here]
        total = target.sum(axis=axis, keepdims=True)
        if options.get("validate", True) and not np.allclose(total, 1.0):
            with np.errstate(all="ignore"):
                target = (target / total).astype(target.dtype)
    elif target is not None and options.get("validate", True):
        ignored = target == options.get("ignore_index")
        target = np.where(ignored | (target < k), target, target % k).astype(target.dtype)
    return replace(call, logits=logits, target=target, options=options)


_FEWER: Final = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129)


def smaller_calls(call: Call) -> Iterator[Call]:
    """Calls that say less, the least first."""
    yield in_c_order(call)
    for name in list(call.options):
        if name != "reduction":
            yield replace(call, options={k: v for k, v in call.options.items() if k != name})
    if call.options.get("reduction", "none") != "none":
        yield replace(call, options={**call.options, "reduction": "none"})
    if not isinstance(call.logits, np.ndarray):
        return
    for axis, n in enumerate(call.logits.shape):
        for fewer in dict.fromkeys((*_FEWER, n // 2, n - 64, n - 16, n - 8, n - 1)):
            if 0 < fewer < n:
                for start in dict.fromkeys((0, n - fewer, (n - fewer) // 2)):
                    yield _cut(call, axis, slice(start, start + fewer))
    for plainer in _plainer(call.logits):
        yield replace(call, logits=_laid(plainer, call.logits))
    if isinstance(call.target, np.ndarray) and call.target.ndim == 1 and call.target.any():
        yield replace(call, target=np.zeros_like(call.target))
    for name in ("sample_weight", "class_weight"):
        value = call.options.get(name)
        if isinstance(value, np.ndarray) and len(np.unique(value)) > 2:
            plain = np.ones(value.shape, value.dtype)
            plain[-1] = 2
            yield replace(call, options={**call.options, name: plain})


def _plainer(x: Array) -> Iterator[Array]:
    """Plainer numbers of the same shape and dtype."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        found = [np.zeros(x.shape), waves(x.shape), np.round(wide), np.round(wide, 1)]
        made = [plainer.astype(x.dtype) for plainer in found]
    yield from (plainer for plainer in made if plainer.tobytes() != np.ascontiguousarray(x).tobytes())


def waves(shape: tuple[int, ...]) -> Array:
    """0 to 6 over and over."""
    return np.arange(np.prod(shape)).reshape(shape) % 7.0
