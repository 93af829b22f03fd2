"""What is said of a wrong argument: each text once, whichever backend finds the fault.

Every function makes the exception to raise. ``argument`` is the name of the public argument.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from typing import Any, Final

from softbench.errors import NotProvidedError

__all__ = [
    "captured",
    "captured_integers",
    "elsewhere",
    "empty_target",
    "forked",
    "in_host_memory",
    "masked",
    "negative_target",
    "no_array",
    "no_class",
    "no_linear_logits",
    "not_a_distribution",
    "not_in_place",
    "not_provided",
    "on_a_device",
    "on_another_device",
    "out_of_range",
    "sparse",
    "sparse_format",
    "type_name",
]


_DISTRIBUTION: Final = "a soft target must be a distribution (sum 1)"


def type_name(obj: Any) -> str:
    """The type of ``obj`` with its module, as in ``numpy.ndarray``; built-in types by their name alone."""
    return f"{type(obj).__module__}.{type(obj).__qualname__}".removeprefix("builtins.")


# -- arrays --------------------------------------------------------------------------------------------


def masked(argument: str, obj: Any) -> TypeError:
    """A masked array."""
    return TypeError(
        f"{argument} is a masked array ({type_name(obj)}), and masks are not supported: "
        f"fill or drop masked entries first"
    )


def sparse(argument: str, obj: Any) -> TypeError:
    """A sparse matrix."""
    return TypeError(f"{argument} is a sparse matrix ({type_name(obj)}): pass a dense array, e.g. {argument}.toarray()")


def sparse_format(argument: str, obj: Any, formats: Sequence[str]) -> TypeError:
    """A sparse matrix in another format than those that are taken."""
    methods = " or ".join(f"{argument}.to{name}()" for name in formats)
    remedy = f"convert it, e.g. {methods}" if methods else f"pass a dense array, e.g. {argument}.toarray()"
    return TypeError(
        f"{argument} is a {type_name(obj)} of shape {tuple(obj.shape)}, and sparse matrices are taken as "
        f"{' or '.join(name.upper() for name in formats) or 'none'} with two axes: {remedy}"
    )


def on_a_device(argument: str, obj: Any, device: str) -> TypeError:
    """An array on a device, for a backend that computes in host memory."""
    return TypeError(
        f"{argument} is a {type_name(obj)} on {device}, and this backend computes in host memory: "
        f"convert it with the backend's asarray(), or select a backend of that device"
    )


def no_array(argument: str, obj: Any, device: Any, error: Exception) -> TypeError:
    """What `numpy.asarray` makes no array of, in its own words; a ``device`` that is not the CPU is named."""
    said = " ".join(str(error).split())
    if device is None or str(device) == "cpu":
        return TypeError(f"{argument} must be an array, and a {type_name(obj)} cannot be converted: {said}")
    return TypeError(
        f"{argument} is a {type_name(obj)} on device {device}, and this backend computes in host memory: pass an array "
        f"that has its values there ({said})"
    )


def not_in_place(argument: str, obj: Any) -> TypeError:
    """An ``out`` whose memory is not to be had."""
    return TypeError(
        f"{argument} must be an array to write into, and NumPy cannot write into a {type_name(obj)}: its conversion is "
        f"a copy, or read-only"
    )


def in_host_memory(argument: str, obj: Any) -> TypeError:
    """An array in host memory, for a backend that computes on a device."""
    return TypeError(
        f"{argument} is a {type_name(obj)} in host memory, and this backend computes on a CUDA device: "
        f"convert it with the backend's asarray(), or select a backend for the CPU"
    )


def on_another_device(argument: str, device: int, current: int) -> TypeError:
    """An array on another CUDA device than the current one."""
    return TypeError(
        f"{argument} lies on CUDA device {device}, and the current device is {current}: make that device current "
        f"(e.g. `with cupy.cuda.Device({device}):`), or copy the array"
    )


def elsewhere(argument: str, obj: Any, device: Any, wanted: str) -> TypeError:
    """An array whose library says that it lies on another device, or nowhere."""
    if str(device) == "meta":
        return TypeError(
            f"{argument} is a {type_name(obj)} on device meta, which holds no values: pass an array that has its "
            f"values on {wanted}"
        )
    return TypeError(
        f"{argument} is a {type_name(obj)} on device {device}, and this backend computes on {wanted}: convert it with "
        f"the backend's asarray(), or select a backend of that device"
    )


# -- values --------------------------------------------------------------------------------------------


def no_class(row: int, label: Any, n_classes: int, ignore_index: int | None) -> ValueError:
    """A label that is neither a class nor ``ignore_index``."""
    ignored = "" if ignore_index is None else f" or ignore_index={ignore_index}"
    return ValueError(f"target[{row}] is {label}, which is no class: expected 0 <= label < {n_classes}{ignored}")


def out_of_range(argument: str, index: Sequence[Any], value: Any, low: float, high: float) -> ValueError:
    """An entry that is NaN or outside ``[low, high]``."""
    where = ", ".join(str(int(i)) for i in index)
    if high == sys.float_info.max:
        bound = f"a finite number >= {low:g}"
    else:
        bound = f">= {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"
    return ValueError(f"{argument}[{where}] is {value}, expected {bound}")


def negative_target(row: int, k: int, value: Any) -> ValueError:
    """A soft target below 0."""
    return ValueError(f"target[{row}, {k}] is {value}: soft targets must not be negative")


def not_a_distribution(row: int, total: Any) -> ValueError:
    """A soft target whose sum is NaN or too far from 1."""
    return ValueError(f"target row {row} sums to {total}: {_DISTRIBUTION}")


def empty_target(shape: tuple[int, ...]) -> ValueError:
    """Soft targets over no classes, whose sum is 0."""
    return ValueError(f"target rows are empty (shape {shape}): {_DISTRIBUTION}")


# -- circumstances -------------------------------------------------------------------------------------


def forked(library: str) -> RuntimeError:
    """A call in a forked child, where a library that has threads of its own would wait for them for ever."""
    return RuntimeError(
        f"{library} hangs in a forked child of a process that has used it: start children by spawn "
        f"(multiprocessing.get_context('spawn'))"
    )


def captured() -> RuntimeError:
    """A check of values while a graph is captured, in which nothing can be waited for."""
    return RuntimeError(
        "values cannot be checked while a CUDA graph is captured, because the host would have to wait: "
        "pass validate=False"
    )


def captured_integers(dtype: str) -> RuntimeError:
    """Logits that are converted in host memory, while a graph is captured."""
    return RuntimeError(
        f"{dtype} logits cannot be converted while a CUDA graph is captured, because the host would have to wait: "
        f"pass them as float64"
    )


# -- backends ------------------------------------------------------------------------------------------


def no_linear_logits(backend: str) -> NotProvidedError:
    """Of a backend whose losses reduce themselves."""
    return NotProvidedError(
        f"backend {backend!r} does not provide linear logits (linear_loss and the like): multiply there and pass the "
        f"logits to softbench.loss_and_gradient, or name one of the backends python, numpy and numba"
    )


def not_provided(backend: str, lacking: str, provides: Collection[str]) -> NotProvidedError:
    """A function, or a form of it, that a backend which implements a part of the interface does not have."""
    return NotProvidedError(
        f"backend {backend!r} does not provide {lacking}: it provides {', '.join(sorted(provides)) or 'nothing'}"
    )
