"""Child processes that end with their parent and have a time limit of their own.

Every process that softbench starts is started here::

    from softbench import processes

    done = processes.run(processes.python("-m", "softbench.measure.startup", "numba"), limit=60)
    if done.problem:                      # "", "exit status 3", "ended by SIGSEGV", "no end within 60 s"
        ...
    done.stdout, done.stderr

    with processes.start(command, limit=600, stdout=subprocess.PIPE, pass_fds=(results,)) as child:
        ...                               # a `subprocess.Popen`; it is ended with the block, however that ends

What is promised of a child, and by what means:

* It leads a process group of its own. A Ctrl-C is for the parent alone, and `Child.kill` ends whatever the child
  has started as well. So does its own end: nothing of the group stays behind.
* It ends with its parent, also when that is killed and can clean up nothing: the kernel sends it SIGKILL (Linux,
  ``PR_SET_PDEATHSIG``). The kernel takes the *thread* that started it for its parent, so start children in a thread
  that lives as long as they may.
* It ends at its limit, also when nobody is there to end it, and when it hangs or spins inside a library that lets
  Python handle no signals: a timer of the kernel sends SIGALRM, which ends a process that does not handle it.
* It reads nothing from the terminal (``stdin`` is empty, unless asked for otherwise).

The timer and the signal are set before the child's program is loaded, by a small Python process that then becomes that
program. Processes that are forked, or started by `multiprocessing`, call `end_with_parent` themselves, first of all.
This module imports the standard library only, so that neither needs more.

Outside Linux a child whose parent was killed lives up to its limit; on Windows, where there are no timers either, the
parent alone keeps the limit.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

__all__ = ["Child", "Finished", "describe", "end_with_parent", "environment", "message", "python", "run", "start"]

_GRACE: Final = 5.0
"""Seconds that a child's own timer leaves its parent to be the first to notice."""

_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>

# What the process that becomes the child runs: nothing of site-packages, no module of this package but this one.
_LAUNCH: Final = "import sys; sys.path.append(sys.argv[1]); import processes; processes._become(*sys.argv[2:])"


class Child(subprocess.Popen[Any]):
    """A process started by `start`; as a context manager, it is ended with the block."""

    def kill(self) -> None:
        """End the child and all of its process group."""
        if self.returncode is None:
            self._end_group()
            super().kill()

    def wait(self, timeout: float | None = None) -> int:
        """As `subprocess.Popen.wait`; what the child has left running is ended."""
        running = self.returncode is None
        status = super().wait(timeout)
        if running:
            self._end_group()
        return status

    def poll(self) -> int | None:
        """As `subprocess.Popen.poll`; what the child has left running is ended."""
        running = self.returncode is None
        status = super().poll()
        if running and status is not None:
            self._end_group()
        return status

    def __exit__(self, *exception: object) -> None:
        self.kill()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):  # what nobody reads any more
                    stream.close()
        self.wait()

    def _end_group(self) -> None:
        # A group's number is that of its leader, and not given away anew for as long as one of the group is there. Of
        # an empty group it might be; but numbers are given in turn, and this is the moment after the leader's end.
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Finished:
    """What a child has printed, and how it ended."""

    status: int | None
    """As `subprocess.Popen.returncode`; None if it was ended at its limit."""
    stdout: str
    stderr: str
    limit: float

    @property
    def problem(self) -> str:
        """What went wrong; empty if nothing did."""
        return f"no end within {self.limit:g} s" if self.status is None else describe(self.status)

    def checked(self) -> str:
        """What it has printed; RuntimeError with what it said last if something went wrong."""
        if self.problem:
            raise RuntimeError(f"{self.problem}\n{self.stderr or self.stdout}".strip())
        return self.stdout


def start(
    command: Sequence[str | os.PathLike[str]], *, limit: float, env: Mapping[str, str] | None = None, **options: Any
) -> Child:
    """Start a process that ends with this one, and after ``limit`` seconds at the latest.

    Parameters
    ----------
    command
        The program and its arguments (`python` makes one for Python).
    limit
        Seconds. The caller is to end the child then, or to let `run` do so; a few seconds later it ends by itself.
    env
        Its environment variables; by default those of this process.
    **options
        As `subprocess.Popen` takes them.

    Returns
    -------
    Child

    Raises
    ------
    FileNotFoundError
        There is no such program.
    ValueError
        A limit that is not positive.
    """
    if not 0 < limit < float("inf"):
        raise ValueError(f"limit must be a positive number of seconds, got {limit!r}")
    words = [os.fspath(word) for word in command]
    path = None if env is None else env.get("PATH", os.defpath)
    if shutil.which(words[0], path=path) is None:
        raise FileNotFoundError(f"there is no program {words[0]!r}")
    options.setdefault("stdin", subprocess.DEVNULL)
    if os.name == "posix":
        own_limit = repr(limit + _GRACE)
        here = os.path.dirname(os.path.abspath(__file__))
        words = [sys.executable, "-I", "-S", "-c", _LAUNCH, here, str(os.getpid()), own_limit, *words]
        options.setdefault("process_group", 0)
    return Child(words, env=None if env is None else dict(env), **options)


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    limit: float,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    **options: Any,
) -> Finished:
    """Run a process to its end, or to its limit; see `start`.

    Parameters
    ----------
    command, limit, env
        As in `start`.
    input
        Text for its standard input; without one that is empty.
    **options
        As `subprocess.Popen` takes them. Output is taken as text, unless it is sent elsewhere.

    Returns
    -------
    Finished
        Also of a process that fails, or is ended at its limit: then with what it had printed by then.
    """
    pipe: int | IO[Any] = subprocess.PIPE
    options = {"stdout": pipe, "stderr": pipe, "text": True, "errors": "backslashreplace", **options}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with start(command, limit=limit, env=env, **options) as child:
        try:
            out, err = child.communicate(input, timeout=limit)
            status: int | None = child.returncode
        except subprocess.TimeoutExpired:
            status = child.poll()  # it may have ended and left a process that holds its output
            child.kill()
            try:
                out, err = child.communicate(timeout=_GRACE)
            except subprocess.TimeoutExpired as held:  # by a process that has left the group
                out, err = held.stdout, held.stderr
    return Finished(status, _text(out), _text(err), limit)


def _text(output: str | bytes | None) -> str:
    """What `subprocess` has read, as text; after a time-out it may be undecoded."""
    return output.decode(errors="backslashreplace") if isinstance(output, bytes) else output or ""


def python(*arguments: str) -> list[str]:
    """The command that runs this Python with ``arguments``. To be used with `environment`.

    ``-P``: the child imports what its parent has imported, not what lies in the current folder.
    """
    return [sys.executable, "-P", *arguments]


def environment(**changes: str) -> dict[str, str]:
    """The environment in which a child finds the modules that this process finds, with ``changes``."""
    path = os.pathsep.join(entry or os.curdir for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, **changes}


def describe(status: int) -> str:
    """How a process ended, by its return code: empty, ``"exit status 3"`` or ``"ended by SIGSEGV"``."""
    if status >= 0:
        return f"exit status {status}" if status else ""
    if hasattr(signal, "SIGALRM") and status == -signal.SIGALRM:
        return "ended at its time limit"
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-status).name}"
    return f"ended by signal {-status}"


def message(line: bytes) -> dict[str, Any] | None:
    """What a child that answers in lines of JSON has said; None: somebody else's code has written there as well."""
    import json  # here: the launcher loads this module too, and need not

    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def end_with_parent(parent: int, limit: float) -> None:
    """Have this process, a child, end with its parent and after ``limit`` seconds at the latest.

    Parameters
    ----------
    parent
        The number of the parent's process, as that knows it: it may be gone by now.
    limit
        Seconds.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        signal.setitimer(signal.ITIMER_REAL, limit)


def _become(parent: str, limit: str, *command: str) -> None:
    """Turn this process into ``command``."""
    end_with_parent(int(parent), float(limit))
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python; who runs Python next need not
        signal.signal(ignored, signal.SIG_DFL)
    os.execvp(command[0], command)
