"""Stand-ins for what numba-cuda's simulator lacks; imported only under ``NUMBA_ENABLE_CUDASIM=1``.

The arithmetic is that of the device (one rounding for an fma), so that accuracy seen in the simulator means
something. Shuffles go through shared memory with barriers: every thread of the *block* must take part, which
all kernels here see to.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.simulator.kernel import BlockThread

from softbench_backends.numba_cuda.records import regrouped

__all__ = [
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
    "launching",
    "load16",
    "quiet",
    "shuffle_xor",
    "store16",
    "sync_warp",
]


def device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Functions that name ``cuda`` go through the simulator, which swaps that name; the others stay as they are."""
    if "cuda" not in function.__code__.co_names:
        return function
    simulated: Callable[..., Any] = cuda.jit(device=True)(function)
    return simulated


class _OneByOne(dict[Any, Any]):
    """The simulator's table of shared arrays, without its race: two threads that ask first would get an array each.

    It looks a call site up with `get`, and if there is nothing stores a new array. Here whoever finds nothing keeps the
    others waiting until it has stored.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def get(self, key: Any, default: Any = None) -> Any:
        self._lock.acquire()
        found = super().get(key, default)
        if found is not None:
            self._lock.release()
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self._lock.release()


_preparing = threading.Lock()


def quiet(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """``function`` as every simulated thread runs it: without NumPy's warnings, which a device does not give either.

    It is given the fields of records one after the other, as a device is; ``arguments`` says which records they make.

    Each thread has an error state of its own, so this must happen inside the thread; and the wrapper needs the kernel's
    globals, because that is where the simulator swaps the name ``cuda``.
    """
    errstate, regroup = np.errstate, regrouped

    def run(*args: Any) -> None:
        prepare(cuda)
        with errstate(all="ignore"):
            function(*regroup(args, arguments))

    def prepare(fake: Any) -> None:
        with _preparing:
            if not isinstance(fake.shared._allocations, _OneByOne):
                fake.shared._allocations = _OneByOne()

    return types.FunctionType(run.__code__, function.__globals__, function.__name__, None, run.__closure__)


@contextmanager
def launching() -> Iterator[None]:
    """While a kernel runs: switch threads often, because the simulator's scheduler polls its threads in a busy loop.

    A kernel that fails or is interrupted leaves threads behind, and while one of them is inside a function that
    function's ``cuda`` stays swapped, for whoever comes next too: they are ended first.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(2e-4)
    try:
        yield
    finally:
        left = [thread for thread in threading.enumerate() if isinstance(thread, BlockThread)]
        for thread in left:
            thread.abort = True
            thread.syncthreads_event.set()
        for thread in left:
            thread.join()
        sys.setswitchinterval(interval)


def add(a: Any, b: Any) -> Any:
    """Rounded once, as everything here is."""
    return a + b


def fma(a: Any, b: Any, c: Any) -> Any:
    """``a b + c`` with one rounding (float32: through float64, where a double rounding is possible and harmless)."""
    if isinstance(a, np.float32):
        return np.float32(np.float64(a) * np.float64(b) + np.float64(c))
    plain = a * b + c
    if not np.isfinite(plain):
        return plain
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    return np.float64(float(exact)) if exact else plain  # which has the right sign of zero


def bits32(x: Any) -> Any:
    """The bits of a float32."""
    return np.float32(x).view(np.int32)


def bits64(x: Any) -> Any:
    """The bits of a float64."""
    return np.float64(x).view(np.int64)


def float32_from_bits(bits: Any) -> Any:
    """The float32 of 32 bits."""
    return np.int32(bits).view(np.float32)


def float64_from_bits(bits: Any) -> Any:
    """The float64 of 64 bits."""
    return np.int64(bits).view(np.float64)


def half_from_bits(bits: Any) -> Any:
    """The float16 of 16 bits, as float32."""
    return np.float32(np.uint16(bits).view(np.float16))


def half_to_bits(value: Any) -> Any:
    """A float rounded to float16, as its bits."""
    return np.float16(value).view(np.uint16)


def exp2_approximate(a: Any) -> Any:
    """``2^a`` of a float32."""
    return np.exp2(np.float32(a))


def _sixteen_bytes(array: Any, at: int) -> Any:
    """The elements in 16 bytes from element ``at`` on; ValueError where a card would find the address misaligned."""
    memory = getattr(array, "_ary", array)
    part = memory[at : at + 16 // memory.itemsize]
    if part.nbytes != 16 or part.__array_interface__["data"][0] % 16:
        raise ValueError(f"element {at} of {memory.dtype} does not begin 16 aligned bytes")
    return part


def load16(source: Any, at: Any, words: Any) -> None:
    """Read 16 bytes from element ``at`` of ``source`` on into all of ``words``."""
    words[:] = _sixteen_bytes(source, at).view(words.dtype)


def store16(target: Any, at: Any, words: Any) -> None:
    """Write all of ``words``, 16 bytes, from element ``at`` of ``target`` on."""
    part = _sixteen_bytes(target, at)
    part[:] = words.view(part.dtype)


@device
def shuffle_xor(value: Any, distance: Any) -> Any:
    """Exchange through two sets of slots in turn, so that one barrier per exchange is enough.

    Whoever writes a set again has passed the barrier of the exchange between, hence after everyone had read it.
    """
    slots: dict[tuple[int, int], Any] = vars(cuda).setdefault("shuffle_slots", {})  # `cuda` is the launch's fake module
    thread = cuda.threadIdx.x
    turn = slots[thread, 2] = 1 - slots.get((thread, 2), 0)
    slots[thread, turn] = value
    cuda.syncthreads()
    return slots[thread ^ distance, turn]


@device
def sync_warp() -> None:
    """A barrier: the simulator knows no warps."""
    cuda.syncthreads()
