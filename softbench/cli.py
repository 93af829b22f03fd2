"""The command line: ``softbench list | info | check | run | compare | warmup``.

Exit status: 0 done; 1 something could not be done or is wrong; 2 a wrong argument; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import difflib
import importlib.metadata
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import softbench
from softbench import api
from softbench.dtypes import formats, row_dtype
from softbench.errors import BackendUnavailableError, UnknownBackendError
from softbench.registry import BUILT_IN, available_backends, get_backend, list_backends

if TYPE_CHECKING:  # rich and everything that measures are imported by the commands that need them
    from rich.console import Console

    from softbench.bench import Listener
    from softbench.record import BackendRecord, Record

__all__ = ["main"]

DEFAULT_OUT: Final = Path("softbench-results")
_REDRAW_SECONDS: Final = 0.2


class _Parser(argparse.ArgumentParser):
    """argparse, with close matches in its message about a wrong choice."""

    def error(self, message: str) -> NoReturn:
        match = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if match:
            close = difflib.get_close_matches(match[1], re.findall(r"[\w-]+", match[2]), n=1)
            message += f"; did you mean {close[0]!r}?" if close else ""
        super().error(message)


class _UsageError(Exception):
    """A wrong argument that argparse cannot see: exit status 2."""


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) > 0:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")


def _parser() -> argparse.ArgumentParser:
    from softbench.conformance import command as check

    parser = _Parser(
        prog="softbench",
        description="Softmax, cross-entropy and its gradient from interchangeable backends: "
        "which is right, which is fastest on this machine, how near the limit.",
        epilog="Without a command: this help. softbench COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"softbench {softbench.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", parser_class=_Parser)

    listing = commands.add_parser("list", help="names of all backends; imports none of their libraries")
    listing.add_argument("--cases", action="store_true", help="list the workloads instead, and why each is there")
    listing.set_defaults(function=_list)

    info = commands.add_parser("info", help="which backends can run here, and why others cannot; this machine")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(function=_info)

    check.add_parser(commands)

    run = commands.add_parser(
        "run",
        help="the main job: who is here, who is right, how fast, how near the limit, which to choose",
        description="Checks and times every backend that can run here, and recommends one. "
        f"Prints tables; writes one JSON file and one picture into ./{DEFAULT_OUT}/. Ctrl-C keeps what was measured.",
    )
    run.add_argument("--backends", metavar="NAME,...", help="only these (default: all that can run here)")
    run.add_argument(
        "--cases", metavar="CASE,...", default="quick", help='names, patterns or suites, also "all" (default: quick)'
    )
    run.add_argument("--dtype", choices=sorted(formats), help="put every case into this dtype")
    run.add_argument(
        "--seconds",
        type=_positive,
        metavar="S",
        help="time for the timings, checks not counted (default: what fits into two minutes, at most 30)",
    )
    run.add_argument("--threads", type=_count, metavar="N", help="threads for every library (default: all cores)")
    run.add_argument("--no-check", action="store_true", help="skip the conformance kit")
    run.add_argument("--no-plot", action="store_true", help="draw no picture")
    run.add_argument("--json", action="store_true", help="print the JSON instead of tables")
    run.add_argument("--out", type=Path, metavar="DIR", help=f"folder for the results (default: ./{DEFAULT_OUT})")
    run.set_defaults(function=_run)

    compare = commands.add_parser("compare", help="two saved runs: what became faster or slower")
    compare.add_argument("before", type=Path, metavar="A.json", help=f"saved by softbench run, in ./{DEFAULT_OUT}/")
    compare.add_argument("after", type=Path, metavar="B.json", help="another one, of the same machine")
    compare.set_defaults(function=_compare)

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
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. SystemExit from argparse: help, or status 2 for wrong arguments."""
    try:
        parser = _parser()
        parsed = parser.parse_args(arguments)
        if parsed.command is None:
            parser.print_help()
            return 0
        status = int(parsed.function(parsed) or 0)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read us has enough: nothing is left to say, not even at exit
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except (_UsageError, UnknownBackendError, BackendUnavailableError) as error:
        return _complain(error, 2)
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else error, 1)
    return status


def _complain(error: object, status: int) -> int:
    print(f"softbench: error: {error}", file=sys.stderr)
    return status


# -- list, info ----------------------------------------------------------------------------------------


def _installed(name: str) -> str:
    """Versions of the distributions behind a backend, or which one is missing; imports nothing."""
    if name not in BUILT_IN:
        return "installed"
    required = BUILT_IN[name].requires
    found = []
    for distribution in required:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{distribution} {importlib.metadata.version(distribution)}")
    if found:
        return ", ".join(found)
    return f"{' or '.join(required)} not installed" if required else "nothing needed"


def _list(parsed: argparse.Namespace) -> None:
    if parsed.cases:
        _list_cases()
        return
    rows = [(name, _installed(name), summary) for name, summary in list_backends().items()]
    _columns([("backend", "package", "what it is"), *rows])


def _list_cases() -> None:
    from softbench.workloads import CASES

    rows = [(case.name, " ".join(sorted(case.suites)) or "-", case.why) for case in CASES]
    _columns([("case", "suites", "why it is there"), *rows])


def _columns(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


def _info(parsed: argparse.Namespace) -> None:
    from softbench import machine, report

    summaries = list_backends()
    backends: dict[str, BackendRecord] = {}
    for name, state in available_backends().items():
        backends[name] = {
            "summary": summaries.get(name, ""),
            "ok": state.ok,
            "kind": state.kind,
            "reason": state.reason,
            "install": state.install,
        }
        if state.ok:
            backends[name]["info"] = get_backend(name).info()
    record: Record = {
        "version": softbench.__version__,
        "machine": machine.fingerprint(),
        "versions": machine.versions(),
        "threads": machine.threads(),
        "backends": backends,
    }
    if parsed.json:
        from softbench.record import dumps

        print(dumps(record), end="")
        return
    out = report.console()
    out.print(report.machine_line(record))
    out.print(report.backend_table(backends))
    for name, entry in backends.items():
        if "info" in entry:
            told = {key: value for key, value in entry["info"].items() if key not in ("name", "kind")}
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in told.items()))
    print("versions: " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()))
    print("threads: " + json.dumps(record["threads"]))


# -- run -----------------------------------------------------------------------------------------------


def _run(parsed: argparse.Namespace) -> int:
    from softbench import bench, machine, report, workloads

    if parsed.threads and parsed.threads > machine.usable_cores():
        raise _UsageError(f"--threads {parsed.threads}: this process may use {machine.usable_cores()} cores")
    patterns = _names(parsed.cases)
    try:
        workloads.select(patterns, parsed.dtype)
    except ValueError as error:
        raise _UsageError(f"{error}{_close_cases(patterns)}; see: softbench list --cases") from None
    named = _names(parsed.backends) if parsed.backends is not None else None
    known = list_backends()
    for name in named or ():
        if name not in known:
            get_backend(name)  # raises, with close matches
    folder, trouble = _folder(parsed.out or DEFAULT_OUT)
    if trouble:
        _complain(f"{trouble}; the results will only be printed", 1)
    config = bench.Config(
        backends=tuple(named) if named else None,
        cases=tuple(patterns),
        dtype=parsed.dtype,
        seconds=parsed.seconds,
        threads=parsed.threads,
        check=not parsed.no_check,
    )
    with _progress(report.console(stderr=True)) as listener:
        record = bench.run(config, listener)
    # Saved before it is printed: who pipes the table into `head` gets the files all the same.
    saved, more_trouble = _save(record, folder, plot=not parsed.no_plot) if folder else ([], "")
    if parsed.json:
        from softbench.record import dumps

        print(dumps(record), end="")
    else:
        report.show(record, report.console())
        for path in saved:
            print(f"saved: {path}")
    if more_trouble:
        _complain(more_trouble, 1)
    if not record["complete"]:
        return 130
    return 1 if trouble or more_trouble else 0


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise _UsageError(f"{text!r} names nothing")
    return names


def _close_cases(patterns: Sequence[str]) -> str:
    from softbench.workloads import CASES

    names = ["quick", "asv", "metrics", "all", *(case.name for case in CASES)]
    close = [
        match
        for pattern in patterns
        if pattern not in names
        for match in difflib.get_close_matches(pattern, names, n=2)
    ]
    return f", did you mean {' or '.join(close)}?" if close else ""


def _folder(folder: Path) -> tuple[Path | None, str]:
    """The folder, made and known to be writable before a minute of measuring; or what is wrong with it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder, ""
    except OSError as error:
        return None, f"cannot write into {folder}: {error.strerror or error}"


def _save(record: Record, folder: Path, *, plot: bool) -> tuple[list[Path], str]:
    """Write JSON and picture; the paths written, and what went wrong."""
    from softbench.record import write

    stem = datetime.datetime.now().strftime("run-%Y%m%d-%H%M%S")
    saved: list[Path] = []
    try:
        path = folder / f"{stem}.json"
        write(record, path)
        saved.append(path)
        if plot:
            from softbench.plot import draw

            draw(record, folder / f"{stem}.png")
            saved.append(folder / f"{stem}.png")
    except ImportError as error:
        return saved, f'no picture: {error} (pip install "softbench[bench]")'
    except ValueError as error:
        return saved, f"no picture: {error}"
    except OSError as error:
        return saved, f"cannot write into {folder}: {error.strerror or error}"
    return saved, ""


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Listener]:
    """A bar on a terminal (redrawn between measurements, never during one), a line per step elsewhere."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        yield _Bar(bar)


class _Lines:
    """Progress as plain lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.total = self.done = 0

    def begin(self, steps: int) -> None:
        self.total = steps

    def step(self, text: str) -> None:
        self.done += 1
        self.console.print(f"[{self.done}/{self.total}] {text}", markup=False)

    def detail(self, text: str) -> None:
        pass  # a line per step is enough

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)


class _Bar:
    """Progress as a bar."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.shown = 0.0
        self.task = bar.add_task("looking for backends", total=None)
        bar.refresh()

    def begin(self, steps: int) -> None:
        self.bar.update(self.task, total=steps, completed=-1)

    def step(self, text: str) -> None:
        self.bar.update(self.task, advance=1, description=text)
        self.bar.refresh()

    def detail(self, text: str) -> None:
        now = time.monotonic()
        if now - self.shown > _REDRAW_SECONDS:
            self.shown = now
            self.bar.update(self.task, description=text)
            self.bar.refresh()

    def note(self, text: str) -> None:
        self.bar.console.print(text, markup=False)


# -- compare -------------------------------------------------------------------------------------------


def _compare(parsed: argparse.Namespace) -> None:
    from softbench.compare import changes, differences
    from softbench.record import read
    from softbench.units import duration

    try:
        before, after = read(parsed.before), read(parsed.after)
    except ValueError as error:
        raise _UsageError(error) from None
    for difference in differences(before, after):
        print(f"note: {difference}")
    rows = [
        (
            change.case,
            change.backend,
            duration(change.before),
            duration(change.after),
            f"{change.ratio:.3f}",
            change.verdict,
        )
        for change in changes(before, after)
    ]
    if not rows:
        raise _UsageError("the two runs have no measurement in common")
    _columns([("case", "backend", "before", "after", "ratio", "beyond the spread"), *rows])


# -- warmup --------------------------------------------------------------------------------------------


def _warmup(parsed: argparse.Namespace) -> int:
    from softbench import report

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
    with _progress(report.console(stderr=True)) as listener:
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
            raise _UsageError(f"{option}: {value!r} is none of {', '.join(choices)}{hint}")
    names += [value for value in values if value not in choices]
    kept = [value for value in values if value in choices]
    if not kept:
        raise _UsageError(f"{option} {' '.join(values)}: expected one of {', '.join(choices)} before names of backends")
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


if __name__ == "__main__":
    sys.exit(main())
