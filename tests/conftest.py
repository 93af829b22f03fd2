"""Options of the conformance kit (``pytest --backend NAME``), and kernels compiled ahead on the other core."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter

import pytest

from softbench import processes
from softbench.machine import usable_cores

pytest_plugins = ["softbench.conformance.pytest_plugin"]

_COMPILE = """
from softbench.cli import main
from softbench.conformance import contract
from softbench.conformance.backend_under_test import under_test
from softbench.conformance.runner import judge_case
backend = under_test("numba", "quick")
for case in reversed(contract.cases("quick")):
    judge_case(backend, case)
main(["warmup", "numba"])
"""
"""First what the kit needs, from its last case to its first: both processes meet half way. Then the rest."""


@pytest.fixture(scope="session")
def compiled_ahead(request):
    """Another process compiles the numba backend's kernels into the cache of this one.

    Tests that need many of them ask for this fixture. The process starts with the session, while other tests run.
    """
    return request.config.stash.get(_PROCESS, None)


def pytest_configure(config: pytest.Config) -> None:
    """The quick profile, unless the command line names another."""
    if not any(str(argument).startswith("--conformance-profile") for argument in config.invocation_params.args):
        config.option.conformance_profile = "quick"
    # A background job of a shell ignores SIGINT, and nohup SIGHUP; so would the processes that tests send them to.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    # No run of a test is a measurement of this machine.
    os.environ["SOFTBENCH_DATA"] = tempfile.mkdtemp(prefix="softbench-tests-")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is deep runs where that is asked for, not with the other tiers that it belongs to."""
    if "deep" not in (expression := config.getoption("markexpr")) and expression:
        deep = [item for item in items if item.get_closest_marker("deep")]
        config.hook.pytest_deselected(items=deep)
        items[:] = [item for item in items if not item.get_closest_marker("deep")]


_TOGETHER = {
    "kernels": re.compile(r"numba(?!_cuda|_warmup)|backends/test_(half_precision|strided)"),
    "digits": re.compile(r"test_workloads.*digits"),
}
"""Node ids of tests for which the process that runs them compiles kernels of the numba backend, or fits the digits."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Of the processes of ``pytest -n 2`` one has all tests of numba's kernels: else both compile most of them."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class KernelsTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((name for name, ids in _TOGETHER.items() if ids.search(nodeid)), nodeid)

    return KernelsTogether(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Cases of the contract that were not asked of a backend, with the reason (test_conformance.py)."""
    reports = terminalreporter.stats.get("passed", [])
    found = [text for report in reports for name, text in report.user_properties if name == "not asked"]
    for text, count in Counter(found).items():
        terminalreporter.write_line(f"{count} cases not asked of {text}")


_PROCESS = pytest.StashKey[processes.Child]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start compiling if any collected test asks for it, and a core is free for it (pytest-xdist leaves none)."""
    if session.config.option.collectonly or usable_cores() == 1 or importlib.util.find_spec("numba") is None:
        return
    if hasattr(session.config, "workerinput"):
        return
    if any("compiled_ahead" in getattr(item, "fixturenames", ()) for item in session.items):
        session.config.stash[_PROCESS] = processes.start(
            [sys.executable, "-c", _COMPILE], limit=3600, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the compiling with the session; nothing of it stays."""
    shutil.rmtree(os.environ["SOFTBENCH_DATA"], ignore_errors=True)
    process = config.stash.get(_PROCESS, None)
    if process is not None:
        process.kill()
        process.wait()


@pytest.fixture
def plugin(tmp_path_factory, monkeypatch):
    """Install a distribution of backends, here and in processes started here: ``plugin("dist", source, name="Class")``.

    The source is that of its one module; ``softbench_backends`` and NumPy as ``np`` are imported there.
    """
    from softbench import registry

    def install(distribution: str, source: str, **entries: str) -> None:
        folder = tmp_path_factory.mktemp("site")
        module = f"module_of_{distribution}"
        head = "import os, signal, sys, time\nimport numpy as np\nfrom softbench_backends.numpy import NumpyBackend\n"
        (folder / f"{module}.py").write_text(head + textwrap.dedent(source))
        about = folder / f"{distribution}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name} = {module}:{attribute}" for name, attribute in entries.items()]
        (about / "entry_points.txt").write_text("\n".join([f"[{registry.ENTRY_POINT_GROUP}]", *lines]))
        monkeypatch.syspath_prepend(str(folder))
        registry._plugins.cache_clear()

    monkeypatch.setattr(registry, "_instances", dict(registry._instances))
    yield install
    monkeypatch.undo()
    registry._plugins.cache_clear()


@pytest.fixture(scope="module")
def client():
    """Two Dask workers in processes of their own, with little memory."""
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit="400MiB", dashboard_address=None, silence_logs=50
    )
    with cluster, distributed.Client(cluster, set_as_default=False) as found:
        yield found


@pytest.fixture
def distributed_client(client):
    """The same, as the scheduler of what is computed meanwhile."""
    import dask

    with dask.config.set(scheduler=None), client.as_current():
        yield client
