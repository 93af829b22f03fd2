"""float16 to float32 and back without `numpy.ndarray.astype`, to its bits."""

from __future__ import annotations

import numpy as np
import pytest

from softbench.interface.half_precision import is_half, narrow, widen

EVERY = np.arange(1 << 16).astype(np.uint16).view(np.float16)


def _around_every_float16() -> np.ndarray:
    """float32 numbers around every float16 number, and around everything halfway between two of them."""
    exact = np.unique(EVERY[np.isfinite(EVERY)].astype(np.float32))
    centers = np.concatenate([exact, (exact[1:] + exact[:-1]) / 2, [65520.0, -65520.0]]).astype(np.float32)
    with np.errstate(all="ignore"):
        up = np.nextafter(centers, np.float32(np.inf), dtype=np.float32)
        down = np.nextafter(centers, np.float32(-np.inf), dtype=np.float32)
    any_bits = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint32).view(np.float32)
    special = np.array([np.inf, -np.inf, np.nan, -np.nan], np.float32)
    return np.concatenate([centers, up, down, any_bits, special])


def test_every_float16_is_widened_exactly():
    with np.errstate(all="raise"):
        wide = widen(EVERY)
    np.testing.assert_array_equal(wide, EVERY.astype(np.float32))
    np.testing.assert_array_equal(np.signbit(wide), np.signbit(EVERY))


def test_rounding_is_that_of_astype_without_a_flag():
    x = _around_every_float16()
    got = np.empty(x.shape, np.float16)
    with np.errstate(all="raise"):
        narrow(x, got)
    with np.errstate(all="ignore"):
        due = x.astype(np.float16)
    nan = np.isnan(x)
    np.testing.assert_array_equal(got.view(np.uint16)[~nan], due.view(np.uint16)[~nan])
    assert np.isnan(got[nan]).all()
    np.testing.assert_array_equal(np.signbit(got[nan]), np.signbit(x[nan]))


@pytest.mark.parametrize("order", ["C", "F", "every other", "big-endian", "empty"])
def test_any_layout(order):
    x = np.random.default_rng(1).standard_normal((40, 2000)).astype(np.float32)
    out = np.empty(x.shape, np.float16)
    if order == "F":
        x, out = np.asfortranarray(x), np.asfortranarray(out)
    elif order == "every other":
        x, out = x[:, ::2], out[:, ::2]
    elif order == "big-endian":
        x, out = x.astype(">f4"), out.astype(">f2")
    elif order == "empty":
        x, out = x[:0], out[:0]
    narrow(x, out)
    np.testing.assert_array_equal(out, x.astype(np.float16))
    wide = widen(out)
    assert (wide.dtype, wide.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_array_equal(wide, out.astype(np.float32))


def test_other_dtypes():
    x = np.array([1.0, 1e-7])
    assert widen(x) is x
    out = np.empty(2, np.float16)
    narrow(x, out)
    np.testing.assert_array_equal(out, x.astype(np.float16))
    bfloat16 = pytest.importorskip("ml_dtypes", reason="a bfloat16 array needs ml_dtypes").bfloat16
    half = np.array([1.0, 2.0**-133, 3e38], bfloat16)
    np.testing.assert_array_equal(widen(half), half.astype(np.float32))
    back = np.empty(3, bfloat16)
    narrow(widen(half), back)
    np.testing.assert_array_equal(back.view(np.uint16), half.view(np.uint16))
    assert [is_half(np.dtype(d)) for d in ("float16", bfloat16, "float32", "int16")] == [True, True, False, False]
