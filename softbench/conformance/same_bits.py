"""Calls compared bit for bit: what must not depend on the process, the thread, or what was called before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEW_BY_NAME, View, batch, provided
from softbench.conformance.failures import Failure

__all__ = ["Call", "Shape", "all_bits", "bits_of", "compare_bits", "names_of", "shapes_of"]

Shape = tuple[int, int]
Call = tuple[str, Shape]
"""Name of a view, and the shape of its logits."""

_SHAPES: Final = {
    # few short rows, rows in the middle, and enough of both kinds to be shared out to threads
    "compiled": ((5, 7), (40, 33), (3, 1000), (300, 200), (3, 70_000)),
    "interpreted": ((5, 7), (3, 40)),
    "simulated": ((2, 5),),
}


def shapes_of(backend: BackendUnderTest) -> tuple[Shape, ...]:
    """Shapes of logits ``(N, K)`` that a backend can be asked often."""
    return _SHAPES[backend.cost]


def names_of(backend: BackendUnderTest) -> list[str]:
    """Names of the views of functions that a backend has, which unlike views can be sent to another process."""
    return [view.name for view in provided(backend)]


def bits_of(backend: BackendUnderTest, view: View, shape: Shape, dtype: str) -> bytes:
    """The bits of one call."""
    result: bytes = view.run(backend, batch(*shape, dtype)).tobytes()
    return result


def all_bits(backend: BackendUnderTest, names: Iterable[str], shapes: Iterable[Shape]) -> dict[Call, bytes]:
    """The bits of these views at these shapes, in float32.

    The calls are put into words later: in a signal handler that interrupts ``repr`` of a tuple, the same is ``(...)``.
    """
    return {(name, shape): bits_of(backend, VIEW_BY_NAME[name], shape, "float32") for name in names for shape in shapes}


def compare_bits(found: dict[Call, bytes], due: dict[Call, bytes], where: str) -> None:
    """`Failure` naming the first call whose bits differ ``where`` it was made."""
    for call, bits in found.items():
        if bits != due[call]:
            name, shape = call
            raise Failure(f"{name} of float32 {shape} {where} has other bits")
