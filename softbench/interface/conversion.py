"""From whatever a caller passes to an array in host memory: what is taken, what is refused, what shares memory.

`numpy.asarray` decides, with four exceptions. It would drop masks inside of a list, make objects of the nullable and
Arrow columns of pandas, read missing values as NaN, and fetch some arrays from a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from softbench.interface import messages

__all__ = ["as_host_array", "copy_to_host", "writes_through"]

HostArray = np.ndarray[Any, Any]

_IN_HOST_MEMORY: Final = frozenset({1, 3, 11})  # DLPack: kDLCPU, and what CUDA and ROCm have pinned
_SPARSE: Final = ("scipy.sparse", "cupyx.scipy.sparse")
_FLAT: Final = (str, bytes, bytearray, memoryview, range)  # sequences that hold no arrays
_TO_HOST: Final = ("cpu", "get", "copy_to_host")  # of PyTorch, of CuPy, of Numba


def as_host_array(obj: Any, argument: str) -> HostArray:
    """``obj`` as an array, sharing its memory where `numpy.asarray` does.

    Parameters
    ----------
    obj
        Anything that `numpy.asarray` makes an array of, and pandas objects with nullable or Arrow columns of numbers.
    argument
        Name of the public argument, for messages.

    Raises
    ------
    TypeError
        Masked arrays, also in a list; sparse matrices; arrays on a device; what makes no array.
    ValueError
        Missing values.
    """
    if isinstance(obj, np.ndarray):
        if isinstance(obj, np.ma.MaskedArray):
            raise messages.masked(argument, obj)
        return np.asarray(obj)
    if isinstance(obj, (int, float)):
        return np.asarray(obj)
    if type(obj).__module__.startswith(_SPARSE):
        raise messages.sparse(argument, obj)
    if isinstance(obj, Sequence) and not isinstance(obj, _FLAT):
        if (masked := _mask_in(obj)) is not None:
            raise messages.masked(argument, masked)
    elif device := _device_of(obj):
        raise messages.on_a_device(argument, obj, device)
    try:
        array = _from_columns(obj, argument)
        return np.asarray(obj) if array is None else array
    except _MissingError as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        raise messages.no_array(argument, obj, getattr(obj, "device", None), error) from error


def writes_through(obj: Any, array: HostArray) -> bool:
    """Whether ``array``, which was made of ``obj``, is its memory, so that writing into one writes into the other.

    A copy is another one each time, and this compares it with a second.
    """
    if isinstance(obj, np.ndarray):
        return True
    try:
        again = np.asarray(obj)
    except Exception:  # whatever the first conversion was, this object is no place to write to
        return False
    return bool(
        array.flags.writeable
        and again.__array_interface__["data"] == array.__array_interface__["data"]
        and again.strides == array.strides
    )


def copy_to_host(obj: Any) -> HostArray:
    """``obj`` as an array in host memory, copied from its device if it lies on one."""
    if _device_of(obj):
        for name in _TO_HOST:
            fetch: Callable[[], Any] | None = getattr(obj, name, None)
            if callable(fetch):
                return np.asarray(fetch())
        return np.array(np.from_dlpack(obj, device="cpu"))  # NumPy 2.1, and a library that copies when asked
    return np.asarray(obj)


# -- devices -------------------------------------------------------------------------------------------


def _device_of(obj: Any) -> str:
    """What the device of an array calls itself; empty for host memory, and where that is not known."""
    probe = getattr(obj, "__dlpack_device__", None)
    if probe is None:
        return "a CUDA device" if hasattr(type(obj), "__cuda_array_interface__") and _has_cuda(obj) else ""
    try:
        kind = int(probe()[0])
    except Exception:  # no device (PyTorch's "meta") or several (sharded arrays of JAX)
        devices = getattr(obj, "devices", None)
        platforms = {getattr(d, "platform", "cpu") for d in devices()} if callable(devices) else set()
        return ", ".join(sorted(platforms - {"cpu"}))
    return "" if kind in _IN_HOST_MEMORY else str(getattr(obj, "device", "") or "a device")


def _has_cuda(obj: Any) -> bool:
    try:
        return obj.__cuda_array_interface__ is not None
    except Exception:
        return False


# -- masks ---------------------------------------------------------------------------------------------


def _mask_in(sequence: Sequence[Any]) -> Any:
    """The first masked array (or the constant ``numpy.ma.masked``) in a nested sequence, or None."""
    for item in sequence:
        if isinstance(item, np.ma.MaskedArray):
            return item
        if isinstance(item, (list, tuple)) and (found := _mask_in(item)) is not None:
            return found
    return None


# -- columns -------------------------------------------------------------------------------------------


class _MissingError(Exception):
    """Missing values."""


def _from_columns(obj: Any, argument: str) -> HostArray | None:
    """The values of nullable or Arrow columns in the dtype of their numbers; None for anything else."""
    nulls = getattr(obj, "null_count", None)  # of Arrow and of Polars, which would make NaN of them
    if nulls is not None and int(np.sum(np.asarray(nulls() if callable(nulls) else nulls))) > 0:
        raise _MissingError(f"{argument} ({messages.type_name(obj)}) has missing values: fill or drop them first")
    if not type(obj).__module__.startswith("pandas"):
        return None
    dtypes = list(obj.dtypes) if getattr(obj, "ndim", 1) == 2 else [getattr(obj, "dtype", None)]
    if not any(_is_nullable(dtype) for dtype in dtypes):
        return None
    if len(dtypes) == 1 and obj.ndim == 1:
        return _column(obj, argument)
    columns = [_column(obj.iloc[:, i], argument) for i in range(obj.shape[1])]
    together = np.stack(columns, axis=1)
    for i, column in enumerate(columns):
        back = together[:, i].astype(column.dtype)
        if column.dtype.kind != together.dtype.kind and (column.dtype.kind == "b" or not np.array_equal(back, column)):
            raise TypeError(
                f"columns of {', '.join(dict.fromkeys(str(c.dtype) for c in columns))} have no common type without loss"
            )
    return together


def _is_nullable(dtype: Any) -> bool:
    """Whether a dtype of pandas has the missing value ``pandas.NA``."""
    return type(getattr(dtype, "na_value", None)).__name__ == "NAType"


def _column(column: Any, argument: str) -> HostArray:
    """A pandas Series, Index or extension array as numbers."""
    dtype = column.dtype
    if not _is_nullable(dtype):
        return np.asarray(column)
    plain = getattr(dtype, "numpy_dtype", None)
    if plain is None or plain.kind not in "iufb":
        raise TypeError(f"dtype {dtype} is no dtype of numbers")
    missing = np.asarray(column.isna())
    if missing.any():
        named = getattr(column, "name", None)
        where = f"row {int(missing.argmax())}" + ("" if named is None else f" of column {named!r}")
        raise _MissingError(
            f"{argument} has a missing value in {where} (dtype {dtype}): fill or drop missing values first"
        )
    return np.asarray(column.to_numpy(dtype=plain))
