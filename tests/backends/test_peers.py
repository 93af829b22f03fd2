"""Backends over other people's libraries: whose arrays come and go, which of their functions are called, and how often.

What they compute is judged by the kit: tests/conformance/test_peers.py.
"""

import collections
import importlib.util
import os
import pickle
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

import softbench as sb
from softbench.built_in import BUILT_IN, PEERS
from softbench.conformance.batch import VIEWS, batch
from softbench.conformance.peers import OVERHEAD

FORMS = {
    "torch": ("torch", {}),
    "jax": ("jax", {}),
    "array_api-array_api_strict": ("array_api", {"namespace": "array_api_strict"}),
    "array_api-torch": ("array_api", {"namespace": "torch"}),
}
"""Backends with arrays that are not NumPy's."""


def _python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def _backend(name, **options):
    try:
        return sb.get_backend(name, **options)
    except sb.BackendUnavailableError as error:
        pytest.skip(str(error))


# -- what is there ---------------------------------------------------------------------------------------


def test_modules_of_peers_load_no_library_of_theirs():
    modules = sorted({BUILT_IN[name].module for name in PEERS})
    code = (
        f"import importlib, sys; [importlib.import_module(m) for m in {modules}]\n"
        "print({'torch', 'jax', 'scipy', 'sklearn', 'onnxruntime', 'onnx', 'array_api_compat'} & set(sys.modules))"
    )
    assert _python(code).stdout.strip() == "set()"


def test_availability_of_peers_loads_no_library_of_theirs_unless_there_may_be_a_gpu():
    code = (
        "import sys, softbench; states = softbench.available_backends()\n"
        "print({'jax', 'sklearn', 'onnxruntime', 'array_api_compat'} & set(sys.modules))\n"
        "print(states['torch_cuda'].ok or 'CPU' not in states['torch_cuda'].reason or 'torch' not in sys.modules)"
    )
    assert _python(code).stdout.split("\n")[:2] == ["set()", "True"]


def test_torch_without_a_gpu_says_why():
    state = sb.available_backends()["torch_cuda"]
    assert state.kind == "gpu"
    assert state.ok or any(
        words in state.reason
        for words in ("is not installed", "is built for the CPU only", "no NVIDIA driver", "finds no GPU")
    )
    assert state.ok or "pytorch.org" in state.install


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        ("__version__ = '9.9.9+cpu'\ncuda = None\nhip = None\n", "torch 9.9.9+cpu is built for the CPU only"),
        ("__version__ = '9.9.9'\ncuda: str = '13.0'\nhip = None\n", None),
        ("1/0", None),
    ],
)
def test_the_build_of_torch_is_read_without_importing_it(tmp_path, build, reason):
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    (package / "version.py").write_text(build)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import softbench; print(softbench.available_backends()['torch_cuda'].reason)"
    )
    said = _python(code).stdout.strip()
    if reason is not None:
        assert said == reason
    else:  # what it depends on is asked in turn: the driver, then torch itself
        assert "no NVIDIA driver" in said or said == "torch cannot be imported: broken on purpose"


# -- options ---------------------------------------------------------------------------------------------


def test_the_same_options_give_the_same_backend():
    one = sb.get_backend("sklearn", n_threads=2)
    assert sb.get_backend("sklearn", n_threads=2) is one
    assert sb.get_backend("sklearn") is not one
    assert one.info()["threads"] == 2
    assert sb.get_backend("sklearn").info()["threads"] == 1


def test_options_travel_with_a_pickled_backend():
    one = sb.get_backend("sklearn", n_threads=2)
    assert pickle.loads(pickle.dumps(one)) is one
    assert pickle.loads(pickle.dumps(sb.get_backend("sklearn"))) is sb.get_backend("sklearn")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("sklearn", {"threads": 2}, "backend 'sklearn' has no option 'threads': it has n_threads"),
        ("numpy", {"compile": True}, "backend 'numpy' has no option 'compile': it has none"),
        ("sklearn", {"n_threads": [2]}, "option n_threads of backend 'sklearn' is a list: it must be hashable"),
    ],
)
def test_options_that_a_backend_does_not_have(name, options, says):
    with pytest.raises(TypeError, match=says):
        sb.get_backend(name, **options)


def test_options_need_a_name():
    with pytest.raises(TypeError, match=r"options \(compile\) need a backend's name, got the backend 'numpy'"):
        sb.get_backend(sb.get_backend("numpy"), compile=True)


# -- NumPy's arrays go to the library as they are ----------------------------------------------------------


def _spied(monkeypatch, owner, name):
    """Replace a function by one that notes its arguments, and calls it."""
    calls, real = [], getattr(owner, name)

    def spy(*arguments, **options):
        calls.append((arguments, options))
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, spy)
    return calls


@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp"])
def test_scipy_gets_the_logits_themselves_once(monkeypatch, function):
    import scipy.special

    calls = _spied(monkeypatch, scipy.special, function)
    x = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    getattr(sb, function)(x, backend="scipy")
    ((arguments, options),) = calls
    assert arguments[0] is x
    assert options == {"axis": 1}


def test_scikit_learn_gets_the_logits_themselves_once_and_fills_out(monkeypatch):
    from sklearn._loss import HalfMultinomialLoss

    calls = _spied(monkeypatch, HalfMultinomialLoss, "loss_gradient")
    x = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    out = np.empty_like(x)
    sb.loss_and_gradient(x, np.arange(50) % 20, out=out, backend="sklearn")
    ((_, options),) = calls
    assert options["raw_prediction"] is x
    assert options["gradient_out"] is out


@pytest.mark.parametrize(
    ("name", "direct"),
    [
        ("scipy", lambda x, y: __import__("scipy.special").special.softmax(x, axis=1)),
        ("sklearn", lambda x, y: __import__("sklearn.utils.extmath").utils.extmath.softmax(x)),
    ],
)
def test_no_memory_is_taken_beyond_what_the_library_takes(name, direct):
    x = np.random.default_rng(0).normal(size=(500, 1000))
    be = sb.get_backend(name)

    def peak(call):
        call()
        tracemalloc.start()
        call()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(lambda: be.softmax(x)) <= peak(lambda: direct(x, None)) + x.nbytes // 100


def _direct_scipy(x, y):
    from scipy.special import log_softmax, softmax

    return {"softmax": lambda: softmax(x, axis=1), "loss_and_gradient": _composed(lambda: log_softmax(x, axis=1), y)}


def _composed(log_softmax, y):
    """Loss and gradient with NumPy, of a library that has neither."""
    rows = np.arange(len(y))

    def fused():
        log_p = log_softmax()
        loss = -log_p[rows, y].mean()
        gradient = np.exp(log_p, out=log_p)
        gradient[rows, y] -= 1.0
        gradient /= len(y)
        return loss, gradient

    return fused


def _direct_sklearn(x, y):
    from sklearn._loss import HalfMultinomialLoss
    from sklearn.utils.extmath import softmax

    multinomial = HalfMultinomialLoss(n_classes=x.shape[1])

    def fused():
        losses, gradient = multinomial.loss_gradient(y_true=y.astype(x.dtype), raw_prediction=x)
        return losses.mean(), gradient / len(x)

    return {"softmax": lambda: softmax(x), "loss_and_gradient": fused}


def _direct_torch(x, y):
    import torch

    def fused():
        leaf = x.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(leaf, y)
        return loss, torch.autograd.grad(loss, leaf)

    return {"softmax": lambda: torch.softmax(x, 1), "loss_and_gradient": fused}


def _direct_jax(x, y):
    import jax

    def loss(x, y):
        return -jax.numpy.take_along_axis(jax.nn.log_softmax(x, axis=1), y[:, None], 1).mean()

    softmax, fused = jax.jit(lambda x: jax.nn.softmax(x, axis=1)), jax.jit(jax.value_and_grad(loss))
    return {
        "softmax": lambda: softmax(x).block_until_ready(),
        "loss_and_gradient": lambda: jax.block_until_ready(fused(x, y)),
    }


def _direct_onnxruntime(x, y):
    import onnxruntime
    from onnx import TensorProto, helper

    def session(operator):
        given, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy")
        graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], axis=1)], operator, [given], [result])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    softmax, log_softmax = session("Softmax"), session("LogSoftmax")
    return {
        "softmax": lambda: softmax.run(None, {"x": x})[0],
        "loss_and_gradient": _composed(lambda: log_softmax.run(None, {"x": x})[0], y),
    }


def _direct_array_api(x, y):
    from array_api_compat import array_namespace

    xp = array_namespace(x)
    classes = xp.arange(x.shape[1], dtype=y.dtype)

    def softmax():
        e = xp.exp(x - xp.max(x, axis=1, keepdims=True))
        return e / xp.sum(e, axis=1, keepdims=True)

    def fused():
        d = x - xp.max(x, axis=1, keepdims=True)
        log_p = d - xp.log(xp.sum(xp.exp(d), axis=1, keepdims=True))
        loss = -xp.sum(xp.squeeze(xp.take_along_axis(log_p, xp.expand_dims(y, axis=1), axis=1), axis=1)) / len(y)
        q = xp.astype(xp.reshape(classes, (1, -1)) == xp.expand_dims(y, axis=1), x.dtype)
        return loss, (xp.exp(log_p) - q) / len(y)

    return {"softmax": softmax, "loss_and_gradient": fused}


DIRECT = {
    "scipy": _direct_scipy,
    "sklearn": _direct_sklearn,
    "torch": _direct_torch,
    "jax": _direct_jax,
    "onnxruntime": _direct_onnxruntime,
    "array_api": _direct_array_api,
}
"""What the backends' users would write, for arrays of the library's own."""


def test_every_peer_is_called_directly_too():
    assert set(DIRECT) == set(PEERS) - {"torch_cuda"}


@pytest.mark.peers
@pytest.mark.parametrize("op", OVERHEAD)
@pytest.mark.parametrize("name", DIRECT)
def test_the_overhead_of_a_backend_is_what_the_page_says(name, op):
    """No adapter cost is charged to a peer. The shortest of interleaved calls: what else runs only adds to them."""
    be = _backend(name)
    x = be.asarray(np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32))
    y = be.asarray(np.arange(64) % 10)
    arguments = (x,) if op == "softmax" else (x, y)
    calls = DIRECT[name](x, y)[op], lambda: getattr(be, op)(*arguments)
    shortest = [float("inf")] * 2
    for _ in range(2000):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            shortest[i] = min(shortest[i], time.perf_counter() - start)
    print(name, op, *[f"{1e6 * seconds:.1f} us" for seconds in shortest])
    assert shortest[1] - shortest[0] < OVERHEAD[op], [f"{1e6 * seconds:.1f} us" for seconds in shortest]


# -- arrays of the library's own ---------------------------------------------------------------------------


@pytest.fixture(params=FORMS)
def be(request):
    name, options = FORMS[request.param]
    return _backend(name, **options)


@pytest.mark.peers
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_of_the_library_give_what_numpy_arrays_give(be, view, dtype):
    logits, target, options = view.arguments(batch(12, 7, dtype))
    function = getattr(be, view.op)
    due = function(logits, *(() if target is None else (target,)), **options)
    own = [be.asarray(array) for array in (logits, target) if array is not None]
    weights = {k: be.asarray(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    got = function(*own, **weights)
    assert type(got) is type(own[0])
    assert isinstance(due, np.ndarray)
    assert be.to_numpy(got).dtype == due.dtype
    assert np.array_equal(be.to_numpy(got), due, equal_nan=True)


@pytest.mark.peers
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_other_axes_of_arrays_of_the_library(be, axis):
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    got = be.softmax(be.asarray(x), axis=axis)
    assert np.allclose(be.to_numpy(got), sb.softmax(x, axis=axis, backend="numpy"), rtol=1e-13)


@pytest.mark.peers
def test_means_and_sums_are_float64_scalars_of_the_library(be):
    x, y = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), np.arange(6) % 3
    loss = be.loss(be.asarray(x), be.asarray(y))
    assert type(loss) is type(be.asarray(x))
    assert be.to_numpy(loss).dtype == np.float64
    assert be.to_numpy(loss).shape == ()
    assert isinstance(be.loss(x, y), np.float64)


@pytest.mark.peers
def test_numpy_arrays_are_written_and_never_the_inputs(be):
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    before, out = x.copy(), np.empty_like(x)
    assert be.softmax(x, out=out) is out
    assert np.array_equal(out, be.softmax(x))
    assert np.array_equal(x, before)
    be.softmax(x)[0, 0] = 2.0  # a result is its owner's
    x.flags.writeable = False
    assert np.array_equal(out, be.softmax(x))


# -- PyTorch -----------------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def _operators(torch, call, size):
    """How often each operator is run that returns ``size`` elements or more; and how many others."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.large, self.small = collections.Counter(), 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            parts = result if isinstance(result, (tuple, list)) else (result,)
            if any(isinstance(p, torch.Tensor) and p.numel() >= size for p in parts):
                self.large[str(function)] += 1
            else:
                self.small += 1
            return result

    with Count() as count:
        call()
    return count


@pytest.mark.peers
@pytest.mark.parametrize("op", ["argmax", "logsumexp", "softmax", "log_softmax", "loss", "loss_and_gradient"])
def test_torch_runs_the_operators_that_a_direct_call_runs(torch, op):
    """Nothing of the size of the logits besides; of the size of the labels at most their check and the sum's cast."""
    from torch.nn.functional import cross_entropy

    x, y = torch.randn(60, 50), torch.arange(60) % 50

    def fused():
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(leaf, y), leaf)
        return gradient

    direct = {"loss": lambda: cross_entropy(x, y), "loss_and_gradient": fused}.get(op, lambda: getattr(torch, op)(x, 1))
    be = _backend("torch")
    through = (lambda: getattr(be, op)(x, y)) if op.startswith("loss") else (lambda: getattr(be, op)(x))
    expected, got = (_operators(torch, call, x.numel()) for call in (direct, through))
    expected.large.pop("aten.detach.default", None)  # views, which direct calls make in other numbers
    got.large.pop("aten.detach.default", None)
    assert got.large == expected.large
    assert got.small <= expected.small + 3


@pytest.mark.peers
def test_torch_writes_into_out_itself(torch):
    be = _backend("torch")
    x = torch.randn(60, 50)
    out = torch.empty_like(x)
    count = _operators(torch, lambda: be.softmax(x, out=out), x.numel())
    assert "aten.copy_.default" not in count.large
    assert torch.equal(out, torch.softmax(x, 1))


@pytest.mark.peers
def test_numpy_arrays_share_their_memory_with_tensors(torch):
    be = _backend("torch")
    x = np.zeros((4, 3), np.float32)
    assert be.asarray(x).data_ptr() == x.ctypes.data


@pytest.mark.peers
def test_tensors_that_cannot_be_computed_on(torch):
    be = _backend("torch")
    x = torch.zeros(2, 3)
    with pytest.raises(TypeError, match=r"logits requires grad.*logits\.detach"):
        be.softmax(x.clone().requires_grad_())
    with pytest.raises(TypeError, match=r"logits is a torch\.Tensor on device meta.*on cpu"):
        be.softmax(x.to("meta"))
    with pytest.raises(TypeError, match=r"the array is a torch\.Tensor on device meta, which holds no values"):
        be.asarray(x.to("meta"))
    with pytest.raises(TypeError, match="sparse"):
        be.softmax(x.to_sparse())
    with pytest.raises(TypeError, match="complex64"):
        be.softmax(x.to(torch.complex64))
    with pytest.raises(TypeError, match="dtype"):
        be.softmax(x.to(torch.float8_e4m3fn))


@pytest.mark.peers
@pytest.mark.parametrize("name", ["python", "numpy", "numba", "torch", "array_api"])
@pytest.mark.parametrize("argument", ["logits", "target", "sample_weight", "class_weight", "out"])
def test_tensors_without_values_are_refused_by_device(torch, name, argument):
    be = _backend(name)
    shapes = {"logits": (2, 3), "target": (2,), "sample_weight": (2,), "class_weight": (3,), "out": (2, 3)}
    dtype = torch.int64 if argument == "target" else torch.float64
    empty = torch.zeros(shapes[argument], dtype=dtype, device="meta")
    given = {"logits": np.zeros((2, 3)), "target": np.array([0, 2]), argument: empty}
    said = "" if (name, argument) == ("array_api", "out") else r" on device meta"
    with pytest.raises(TypeError, match=rf"{argument} is a torch\.Tensor{said}"):
        be.gradient(given.pop("logits"), given.pop("target"), **given)


@pytest.mark.peers
def test_what_the_caller_has_set_in_torch_is_left_alone(torch):
    be = _backend("torch")
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    due = be.loss_and_gradient(x, y)[1]
    with torch.no_grad():
        assert torch.equal(be.loss_and_gradient(x, y)[1], due)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert x.grad is None
    assert not x.requires_grad


@pytest.mark.peers
def test_compiled_torch_gives_what_eager_torch_gives(torch):
    import shutil

    if not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("torch.compile needs a C++ compiler")
    eager, compiled = _backend("torch"), _backend("torch", compile=True)
    assert compiled.info()["compile"] is True
    for n, k in ((16, 10), (7, 33)):  # two shapes: each is compiled for itself
        x, y = torch.randn(n, k), torch.arange(n) % k
        assert torch.allclose(compiled.softmax(x), eager.softmax(x), rtol=1e-5)
        for got, due in zip(compiled.loss_and_gradient(x, y), eager.loss_and_gradient(x, y), strict=True):
            assert torch.allclose(got, due, rtol=1e-5, atol=1e-7)


@pytest.mark.peers
def test_the_cuda_backend_does_on_the_cpu_what_it_is_to_do_on_a_card(torch, monkeypatch):
    """Its checks are torch's functions: the kit is asked on tensors in host memory, which it takes for its device."""
    from softbench.conformance import run
    from softbench.interface import Availability
    from softbench_backends.torch import TorchBackend, TorchCudaBackend

    class Pretended(TorchCudaBackend):
        device = "cpu"
        deviations = TorchBackend.deviations

        @classmethod
        def availability(cls):
            return Availability(True, "gpu")

        info = TorchBackend.info
        synchronize = TorchBackend.synchronize

    rows = ("empty-batch", "label-range", "label-dtypes", "soft-targets", "sample-weight", "class-weight", "out")
    rows += ("ignore-index", "all-ignored", "reductions", "probabilities", "axes", "dtypes", "nan-row")
    report = run(Pretended, "quick", select=rows)
    assert report.ok, "\n".join(f"{r.id}: {r.message}" for r in report.of("failed")[:10])
    be = sb.Backend(Pretended())
    with pytest.raises(TypeError, match=r"logits is a numpy\.ndarray in host memory.*asarray"):
        be.softmax(np.zeros((2, 3)))
    assert torch.equal(be.softmax(torch.zeros(2, 2)), torch.full((2, 2), 0.5))


# -- JAX -----------------------------------------------------------------------------------------------------


@pytest.fixture
def jax():
    return pytest.importorskip("jax")


@pytest.mark.peers
def test_jax_arrays_are_neither_copied_nor_cast_on_their_way(jax, monkeypatch):
    be = _backend("jax")
    x, y = be.asarray(np.zeros((6, 5), np.float32)), be.asarray(np.arange(6) % 5)
    be.loss_and_gradient(x, y)  # compiled
    puts = _spied(monkeypatch, jax, "device_put")
    casts = _spied(monkeypatch, type(be.rows), "astype")
    be.softmax(x)
    be.loss_and_gradient(x, y)
    be.logsumexp(x)
    assert not puts
    assert not casts


@pytest.mark.peers
def test_jax_compiles_once_per_shape(jax, monkeypatch):
    from softbench_backends import jax as module

    be = _backend("jax")
    module._map.cache_clear()
    traced = _spied(monkeypatch, jax.nn, "softmax")
    for _ in range(5):
        be.softmax(np.zeros((6, 5), np.float32))
    be.softmax(np.zeros((7, 5), np.float32))
    assert len(traced) == 2
    module._map.cache_clear()


@pytest.mark.peers
def test_the_callers_jax_keeps_its_precision(jax):
    before = jax.config.jax_enable_x64
    be = _backend("jax")
    assert be.softmax(be.asarray(np.zeros((2, 3)))).dtype == np.float64
    assert jax.config.jax_enable_x64 == before


@pytest.mark.peers
def test_jax_arrays_are_immutable(jax):
    be = _backend("jax")
    x = be.asarray(np.zeros((2, 3), np.float32))
    with pytest.raises(TypeError, match="out is a JAX array, which is immutable"):
        be.softmax(x, out=x)


SHARDED = """
import sys
import jax, numpy as np
import softbench as sb
from jax.sharding import Mesh, NamedSharding, PartitionSpec

one, other = jax.devices()
over = lambda *axes: NamedSharding(Mesh(np.array([one, other]), ("d",)), PartitionSpec(*axes))
x, y, s = np.float32([[1, 2, 3, 4], [0, -1, 5, 2]]), np.int32([3, 0]), np.float32([1, 2])
rows, columns, copies = (jax.device_put(x, over(*axes)) for axes in (("d",), (None, "d"), ()))
labels, weights = jax.device_put(y, over("d")), jax.device_put(s, over("d"))
assert [len(array.devices()) for array in (rows, columns, copies, labels, weights)] == [2] * 5
elsewhere = [((rows, y), {}), ((columns, y), {}), ((copies, y), {}), ((x, labels), {})]
elsewhere += [((x, y), {"sample_weight": weights}), ((jax.device_put(x, other), y), {})]
due = sb.loss_and_gradient(x, y, backend="python"), sb.loss_and_gradient(x, y, sample_weight=s, backend="python")
for name, options in [(name, {}) for name in sys.argv[1:]] + [("array_api", {"namespace": "jax.numpy"})]:
    be = sb.get_backend(name, **options)
    for given, weighted in elsewhere:
        try:
            loss, gradient = be.loss_and_gradient(*given, **weighted)
        except TypeError as error:
            assert name == "jax" and "on device cpu:" in str(error) and "asarray()" in str(error), (name, error)
            continue
        assert name != "jax", given
        assert np.allclose(np.asarray(loss), due[bool(weighted)][0], rtol=1e-6), name
        assert np.allclose(be.to_numpy(gradient), due[bool(weighted)][1], rtol=1e-5), name
    assert np.array_equal(be.to_numpy(be.asarray(columns)), x), name
print("done")
"""


@pytest.mark.peers
def test_jax_arrays_over_two_devices_give_their_values_or_are_refused_by_device(jax):
    names = [name for name, found in sb.available_backends().items() if found.ok and found.kind == "cpu"]
    here = [
        name for name in names if "loss" in sb.get_backend(name).rows.provides and name not in ("array_api", "auto")
    ]
    assert {"python", "numpy", "jax"} <= set(here)
    done = subprocess.run(
        [sys.executable, "-c", SHARDED, *here],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


# -- ONNX Runtime --------------------------------------------------------------------------------------------


@pytest.mark.peers
def test_onnx_runtime_gets_the_logits_themselves_in_one_session_per_shape(monkeypatch):
    be = _backend("onnxruntime")
    onnxruntime = pytest.importorskip("onnxruntime")
    from softbench_backends import onnxruntime as module

    module._session.cache_clear()
    made = _spied(monkeypatch, onnxruntime, "InferenceSession")
    runs = _spied(monkeypatch, onnxruntime.capi.onnxruntime_inference_collection.Session, "run")
    x, y = np.random.default_rng(0).normal(size=(60, 50)).astype(np.float32), np.arange(60) % 50
    for _ in range(3):
        be.softmax(x)
    assert (len(made), len(runs)) == (1, 3)
    assert all(arguments[2]["x0"] is x for arguments, _ in runs)
    be.loss(x, y)
    assert (len(made), len(runs)) == (2, 4)
    assert runs[-1][0][2]["x0"] is x
    module._session.cache_clear()


@pytest.mark.peers
def test_onnx_runtime_works_in_forks_of_a_process_that_has_not_used_it():
    """Another one has threads, which are not there in its forks: those are refused."""
    from softbench.conformance.apart import judge_apart

    _backend("onnxruntime")
    report = judge_apart("onnxruntime", "standard", select=["processes/first-call-argmax", "processes/fork-logsumexp"])
    assert [result.status for result in report.results] == ["passed", "passed"]


@pytest.mark.peers
def test_onnx_runtime_writes_into_out_itself(monkeypatch):
    be = _backend("onnxruntime")
    onnxruntime = pytest.importorskip("onnxruntime")
    runs = _spied(monkeypatch, onnxruntime.capi.onnxruntime_inference_collection.Session, "run")
    x = np.random.default_rng(0).normal(size=(60, 50)).astype(np.float32)
    due, out = be.softmax(x), np.empty_like(x)
    runs.clear()
    assert be.softmax(x, out=out) is out
    assert not runs  # but by way of a binding
    assert np.array_equal(out, due)


# -- the array API ---------------------------------------------------------------------------------------------


@pytest.mark.peers
def test_the_library_of_the_logits_computes():
    be = _backend("array_api")
    torch, strict = pytest.importorskip("torch"), pytest.importorskip("array_api_strict")
    y = np.array([0, 1])
    for asarray in (torch.asarray, strict.asarray, np.asarray):
        x = asarray(np.eye(2, dtype=np.float32))
        assert type(be.softmax(x)) is type(x)
        assert type(be.loss(x, asarray(y), class_weight=[1.0, 2.0])) in (type(x), np.float64)


@pytest.mark.peers
def test_arrays_of_two_libraries_do_not_meet():
    be = _backend("array_api")
    torch, strict = pytest.importorskip("torch"), pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match=r"target is a torch\.Tensor, and the logits are a array_api_strict"):
        be.loss(strict.asarray(np.eye(2)), torch.tensor([0, 1]))


@pytest.mark.peers
def test_array_api_arrays_are_not_written():
    be = _backend("array_api")
    strict = pytest.importorskip("array_api_strict")
    x = strict.asarray(np.eye(2))
    with pytest.raises(TypeError, match=r"out is a .*the array API standard does not promise"):
        be.softmax(x, out=x)


@pytest.mark.peers
@pytest.mark.skipif(importlib.util.find_spec("array_api_compat") is None, reason="array-api-compat is not installed")
def test_an_unknown_namespace_is_unavailable():
    with pytest.raises(sb.BackendUnavailableError, match="no_such_library"):
        sb.get_backend("array_api", namespace="no_such_library")
