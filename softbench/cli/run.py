"""``softbench run``: measure, print, save."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from softbench.built_in import DISTRIBUTIONS
from softbench.cli.arguments import DEFAULT_OUT, UsageError, complain, count, names, positive, shape
from softbench.cli.progress import make_console, show_progress
from softbench.cli.saving import results_folder, save
from softbench.interface import FUNCTIONS
from softbench.interface.dtypes import formats
from softbench.loading import Source
from softbench.registry import get_backend, list_backends

if TYPE_CHECKING:  # rich and everything that measures are imported by the commands that need them
    from softbench.measure.plan import Config
    from softbench.results.record import Record

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    run = commands.add_parser(
        "run",
        help="the main job: which backends can run, which are right, how fast, how near the limit, which to choose",
        description="Checks and times every backend that can run here, and recommends one for each case. "
        f"Prints tables; writes one JSON file and one picture into ./{DEFAULT_OUT}/. Ctrl-C keeps what was measured.",
    )
    depth = run.add_mutually_exclusive_group()
    for profile, about in (
        ("quick", "a few cases: a minute"),
        ("standard", "the default: two minutes, four with all peers"),
        ("full", "every case, and more of the kit: half an hour"),
    ):
        depth.add_argument(f"--{profile}", dest="profile", action="store_const", const=profile, help=about)
    what = run.add_argument_group("what is measured")
    what.add_argument(
        "--suite", choices=("softmax", "regression"), default="softmax",
        help="regression: fits of softmax regression instead, SoftmaxRegression beside other solvers; takes only "
        "profiles, --cases, --solver, --seconds (of a solver on a data set), --threads and what comes out",
    )  # fmt: skip
    what.add_argument("--solver", metavar="NAME,...", help="of --suite regression, those with this in their name")
    what.add_argument(
        "--backend", "--backends", dest="backends", metavar="NAME,...",
        help="only these; also MODULE:CLASS (default: all that can run here)",
    )  # fmt: skip
    what.add_argument(
        "--candidate", action="append", metavar="MODULE:ATTRIBUTE",
        help="a class or (with --as) a function of yours that takes part besides; may be given again",
    )  # fmt: skip
    what.add_argument(
        "--as", dest="candidate_op", metavar="OP", choices=FUNCTIONS,
        help="what the candidate computes: " + ", ".join(FUNCTIONS) + "; without --op only this is measured",
    )  # fmt: skip
    what.add_argument("--cases", metavar="CASE,...", help='names, patterns or suites, also "all"')
    what.add_argument("--op", metavar="OP,...", help="operations on --shape, or of the cases only those that do them")
    what.add_argument("--shape", metavar="NxK,...", help="any shapes, with the classes along the last axis or --axis")
    what.add_argument("--axis", type=int, default=-1, help="of the classes, in --shape (default: -1)")
    what.add_argument("--target", choices=("index", "soft"), default="index", help="of losses on --shape")
    what.add_argument("--dtype", metavar="DTYPE,...", help=f"of all of it: {', '.join(sorted(formats))}")
    how = run.add_argument_group("how")
    how.add_argument(
        "--seconds", type=positive, metavar="S",
        help="time for the timings, checks not counted (default: what fits into the time of the profile)",
    )  # fmt: skip
    how.add_argument("--threads", type=count, metavar="N", help="threads for every library (default: all cores)")
    how.add_argument("--max-ulp", type=positive, metavar="U", help="recommend no backend that errs by more on the case")
    how.add_argument("--no-check", action="store_true", help="skip the conformance kit; then none is recommended")
    how.add_argument("--resume", type=Path, metavar="FILE", help="go on with an interrupted run, as it was asked for")
    output = run.add_argument_group("what comes out")
    output.add_argument("--no-plot", action="store_true", help="draw no picture")
    output.add_argument("--json", action="store_true", help="print the JSON instead of tables")
    output.add_argument("--out", type=Path, metavar="DIR", help=f"folder for the results (default: ./{DEFAULT_OUT})")
    run.set_defaults(function=_run, profile="standard")


def _run(parsed: argparse.Namespace) -> int:
    if parsed.suite == "regression":
        from softbench.cli.run_fits import run_fits

        return run_fits(parsed)
    if parsed.solver is not None:
        raise UsageError("--solver chooses among those of --suite regression")
    from softbench.measure import run as bench
    from softbench.measure.one_call import keep
    from softbench.results.record import dumps

    resumed = _resumed(parsed.resume) if parsed.resume else None
    config = _config_of(resumed) if resumed else _config(parsed)
    folder, trouble = results_folder(parsed.out or DEFAULT_OUT)
    if trouble:
        complain(f"{trouble}; the results will only be printed", 1)
    with show_progress() as progress:
        record = bench.run(config, progress, resumed=resumed)
    # Saved before it is printed: with its output piped into `head` the files are there all the same.
    saved, more_trouble = save(record, folder, plot=not parsed.no_plot) if folder else ([], "")
    not_kept = keep(record)
    if parsed.json:
        print(dumps(record), end="")
    else:
        from softbench.results import tables

        tables.show(record, make_console())
        for path in saved:
            print(f"saved: {path}")
        if not record["complete"] and saved:
            print(f"to go on: softbench run --resume {saved[0]}")
    if sys.stdout is not None:
        sys.stdout.flush()
    for problem in (more_trouble, not_kept, _absent(record, config)):
        if problem:
            complain(problem, 1)
            trouble = problem
    if not record["complete"]:
        return 130
    return 1 if trouble else 0


# -- what is asked for ---------------------------------------------------------------------------------------------


def _config(parsed: argparse.Namespace) -> Config:
    """The configuration that the options ask for. UsageError."""
    from softbench import machine
    from softbench.measure.plan import Config
    from softbench.measure.workloads import OPS

    if parsed.threads and parsed.threads > machine.usable_cores():
        raise UsageError(f"--threads {parsed.threads}: this process may use {machine.usable_cores()} cores")
    listed = {
        option: [] if getattr(parsed, option) is None else names(getattr(parsed, option))
        for option in ("backends", "cases", "op", "dtype", "shape")
    }
    for option, known in (("op", OPS), ("dtype", sorted(formats))):
        for value in listed[option]:
            if value not in known:
                raise UsageError(f"--{option}: {value!r} is none of {', '.join(known)}{_close(value, known)}")
    for name in listed["backends"]:
        if ":" not in name and name not in list_backends():
            get_backend(name)  # raises, with close matches
    candidates = _candidates(parsed)
    if parsed.candidate_op and not listed["op"]:
        listed["op"] = [parsed.candidate_op]
        if not listed["cases"] and not listed["shape"]:
            listed["shape"] = _shapes_of(parsed.candidate_op, parsed.profile)
    config = Config(
        backends=tuple(dict.fromkeys(listed["backends"])) or None,
        candidates=tuple(dict.fromkeys(candidates)),
        profile=parsed.profile,
        cases=tuple(listed["cases"]),
        ops=tuple(dict.fromkeys(listed["op"])),
        shapes=tuple(dict.fromkeys(shape(text) for text in listed["shape"])),
        axis=parsed.axis,
        target=parsed.target,
        dtypes=tuple(dict.fromkeys(listed["dtype"])),
        seconds=parsed.seconds,
        threads=parsed.threads,
        max_ulp=parsed.max_ulp,
        check=not parsed.no_check,
    )
    try:
        config.workloads()
    except ValueError as error:
        raise UsageError(f"{error}{_close_cases(config.cases)}; see: softbench list --cases") from None
    return config


def _candidates(parsed: argparse.Namespace) -> list[str]:
    """The texts of the sources (`softbench.loading.Source`) that take part besides. UsageError."""
    candidates, op = parsed.candidate or [], parsed.candidate_op
    if op and not candidates:
        raise UsageError(f"--as {op} says what a --candidate computes, and there is none")
    for spec in candidates:
        if ":" not in spec:
            raise UsageError(f"--candidate {spec!r}: expected MODULE:ATTRIBUTE")
    return [str(Source(spec, op or "")) for spec in candidates]


def _shapes_of(op: str, profile: str) -> list[str]:
    """Shapes for an operation that no case of the profile does; none if some case does."""
    from softbench.measure.plan import PROFILES
    from softbench.measure.workloads import select

    return [] if any(case.op == op for case in select([PROFILES[profile].cases])) else ["4096x1000"]


def _close(value: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(value, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _close_cases(patterns: Sequence[str]) -> str:
    from softbench.measure.workloads import WORKLOADS

    known = ["quick", "standard", "asv", "metrics", "all", *(workload.name for workload in WORKLOADS)]
    close = [
        match
        for pattern in patterns
        if pattern not in known
        for match in difflib.get_close_matches(pattern, known, n=2)
    ]
    return f", did you mean {' or '.join(close)}?" if close else ""


def _resumed(path: Path) -> Record:
    """The record of an interrupted run. UsageError."""
    from softbench import machine
    from softbench.results.record import read

    try:
        record = read(path)
    except ValueError as error:
        raise UsageError(error) from None
    if record["complete"]:
        raise UsageError(f"{path} is of a run that was completed: there is nothing to go on with")
    if record.get("command") != "run":
        raise UsageError(f"{path} was not made by softbench run")
    if record["machine"].get("id") != machine.fingerprint()["id"]:
        raise UsageError(f"{path} was measured on another machine")
    now, then = machine.versions(DISTRIBUTIONS), record["versions"]
    if other := sorted(name for name in {*now, *then} if now.get(name) != then.get(name)):
        raise UsageError(f"{path} was measured with other versions of {', '.join(other)}")
    return record


def _config_of(record: Record) -> Config:
    """The configuration of a run that is to go on. UsageError."""
    from softbench.measure.plan import Config

    kept = record.get("config", {})
    try:
        made = Config(
            backends=_tuple(kept["backends"]),
            candidates=_tuple(kept.get("candidates")) or (),
            cases=_tuple(kept["cases"]) or (),
            ops=_tuple(kept["ops"]) or (),
            shapes=tuple(tuple(int(n) for n in lengths) for lengths in kept["shapes"]),
            dtypes=_tuple(kept["dtypes"]) or (),
            **{key: kept[key] for key in _SCALARS},
        )
        made.workloads()
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the file holds no configuration that this version knows: {error}") from None
    return made


_SCALARS: Final = ("profile", "axis", "target", "seconds", "threads", "max_ulp", "check", "startup", "costs")


def _tuple(values: Any) -> tuple[str, ...] | None:
    return None if values is None else tuple(str(value) for value in values)


# -- what comes out ------------------------------------------------------------------------------------------------


def _absent(record: Record, config: Config) -> str:
    """Which backends were asked for by name, and could not be measured."""
    asked = [(name, record["backends"].get(name)) for name in (*(config.backends or ()), *config.candidates)]
    return "; ".join(f"{name}: {entry['reason']}" for name, entry in asked if entry and not entry["ok"])
