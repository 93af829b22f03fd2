"""Are the GPU backends right and fast on this card? ``python -m softbench.gpu_selftest [--out FILE]``.

Runs the conformance kit on every GPU backend that can run here, judges it where it changes its kernel, on linear logits
in chunks of rows, and beyond 2^31 elements. Then it times them (and PyTorch and CuPy's own functions where they are
installed) against the copy of the same bytes: kernel time by the device's clock, call time by the host's. Ends with a
table of goals. Takes under eight minutes and needs nothing but the libraries that are there. What fails is recorded,
and the rest goes on.

Exit status: 0 nothing wrong in what there was time for; 1 no GPU here, or something is wrong; 2 a wrong argument;
130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from softbench.measure.gpu.benchmark import benchmark, first_line
from softbench.measure.gpu.checks import check_boundaries, check_large, check_linear
from softbench.measure.gpu.goals import goals_table, judge_goals
from softbench.measure.gpu.libraries import Library, libraries
from softbench.measure.progress import NullProgress
from softbench.measure.run import beginning
from softbench.results.record import CaseRecord, Record, write
from softbench.results.units import bandwidth, duration, percent, size, ulps

__all__ = ["main"]

# Of all time: the kit's, and that of the boundaries, for all backends together. A kernel is compiled in seconds by some
# libraries, so each may be cut short; the rest is for timing.
KIT_SHARE: Final = 0.25
BOUNDARIES_SHARE: Final = 0.15
MIN_BENCHMARK_SECONDS: Final = 60.0  # however long the checks took
SAVE_SECONDS: Final = 20.0  # between savings while measuring, should the process be killed
STEPS: Final = ("conformance", "boundaries", "linear", "large")


class _Steps(NullProgress):
    """Progress as lines on standard error."""

    def step(self, text: str) -> None:
        print(f"timing {text}", file=sys.stderr)


class _Saving:
    """Saves the record from time to time."""

    def __init__(self, record: Record, path: Path) -> None:
        self.record = record
        self.path = path
        self._last = time.perf_counter()

    def now(self) -> bool:
        """Save it; whether that was possible."""
        self._last = time.perf_counter()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write(self.record, self.path)
        except OSError as error:
            print(f"cannot write {self.path}: {error.strerror or error}", file=sys.stderr)
            return False
        return True

    def sometimes(self) -> None:
        """Save it if that was some time ago."""
        if time.perf_counter() - self._last > SAVE_SECONDS:
            self.now()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the self-test; returns the exit status."""
    parsed = _arguments(arguments)
    began = time.perf_counter()
    here: list[Library] = []
    absent: list[str] = []
    for found in libraries():
        (here if isinstance(found, Library) else absent).append(found)  # type: ignore[arg-type]
    for reason in absent:
        print(f"not here: {reason}")
    ours = [library for library in here if library.ours]
    if not ours:
        print("No GPU backend of softbench can run on this machine, for the reasons above.")
        return 1
    record = _beginning(parsed, here, absent)
    saving = _Saving(record, parsed.out)
    try:
        _check(record, ours, parsed, began, saving)
        left = max(MIN_BENCHMARK_SECONDS, parsed.seconds - (time.perf_counter() - began))
        benchmark(here, left, _Steps(), record, saving.sometimes)
        record["complete"] = True
    except KeyboardInterrupt:
        record["stopped"] = "interrupted"
    record["checks"]["goals"] = judge_goals(record, [library.name for library in ours])
    _show(record)
    wrong = _is_wrong(record, {library.name for library in ours})
    if saving.now():
        print(f"saved: {parsed.out}")
    else:
        wrong = True
    if not record["complete"]:
        return 130
    return 1 if wrong else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m softbench.gpu_selftest", description=str(__doc__).split("\n\n")[0])
    parser.add_argument(
        "--out", type=Path, metavar="FILE", default=Path("softbench-results/gpu.json"), help="the JSON to write"
    )
    parser.add_argument("--seconds", type=float, default=440.0, metavar="S", help="time for all of it (default: 440)")
    parser.add_argument(
        "--profile", choices=("quick", "standard", "deep"), default="quick", help="of the conformance kit"
    )
    return parser.parse_args(arguments)


def _beginning(parsed: argparse.Namespace, here: Sequence[Library], absent: list[str]) -> Record:
    record = beginning("gpu_selftest", {"seconds": parsed.seconds, "profile": parsed.profile, "threads": None})
    for library in here:
        record["backends"][library.name] = {
            "summary": "a GPU backend" if library.ours else "for comparison",
            "ok": True,
            "kind": "gpu",
            "reason": "",
            "install": "",
            "info": _info(library) if library.ours else {},
        }
    checks: dict[str, Any] = {step: {} for step in STEPS}
    record["checks"] = checks | {"absent": absent, "left_out": [], "errors": [], "goals": []}
    return record


def _info(library: Any) -> dict[str, Any]:
    try:
        return dict(library.backend.info())
    except Exception as error:
        return {"device": f"unknown: {first_line(error)}"}


# -- checks --------------------------------------------------------------------------------------------------------


def _check(record: Record, ours: list[Library], parsed: argparse.Namespace, began: float, saving: _Saving) -> None:
    """Everything but timing, into ``record``; an exception of one step is recorded, and the others go on."""
    checks = record["checks"]
    kit, boundaries = (share * parsed.seconds / len(ours) for share in (KIT_SHARE, BOUNDARIES_SHARE))
    steps: list[Callable[[Any], dict[str, Any]]] = [
        lambda library: _conformance(library, parsed.profile, time.perf_counter() + kit),
        lambda library: check_boundaries(library, time.perf_counter() + boundaries),
        lambda library: check_linear(library),
        lambda library: check_large(library),
    ]
    for step, run in zip(STEPS, steps, strict=True):
        for library in ours:
            print(f"{library.name}: {step} ...", flush=True)
            try:
                verdict = run(library)
            except Exception as error:
                checks["errors"].append(f"{step} of {library.name}: {first_line(error)}")
                continue
            checks[step][library.name] = verdict
            checks["left_out"] += [f"{step} of {library.name}: {what}" for what in verdict["left_out"]]
            wrong, left_out = len(verdict["failures"]), len(verdict["left_out"])
            print(f"{library.name}: {step}: {verdict['judged']} judged, {wrong} wrong, {left_out} left out")
            for failure in verdict["failures"][:10]:
                print(f"  WRONG {failure}")
        saving.now()  # should the device take the process with it later


def _conformance(library: Library, profile: str, end: float) -> dict[str, Any]:
    from softbench import conformance

    late = False

    def progress(done: int, total: int, result: conformance.Result) -> None:
        nonlocal late
        if time.perf_counter() > end and done < total:
            late = True
            raise KeyboardInterrupt  # which is how the kit is told to stop with what it has

    report = conformance.run(library.name, profile, progress)  # type: ignore[arg-type]
    if report.interrupted and not late:
        raise KeyboardInterrupt
    failures = [f"{result.id}: {result.message}" for result in report.of("failed")]
    left_out = [f"all cases after {report.results[-1].id}"] if late else []
    return {**report.to_dict(), "judged": len(report.results), "failures": failures, "left_out": left_out}


def _is_wrong(record: Record, ours: set[str]) -> bool:
    """Whether anything failed that must not."""
    checks = record["checks"]
    wrong = bool(checks["errors"]) or any(v["failures"] for step in STEPS for v in checks[step].values())
    return wrong or any(
        not case["results"].get(name, {}).get("accuracy", {"ok": True})["ok"]
        for case in record["cases"]
        for name in ours
    )


# -- report --------------------------------------------------------------------------------------------------------


def _show(record: Record) -> None:
    checks = record["checks"]
    for case in record["cases"]:
        _show_case(case)
    limits = {(limit["operation"], limit["moved"]): limit for c in record["cases"] for limit in c["ceilings"].values()}
    for (operation, moved), limit in limits.items():
        speed = bandwidth(limit["bandwidth"])
        print(f"limit: {operation} of {size(moved)} moved at {speed} ({limit['method']})")
    if checks["goals"]:
        print(f"\n{goals_table(checks['goals'])}")
    if checks["left_out"]:
        print(f"left out: {len(checks['left_out'])} checks or measurements, named in the record")
    for error in checks["errors"]:
        print(f"ERROR {error}")


def _show_case(case: CaseRecord) -> None:
    print(f"\n{case['op']} {'x'.join(map(str, case['shape']))} {case['dtype']}")
    print(f"{'library':<14}{'kernel':>9}{'+-':>6}{'call':>10}{'bandwidth':>12}{'of limit':>10}{'max ulp':>10}")
    for name, result in case["results"].items():
        if "median" not in result:
            print(f"{name:<14}{result.get('skipped') or result.get('failed', 'not measured')}")
            continue
        fraction = result.get("fraction")
        if result.get("impossible") and fraction is not None:
            print(f"{name:<14}refused: {fraction:.0%} of the measured limit is impossible")
            continue
        low, high = result["quartiles"]
        spread = percent((high - low) / 2 / result["median"])
        print(
            f"{name:<14}{duration(result['median']):>9}{spread:>6}{duration(result['call']):>10}"
            f"{bandwidth(result['bandwidth']):>12}{'-' if fraction is None else percent(fraction):>10}"
            f"{ulps(result['accuracy']['max_ulp']):>10}{'' if result['accuracy']['ok'] else ' beyond the contract'}"
        )
