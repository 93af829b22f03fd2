"""Vectors and numbers in half precision as types of Numba, and what they are in LLVM."""

# mypy: allow-untyped-decorators, allow-subclassing-any
from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import register_model

VECTOR_BYTES = 64


# -- the types ------------------------------------------------------------------------------------------


class Vector(types.Type):
    """``n`` numbers of one scalar type in a register."""

    def __init__(self, element: types.Type, n: int) -> None:
        self.element, self.n = element, n
        super().__init__(name=f"vector({element} x {n})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        element = dmm.lookup(fe_type.element).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.n))


class Half(types.Type):
    """A 16-bit float in memory: `softbench_backends.numba.half_precision`."""

    bitwidth = 16

    def __init__(self, name: str) -> None:
        super().__init__(name=f"half {name}")


@register_model(Half)
class _HalfModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Half) -> None:
        super().__init__(dmm, fe_type, ir.IntType(16))


FLOAT16 = Half("float16")
BFLOAT16 = Half("bfloat16")


def computed(element: types.Type) -> types.Type:
    """What kernels compute in where ``element`` is what memory holds."""
    return types.float32 if isinstance(element, Half) else element


FLOATS: dict[int, ir.Type] = {16: ir.HalfType(), 32: ir.FloatType(), 64: ir.DoubleType()}
BITS = {llvm: bits for bits, llvm in FLOATS.items()}
SCALARS: list[tuple[ir.Type, types.Type]] = [
    (ir.FloatType(), types.float32),
    (ir.DoubleType(), types.float64),
    (ir.IntType(1), types.boolean),
    (ir.IntType(32), types.int32),
    (ir.IntType(64), types.int64),
]


def numba_type(llvm: ir.Type) -> types.Type:
    """Numba's type of what LLVM has as this one."""
    if isinstance(llvm, ir.VectorType):
        return Vector(numba_type(llvm.element), llvm.count)
    return next(numba for known, numba in SCALARS if known == llvm)


def llvm_type(numba: types.Type) -> ir.Type:
    """LLVM's type of one of Numba's, vectors included."""
    if isinstance(numba, Vector):
        return ir.VectorType(llvm_type(numba.element), numba.n)
    if isinstance(numba, Half):
        return ir.IntType(numba.bitwidth)
    return next(llvm for llvm, known in SCALARS if known == numba)


def width_of(bits: int) -> int:
    """Lanes of a vector whose elements have ``bits``."""
    return VECTOR_BYTES * 8 // bits


def rows_at_once(itemsize: int) -> int:
    """Lanes of a vector of what is computed in where a number takes ``itemsize`` bytes in memory."""
    return VECTOR_BYTES // max(itemsize, 4)


class Splat(ir.Constant):
    """A constant in all lanes, written once: LLVM would have to read every lane of it."""

    def __init__(self, vector: ir.VectorType, single: ir.Constant) -> None:
        super().__init__(vector, None)
        self._single = single

    def _get_reference(self) -> str:
        return f"splat ({self._single})"


@functools.cache
def lane_numbers(*lanes: int) -> ir.Constant:
    """Which lanes a shuffle takes; all of them lane 0 is LLVM's ``zeroinitializer``."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes) if any(lanes) else None)
