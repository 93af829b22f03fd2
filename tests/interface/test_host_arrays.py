"""The primitives of the front on NumPy arrays, each by the sentences of its docstring."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from softbench.interface.dtypes import numpy_dtype
from softbench.interface.host_arrays import NumpyArrayOps
from softbench.interface.labels import IGNORED, INVALID

HOST = NumpyArrayOps()
TOP = np.finfo(np.float64).max


# -- in and out ----------------------------------------------------------------------------------------


def test_an_array_is_accepted_as_it_is_and_a_subclass_without_its_class():
    x = np.zeros((2, 3))
    assert HOST.accept(x, "logits") is x
    matrix = np.zeros((2, 3)).view(np.recarray)
    accepted = HOST.accept(matrix, "logits")
    assert type(accepted) is np.ndarray
    assert np.shares_memory(accepted, matrix)


def test_the_name_of_an_argument_is_for_messages_only():
    for argument in ("target", "logits", "sample_weight"):
        assert HOST.accept([], argument).dtype == np.float64


class _OnDevice:
    """As PyTorch's, JAX's or CuPy's arrays, of the kinds of device that DLPack numbers."""

    def __init__(self, kind):
        self.kind = kind

    def __dlpack_device__(self):
        return self.kind, 0

    def __array__(self, dtype=None, copy=None):
        return np.zeros((1, 2))


class _CudaArray:
    __cuda_array_interface__ = {"shape": (1,)}  # noqa: RUF012


@pytest.mark.parametrize("array", [_OnDevice(2), _OnDevice(10), _CudaArray()])
def test_an_array_on_a_device_is_refused_with_the_way_out(array):
    with pytest.raises(TypeError, match=rf"^logits is a .*{type(array).__name__} on a (CUDA )?device.*asarray\(\)"):
        HOST.accept(array, "logits")


def test_an_array_of_another_library_in_host_memory_is_converted():
    assert HOST.accept(_OnDevice(1), "logits").shape == (1, 2)


def test_what_makes_no_array_is_a_type_error_that_names_it():
    with pytest.raises(TypeError, match=r"^probs must be an array, and a list cannot be converted: "):
        HOST.accept([[1.0], [1.0, 2.0]], "probs")
    with pytest.raises(TypeError, match=r"^logits is a masked array \(numpy\.ma.*MaskedArray\).*: fill or drop"):
        HOST.accept(np.ma.masked_array([1.0], [True]), "logits")
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"^probs is a sparse matrix \(scipy\.sparse.*probs\.toarray\(\)"):
        HOST.accept(sparse.csr_array((2, 2)), "probs")


def test_results_come_back_as_they_are_and_scalars_as_scalars():
    rows = np.zeros((2, 3))
    assert HOST.wrap(rows, None) is rows
    empty = np.zeros(0)
    assert HOST.wrap(empty, None) is empty
    assert type(HOST.wrap(np.array(1.5, np.float32), None)) is np.float32
    scalar = np.float64(2.0)
    assert HOST.wrap(scalar, None) is scalar


def test_arrays_in_and_out_of_the_backend_are_numpy_arrays():
    assert HOST.asarray([[1, 2]]).tolist() == [[1, 2]]
    x = np.zeros(3)
    assert HOST.asarray(x) is x
    assert HOST.to_numpy(x) is x
    assert type(HOST.to_numpy(np.float32(1.0))) is np.ndarray


def test_layout_says_what_a_kernel_can_write_into():
    x = np.zeros((4, 6))
    locked = x[:]
    locked.flags.writeable = False
    unaligned = np.zeros(8 * 24 + 1, np.uint8)[1:].view(np.float64).reshape(4, 6)
    assert HOST.layout(x) == (True, True)
    assert HOST.layout(locked) == (True, False)
    assert HOST.layout(x.T) == (False, True)
    assert HOST.layout(x[:, ::2]) == (False, True)
    assert HOST.layout(unaligned) == (False, True)


def test_the_address_is_that_of_the_first_element():
    x = np.arange(6.0)
    assert HOST.address(x[2:]) - HOST.address(x) == 16
    assert type(HOST.address(x)) is int


def test_arrays_share_memory_by_element_and_when_that_is_too_hard_to_decide():
    x = np.zeros((4, 6))
    assert HOST.shares_memory(x, x[1:])
    assert not HOST.shares_memory(x[:2], x[2:])
    assert not HOST.shares_memory(x[:, ::2], x[:, 1::2])  # their bounds overlap
    # Pages of zeros that nobody touches; to decide it exactly takes a minute.
    memory = np.zeros(192_163_377, np.int8)
    a = as_strided(memory, (1049, 1049, 1049), (36674, 61119, 85569))
    b = as_strided(memory[64_023_025:], (1049, 1049, 1), (12223, 12224, 1))
    assert HOST.shares_memory(a, b)


# -- rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64"])
def test_new_arrays_have_the_dtype_of_that_name(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    for array in (HOST.empty((2, 3), dtype), HOST.full((2, 3), 7.0, dtype)):
        assert (array.dtype.name, array.shape, array.flags.c_contiguous) == (dtype, (2, 3), True)
    assert (HOST.full((2, 3), 7.0, dtype) == 7).all()
    assert HOST.empty((2, 3), HOST.full((1,), 0.0, dtype).dtype).dtype.name == dtype


def test_rows_are_views_where_they_can_be():
    x = np.arange(24.0).reshape(2, 3, 4)
    rows = HOST.as_rows(x, 2, "float64")
    assert rows.tolist() == x.reshape(6, 4).tolist()
    assert np.shares_memory(rows, x)
    flat = HOST.as_rows(x.reshape(6, 4), 1, "float64")
    assert np.shares_memory(flat, x)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_have_the_axis_last_in_c_order_aligned_and_native(axis, dtype):
    x = np.arange(24.0).reshape(2, 3, 4)
    due = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    unaligned = np.zeros(8 * 24 + 1, np.uint8)[1:].view(np.float64).reshape(x.shape)
    unaligned[...] = x
    for form in (
        x,
        x.astype(">f8"),
        np.asfortranarray(x),
        x[:, ::-1][:, ::-1],
        x.astype("f4"),
        x.astype("i2"),
        unaligned,
    ):
        rows = HOST.as_rows(form, axis, dtype)
        assert np.array_equal(rows, due)
        assert rows.dtype == np.dtype(dtype)
        assert rows.dtype.isnative
        assert rows.flags.c_contiguous
        assert rows.flags.aligned


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_are_views_of_strided_logits_or_converted(dtype):
    x = np.arange(120.0).reshape(2, 3, 4, 5)
    for axis, shape in ((0, (1, 2, 60)), (1, (2, 3, 20)), (2, (6, 4, 5))):
        for form in (x, x.astype("f4"), x.astype(">f8"), x.astype("f2")):
            blocks = HOST.as_blocks(form, axis, dtype)
            assert blocks.shape == shape
            assert blocks.dtype == np.dtype(dtype)
            assert blocks.dtype.isnative
            assert np.array_equal(blocks, x.reshape(shape))
    same = x.astype(dtype)
    assert np.shares_memory(HOST.as_blocks(same, 1, dtype), same)


@pytest.mark.parametrize(("given", "wanted"), [("bfloat16", "float16"), ("float16", "bfloat16")])
def test_one_kind_of_half_precision_becomes_the_other(given, wanted):
    targets = np.array([[0.25, 0.75]], numpy_dtype(given))
    rows = HOST.as_rows(targets, 1, wanted)
    assert rows.dtype.name == wanted
    assert rows.tolist() == [[0.25, 0.75]]


def test_results_too_large_for_half_precision_are_infinite_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        big = np.array([[1e6, -1e6, 1.0]])
        assert HOST.from_rows(big, (1, 3), 1, "float16").tolist() == [[np.inf, -np.inf, 1.0]]
        out = np.zeros((1, 3), np.float16)
        assert HOST.from_rows(big, (1, 3), 1, "float16", out) is out
        assert out.tolist() == [[np.inf, -np.inf, 1.0]]
        assert HOST.as_rows(big, 1, "float16").tolist() == [[np.inf, -np.inf, 1.0]]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_results_take_the_shape_and_dtype_asked_for(axis, dtype):
    x = np.arange(24.0).reshape(2, 3, 4)
    rows = HOST.as_rows(x, axis, "float64")
    result = HOST.from_rows(rows, x.shape, axis, dtype)
    assert (result.dtype.name, result.flags.c_contiguous) == (dtype, True)
    assert np.array_equal(result, x)
    out = np.full((2, 3, 8), 777, dtype)[:, :, ::2]
    assert HOST.from_rows(rows, x.shape, axis, dtype, out) is out
    assert np.array_equal(out, x)


def test_a_result_in_order_is_not_copied():
    rows = np.zeros((6, 4))
    assert np.shares_memory(HOST.from_rows(rows, (2, 3, 4), 2, "float64"), rows)


# -- targets and weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4"])
def test_labels_of_any_width_become_int64(dtype):
    labels = np.array([0, 4, 9, 3, 3, 2], dtype)[::2]
    lowered = HOST.index_labels(labels, 10, None, True)
    assert (lowered.dtype, lowered.flags.c_contiguous) == (np.int64, True)
    assert lowered.tolist() == [0, 9, 3]
    assert HOST.index_labels(labels[:0], 10, None, True).tolist() == []
    assert HOST.index_labels(labels, 10, 9, True).tolist() == [0, IGNORED, 3]
    assert HOST.index_labels(labels, 9, 9, True).tolist() == [0, IGNORED, 3]
    assert HOST.index_labels(labels, 9, None, False).tolist() == [0, INVALID, 3]
    assert HOST.index_labels(labels, 3, 9, False).tolist() == [0, IGNORED, INVALID]
    assert labels.tolist() == [0, 9, 3]


@pytest.mark.parametrize("before", [0, 27, 28, 500])  # few labels are looked at in another way than many
@pytest.mark.parametrize("wild", [-1, -2, 10, 2**31, -(2**63), 2**63 - 1])
def test_a_label_that_is_no_class_is_named_or_invalid(wild, before):
    labels = np.array([3] * before + [0, 9, wild, 1, wild])
    with pytest.raises(
        ValueError, match=rf"^target\[{before + 2}\] is {wild}, which is no class: expected 0 <= label < 10$"
    ):
        HOST.index_labels(labels, 10, None, True)
    with pytest.raises(ValueError, match=rf"^target\[{before + 2}\] is {wild}, .* < 10 or ignore_index=0$"):
        HOST.index_labels(labels, 10, 0, True)
    assert HOST.index_labels(labels, 10, None, False)[before:].tolist() == [0, 9, INVALID, 1, INVALID]
    assert HOST.index_labels(labels, 10, 1, False)[before:].tolist() == [0, 9, INVALID, IGNORED, INVALID]
    assert HOST.index_labels(labels, 10, wild, True)[before:].tolist() == [0, 9, IGNORED, 1, IGNORED]
    assert labels[before:].tolist() == [0, 9, wild, 1, wild]


def test_a_uint64_label_beyond_int64_is_no_class():
    labels = np.array([0, 2**64 - 1], np.uint64)
    with pytest.raises(ValueError, match=rf"target\[1\] is {2**64 - 1}"):
        HOST.index_labels(labels, 10, None, True)
    assert HOST.index_labels(labels, 10, -1, False).tolist() == [0, INVALID]  # it is not -1


@pytest.mark.parametrize("times", [1, 50])
def test_labels_that_are_all_classes_are_not_copied(times):
    labels = np.array([0, 1, 2] * times)
    assert HOST.index_labels(labels, 3, None, True) is labels
    assert HOST.index_labels(labels, 3, 7, True) is labels


@pytest.mark.parametrize("bad", [np.nan, -1e-300, -np.inf, 1.5, np.inf])
def test_the_first_value_out_of_range_is_named(bad):
    values = np.full((3, 4), 0.5)
    values[0, :2] = 0.0, 1.0  # the bounds are inside
    HOST.check_range(values, "probs", 0.0, 1.0)
    values[1, 2] = values[2, 0] = bad
    with pytest.raises(ValueError, match=rf"^probs\[1, 2\] is {bad}, expected in \[0, 1\]$"):
        HOST.check_range(values, "probs", 0.0, 1.0)
    if not bad > 0:
        with pytest.raises(ValueError, match=rf"^class_weight\[2\] is {bad}, expected >= 0$"):
            HOST.check_range(values[1], "class_weight", 0.0, math.inf)
    else:
        HOST.check_range(values, "class_weight", 0.0, math.inf)
    HOST.check_range(values[:0], "probs", 0.0, 1.0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-6), ("float32", 2.0**-11.5), ("float16", 2.0**-5), ("longdouble", 1e-6)]
)
def test_the_first_row_that_is_no_distribution_is_named(dtype, tolerance):
    y = np.full((4, 4), 0.25, dtype)
    y[0] = 1.0, 0.0, -0.0, 0.0
    HOST.check_distribution(y)
    for off in (0.9 * tolerance, -0.9 * tolerance):
        y[2, 1] = 0.25 + off
        HOST.check_distribution(y)
    for off in (1.1 * tolerance, -1.1 * tolerance):
        y[2, 1] = y[3, 1] = 0.25 + off
        with pytest.raises(ValueError, match=r"^target row 2 sums to \d"):
            HOST.check_distribution(y)
    y[2, 1] = y[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"^target row 2 sums to nan"):
        HOST.check_distribution(y)
    y[2] = 0.5, -0.25, 1.0, -0.25  # sums to 1
    with pytest.raises(ValueError, match=r"^target\[2, 1\] is -0\.25: .* not be negative"):
        HOST.check_distribution(y)


def test_the_tolerance_of_a_sum_is_inside():
    HOST.check_distribution(np.array([[0.5, 0.53125], [0.5, 0.46875]], np.float16))  # 1 + 2**-5 and 1 - 2**-5


def test_integers_can_be_a_distribution():
    for dtype in ("u1", "i1", "i8", "u8"):
        hot = np.array([[0, 1], [1, 0]], dtype)
        HOST.check_distribution(hot)
        with pytest.raises(ValueError, match="row 1 sums to 2"):
            HOST.check_distribution(hot + np.array([[0], [1]], dtype) * hot)


def test_half_precision_targets_are_summed_wide():
    y = np.full((1, 4096), 1 / 4096, np.float16)  # in float16 the sum stops at half of it
    HOST.check_distribution(y)
    big = np.full((1, 8), 3e4, np.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="row 0 sums to 24"):
            HOST.check_distribution(big)
        with pytest.raises(ValueError, match="row 0 sums to inf"):
            HOST.check_distribution(np.full((1, 2), TOP))
        with pytest.raises(ValueError, match="row 0 sums to"):
            HOST.check_distribution(np.array([[np.inf, 0.0]]))


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="no longdouble beyond float64 here")
def test_a_longdouble_target_is_summed_in_longdouble():
    beyond = np.longdouble(1e-6) + np.longdouble(2) ** -60  # in float64 1 + 1e-6 rounds to less
    with pytest.raises(ValueError, match="row 0 sums to 1"):
        HOST.check_distribution(np.array([[1, beyond]], np.longdouble))
    HOST.check_distribution(np.array([[1, beyond - np.longdouble(2) ** -59]], np.longdouble))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("given", ["float16", "float32", "float64"])
def test_soft_rows_are_the_formula_rounded_once(dtype, given):
    rng = np.random.default_rng(5)
    y = rng.dirichlet(np.ones(7), 40).astype(given)
    w, s = rng.uniform(0.5, 2.0, 7), rng.uniform(0.5, 2.0, 40)
    divisor = s.sum(dtype=np.longdouble)
    for smoothing, weights, rows, over in ((0.1, w, s, divisor), (0.0, None, s, divisor), (0.3, None, None, 40.0),
                                           (0.0, w, None, 1.0), (1.0, w, s, 3.0)):  # fmt: skip
        q = HOST.soft_rows(y, dtype, smoothing, weights, rows, over)
        assert (q.dtype.name, q.shape, q.flags.c_contiguous) == (dtype, y.shape, True)
        eps, by = Fraction(smoothing), Fraction(*over.as_integer_ratio())
        for i, k in ((0, 0), (3, 6), (39, 2)):
            exact = (1 - eps) * Fraction(float(y[i, k])) + eps / 7
            exact *= 1 if weights is None else Fraction(float(w[k]))
            exact *= (1 if rows is None else Fraction(float(s[i]))) / by
            spacing = Fraction(float(np.spacing(q[i, k])))
            # Half a spacing, and what is lost before it: longdouble may be float64 where dtype is float64.
            wide = np.longdouble if dtype == "float64" else np.float64
            lost = spacing * Fraction(float(8 * np.finfo(wide).eps / np.finfo(dtype).eps))
            assert abs(Fraction(float(q[i, k])) - exact) <= spacing / 2 + lost


def test_soft_rows_over_nothing_are_nan_in_silence():
    y = np.full((2, 2), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(HOST.soft_rows(y, "float32", 0.0, None, np.zeros(2), 0.0)).all()
        assert np.isnan(HOST.soft_rows(y, "float64", 0.1, None, np.zeros(2), np.longdouble(0))).all()
        huge = np.full(2, 1e308)
        for dtype in ("float32", "float64"):
            assert HOST.soft_rows(y, dtype, 0.0, huge, huge, 1.0).tolist() == [[np.inf] * 2] * 2
        assert np.isnan(HOST.soft_rows(np.zeros((1, 1)), "float32", 0.0, np.full(1, np.inf), None, 1.0)).all()
    assert y.tolist() == [[0.5, 0.5]] * 2


def test_the_divisor_is_the_sum_of_the_weights_that_count():
    labels = np.array([2, IGNORED, 0, INVALID, 2])
    s, w = np.array([1.0, 10.0, 100.0, 1e3, 1e4]), np.array([2.0, 3.0, 5.0])
    plain = HOST.divisor(labels, None, None)
    assert (type(plain), plain) == (float, 4.0)
    assert HOST.divisor(labels, s, None) == 11101.0
    assert HOST.divisor(labels, None, w) == 5 + 2 + 1 + 5
    assert HOST.divisor(labels, s, w) == 5.0 + 200.0 + 1e3 + 5e4
    assert HOST.divisor(None, s, None) == 11111.0
    assert HOST.divisor(np.array([IGNORED]), None, None) == 0.0
    assert HOST.divisor(np.array([IGNORED]), np.array([np.nan]), w) == 0.0  # selected, not multiplied


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="no longdouble beyond float64 here")
def test_the_divisor_is_in_extended_precision_where_there_are_weights():
    third = np.array([1 / 3, 1e-17, 1.0])
    labels = np.array([0, 1, 2])
    exact = np.longdouble(1 / 3) + np.longdouble(1e-17) + 1
    product = np.longdouble(1 / 3) * np.longdouble(1 / 3)
    for found, due in (
        (HOST.divisor(labels, third, None), exact),
        (HOST.divisor(labels, None, third), exact),
        (HOST.divisor(None, third, None), exact),
        (HOST.divisor(labels[:1], third[:1], third), product),
    ):
        assert type(found) is np.longdouble
        assert found == due


def test_a_total_is_float64_rounded_once():
    values = np.array([1.0, 2.0**-53, 2.0**-53])
    assert type(HOST.total(values)) is np.float64
    assert type(HOST.total(values, 3.0)) is np.float64
    assert HOST.total(values) == 1.0 + 2.0**-52
    assert HOST.total(np.array([2.0, 4.0]), 3.0) == 2.0
    assert HOST.total(np.zeros(0)) == 0.0
    assert np.isnan(HOST.total(values, 0.0))
    assert type(HOST.total(values, np.longdouble(0))) is np.float64
    assert np.isnan(HOST.total(np.zeros(3), np.longdouble(0)))
    assert HOST.total(np.array([1.0]), np.longdouble(3)) == 1 / 3


@pytest.mark.parametrize("n", [4095, 4096, 4097, 4098, 6143, 8192, 8193, 12289, 100_003])
def test_a_long_total_is_as_good_as_an_exact_one(n):
    rng = np.random.default_rng(n)
    values = np.ldexp(rng.uniform(0.5, 1.0, n), rng.integers(-60, 60, n)) * rng.choice([1.0, 1.0, 1.0, -1.0], n)
    exact = math.fsum(values)
    assert abs(HOST.total(values) - exact) <= np.spacing(abs(exact))
    half = np.sort(values[: n // 2])
    values = np.concatenate([half, rng.permutation(-half), [1e-9] * (n % 2)])  # it cancels: errors of sums are left
    assert abs(HOST.total(values) - math.fsum(values)) <= n * 2.0**-100 * np.abs(values).sum()
    assert HOST.total(np.ones(n)) == n


def test_totals_of_infinities_are_those_of_a_plain_sum_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in (2, 4096, 4097, 5001):
            assert HOST.total(np.full(n, TOP)) == np.inf
            assert HOST.total(np.full(n, -TOP)) == -np.inf
            assert HOST.total(np.resize([np.inf, 1.0], n)) == np.inf
            assert np.isnan(HOST.total(np.resize([np.inf, -np.inf], n)))
            assert np.isnan(HOST.total(np.resize([np.nan, np.inf], n)))
            assert np.isnan(HOST.total(np.resize([1.0, np.nan], n)))
            assert HOST.total(np.resize([np.inf, 1.0], n), 4.0) == np.inf
