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
from typing import Any

from softbench.interface import RowBackend
from softbench.machine import usable_cores

__all__ = ["compiling_ahead", "main"]


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
    # -P: the child imports what this process has imported, not what lies in the current folder.
    command = [sys.executable, "-P", "-m", "softbench.conformance.ahead", *names]
    path = os.pathsep.join(entry or os.curdir for entry in sys.path)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdin=quiet,
        stdout=quiet,
        stderr=quiet,
        process_group=0,  # a Ctrl-C is for us alone; in a session of its own its niceness would mean nothing to us
    ) as child:
        try:
            yield
        finally:
            child.kill()


def _compiles(backend: Any) -> bool:
    """Whether a backend says that it has something to compile."""
    rows = getattr(backend, "rows", backend)
    return isinstance(rows, RowBackend) and type(rows).kernels is not RowBackend.kernels


def main(names: Iterable[str]) -> None:
    """Judge backends by the quick profile from behind, and keep the verdicts to oneself."""
    from softbench.conformance import contract
    from softbench.conformance.runner import judge_case, under_test

    for name in names:
        subject = under_test(name, "quick")
        for case in reversed(contract.cases("quick")):
            judge_case(subject, case)


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(19)  # whoever waits for the verdict comes first
    main(sys.argv[1:])
