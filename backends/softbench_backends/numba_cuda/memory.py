"""Elements between memory and registers: 16 bytes at a time where that is possible, half precision widened on the way.

Kernels compute in float64 for float64 rows and in float32 for all others. Half precision is stored as 16-bit integers,
because Numba's own float16 and bfloat16 do not exist in the simulator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numba import cuda

from softbench.interface.dtypes import ITEMSIZE
from softbench_backends.numba_cuda.device import (
    bits32,
    device,
    float32_from_bits,
    half_from_bits,
    half_to_bits,
    load16,
    store16,
)
from softbench_backends.numba_cuda.views import STORAGE

__all__ = ["HALVES", "Memory", "memory", "reader", "real_of", "writer"]

Device = Callable[..., Any]

HALVES: Final = ("float16", "bfloat16")

_ZERO = np.float64(0.0)


def real_of(dtype: str) -> Any:
    """`softbench.interface.dtypes.compute_dtype` as the NumPy type, for kernels."""
    return np.float64 if dtype == "float64" else np.float32


# -- one element -----------------------------------------------------------------------------------------------------


@device
def _same(value: Any) -> Any:
    return value


@device
def _bfloat16_from_bits(bits: Any) -> Any:
    return float32_from_bits(np.int32(np.int32(bits) << np.int32(16)))


@device
def _rounded_bfloat16(bits: Any) -> Any:
    """The upper half of float32 ``bits`` (int32), rounded to nearest even."""
    wide = np.int64(bits) & np.int64(0xFFFFFFFF)
    return np.uint16((wide + np.int64(0x7FFF) + ((wide >> np.int64(16)) & np.int64(1))) >> np.int64(16))


@device
def _bfloat16_to_bits(value: Any) -> Any:
    """Of a number in any dtype: one rounding."""
    narrow = np.float32(value)
    bits = bits32(narrow)
    rest = np.float64(value) - np.float64(narrow)
    if narrow != narrow:
        return np.uint16(0x7FC0)
    if rest != _ZERO and narrow - narrow == np.float32(0.0):
        # Make float32 a sticky intermediate: truncated, with a last bit that says something was cut off.
        away = (rest < _ZERO) == (narrow > np.float32(0.0))
        bits = np.int32((bits - np.int32(1) if away else bits) | np.int32(1))
    return _rounded_bfloat16(bits)


@device
def _half_bits(value: Any) -> Any:
    """The bits of a float32 rounded to float16, as int32."""
    return np.int32(half_to_bits(value))


@device
def _bfloat16_bits(value: Any) -> Any:
    """The bits of a float32 rounded to bfloat16 (to nearest even), as int32; all arithmetic in 32 bits."""
    bits = bits32(value)
    odd = np.int32((bits >> np.int32(16)) & np.int32(1))
    # Only a NaN could wrap around.
    rounded = np.int32((np.uint32(bits) + np.uint32(0x7FFF) + np.uint32(odd)) >> np.uint32(16))
    return rounded if value == value else np.int32(0x7FC0)


def reader(dtype: str) -> Device:
    """Device function from the stored form of ``dtype`` to a number."""
    return {"float16": half_from_bits, "bfloat16": _bfloat16_from_bits}.get(dtype, _same)


def writer(dtype: str) -> Device:
    """Device function from a number to the stored form of ``dtype``."""
    if dtype in HALVES:
        return half_to_bits if dtype == "float16" else _bfloat16_to_bits
    stored = getattr(np, STORAGE[dtype])

    @device
    def write(value: Any) -> Any:
        return stored(value)

    return write


# -- neighbours ------------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """Device functions on arrays of rows; numbers are of the dtype that rows are computed in."""

    read: Device
    """``(source, at)``: one element, widened."""
    write: Device
    """``(target, at, value)``: one element, rounded to nearest even."""
    load: Device
    """``(source, at, tile, i)``: ``width`` elements from ``at`` on, widened, into ``tile`` from ``i`` on."""
    store: Device
    """``(target, at, tile, i)``: the way back, rounded to nearest even."""


@functools.cache
def memory(dtype: str, width: int, whole: bool) -> Memory:
    """Access to elements of ``dtype``, ``width`` neighbours at a time; ``whole``: in accesses of 16 aligned bytes."""
    widen, stored = reader(dtype), getattr(np, STORAGE[dtype])
    bits_of = {"float16": _half_bits, "bfloat16": _bfloat16_bits}.get(dtype, _same)

    @device
    def read(source: Any, at: Any) -> Any:
        return widen(source[at])

    @device
    def write(target: Any, at: Any, value: Any) -> None:
        target[at] = stored(bits_of(value))

    if not whole:

        @device
        def load(source: Any, at: Any, tile: Any, i: Any) -> None:
            for u in range(width):
                tile[i + u] = widen(source[at + u])

        @device
        def store(target: Any, at: Any, tile: Any, i: Any) -> None:
            for u in range(width):
                target[at + u] = stored(bits_of(tile[i + u]))

        return Memory(read, write, load, store)

    each = 16 // ITEMSIZE[dtype]
    unpack, pack = (_unpack_halves(dtype), _pack_halves(dtype)) if dtype in HALVES else (_moved(each), _moved(each))
    count = min(each, 4)
    word = np.int32 if dtype in HALVES else real_of(dtype)

    @device
    def load_each(source: Any, at: Any, tile: Any, i: Any) -> None:
        words = cuda.local.array(count, word)
        load16(source, at, words)
        unpack(words, 0, tile, i)

    @device
    def store_each(target: Any, at: Any, tile: Any, i: Any) -> None:
        words = cuda.local.array(count, word)
        pack(tile, i, words, 0)
        store16(target, at, words)

    return Memory(read, write, _repeated(load_each, width // each, each), _repeated(store_each, width // each, each))


def _repeated(move: Device, times: int, apart: int) -> Device:
    """``move`` at ``times`` places. Not by a loop: where a compiler leaves it one, the tile it indexes is in memory."""
    repeated = move
    for before in range(1, times):
        repeated = _followed(repeated, move, before * apart)
    return repeated


def _followed(first: Device, then: Device, apart: int) -> Device:
    @device
    def both(memory: Any, at: Any, tile: Any, i: Any) -> None:
        first(memory, at, tile, i)
        then(memory, at + apart, tile, i + apart)

    return both


def _moved(count: int) -> Device:
    @device
    def move(source: Any, i: Any, target: Any, j: Any) -> None:
        for u in range(count):
            target[j + u] = source[i + u]

    return move


def _unpack_halves(dtype: str) -> Device:
    if dtype == "bfloat16":

        @device
        def pair(word: Any) -> Any:
            return (
                float32_from_bits(np.int32(word << np.int32(16))),
                float32_from_bits(np.int32(word & np.int32(-65536))),
            )
    else:

        @device
        def pair(word: Any) -> Any:
            return half_from_bits(np.uint16(word & np.int32(0xFFFF))), half_from_bits(
                np.uint16((word >> np.int32(16)) & np.int32(0xFFFF))
            )

    @device
    def unpack(words: Any, i: Any, tile: Any, j: Any) -> None:
        for u in range(4):
            tile[j + 2 * u], tile[j + 2 * u + 1] = pair(words[i + u])

    return unpack


def _pack_halves(dtype: str) -> Device:
    bits_of = _half_bits if dtype == "float16" else _bfloat16_bits

    @device
    def pack(tile: Any, i: Any, words: Any, j: Any) -> None:
        for u in range(4):
            words[j + u] = np.int32(bits_of(tile[i + 2 * u]) | (bits_of(tile[i + 2 * u + 1]) << np.int32(16)))

    return pack
