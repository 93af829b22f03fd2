"""Options of the conformance kit (``pytest --backend NAME``), and kernels compiled ahead on the other core."""

import importlib.util
import subprocess
import sys

import pytest

from softbench import processes
from softbench.machine import usable_cores

pytest_plugins = ["softbench.conformance.pytest_plugin"]

_COMPILE = """
from softbench.cli import main
from softbench.conformance import ahead
ahead.main(["numba"])
main(["warmup", "numba"])
"""
"""First what the kit needs, then the rest."""


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


_PROCESS = pytest.StashKey[processes.Child]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start compiling if any collected test asks for it."""
    if session.config.option.collectonly or usable_cores() == 1 or importlib.util.find_spec("numba") is None:
        return
    if any("compiled_ahead" in getattr(item, "fixturenames", ()) for item in session.items):
        session.config.stash[_PROCESS] = processes.start(
            [sys.executable, "-c", _COMPILE], limit=3600, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the compiling with the session."""
    process = config.stash.get(_PROCESS, None)
    if process is not None:
        process.kill()
        process.wait()
