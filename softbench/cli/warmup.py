"""``softbench warmup``: compile kernels before they are needed."""

from __future__ import annotations

import argparse
import difflib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from softbench import api
from softbench.cli.arguments import UsageError
from softbench.cli.progress import show_progress
from softbench.interface.dtypes import formats, row_dtype
from softbench.registry import available_backends, get_backend, list_backends

if TYPE_CHECKING:  # what measures is imported by the commands that need it
    from softbench.measure.run import Listener

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    warmup = commands.add_parser(
        "warmup",
        help="compile kernels ahead of their first call",
        description="Compiles the kernels of backends in every form that a call may need, and keeps them on disk, so "
        "that no later process waits for the compiler. Without options: everything, which can take minutes.",
    )
    warmup.add_argument("names", nargs="*", metavar="NAME", help="backends (default: all that can run here)")
    # No `choices`: names of backends may follow the last value (`_names_apart`).
    warmup.add_argument("--op", nargs="+", action="extend", metavar="OP", help=f"only these: {', '.join(api.__all__)}")
    warmup.add_argument(
        "--dtype",
        nargs="+",
        action="extend",
        metavar="DTYPE",
        help=f"only logits of these: {', '.join(sorted(formats))}",
    )
    warmup.set_defaults(function=_warmup)


def _warmup(parsed: argparse.Namespace) -> int:
    from softbench.results import tables as report

    for option, choices in (("op", api.__all__), ("dtype", sorted(formats))):
        setattr(parsed, option, _names_apart(getattr(parsed, option), choices, f"--{option}", parsed.names))
    names = list(dict.fromkeys(parsed.names)) or [name for name, state in available_backends().items() if state.ok]
    plans = {}
    for name in names:
        rows = get_backend(name).rows
        dtypes = dict.fromkeys(row_dtype(dtype, rows.dtypes) for dtype in parsed.dtype or formats)
        plans[name] = list(rows.kernels(parsed.op or api.__all__, [dtype for dtype in dtypes if dtype in rows.dtypes]))
    status = 0
    told = []
    with show_progress(report.console(stderr=True)) as listener:
        listener.begin(sum(map(len, plans.values())))
        for name, plan in plans.items():
            if not plan:
                told.append(f"{name}: offers nothing to compile ahead")
                continue
            line, ok = _compile(name, plan, listener)
            told.append(line)
            status = status if ok else 1
    print("\n".join(told))
    return status


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


def _compile(name: str, plan: Sequence[tuple[str, Callable[[], bool]]], listener: Listener) -> tuple[str, bool]:
    """Compile the kernels of a backend; what to say of it, and whether all of it is there for later processes."""
    failed = unkept = 0
    began = time.perf_counter()
    for label, compile_kernel in plan:
        listener.step(f"{name}: {label}")
        start = time.perf_counter()
        try:
            unkept += not compile_kernel()
        except Exception as error:  # a compiler's, of any kind: the other kernels may still be fine
            failed += 1
            listener.note(f"{name}: {label}: {type(error).__name__}: {error}")
        else:
            listener.note(f"{name}: {label}: {time.perf_counter() - start:.2f} s")
    line = f"{name}: {len(plan) - failed} kernels ready after {time.perf_counter() - began:.1f} s"
    if failed:
        line += f"; {failed} failed"
    if unkept:
        line += "; for this process only: no folder to keep them in can be written to"
    return line, not (failed or unkept)
