"""Backends by name: what is listed, found, suggested, refused, and which one is current."""

import contextvars
import copy
import importlib.metadata
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest

import softbench as sb
from softbench import registry
from softbench.front.backend import Backend
from softbench.interface import RowBackend
from softbench_backends.python import PythonBackend

NAMES = ["python", "numpy", "numba", "numba_cuda", "cupy"]


def _python(code, **environment):
    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=120
    )


# -- names ---------------------------------------------------------------------------------------------


def test_lists_every_built_in_backend_with_a_summary():
    listed = sb.list_backends()
    assert list(listed)[:5] == NAMES
    assert all(isinstance(summary, str) and summary for summary in listed.values())


def test_availability_of_every_name():
    states = sb.available_backends()
    assert list(states)[:5] == NAMES
    assert states["python"].ok
    assert states["numpy"].ok
    for name, state in states.items():
        assert isinstance(state, sb.Availability)
        assert state.kind in ("cpu", "gpu", "simulator", "distributed")
        assert state.ok or state.reason, f"{name} is unavailable without a reason"


@pytest.mark.parametrize(
    ("wrong", "meant"), [("numpyy", "numpy"), ("nump", "numpy"), ("numba-cuda", "numba_cuda"), ("cupi", "cupy")]
)
def test_unknown_name_suggests_close_ones(wrong, meant):
    with pytest.raises(sb.UnknownBackendError, match=f"{wrong}.*did you mean.*'{meant}'"):
        sb.get_backend(wrong)


@pytest.mark.parametrize("wrong", ["", "tensorflow", "NUMPY ", "numpy:Thing"])
def test_unknown_name_is_a_value_error_listing_what_is_known(wrong):
    with pytest.raises(ValueError, match="known are python, numpy, numba, numba_cuda, cupy"):
        sb.softmax([0.0, 1.0], backend=wrong)


@pytest.mark.parametrize("wrong", [3, 1.5, ["numpy"], {"numpy"}, b"numpy", RowBackend])
def test_a_backend_of_another_type_is_a_type_error(wrong):
    with pytest.raises(TypeError, match="backend must be a name"):
        sb.get_backend(wrong)


def test_unavailable_backend_says_why_and_what_to_install(monkeypatch):
    class Missing(RowBackend):
        name = "missing"
        requires = ("no_such_module_of_anybody",)
        install = "pip install no-such-module"

    monkeypatch.setattr(registry, "_load", lambda name: Missing)
    with pytest.raises(
        sb.BackendUnavailableError, match=r"no_such_module_of_anybody.*pip install no-such-module"
    ) as error:
        sb.get_backend("missing")
    assert isinstance(error.value, ImportError)


def test_a_backend_is_made_once_and_passes_through():
    be = sb.get_backend("numpy")
    assert sb.get_backend("numpy") is be
    assert sb.get_backend(be) is be
    assert be.name == "numpy"
    assert "numpy" in repr(be)


def test_the_methods_are_the_functions():
    be = sb.get_backend("python")
    x, y = np.array([[0.0, 1.0, 2.5]]), np.array([1])
    assert np.array_equal(be.softmax(x), sb.softmax(x, backend="python"))
    assert be.loss(x, y) == sb.loss(x, y, backend=be)
    info = be.info()
    assert info["name"] == "python"
    assert info["kind"] == "cpu"
    assert np.array_equal(be.to_numpy(be.asarray([1, 2])), [1, 2])
    be.synchronize()


# -- the current backend -------------------------------------------------------------------------------


def _current():
    return registry.current_backend().name


def test_default_is_numpy(monkeypatch):
    monkeypatch.setattr(registry, "_FROM_ENVIRONMENT", None)
    assert _current() == "numpy"


def test_use_backend_nests_and_restores():
    before = _current()
    with sb.use_backend("python") as be:
        assert be.name == _current() == "python"
        with sb.use_backend("numpy"):
            assert _current() == "numpy"
        assert _current() == "python"
    assert _current() == before


def test_use_backend_restores_after_an_error():
    before = _current()
    with pytest.raises(RuntimeError, match="inside"), sb.use_backend("python"):
        raise RuntimeError("inside")
    assert _current() == before


def test_use_backend_refuses_on_entry():
    before = _current()
    with pytest.raises(sb.UnknownBackendError), sb.use_backend("nope"):
        pytest.fail("entered")
    assert _current() == before


def test_the_argument_wins_over_the_context(monkeypatch):
    asked = []
    be = sb.get_backend("python")
    monkeypatch.setattr(type(be), "argmax", lambda self, *a, **k: asked.append(self.name))
    with sb.use_backend("python"):
        sb.argmax([0.0], backend="numpy")
        sb.argmax([0.0])
    assert asked == ["numpy", "python"]


def test_use_backend_does_not_reach_running_threads():
    go, seen = threading.Event(), []

    def work():
        go.wait(30)
        seen.append(_current())

    before = _current()
    thread = threading.Thread(target=work)
    thread.start()
    with sb.use_backend("python"):
        go.set()
        thread.join(30)
    assert seen == [before]


def test_threads_choose_independently():
    names, barrier, seen = ["python", "numpy"] * 4, threading.Barrier(8), []

    def work(name):
        with sb.use_backend(name):
            barrier.wait(30)
            seen.append(_current() == name)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [True] * 8


def test_a_copied_context_takes_the_choice_along():
    with sb.use_backend("python"):
        context = contextvars.copy_context()
    assert context.run(_current) == "python"


# -- the environment -----------------------------------------------------------------------------------


def test_environment_variable_chooses():
    code = "import softbench as sb; from softbench.registry import current_backend; print(current_backend().name)"
    assert _python(code, SOFTBENCH_BACKEND="python").stdout.strip() == "python"
    assert _python(code, SOFTBENCH_BACKEND="").stdout.strip() == "numpy"


def test_environment_variable_is_read_once_at_import():
    code = """
        import os
        import softbench as sb
        from softbench.registry import current_backend
        os.environ["SOFTBENCH_BACKEND"] = "nope"
        print(current_backend().name)
    """
    assert _python(code, SOFTBENCH_BACKEND="python").stdout.strip() == "python"


def test_unknown_name_in_the_environment_raises_at_first_use_not_at_import():
    code = """
        import softbench as sb
        print("imported")
        print(sb.softmax([0.0], backend="python"))
        try:
            sb.softmax([0.0])
        except sb.UnknownBackendError as error:
            print("refused", error)
    """
    out = _python(code, SOFTBENCH_BACKEND="numpie").stdout.splitlines()
    assert out[0] == "imported"
    assert out[1] == "[1.]"
    assert out[2].startswith("refused unknown backend 'numpie': did you mean 'numpy'")


# -- plugins -------------------------------------------------------------------------------------------


class Distribution(importlib.metadata.Distribution):
    """An installed distribution that is nothing but a name."""

    def __init__(self, name):
        self._name = name

    @property
    def name(self):
        return self._name

    def read_text(self, filename):
        return None

    def locate_file(self, path):
        return path


@pytest.fixture
def plugins(monkeypatch):
    """Pretend that these entry points are installed: ``plugins(name="module:attribute")``, or several of one name."""

    def install(**points):
        found = [
            importlib.metadata.EntryPoint(name, value, registry.ENTRY_POINT_GROUP)._for(Distribution(f"dist{i}"))
            for name, values in points.items()
            for i, value in enumerate([values] if isinstance(values, str) else values)
        ]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
        registry._plugins.cache_clear()

    yield install
    monkeypatch.undo()
    registry._plugins.cache_clear()


def test_plugin_is_listed_without_being_loaded_and_usable(plugins, monkeypatch):
    monkeypatch.setattr(registry, "_instances", {})
    sys.modules.pop("softbench_backends.python", None)
    plugins(mine="softbench_backends.python:PythonBackend")
    assert "softbench_backends.python" in sb.list_backends()["mine"]
    assert "softbench_backends.python" not in sys.modules
    assert sb.available_backends()["mine"].ok
    assert sb.softmax([0.0, 0.0], backend="mine").tolist() == [0.5, 0.5]


def test_built_in_name_wins_over_a_plugin_with_a_warning(plugins):
    plugins(numpy="somebody:Else")
    with pytest.warns(UserWarning, match="somebody:Else.*built-in backend 'numpy'"):
        names = sb.list_backends()
    assert list(names).count("numpy") == 1
    assert type(sb.get_backend("numpy").rows).__module__ == "softbench_backends.numpy"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_module_of_anybody:Thing", "No module named"),
        ("softbench_backends.python:NoSuchClass", "NoSuchClass"),
        ("math:pi", "not a subclass"),
        ("pathlib:Path", "not a subclass"),
    ],
)
def test_broken_plugin_harms_nobody_else(plugins, value, why):
    plugins(broken=value)
    assert "broken" in sb.list_backends()
    with pytest.raises(sb.BackendUnavailableError, match=f"broken.*{why}"):
        sb.get_backend("broken")
    with pytest.warns(UserWarning, match="broken"):
        states = sb.available_backends()
    assert not states["broken"].ok
    assert why in states["broken"].reason
    assert states["numpy"].ok
    assert sb.softmax([0.0], backend="numpy").tolist() == [1.0]


def test_plugin_name_that_is_no_identifier_is_ignored_with_a_warning(plugins):
    plugins(**{"not-a-name": "somebody:Else"})
    with pytest.warns(UserWarning, match="not-a-name"):
        assert "not-a-name" not in sb.list_backends()


def test_a_good_registry_warns_of_nothing(plugins):
    plugins()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sb.list_backends()
        sb.available_backends()
        sb.get_backend("numpy")
    assert caught == []


class Plugin(PythonBackend):
    """A backend that works, under a name that its entry point need not share."""

    name = "somebody"


class ExitsWhenAsked(Plugin):
    @classmethod
    def availability(cls):
        raise SystemExit(0)


class RaisesWhenAsked(Plugin):
    @classmethod
    def availability(cls):
        raise RuntimeError("the driver is on fire")


class AnswersNonsense(Plugin):
    @classmethod
    def availability(cls):
        return True


class RaisesWhenMade(Plugin):
    def __init__(self):
        raise OSError("no licence server")


class ExitsWhenMade(Plugin):
    def __init__(self):
        sys.exit(3)


def here(cls):
    """The entry point's value of a class of this module, which is not imported by a name that others could use."""
    sys.modules.setdefault("plugins_of_test_registry", sys.modules[__name__])
    return f"plugins_of_test_registry:{cls.__name__}"


def test_the_name_of_the_entry_point_wins(plugins, monkeypatch):
    monkeypatch.setattr(registry, "_instances", {})
    plugins(mine=here(Plugin), yours=here(Plugin))
    assert sb.get_backend("mine").name == sb.get_backend("mine").info()["name"] == "mine"
    assert sb.get_backend("yours").name == "yours"
    assert Plugin.name == "somebody"


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (ExitsWhenAsked, "cannot say whether it can run here: SystemExit"),
        (RaisesWhenAsked, "cannot say whether it can run here: RuntimeError.*on fire"),
        (AnswersNonsense, "returned a bool, expected an Availability"),
    ],
)
def test_a_plugin_that_fails_when_asked_is_unavailable(plugins, cls, why):
    plugins(broken=here(cls))
    with pytest.warns(UserWarning, match=why):
        states = sb.available_backends()
    assert not states["broken"].ok
    assert re.search(f"{cls.__name__}.* of dist0.*{why}", states["broken"].reason)
    assert states["numpy"].ok
    with pytest.raises(sb.BackendUnavailableError, match=why):
        sb.get_backend("broken")


@pytest.mark.parametrize(("cls", "why"), [(RaisesWhenMade, "no licence server"), (ExitsWhenMade, "SystemExit")])
def test_a_plugin_that_cannot_be_made_is_unavailable(plugins, cls, why):
    plugins(broken=here(cls))
    with pytest.raises(sb.BackendUnavailableError, match=f"{cls.__name__}.* of dist0.*could not be made.*{why}"):
        sb.get_backend("broken")


def test_a_built_in_backend_whose_library_is_broken_is_unavailable(monkeypatch):
    def broken(name):
        raise ValueError("bad environment")

    monkeypatch.setattr(registry, "_import", broken)
    with pytest.warns(UserWarning, match="bad environment"):
        states = sb.available_backends()
    assert "bad environment" in states["numba"].reason


def test_two_distributions_that_want_one_name_get_neither(plugins):
    plugins(twice=[here(Plugin), "somebody:Else"])
    with pytest.warns(UserWarning, match=r"Plugin' of dist0 and .*Else' of dist1 both call themselves 'twice'"):
        states = sb.available_backends()
    assert not states["twice"].ok
    assert "uninstall one of them" in states["twice"].reason
    assert "dist0" in sb.list_backends()["twice"]
    assert "dist1" in sb.list_backends()["twice"]
    with pytest.raises(sb.BackendUnavailableError, match="both call themselves"):
        sb.get_backend("twice")


def test_where_warnings_are_errors_a_broken_plugin_harms_nobody(plugins, capsys):
    plugins(broken=here(RaisesWhenAsked), numpy="somebody:Else", twice=["a:A", "b:B"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        states = sb.available_backends()
    assert "on fire" in states["broken"].reason
    assert states["numpy"].ok
    printed = capsys.readouterr().err
    for what in ("on fire", "somebody:Else", "both call themselves"):
        assert what in printed


# -- pickling ------------------------------------------------------------------------------------------


def test_every_backend_is_pickled_by_name():
    for name, state in sb.available_backends().items():
        if state.ok:
            backend = sb.get_backend(name)
            backend.softmax(np.ones((2, 3)))  # with whatever it then holds
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
                text = pickle.dumps(backend, protocol)
                assert pickle.loads(text) is backend
                assert len(text) < 200
            assert pickle.loads(pickle.dumps(backend.softmax)) == backend.softmax
            assert copy.deepcopy(backend) is backend


def test_an_unpickled_name_is_that_of_the_backend_there(monkeypatch):
    text = pickle.dumps(sb.get_backend("numpy"))
    monkeypatch.delitem(registry._instances, "numpy")
    assert pickle.loads(text) is sb.get_backend("numpy")
    with pytest.raises(sb.UnknownBackendError, match="unknown backend 'numpx'"):
        pickle.loads(text.replace(b"numpy", b"numpx"))


def test_a_backend_that_has_no_name_here_cannot_be_pickled():
    class Mine(PythonBackend):
        name = "mine"

    with pytest.raises(pickle.PicklingError, match=r"'mine'.*test_registry\.\S*Mine.*softbench\.backends"):
        pickle.dumps(Backend(Mine()))
