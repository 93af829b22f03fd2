"""backend="auto": whom it takes, from which call on, and what it says of it."""

import copy
import pickle
import sys
import timeit
import warnings
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "results"))

import records

import softbench
from softbench import auto, built_in, machine, registry
from softbench.results import store

X = np.random.default_rng(0).normal(size=(40, 100)).astype(np.float32)
Y = np.arange(40)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(registry, "_instances", {n: b for n, b in registry._instances.items() if n != "auto"})


def measured(**medians):
    """Measurements of this machine: softmax of X on these backends, python to be started in two seconds."""
    results = {name: records.timed([t] * 6) for name, t in medians.items()}
    case = records.case(results, name="softmax-40x100-f32", shape=[40, 100])
    backends = {name: records.backend(startup=(0.0, 0.0, 0.0)) for name in medians}
    backends["python"] = records.backend(startup=(0.5, 1.5, 0.1))
    versions = machine.versions(built_in.DISTRIBUTIONS)
    record = records.run([case], backends, versions=versions, started="2026-01-01T00:00:00+00:00")
    record["machine"] = machine.fingerprint()
    return record


def kept(record):
    store.save(record, machine.fingerprint()["id"], machine.thread_count())
    return softbench.get_backend("auto")


def chosen(be, label="softmax 40x100 float32"):
    return be.info()["chosen"][label].split(":")[0]


def test_it_is_never_the_default_and_no_backend_of_a_list():
    assert softbench.get_backend("auto").name == "auto"
    assert "auto" not in softbench.list_backends()
    assert registry.current_backend().name != "auto"
    with pytest.raises(softbench.UnknownBackendError, match="did you mean 'auto'"):
        softbench.get_backend("autos")


def test_it_has_no_options():
    with pytest.raises(TypeError, match="backend 'auto' has no option 'speed'"):
        softbench.get_backend("auto", speed=1)


def test_it_pickles_by_name():
    be = softbench.get_backend("auto")
    assert pickle.loads(pickle.dumps(be)) is be


def test_the_fastest_is_taken_from_the_call_on_from_which_it_pays():
    be = kept(measured(numpy=1.0, python=0.25))  # 2 s to start, 0.75 s saved per call: from the third on
    names, said = [], []
    for _ in range(4):
        be.softmax(X)
        names.append(chosen(be))
        said.append(be.info()["chosen"]["softmax 40x100 float32"])
    assert said[0].startswith(
        "numpy: until calls have made up for the start-up of python (2.00 s); python: measured as"
    )
    assert said[-1].startswith("python: measured as")
    assert names == ["numpy", "numpy", "python", "python"]
    np.testing.assert_array_equal(be.softmax(X), softbench.softmax(X, backend="python"))
    assert "4x as fast as numpy" in be.info()["chosen"]["softmax 40x100 float32"]


def test_calls_of_one_operation_count_together_whatever_their_shape():
    be = kept(measured(numpy=1.0, python=0.25))
    for rows in (40, 39, 38, 37):
        be.softmax(X[:rows])
    assert chosen(be, "softmax 37x100 float32") == "python"
    assert chosen(be, "softmax 40x100 float32") == "numpy"  # not called since
    be.softmax(X)
    assert chosen(be) == "python"


def test_results_over_the_logits_follow_what_was_measured_so():
    record = measured(numpy=1.0, python=0.25)
    (fresh,) = record["cases"]
    given, over = (copy.deepcopy(fresh) | {"result": result, "name": result} for result in ("out", "in place"))
    over["results"]["python"] = records.timed([2.0] * 6)
    record["cases"] += [given, over]
    be = kept(record)
    x = X.copy()
    be.softmax(x, out=x)
    be.softmax(X, out=x)
    found = be.info()["chosen"]
    assert found["softmax 40x100 float32 (in place)"] == "numpy: measured as in place"
    assert "python: measured as out" in found["softmax 40x100 float32 (out=)"]


def test_results_over_the_logits_are_as_fast_as_into_other_memory_where_those_were_not_measured():
    record = measured(numpy=1.0, python=0.25)
    record["cases"][0]["result"] = "in place"
    be = kept(record)
    be.log_softmax(X, out=np.empty_like(X))
    assert "python: measured as" in be.info()["chosen"]["log_softmax 40x100 float32 (out=)"]


def test_a_tie_and_a_faster_numpy_stay_with_numpy():
    be = kept(measured(numpy=1.0, python=0.995))
    for _ in range(9):
        be.softmax(X)
    assert chosen(be) == "numpy"


def test_nothing_measured_numba_once_compiling_pays(monkeypatch):
    be = softbench.get_backend("auto")
    be.softmax(X)
    assert chosen(be) == "numpy"
    assert "never" in be.info()["measured"]
    monkeypatch.setattr(be, "_load", None)  # nothing is looked up by a rule
    group = next(iter(be._groups.values()))
    group.missed["numba"] = auto.COMPILING
    asked = []
    monkeypatch.setattr(be, "_get", lambda name: asked.append(name) or softbench.get_backend("python"))
    be.softmax(X)
    assert asked[0] == "numba"
    assert chosen(be) == "python"  # who was given for it


def test_who_is_not_here_is_not_taken(monkeypatch):
    be = softbench.get_backend("auto")
    monkeypatch.setattr(auto, "COMPILING", 0.0)

    def absent(name):
        raise softbench.BackendUnavailableError("numba is not installed")

    monkeypatch.setattr(be, "_get", absent)
    np.testing.assert_array_equal(be.softmax(X), softbench.softmax(X, backend="numpy"))
    assert be.info()["chosen"]["softmax 40x100 float32"] == (
        "numpy: numba would be the fastest, but: numba is not installed"
    )


@pytest.mark.parametrize(
    ("attribute", "value"), [("deviations", {"layouts": "x"}), ("gates", {"softmax": 9.0}), ("kind", "gpu")]
)
def test_who_does_not_promise_the_whole_contract_is_never_taken(attribute, value, monkeypatch):
    monkeypatch.setattr(registry._load("python"), attribute, value)
    be = kept(measured(numpy=1.0, python=0.01))
    for _ in range(9):
        be.softmax(X)
    assert chosen(be) == "numpy"


def test_who_was_wrong_is_never_taken():
    record = measured(numpy=1.0, python=0.01)
    record["backends"]["python"]["conformance"]["ok"] = False
    be = kept(record)
    for _ in range(300):
        be.softmax(X)
    assert chosen(be) == "numpy"


def test_other_versions_other_threads_another_machine_are_said():
    record = measured(numpy=1.0, python=0.25)
    record["versions"] = {**record["versions"], "numpy": "0.1"}
    with pytest.warns(UserWarning, match=r"measured with numpy 0\.1, now .*softbench run measures again"):
        be = kept(record)
    assert "measured with numpy 0.1" in be.info()["stale"]


@pytest.mark.parametrize("explain", [[], ["--explain"]])
def test_the_command_says_once_that_they_are_stale(explain, recwarn, capsys):
    from softbench.cli import main

    record = measured(numpy=1.0, python=0.25)
    record["versions"] = record["versions"] | {"numba": "0.1"}
    store.save(record, machine.fingerprint()["id"], machine.thread_count())
    assert main(["auto", *explain]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("Stale: measured with numba 0.1, now") == 1
    assert ("softmax-40x100-f32" in printed.out) == bool(explain)
    assert not recwarn.list
    assert not printed.err


@pytest.mark.parametrize(("who", "more"), [("another", 0), (None, 1)])
def test_measurements_of_others_are_not_followed(who, more):
    here = machine.fingerprint()["id"]
    store.save(measured(numpy=1.0, python=0.25), who or here, machine.thread_count() + more)
    with pytest.warns(UserWarning, match="there are measurements"):
        be = softbench.get_backend("auto")
    assert be.record is None


def test_measurements_that_hold_are_followed_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        be = kept(measured(numpy=1.0, python=0.25))
    assert be.info()["stale"] == ""
    assert be.info()["measured"] == "2026-01-01T00:00:00+00:00"


def test_every_function_is_there_with_all_its_options():
    be, numpy = softbench.get_backend("auto"), softbench.get_backend("numpy")
    x, p = X.astype(np.float64), numpy.softmax(X.astype(np.float64))
    options = {"reduction": "none", "class_weight": np.ones(100), "sample_weight": np.ones(40), "ignore_index": 3}
    for name, arguments, more in [
        ("argmax", (x,), {"axis": 0}),
        ("logsumexp", (x,), {"keepdims": True}),
        ("softmax", (x.tolist(),), {"axis": 0}),
        ("log_softmax", (x,), {"out": np.empty_like(x)}),
        ("log_loss", (p, Y), options),
        ("loss", (x, Y), {**options, "label_smoothing": 0.1}),
        ("gradient", (x, p), {"out": np.empty_like(x)}),
        ("loss_and_gradient", (x, Y), {**options, "axis": 1}),
    ]:
        found, wanted = getattr(be, name)(*arguments, **more), getattr(numpy, name)(*arguments, **more)
        for a, b in zip(found, wanted, strict=True) if name == "loss_and_gradient" else [(found, wanted)]:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "call",
    [
        lambda be: be.softmax(3.0),
        lambda be: be.softmax(X, axis=5),
        lambda be: be.softmax(X, axis=[1]),
        lambda be: be.softmax("words"),
        lambda be: be.loss(X, Y[:3]),
        lambda be: be.loss(X, None),
        lambda be: be.softmax(np.zeros((2, 0)), out=1),
    ],
)
def test_errors_are_those_of_every_backend(call):
    with pytest.raises(Exception) as found:  # noqa: PT011  # compared below
        call(softbench.get_backend("auto"))
    with pytest.raises(type(found.value)) as wanted:
        call(softbench.get_backend("numpy"))
    assert str(found.value) == str(wanted.value)


def test_a_program_with_many_shapes_starts_again(monkeypatch):
    monkeypatch.setattr(auto, "MOST_KNOWN", 3)
    be = softbench.get_backend("auto")
    for rows in range(1, 9):
        be.softmax(X[:rows])
    assert len(be._kinds) <= 3


def test_a_plugin_cannot_have_its_name(plugin):
    plugin("selfish", "class Mine(NumpyBackend):\n    name = 'auto'\n", auto="Mine")
    with pytest.warns(UserWarning, match="wants the name of built-in backend 'auto': ignored"):
        assert "auto" not in softbench.list_backends()


@pytest.mark.deep  # a time: not for a run beside other work
def test_it_decides_in_under_a_microsecond():
    be = kept(measured(numpy=1.0, python=0.25))
    for _ in range(4):
        be.softmax(X)
    pick = be._pick
    assert min(timeit.repeat(lambda: pick("softmax", X, -1, None), number=10_000, repeat=20)) < 1e-6 * 10_000
