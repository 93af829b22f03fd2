"""What the public functions take, whatever the backend: names, defaults, kinds of parameters, errors of calls.

What comes of right and wrong *values* is the contract's business, asked of every backend in test_conformance.py.
"""

import inspect

import numpy as np
import pytest

import softbench as sb

LOSS = {
    "axis": -1,
    "class_weight": None,
    "sample_weight": None,
    "ignore_index": None,
    "label_smoothing": 0.0,
    "reduction": "mean",
    "validate": True,
}
LOG_LOSS = {name: default for name, default in LOSS.items() if name != "label_smoothing"}
SIGNATURES = {
    "argmax": (["logits"], {"axis": -1}),
    "logsumexp": (["logits"], {"axis": -1, "keepdims": False}),
    "softmax": (["logits"], {"axis": -1, "out": None}),
    "log_softmax": (["logits"], {"axis": -1, "out": None}),
    "log_loss": (["probs", "target"], LOG_LOSS),
    "loss": (["logits", "target"], LOSS),
    "gradient": (["logits", "target"], LOSS | {"out": None}),
    "loss_and_gradient": (["logits", "target"], LOSS | {"out": None}),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_function_has_the_settled_parameters(name):
    positional, options = SIGNATURES[name]
    parameters = inspect.signature(getattr(sb, name)).parameters
    assert [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD] == positional
    found = {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert found == options | {"backend": None}


@pytest.mark.parametrize("name", SIGNATURES)
def test_method_has_the_parameters_of_the_function_but_backend(name):
    function = inspect.signature(getattr(sb, name)).parameters
    method = inspect.signature(getattr(sb.Backend, name)).parameters
    assert [(p.name, p.kind, p.default) for p in method.values() if p.name != "self"] == [
        (p.name, p.kind, p.default) for p in function.values() if p.name != "backend"
    ]


@pytest.mark.parametrize("name", SIGNATURES)
def test_function_is_documented(name):
    text = inspect.getdoc(getattr(sb, name))
    assert "Zhao eq." in text or name == "log_softmax"
    assert len(text) > 200


@pytest.mark.parametrize("name", SIGNATURES)
def test_options_are_keyword_only(name):
    positional, _ = SIGNATURES[name]
    arguments = [[[0.5, 0.5]], [0]][: len(positional)]
    with pytest.raises(TypeError, match="positional"):
        getattr(sb, name)(*arguments, -1)


@pytest.mark.parametrize("name", SIGNATURES)
def test_unknown_options_and_missing_arguments_are_type_errors(name):
    positional, _ = SIGNATURES[name]
    arguments = [[[0.5, 0.5]], [0]][: len(positional)]
    with pytest.raises(TypeError, match="dim"):
        getattr(sb, name)(*arguments, dim=1)
    with pytest.raises(TypeError, match="missing"):
        getattr(sb, name)()


def test_everything_public_is_exported():
    assert set(SIGNATURES) <= set(sb.__all__)
    assert all(hasattr(sb, name) for name in sb.__all__)


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_function_gives_what_the_method_gives(name):
    x, y = np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([1, 0])
    arguments = (x, y) if len(SIGNATURES[name][0]) == 2 else (x,)
    for backend in ("python", "numpy"):
        function = getattr(sb, name)(*arguments, backend=backend)
        method = getattr(sb.get_backend(backend), name)(*arguments)
        assert type(function) is type(method)
        pairs = zip(function, method, strict=True) if name == "loss_and_gradient" else [(function, method)]
        assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", ["loss", "gradient", "loss_and_gradient", "log_loss"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_every_option_at_once(name, reduction):
    options = {"class_weight": [1.0, 2.0], "sample_weight": [1.0, 0.5, 1.0], "ignore_index": -1, "reduction": reduction}
    x, y = np.full((2, 3), 0.5), [0, 1, -1]
    results = getattr(sb, name)(x, y, axis=0, **options)
    gradient = results[-1] if name == "loss_and_gradient" else results
    if "gradient" in name:
        assert gradient.shape == (2, 3)
        assert (gradient[:, 2] == 0).all()


def test_scalars_are_numpy_scalars():
    assert type(sb.loss([[0.0, 1.0]], [1])) is np.float64
    assert type(sb.loss(np.zeros((1, 2), np.float16), [1])) is np.float64
    assert type(sb.argmax([0.0, 1.0])) is np.int64
    assert type(sb.logsumexp(np.zeros(3, np.float32))) is np.float32


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (0, 0, 2), (0, 4, 0)])
def test_empty_arrays_of_any_shape(shape):
    x = np.zeros(shape)
    assert sb.softmax(x).shape == shape
    assert sb.log_softmax(x).shape == shape
    assert sb.logsumexp(x).shape == shape[:-1]
    assert sb.softmax(x, axis=0).shape == shape


def test_empty_list_of_labels():
    assert np.isnan(sb.loss(np.zeros((0, 3)), []))
    assert sb.loss(np.zeros((0, 3)), [], reduction="sum") == 0.0


def test_the_first_bad_row_of_many_is_named():
    labels = np.zeros(1000, int)
    labels[[617, 990]] = 5
    with pytest.raises(ValueError, match=r"target\[617\] is 5"):
        sb.loss(np.zeros((1000, 5)), labels)


def test_out_returns_itself_whatever_the_kind_of_logits():
    out = np.empty((2, 2))
    assert sb.softmax([[0, 0], [1, 1]], out=out) is out
    assert out.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    with pytest.raises(TypeError, match="out"):
        sb.softmax([[0.0, 0.0]], out=[[0.0, 0.0]])


def test_backend_argument_may_be_a_backend():
    be = sb.get_backend("python")
    assert sb.softmax([0.0, 0.0], backend=be).tolist() == [0.5, 0.5]


def test_info_says_which_backend_and_kind():
    info = sb.get_backend("python").info()
    assert (info["name"], info["kind"]) == ("python", "cpu")


_X, _Y = np.zeros((2, 3)), np.array([0, 1])
_READ_ONLY = np.zeros((2, 3))
_READ_ONLY.flags.writeable = False
_FLAT = np.zeros(12)
_SIX = _FLAT[:6].reshape(2, 3)
_LATER = _FLAT[3:9].reshape(2, 3)

# What is wrong, by the words that tell the caller which argument it is and what was expected of it.
MESSAGES = [
    ("argmax", (np.zeros((2, 0)),), {}, r"logits has no classes .*\(2, 0\)"),
    ("log_loss", ([[2.0, 0.0]], [0]), {}, r"^probs\[0, 0\] is 2"),
    ("log_loss", (np.array("a"), [0]), {}, "^probs has dtype"),
    ("log_loss", (np.array(1.0), [0]), {}, "^probs is 0-d"),
    ("softmax", (_X,), {"out": np.zeros((2, 3), np.float32)}, "out has dtype float32, expected float64"),
    ("softmax", (_X,), {"out": np.zeros((3, 2))}, r"out has shape \(3, 2\), expected \(2, 3\)"),
    ("softmax", (_X,), {"out": _READ_ONLY}, "^out is read-only"),
    ("softmax", (_X,), {"out": [[0.0]]}, "^out must be an array .* a list"),
    ("softmax", (_X,), {"out": np.broadcast_to(np.zeros(3), (2, 3))}, "^out "),
    ("softmax", (_SIX,), {"out": _LATER}, "^out overlaps logits"),
    ("gradient", (_SIX, _Y), {"out": _LATER}, "^out overlaps logits"),
    ("loss_and_gradient", (_SIX, _Y), {"out": _LATER}, "^out overlaps logits"),
    ("gradient", (_X, _SIX + 1 / 3), {"out": np.zeros((3, 2))}, "^out has shape"),
    ("gradient", (_X, _LATER), {"out": _SIX, "validate": False}, "^out overlaps target"),
    ("gradient", (_X, _Y), {"out": _SIX, "sample_weight": _SIX[:, 0]}, "^out overlaps sample_weight"),
    ("gradient", (_X, _Y), {"out": _SIX, "class_weight": _SIX[1]}, "^out overlaps class_weight"),
    ("loss", (_X, [0]), {}, r"target has shape \(1,\), expected \(2,\) .*\(2, 3\)"),
    ("loss", (_X, np.zeros((2, 2))), {}, r"target has shape \(2, 2\), expected .*\(2, 3\)"),
    ("loss", (_X, np.zeros((2, 3, 1))), {}, r"3 dimensions, expected 1 \(class indices\) or 2"),
    ("loss", (_X, np.full((2, 3), "a")), {}, "target has dtype"),
    ("loss", (np.zeros((2, 0)), _Y), {}, "logits has no classes"),
    ("loss", (np.zeros((2, 0)), np.zeros((2, 0))), {}, "target rows are empty"),
    ("loss", (_X, _Y), {"class_weight": [1.0]}, r"class_weight has shape \(1,\), expected \(3,\)"),
    ("loss", (_X, _Y), {"class_weight": [1.0, -1.0, 1.0]}, r"^class_weight\[1\] is -1"),
    ("loss", (_X, _Y), {"sample_weight": [1.0, -2.0]}, r"^sample_weight\[1\] is -2"),
    ("loss", (_X, _Y), {"class_weight": "a"}, "^class_weight has dtype"),
    ("loss", (_X, _Y), {"sample_weight": "a"}, "^sample_weight has dtype"),
    ("loss", (_X, [0.0, 1.0]), {}, "^target has dtype float64 and one dimension fewer"),
    ("softmax", (_X,), {"axis": 1.5}, r"^axis must be an integer, got 1\.5"),
    ("softmax", (_X,), {"axis": 2}, "^axis 2 is out of bounds for array of dimension 2"),
    ("softmax", (_X,), {"axis": -3}, "^axis -3 is out of bounds for array of dimension 2"),
    ("loss", (_X, _Y), {"reduction": "all"}, "^reduction is 'all', expected one of 'mean', 'sum', 'none'$"),
    ("loss", (_X, _Y), {"ignore_index": 1.5}, r"^ignore_index must be an integer or None, got 1\.5"),
    ("loss", (_X, _Y), {"ignore_index": True}, "^ignore_index must be an integer or None, got True"),
    ("loss", (_X, _Y), {"label_smoothing": "a"}, r"^label_smoothing must be a number in \[0, 1\], got 'a'"),
    ("loss", (_X, _Y), {"label_smoothing": 1.5}, r"^label_smoothing is 1\.5, expected"),
]


@pytest.mark.parametrize(("name", "arguments", "options", "words"), MESSAGES)
def test_a_wrong_argument_is_named(name, arguments, options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        getattr(sb, name)(*arguments, **options)


def test_a_zero_stride_matters_where_it_repeats_an_element():
    from numpy.lib.stride_tricks import as_strided

    memory = np.zeros(20)
    once = as_strided(memory, (2, 1, 3), (48, 0, 16))  # an axis of length 1 repeats nothing
    assert sb.softmax(np.zeros((2, 1, 3)), out=once) is once
    assert (once == 1 / 3).all()
    with pytest.raises(ValueError, match="zero stride"):
        sb.softmax(np.zeros((2, 3)), out=as_strided(memory, (2, 3), (0, 8)))


def test_the_logits_themselves_are_known_by_place_and_form():
    x = np.zeros((3, 3))
    view = x[:]
    assert sb.softmax(x, out=view) is view
    assert (x == 1 / 3).all()
    with pytest.raises(ValueError, match="overlaps logits"):
        sb.softmax(x, out=x.T)
    integers = np.zeros((2, 3), np.int64)
    with pytest.raises(ValueError, match="overlaps logits"):
        sb.softmax(integers, out=integers.view(np.float64))


@pytest.mark.parametrize("backend", ["python", "numpy"])
def test_rows_without_classes_lose_nothing_unchecked(backend):
    x = np.zeros((2, 0))
    options = {"validate": False, "reduction": "none", "backend": backend}
    loss, gradient = sb.loss_and_gradient(x, x, **options)
    assert loss.tolist() == sb.loss(x, x, **options).tolist() == sb.log_loss(x, x, **options).tolist() == [0.0, 0.0]
    assert gradient.shape == (2, 0)
