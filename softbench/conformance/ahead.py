"""Compiling on another core what a run of the kit is going to need.

``python -m softbench.conformance.ahead NAME ...`` judges backends by the quick profile from its last case to its first,
for no other purpose than what that leaves in the cache on disk. Both processes meet half way: from there on each finds
what the other has compiled. So no list of kernels has to be kept in step with the kit.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from softbench import processes
from softbench.interface import RowBackend
from softbench.machine import usable_cores

__all__ = ["compiling_ahead", "main"]

_LIMIT: Final = 1800.0
"""Seconds after which compiling has failed, whatever it is that takes so long."""


@contextlib.contextmanager
def compiling_ahead(backends: Mapping[str, Any]) -> Iterator[None]:
    """Let another process compile for ``backends``, as long as the block runs; it is ended with the block.

    Parameters
    ----------
    backends
        What is going to be judged, by the name that `softbench.conformance.run` would take. Only those that name
        kernels (`softbench.interface.RowBackend.kernels`) concern the other process; without any, or with a single
        core, there is none.
    """
    names = [name for name, backend in backends.items() if _compiles(backend)]
    if not names or usable_cores() == 1:
        yield
        return
    quiet = subprocess.DEVNULL
    # Not in a session of its own: there its niceness would mean nothing to us.
    with processes.start(
        processes.python("-m", "softbench.conformance.ahead", *names),
        limit=_LIMIT,
        env=processes.environment(),
        stdout=quiet,
        stderr=quiet,
    ):
        yield


def _compiles(backend: Any) -> bool:
    """Whether a backend says that it has something to compile."""
    rows = getattr(backend, "rows", backend)
    return isinstance(rows, RowBackend) and type(rows).kernels is not RowBackend.kernels


def main(names: Iterable[str]) -> None:
    """Judge backends by the quick profile, from the last case to the first, for what that compiles."""
    from softbench.conformance import contract
    from softbench.conformance.backend_under_test import under_test
    from softbench.conformance.runner import judge_case

    for name in names:
        subject = under_test(name, "quick")
        for case in reversed(contract.cases("quick")):
            judge_case(subject, case)


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(19)  # whoever waits for the verdict comes first
    main(sys.argv[1:])
