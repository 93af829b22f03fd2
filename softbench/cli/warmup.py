"""``softbench warmup``: compile kernels before they are needed, each backend's in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from softbench.cli.arguments import UsageError
from softbench.cli.progress import show_progress
from softbench.interface import FUNCTIONS
from softbench.interface.dtypes import formats
from softbench.interface.linear import LINEAR_FUNCTIONS
from softbench.registry import get_backend, list_backends, origin

if TYPE_CHECKING:  # what measures is imported by the commands that need it
    from softbench.measure.progress import ProgressReporter
    from softbench.measure.remote import Remote

__all__ = ["add_parser"]


_OPS: Final = (*FUNCTIONS, *LINEAR_FUNCTIONS)


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    warmup = commands.add_parser(
        "warmup",
        help="compile kernels ahead of their first call",
        description="Compiles the kernels of backends in every form that a call may need, and keeps them on disk, so "
        "that no later process waits for the compiler. Without options: everything but the functions of linear "
        "logits, which have to be named (--op linear_loss_and_gradient linear_softmax); that can take minutes.",
    )
    warmup.add_argument("names", nargs="*", metavar="NAME", help="backends (default: all that can run here)")
    # No `choices`: names of backends may follow the last value (`_names_apart`).
    warmup.add_argument("--op", nargs="+", action="extend", metavar="OP", help=f"only these: {', '.join(_OPS)}")
    warmup.add_argument(
        "--dtype",
        nargs="+",
        action="extend",
        metavar="DTYPE",
        help=f"only logits of these: {', '.join(sorted(formats))}",
    )
    warmup.set_defaults(function=_warmup)


def _warmup(parsed: argparse.Namespace) -> int:
    from softbench.measure.remote import Remote

    for option, choices in (("op", _OPS), ("dtype", sorted(formats))):
        setattr(parsed, option, _names_apart(getattr(parsed, option), choices, f"--{option}", parsed.names))
    for name in parsed.names:
        get_backend(name)  # raises for one that is unknown, or not here
    names = list(dict.fromkeys(parsed.names)) or list(list_backends())
    asked = {"ops": parsed.op or FUNCTIONS, "dtypes": parsed.dtype or list(formats)}
    lines: list[tuple[str, bool]] = []
    with show_progress() as progress, contextlib.ExitStack() as stack:
        remotes = {name: stack.enter_context(Remote(name)) for name in names}
        plans = _plans(remotes, asked, lines, named=bool(parsed.names))
        progress.begin([1.0] * sum(map(len, plans.values())))
        for name, labels in plans.items():
            lines.append(_compile(remotes[name], name, labels, progress))
    print("\n".join(line for line, _ in lines))
    return 0 if all(ok for _, ok in lines) else 1


def _plans(
    remotes: Mapping[str, Remote], asked: Mapping[str, Any], lines: list[tuple[str, bool]], *, named: bool
) -> dict[str, list[str]]:
    """What every backend has to compile; what is to be said of those that have nothing, or fail, goes to ``lines``."""
    from softbench.measure.remote import RemoteError

    for name, remote in remotes.items():
        remote.send("kernels", name=name, **asked)
    plans = {}
    for name, remote in remotes.items():
        try:
            plans[name] = remote.receive()
        except RemoteError as error:
            # That a library of ours is not installed is no news, unless somebody has asked for it.
            if named or origin(name) or error.kind != "BackendUnavailableError":
                lines.append((f"{name}: {error}", False))
            continue
        if not plans[name]:
            lines.append((f"{name}: offers nothing to compile ahead", True))
            del plans[name]
    return plans


def _names_apart(
    values: Sequence[str] | None, choices: Sequence[str], option: str, names: list[str]
) -> list[str] | None:
    """The values of an option that takes several; backends among what argparse took for its values go to ``names``."""
    if values is None:
        return None
    known = list_backends()
    for value in values:
        if value not in choices and value not in known:
            close = difflib.get_close_matches(value, choices, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"{option}: {value!r} is none of {', '.join(choices)}{hint}")
    names += [value for value in values if value not in choices]
    kept = [value for value in values if value in choices]
    if not kept:
        raise UsageError(f"{option} {' '.join(values)}: expected one of {', '.join(choices)} before names of backends")
    return kept


def _compile(remote: Remote, name: str, labels: Sequence[str], progress: ProgressReporter) -> tuple[str, bool]:
    """Compile the kernels of a backend; what to say of it, and whether all of it is there for later processes."""
    from softbench.measure.remote import RemoteError

    failed = unkept = 0
    began = time.perf_counter()
    for number, label in enumerate(labels):
        progress.step(f"{name}: {label}")
        start = time.perf_counter()
        try:
            unkept += not remote.ask("compile", number=number)
        except RemoteError as error:  # a compiler's, of any kind: the other kernels may still be fine
            progress.note(f"{name}: {label}: {error}")
            if not error.alive:
                failed += len(labels) - number
                break
            failed += 1
        else:
            progress.note(f"{name}: {label}: {time.perf_counter() - start:.2f} s")
    line = f"{name}: {len(labels) - failed - unkept} kernels ready after {time.perf_counter() - began:.1f} s"
    if failed:
        line += f"; {failed} failed"
    if unkept:
        line += f"; {unkept} could not be kept on disk, and will be compiled again by every process"
    return line, not (failed or unkept)
