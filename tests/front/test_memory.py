"""Arguments that are no ndarrays: what is taken, written, and refused; and what their memory shares."""

import array
import collections
import types

import numpy as np
import pytest

import softbench as sb

LABELS = np.array([0, 1])
CALLS = {
    "softmax": lambda out, **options: sb.softmax(np.zeros((2, 2)), out=out, **options),
    "gradient": lambda out, **options: sb.gradient(np.zeros((2, 2)), LABELS, out=out, **options),
    "linear_softmax": lambda out, **options: sb.linear_softmax(np.zeros((2, 3)), np.zeros((2, 3)), out=out, **options),
}


class Copied:
    """Converted by a copy."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


class Interface:
    """Known by its memory alone."""

    def __init__(self, values):
        self.values = values
        self.__array_interface__ = values.__array_interface__


# -- out= ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "out", [[[9.0, 9.0]] * 2, collections.deque([[9.0, 9.0]] * 2), Copied(np.full((2, 2), 9.0)), 9.0]
)
def test_what_cannot_be_written_in_place_is_refused_by_type(call, out):
    with pytest.raises(TypeError, match=f"^out .*{type(out).__name__}"):
        call(out)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", [memoryview, Interface])
def test_memory_of_another_type_is_written(call, kind):
    memory = np.full((2, 2), 9.0)
    out = kind(memory)
    assert call(out) is out
    assert np.array_equal(memory, call(None))


def test_a_buffer_that_is_read_only_is_refused():
    with pytest.raises(TypeError, match=r"^out .*memoryview"):
        sb.softmax(np.zeros(2), out=memoryview(np.zeros(2)).toreadonly())
    writable = array.array("d", [9.0, 9.0])
    assert sb.softmax(np.zeros(2), out=writable) is writable
    assert writable.tolist() == [0.5, 0.5]


@pytest.mark.thorough
def test_a_frame_is_written_where_its_memory_can_be_had():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [9.0, 9.0]})
    frame["b"] = 9.0
    with pytest.raises(TypeError, match=r"^out .*DataFrame"):
        sb.softmax(np.zeros((2, 2)), out=frame)
    assert (frame.to_numpy() == 9.0).all()


# -- overlap -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [memoryview, Interface, lambda values: values])
@pytest.mark.parametrize("name", ["target", "sample_weight", "class_weight"])
def test_out_on_the_memory_of_another_argument_is_refused(kind, name):
    x = np.random.default_rng(0).normal(size=(4, 4))
    memory = np.full((4, 4), 0.25)
    arguments = {"target": memory.copy(), name: memory if name == "target" else memory[1]}
    given = {key: kind(value) for key, value in arguments.items()}
    with pytest.raises(ValueError, match=f"^out overlaps {name}$"):
        sb.gradient(x, given.pop("target"), out=memory, **given)
    assert (memory == 0.25).all()


@pytest.mark.thorough
def test_out_on_the_memory_of_a_frame_of_targets_is_refused():
    pd = pytest.importorskip("pandas")
    x = np.random.default_rng(0).normal(size=(2, 33))
    memory = np.full((2, 33), 1 / 33)
    with pytest.raises(ValueError, match=r"^out overlaps target$"):
        sb.gradient(x, pd.DataFrame(memory, copy=False), out=memory)
    assert (memory == 1 / 33).all()


@pytest.mark.parametrize("kind", [memoryview, Interface])
def test_logits_of_any_type_may_be_written_over_but_not_overlapped(kind):
    memory = np.arange(12.0)
    x = memory[:9].reshape(3, 3)
    due = sb.softmax(x)
    with pytest.raises(ValueError, match="overlaps logits"):
        sb.softmax(kind(x), out=memory[3:].reshape(3, 3))
    assert sb.softmax(kind(x), out=x) is x
    assert np.array_equal(x, due)


def test_out_between_the_elements_of_an_argument_is_separate_memory():
    memory = np.random.default_rng(0).normal(size=(60, 100))
    x, out = memory[::2, ::3], memory[1::2, 1::3][:, :33]
    due = sb.softmax(x[:, :33])
    assert sb.softmax(x[:, :33], out=out) is out
    assert np.array_equal(out, due)


# -- conversions ---------------------------------------------------------------------------------------


class Elsewhere:
    """An array whose values are on no device that NumPy can read."""

    device = "meta"

    def __dlpack_device__(self):
        raise ValueError("meta tensors have no device")

    def __array__(self, dtype=None, copy=None):
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")


class Sharded:
    """An array on several devices, which its own conversion puts together."""

    def __init__(self, values):
        self.values = values

    def devices(self):
        return [types.SimpleNamespace(platform="cpu") for _ in range(2)]

    def __dlpack_device__(self):
        raise BufferError("__dlpack__ only supported for unsharded arrays.")

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


def test_an_array_without_values_is_refused_with_its_device_and_a_remedy():
    for call in (lambda: sb.softmax(Elsewhere()), lambda: sb.loss(np.zeros((2, 2)), Elsewhere())):
        with pytest.raises(TypeError, match=r"^(logits|target) is a .*Elsewhere on device meta.*pass an array"):
            call()


def test_an_array_on_several_devices_is_taken_by_its_own_conversion():
    x = np.array([[0.0, 1.0], [2.0, 0.0]])
    assert np.array_equal(sb.softmax(Sharded(x)), sb.softmax(x))


def test_masks_in_a_list_are_not_dropped():
    row = np.ma.masked_array([0.0, 1.0], mask=[True, False])
    for values in ([row, np.zeros(2)], [[row]], (row,), [[0.0, np.ma.masked]]):
        with pytest.raises(TypeError, match=r"^logits is a .*mask"):
            sb.softmax(values)
    with pytest.raises(TypeError, match=r"^class_weight is a .*mask"):
        sb.loss(np.zeros((1, 2)), [0], class_weight=[np.ma.masked, 1.0])


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["Float32", "Float64", "Int8", "UInt64", "double[pyarrow]"])
def test_nullable_columns_are_the_numbers_they_hold(dtype):
    pd = pytest.importorskip("pandas")
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    frame = pd.DataFrame([[0, 1, 2], [3, 1, 0]]).astype(dtype)
    numbers = frame.to_numpy(frame.dtypes[0].numpy_dtype)
    result = sb.softmax(frame)
    assert result.dtype == sb.softmax(numbers).dtype
    assert np.array_equal(result, sb.softmax(numbers))
    assert np.array_equal(sb.softmax(frame[0]), sb.softmax(numbers[:, 0]))


@pytest.mark.thorough
def test_nullable_columns_mix_where_nothing_is_lost():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": pd.array([1, 2], "Int32"), "b": [0.5, 0.25], "c": pd.array([1.5, 2.5], "Float64")})
    assert np.array_equal(sb.softmax(frame), sb.softmax([[1, 0.5, 1.5], [2, 0.25, 2.5]]))
    for lossy in (pd.array([2**53 + 1, 0], "Int64"), pd.array([True, False], "boolean")):
        with pytest.raises(TypeError, match="without loss"):
            sb.softmax(frame.assign(a=lossy))
    with pytest.raises(TypeError, match="string"):
        sb.softmax(frame.assign(a=pd.array(["x", "y"], "string")))


@pytest.mark.thorough
def test_missing_values_are_named_by_row_and_column():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": pd.array([1, 2], "Int32"), "b": pd.array([0.5, None], "Float64")})
    with pytest.raises(ValueError, match=r"^logits has a missing value in row 1 of column 'b' .*fill or drop"):
        sb.softmax(frame)
    with pytest.raises(ValueError, match=r"^target has a missing value in row 0"):
        sb.loss(np.zeros((2, 2)), pd.array([None, 1], "Int64"))
