"""The figures of README.md and docs/: generated from committed records, each of one run on one machine.

    python -m benchmarks.studies figures            # write them anew
    python -m benchmarks.studies figures --check    # write nothing; status 1 if a document has others
    python -m benchmarks.studies figures --run softbench-results/run-DATE.json  # show another run, and its picture

Each stands between two comments that name its record. Times of single calls are those of ``softbench run``; tables of
studies have ratios, which compare what took turns within their own run. What would be above 100% of the limit is
refused, in the documents as in ``run``.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.studies import goals, kernels, portability, scaling
from benchmarks.studies.common import parser
from softbench.results.fit_tables import seconds_to
from softbench.results.record import CaseRecord, Record, Result, read
from softbench.results.report import render
from softbench.results.store import disturbed
from softbench.results.tables import machine_line
from softbench.results.units import duration, percent, ratio, size, ulps

__all__ = [
    "FIGURES",
    "ROOT",
    "RUN",
    "Figure",
    "figures",
    "generated",
    "has_picture",
    "has_report",
    "run_table",
    "stale",
    "take_in",
]

ROOT: Final = Path(__file__).parents[2]

RUN: Final = "docs/softbench-run.json"
REPORT: Final = "results/epyc-zen4-2core-avx512/report.html"
"""The same run as the page that ``softbench report`` makes."""
GOALS: Final = "docs/goals-epyc-zen4-2core.json"
CYCLES: Final = "docs/cycles-epyc-zen4-2core.json"
PORTABILITY: Final = "docs/portability-epyc-zen4-2core.json"
SCALING: Final = "docs/scaling-epyc-zen4-2core.json"
FITS: Final = "docs/regression-epyc-zen4-2core.json"
FITS_OF_MANY_CLASSES: Final = "docs/regression-many-classes-epyc-zen4-2core.json"
"""``softbench run --suite regression``, and again with ``--cases many-classes,probe``."""

CASES: Final = {
    "softmax-4096x1000-f32-out": "softmax 4096x1000",
    "loss_and_gradient-512x128256-f32-out": "loss and gradient 512x128256",
}
"""Of the table in README.md, with their headings there."""

FASTER: Final = 3
"""Times as fast as NumPy that a narrower processor is to be at least."""


class Figure(NamedTuple):
    """A generated part of a document."""

    document: str
    records: tuple[str, ...]
    made: Callable[..., list[str]]
    """Of the records: lines of Markdown."""
    plain: bool = False
    """The record is that of a study with a form of its own, not one of ``softbench run``."""


# -- what is generated -------------------------------------------------------------------------------------------------


def where(record: Record) -> str:
    """Machine, threads and versions of a record, and its day."""
    libraries = {"numba": "Numba", "torch": "PyTorch", "jax": "JAX", "onnxruntime": "ONNX Runtime"}
    versions = record["versions"]
    timed = {name.partition(" on ")[0] for case in record["cases"] for name in case["results"]}
    found = [f"{name} {versions[key].partition('+')[0]}" for key, name in libraries.items() if key in timed]
    return ", ".join([machine_line(record), *found, *([record["started"][:10]] if "started" in record else [])])


def run_table(record: Record) -> list[str]:
    """Of a run: what a call takes with each backend, and the largest error in these very calls."""
    cases = {case["name"]: case["results"] for case in record["cases"] if case["name"] in CASES}
    lines = [
        f"One run on {where(record)}:",
        "",
        f"| backend | {' | '.join(CASES.values())} | max ulp in these |",
        "|---" * (2 + len(CASES)) + "|",
    ]
    for name, backend in record["backends"].items():
        if not backend["ok"]:
            continue
        results = [cases[case].get(name, {}) for case in CASES]
        if not any(results):  # not asked: Dask's blocks are another backend's
            continue
        errors = [result["accuracy"]["max_ulp"] for result in results if "accuracy" in result]
        cells = [f"`{name}`", *map(_time, results), ulps(max(errors)) if errors else ""]
        lines.append(f"| {' | '.join(cells)} |")
    if reasons := disturbed(record):
        lines += ["", f"The machine was not left alone ({reasons}): small differences mean nothing."]
    return lines


def _time(result: Result) -> str:
    """Median and fraction of the limit; a fraction above 100% is refused, and so is its time."""
    if "median" not in result:
        return str(result.get("skipped") or result.get("failed") or "not timed")
    fraction = result.get("fraction")
    if result.get("impossible") or (fraction or 0.0) > 1.0:
        return "refused"
    return duration(result["median"]) + ("" if fraction is None else f" ({percent(fraction)} of the limit)")


def goals_part(record: Record) -> list[str]:
    """The table of the goals, and how many were met."""
    return [
        "{} of {} goals were met. Measured on {}.".format(*goals.count_met(record), where(record)),
        "",
        *goals.table(record),
    ]


def cycles_part(record: Record) -> list[str]:
    """The instructions of every loop."""
    return kernels.cycles_table(record)


def regimes_part(measured: Record, counted: Record) -> list[str]:
    """What arithmetic and memory predict of the goals in float32, beside what was measured."""
    return kernels.predicted(measured, counted, "float32")


def portability_part(record: Record) -> list[str]:
    """The table of the processors."""
    times = [goals.medians(case) for case in record["cases"]]
    fast = sum(time["numpy on haswell"] >= FASTER * time["numba on haswell"] for time in times)
    gained = f"With AVX2 (`haswell`) {fast} of {len(times)} cases are at least {FASTER} times as fast as NumPy."
    return [f"Measured on {where(record)}. {gained}", "", *portability.table(record)]


def fits_part(*records: Record) -> list[str]:
    """Of every data set: what each solver took to come near the minimum, and its memory. The last run of it counts."""
    lines: list[str] = []
    later: set[str] = set()
    for record in reversed(records):
        cases = [case for case in record["cases"] if case["name"] not in later]
        lines = [*_fits_of(record, cases), "", *lines] if lines else _fits_of(record, cases)
        later.update(case["name"] for case in cases)
    return lines


def _fits_of(record: Record, cases: Sequence[CaseRecord]) -> list[str]:
    names = ", ".join(case["name"] for case in cases)
    run = f"one run of `softbench run --suite regression` on {machine_line(record)}, {record['started'][:10]}"
    lines = [f"{names}: {run}."]
    for case in cases:
        (n, p, k), results = case["shape"], case["results"]
        what = f"{n:,} x {p:,}, {k:,} classes, {case['dtype']}, {size(case['floor_bytes'])} of features"
        lines += ["", f"**{case['name']}**: {what}", ""]
        lines += ["| solver | within 1e-2 | 1e-4 | 1e-6 | against | memory | |", "|---" * 7 + "|"]
        ours = next((r["median"] for name, r in results.items() if "softbench" in name and "median" in r), None)
        lines += [_fit_row(name, result, ours) for name, result in results.items()]
        for name, result in results.items():
            if whole := result.get("costs", {}).get("whole"):
                taken, features = size(whole["call"]), size(whole["features"])
                lines += ["", f"{name} at {whole['rows']:,} rows: {taken} beside {features} of features."]
    if reasons := disturbed(record):
        lines += ["", f"The machine was not left alone ({reasons}): small differences mean nothing."]
    return lines


def _fit_row(name: str, result: Result, ours: float | None) -> str:
    if "skipped" in result:
        return f"| {name} | | | | | | not asked: {result['skipped']} |"
    times = [seconds_to(result, within) for within in (1e-2, 1e-4, 1e-6)]
    against = ratio(result["median"] / ours) if ours and "median" in result else ""
    taken = result.get("costs", {}).get("call")
    cells = [*("-" if t is None else duration(t) for t in times), against, "" if taken is None else size(taken)]
    return f"| {name} | {' | '.join(cells)} | {result.get('failed', result.get('setting', ''))} |"


FIGURES: Final = {
    "fits": Figure("docs/softmax-regression.md", (FITS, FITS_OF_MANY_CLASSES), fits_part),
    "run": Figure("README.md", (RUN,), run_table),
    "goals": Figure("docs/performance.md", (GOALS,), goals_part),
    "cycles": Figure("docs/performance.md", (CYCLES,), cycles_part),
    "regimes": Figure("docs/performance.md", (GOALS, CYCLES), regimes_part),
    "portability": Figure("docs/performance.md", (PORTABILITY,), portability_part),
    "scaling": Figure("docs/scaling.md", (SCALING,), scaling.table, plain=True),
}


# -- where it stands ---------------------------------------------------------------------------------------------------


def markers(name: str, figure: Figure) -> tuple[str, str]:
    """The comments before and behind a figure."""
    about = f"figure {name}, of {' and '.join(figure.records)}: python -m benchmarks.studies figures"
    return f"<!-- {about} -->", f"<!-- end of figure {name} -->"


def generated(name: str, figure: Figure, root: Path = ROOT) -> str:
    """The document with this figure made anew. ValueError: a record cannot be read, or the markers are not there."""
    paths = [root / record for record in figure.records]
    records = [json.loads(path.read_text(encoding="utf-8")) if figure.plain else read(path) for path in paths]
    for path, record in zip(figure.records, records, strict=True):
        if record.get("complete") is False:
            raise ValueError(f"{path} is of a run that was interrupted")
    before, behind = markers(name, figure)
    text = (root / figure.document).read_text(encoding="utf-8")
    whole = re.compile(rf"{re.escape(before)}\n.*?{re.escape(behind)}\n", re.DOTALL)
    if len(whole.findall(text)) != 1:
        raise ValueError(f"{figure.document} has no place for figure {name!r}: a line {before}, and behind it {behind}")
    lines = [before, "", *figure.made(*records), "", behind]
    return whole.sub(lambda _: "\n".join(lines) + "\n", text)


def stale(name: str, root: Path = ROOT) -> bool:
    """Whether a document has another figure than its record gives."""
    figure = FIGURES[name]
    return generated(name, figure, root) != (root / figure.document).read_text(encoding="utf-8")


def has_picture(root: Path = ROOT) -> bool:
    """Whether the picture beside the record of ``softbench run`` is of that very run, as it says itself."""
    started = read(root / RUN)["started"]
    return started.encode() in (root / RUN).with_suffix(".png").read_bytes()


def take_in(run: Path, root: Path = ROOT) -> None:
    """Replace the record of ``softbench run``, and its picture. ValueError: it is unfit to be shown."""
    record = read(run)
    if not record["complete"] or record.get("command", "run") != "run":
        raise ValueError(f"{run} is not of a whole softbench run")
    missing = [name for name in CASES if name not in {case["name"] for case in record["cases"]}]
    if missing:
        raise ValueError(f"{run} has no {' and no '.join(missing)}")
    for suffix in (".json", ".png"):
        shutil.copyfile(run.with_suffix(suffix), (root / RUN).with_suffix(suffix))
    (root / REPORT).parent.mkdir(parents=True, exist_ok=True)
    (root / REPORT).write_text(render([record]), encoding="utf-8")


def has_report(root: Path = ROOT) -> bool:
    """Whether the report of this kind of machine holds the record of ``softbench run``."""
    found = re.search(
        r'<script type="([^"]*)" id="data-json">(.*?)</script>', (root / REPORT).read_text(encoding="utf-8"), re.DOTALL
    )
    assert found is not None
    text = gzip.decompress(base64.b64decode(found[2])) if "gzip" in found[1] else found[2]
    return bool(json.loads(text) == json.loads((root / RUN).read_text(encoding="utf-8")))


def figures(arguments: Sequence[str]) -> int:
    """Write the figures of README.md and docs/ anew, from the committed records."""
    options = parser("figures", figures)
    options.add_argument("--check", action="store_true", help="write nothing; status 1 if a document has other figures")
    options.add_argument("--run", type=Path, metavar="FILE", help=f"saved by softbench run: becomes {RUN}")
    parsed = options.parse_args(arguments)
    if parsed.run:
        try:
            take_in(parsed.run)
        except (OSError, ValueError) as error:
            options.error(str(error))
    status = 0
    for name, figure in FIGURES.items():
        try:
            new = generated(name, figure)
        except (OSError, ValueError) as error:
            print(f"{figure.document}: figure {name!r} cannot be made: {error}", file=sys.stderr)
            status = 1
            continue
        document = ROOT / figure.document
        if new == document.read_text(encoding="utf-8"):
            continue
        if parsed.check:
            print(f"{figure.document}: figure {name!r} is not that of {' and '.join(figure.records)}", file=sys.stderr)
            status = 1
        else:
            document.write_text(new, encoding="utf-8")
            print(f"{figure.document}: figure {name!r} written")
    return status
