"""What kernels for rows are called with: the host's side of the record ``Call`` in ``call.cuh``."""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from softbench.interface.device_backend import NO_TARGET

__all__ = ["NO_POINTERS", "NO_SEGMENTS", "Rows", "Segments", "Sharing", "TargetPointers", "layout", "packed"]


class Rows(NamedTuple):
    """Addresses of rows and of their results, 0 for none; sizes."""

    x: int
    out: int
    numbers: int
    n: int
    k: int


class TargetPointers(NamedTuple):
    """`softbench.interface.device_backend.KernelTarget` with addresses for arrays."""

    labels: int
    sample_weight: int
    class_weight: int
    smoothing: float
    q: int
    divisor_at: int
    divisor: float


class Sharing(NamedTuple):
    """How a row is shared out."""

    length: int
    lanes: int
    whole: int


class Segments(NamedTuple):
    """Where the kernels for segments of rows meet."""

    parts: int
    chosen: int
    first_row: int
    pieces: int


NO_SEGMENTS: Final = Segments(0, 0, 0, 0)
NO_POINTERS: Final = TargetPointers(0, 0, 0, NO_TARGET.smoothing, 0, 0, NO_TARGET.divisor_value)

_GROUPS: Final[dict[str, tuple[Any, str]]] = {  # by their names in C++, with the format of each field
    "rows": (Rows, "QQQqq"),
    "targets": (TargetPointers, "QQQdQQd"),
    "sharing": (Sharing, "qii"),
    "segments": (Segments, "QQqq"),
}
_CALL: Final = struct.Struct("=" + "".join(form for _, form in _GROUPS.values()))


def packed(rows: Rows, targets: TargetPointers, sharing: Sharing, segments: Segments = NO_SEGMENTS) -> bytes:
    """The record, as a kernel gets it."""
    return _CALL.pack(*rows, *targets, *sharing, *segments)


def layout() -> tuple[int, dict[str, int]]:
    """Bytes of the record, and where each of its fields begins, by the names of C++: ``rows.x``."""
    at, found = 0, {}
    for group, (record, form) in _GROUPS.items():
        for field, letter in zip(record._fields, form, strict=True):
            found[f"{group}.{field}"] = at
            at += struct.calcsize("=" + letter)
    return at, found
