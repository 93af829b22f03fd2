"""Options of the conformance kit (``pytest --backend NAME``), what ``-m deep`` means, and compiling ahead."""

import importlib.util
import subprocess
import sys

import pytest

from softbench import processes
from softbench.machine import usable_cores

pytest_plugins = ["softbench.conformance.pytest_plugin"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave deep tests out unless a marker expression asks for tests by marker."""
    if config.option.markexpr:
        return
    deep = [item for item in items if item.get_closest_marker("deep")]
    if deep:
        config.hook.pytest_deselected(items=deep)
        items[:] = [item for item in items if not item.get_closest_marker("deep")]


# A whole run spends most of a minute on compiling the numba backend's kernels; the other core does it while the tests
# of other things run. First what the kit needs, which comes first, then the rest.
_COMPILE = """
from softbench.cli import main
from softbench.conformance import ahead
ahead.main(["numba"])
main(["warmup", "numba"])
"""
_WHOLE_RUN = 5000
"""Tests from which on it is worth a process."""


@pytest.fixture(scope="session", autouse=True)
def compiled_ahead(request):
    """Another process that compiles the numba backend's kernels into the cache of this one."""
    if len(request.session.items) < _WHOLE_RUN or usable_cores() == 1 or importlib.util.find_spec("numba") is None:
        yield
        return
    quiet = subprocess.DEVNULL
    with processes.start([sys.executable, "-c", _COMPILE], limit=3600, stdout=quiet, stderr=quiet):
        yield
