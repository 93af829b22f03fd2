"""What kernels are written in: compile decorators and the few operations that Numba has no spelling for.

Kernels import these names and `numba.cuda`; under ``NUMBA_ENABLE_CUDASIM=1`` the same names come from
`simulated`, because the simulator lacks shuffles, bit casts and a fused multiply-add with one rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import cuda
from numba.core import types
from numba.core.config import ENABLE_CUDASIM

__all__ = [
    "SIMULATED",
    "add",
    "bits32",
    "bits64",
    "device",
    "exp2_approximate",
    "float32_from_bits",
    "float64_from_bits",
    "fma",
    "half_from_bits",
    "half_to_bits",
    "load16",
    "shuffle_xor",
    "store16",
    "sync_warp",
]

SIMULATED: bool = bool(ENABLE_CUDASIM)

if SIMULATED:
    from softbench_backends.numba_cuda.simulated import (
        add,
        bits32,
        bits64,
        device,
        exp2_approximate,
        float32_from_bits,
        float64_from_bits,
        fma,
        half_from_bits,
        half_to_bits,
        load16,
        shuffle_xor,
        store16,
        sync_warp,
    )
else:
    from numba.cuda.extending import intrinsic

    def device(function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a function that kernels call; always inlined, so that returned tuples stay in registers."""
        compiled: Callable[..., Any] = cuda.jit(device=True, forceinline=True)(function)
        return compiled

    def _bitcast(source: Any, target: Any, llvm: Any) -> Any:
        @intrinsic  # type: ignore[untyped-decorator]
        def cast(typing_context: Any, value: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                return builder.bitcast(args[0], llvm)

            return target(source), generate

        return cast

    bits32 = _bitcast(types.float32, types.int32, ir.IntType(32))
    bits64 = _bitcast(types.float64, types.int64, ir.IntType(64))
    float32_from_bits = _bitcast(types.int32, types.float32, ir.FloatType())
    float64_from_bits = _bitcast(types.int64, types.float64, ir.DoubleType())

    @intrinsic  # type: ignore[untyped-decorator]
    def half_from_bits(typing_context: Any, bits: Any) -> Any:
        """The float16 of 16 bits, as float32."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

        return types.float32(types.uint16), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def half_to_bits(typing_context: Any, value: Any) -> Any:
        """A float32 or float64 rounded to float16 once, as its bits."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

        return types.uint16(value), generate

    _ROUNDED_ADD = {types.float32: "llvm.nvvm.add.rn.f", types.float64: "llvm.nvvm.add.rn.d"}

    @intrinsic  # type: ignore[untyped-decorator]
    def add(typing_context: Any, a: Any, b: Any) -> Any:
        """``a + b`` as ``add.rn``, which no compiler stage may contract into an fma (a bare ``add`` it may)."""
        name = _ROUNDED_ADD[a]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            llvm = context.get_value_type(signature.return_type)
            module = builder.module
            function = module.globals.get(name) or ir.Function(module, ir.FunctionType(llvm, (llvm, llvm)), name)
            return builder.call(function, args)

        return a(a, a), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
        """``a b + c`` with one rounding."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.fma(*args)

        return a(a, a, a), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def exp2_approximate(typing_context: Any, a: Any) -> Any:
        """``2^a`` of a float32 by the card's own instruction: 2 ulp."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            name, llvm = "llvm.nvvm.ex2.approx.f", ir.FloatType()
            module = builder.module
            function = module.globals.get(name) or ir.Function(module, ir.FunctionType(llvm, (llvm,)), name)
            return builder.call(function, args)

        return types.float32(types.float32), generate

    # 16 bytes are moved as words: of the elements themselves, or of two half precision elements.
    _WORDS = {
        types.float64: ir.VectorType(ir.DoubleType(), 2),
        types.float32: ir.VectorType(ir.FloatType(), 4),
        types.uint16: ir.VectorType(ir.IntType(32), 4),
    }

    def _address(context: Any, builder: Any, kind: Any, value: Any, index: Any) -> Any:
        """Pointer to an element of a bare pointer or of an array in local or shared memory."""
        base = context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        return builder.gep(base, [index])

    @intrinsic  # type: ignore[untyped-decorator]
    def load16(typing_context: Any, source: Any, at: Any, words: Any) -> Any:
        """Read 16 bytes from element ``at`` of ``source`` on, which must be so aligned, into all of ``words``."""
        vector = _WORDS[source.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address = _address(context, builder, source, args[0], args[1])
            loaded = builder.load(builder.bitcast(address, vector.as_pointer()))
            loaded.align = 16
            for i in range(vector.count):
                index = ir.Constant(ir.IntType(32), i)
                element = builder.extract_element(loaded, index)
                builder.store(element, _address(context, builder, words, args[2], index))
            return context.get_dummy_value()

        return types.void(source, at, words), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def store16(typing_context: Any, target: Any, at: Any, words: Any) -> Any:
        """Write all of ``words``, 16 bytes, from element ``at`` of ``target`` on, which must be so aligned."""
        vector = _WORDS[target.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = ir.Constant(vector, ir.Undefined)
            for i in range(vector.count):
                index = ir.Constant(ir.IntType(32), i)
                element = builder.load(_address(context, builder, words, args[2], index))
                value = builder.insert_element(value, element, index)
            address = _address(context, builder, target, args[0], args[1])
            builder.store(value, builder.bitcast(address, vector.as_pointer())).align = 16
            return context.get_dummy_value()

        return types.void(target, at, words), generate

    @device
    def shuffle_xor(value: Any, distance: Any) -> Any:
        """``value`` of the lane whose number differs in the bits of ``distance``; all 32 lanes call it."""
        return cuda.shfl_xor_sync(0xFFFFFFFF, value, distance)

    @device
    def sync_warp() -> None:
        """Order the memory accesses of the lanes of a warp."""
        cuda.syncwarp()
