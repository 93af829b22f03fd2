"""What the pictures show: a panel for each question."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from softbench.results.figures.drawing import Drawing
from softbench.results.record import CaseRecord
from softbench.results.units import duration, percent

__all__ = ["FIGURES", "FITS", "LIMIT", "Picture", "accuracy", "descents", "fits", "fractions", "times"]

LIMIT: Final = "measured limit: the same bytes read or copied"
_LINEAR_ULP: Final = 10
_TICKS: Final = tuple(10.0**e for e in range(-12, 4))


class Picture(NamedTuple):
    """A picture of a report: what it shows, in words too."""

    name: str
    title: str
    reading: str
    """How to read it."""
    draw: Callable[[Drawing], bool]
    """Draws into the figure; False if the record has nothing for it."""


# -- panels with a line per case -----------------------------------------------------------------------------------


def _rows(drawing: Drawing, axes: Any) -> None:
    """Every other case on a grey band, so that the eye stays in its row across the panels."""
    for y in range(0, len(drawing.cases), 2):
        axes.axhspan(y - 0.5, y + 0.5, color=drawing.theme.band, linewidth=0, zorder=0)
    axes.set_ylim(len(drawing.cases) - 0.5, -0.5)
    axes.set_yticks(range(len(drawing.cases)), [case["name"] for case in drawing.cases])


def times(drawing: Drawing, axes: Any, title: str = "") -> None:
    """One line per case: the time of each backend with its quartiles, and the measured limit as a wall."""
    _rows(drawing, axes)
    for y, case in enumerate(drawing.cases):
        limit = case["ceilings"].get("cpu")
        if limit:
            ends = [y - 0.4, y + 0.4]
            axes.plot(
                [limit["floor_seconds"]] * 2, ends, color=drawing.theme.wall, linewidth=3.5, solid_capstyle="butt"
            )
        for name, (colour, marker) in drawing.styles.items():
            result = case["results"].get(name, {})
            if "median" not in result:
                continue
            axes.plot(result["quartiles"], [y, y], color=colour, linewidth=2, alpha=0.5)
            axes.plot(result["median"], y, marker, color=colour, markersize=8, mec=drawing.theme.paper, zorder=3)
    axes.set_xscale("log")
    _duration_ticks(axes.set_xticks, *axes.get_xlim())
    axes.minorticks_off()
    axes.grid(axis="x", color=drawing.theme.grid, linewidth=0.8)
    axes.set_xlabel("time per call; further left is better")
    drawing.tidy(axes, title)


def _duration_ticks(set_ticks: Callable[..., Any], low: float, high: float) -> None:
    ticks = [t for t in _TICKS if low <= t <= high]
    set_ticks(ticks, [re.sub(r"\.0+ ", " ", duration(t)) if t >= 1e-9 else f"{t / 1e-12:g} ps" for t in ticks])


def fractions(drawing: Drawing, axes: Any, title: str = "") -> None:
    """The fraction of the measured limit that each backend reaches; more than all of it is marked as impossible."""
    _rows(drawing, axes)
    theme = drawing.theme
    shown = [
        n for n in drawing.names if any(c["results"].get(n, {}).get("fraction") is not None for c in drawing.cases)
    ]
    thickness = 0.84 / max(1, len(shown))
    longest = 100.0
    for y, case in enumerate(drawing.cases):
        found = {n: f for n in shown if (f := case["results"].get(n, {}).get("fraction")) is not None}
        if not found:
            why = "a call's own cost: no limit applies" if case["bound"] == "call" else "no limit that can be believed"
            axes.text(2, y, why, va="center", fontsize=8, color=theme.faint)
        for i, name in enumerate(shown):
            if name not in found:
                continue
            impossible = found[name] > 1.0
            at = y + (i - (len(shown) - 1) / 2) * thickness
            length = 100 * found[name]
            longest = max(longest, length)
            hatch = "////" if impossible else ""
            colour = drawing.styles[name][0]
            axes.barh(at, length, 0.92 * thickness, color=colour, hatch=hatch, edgecolor=theme.paper, linewidth=0)
            if impossible or found[name] == max(found.values()):
                text = percent(found[name]) + (" impossible" if impossible else "")
                axes.text(
                    length + 1.5, at, text, va="center", fontsize=8.5, color=theme.bad if impossible else theme.ink
                )
    axes.axvline(100, color=theme.wall, linewidth=3.5)
    axes.set_xlim(0, 1.16 * longest if longest == 100 else 1.4 * longest)
    axes.set_xlabel("% of the measured limit; right is better")
    drawing.tidy(axes, title)


# -- panels of all cases together ----------------------------------------------------------------------------------


def accuracy(drawing: Drawing, axes: Any, title: str = "") -> None:
    """Each backend's worst error on each case against how many times slower than the fastest it is, with the front."""
    everybody: list[tuple[float, float]] = []
    for name, (colour, marker) in drawing.styles.items():
        points = []
        for case in drawing.cases:
            result = case["results"].get(name, {})
            error = float(result["accuracy"]["max_ulp"]) if "accuracy" in result else math.inf
            if "median" in result and math.isfinite(error):
                best = min(r["median"] for r in case["results"].values() if "median" in r)
                points.append((result["median"] / best, error))
        if points:
            axes.plot(
                *zip(*points, strict=True), marker, color=colour, markersize=6, alpha=0.5, mec=drawing.theme.paper
            )
            typical = math.exp(sum(math.log(t) for t, _ in points) / len(points)), max(e for _, e in points)
            everybody.append(typical)
            axes.plot(*typical, marker, color=colour, markersize=11, mec=drawing.theme.ink, zorder=4)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    _front(drawing, axes, everybody, high)
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 1000, 10_000) if low <= t <= high] or [1]
    axes.set_xticks(ticks, [f"{t}x" for t in ticks])
    axes.minorticks_off()
    axes.axhline(4, color=drawing.theme.wall, linewidth=2, linestyle="--")
    highest = axes.get_ylim()[1]
    if highest > _LINEAR_ULP:  # somebody is far off: keep the good ones apart all the same
        axes.set_yscale("symlog", linthresh=_LINEAR_ULP, linscale=2)
        marks = [0, 1, 2, 4, 6, 8, 10, *(t for t in (100, 1000, 10**4, 10**6, 10**9) if t <= highest)]
        axes.set_yticks(marks, [f"{t:,}" for t in marks])
    axes.set_ylim(0, max(4.8, 1.1 * highest))
    axes.set_xlim(low, high)
    axes.text(
        high, 4.08, "what the contract allows softmax: 4 ulp ", ha="right", va="bottom", fontsize=8,
        color=drawing.theme.faint,
    )  # fmt: skip
    axes.set_xlabel("time over the fastest; small: a case, large: all of them")
    axes.set_ylabel("worst error, ulp")
    drawing.tidy(axes, title)


_LEAST: Final = 1e-9
"""Parts of the minimum that are drawn; below, rounding decides."""


def descents(drawing: Drawing, axes: Any, case: CaseRecord) -> None:
    """How far above the minimum each solver was, after how many seconds: of every number of iterations the fastest."""
    for name, (colour, marker) in drawing.styles.items():
        fastest: dict[int, tuple[float, float]] = {}
        for point in case["results"].get(name, {}).get("curve", []):
            at = point["seconds"], max(point["suboptimality"], _LEAST)
            fastest[point["iterations"]] = min(at, fastest.get(point["iterations"], at))
        points = [fastest[n] for n in sorted(fastest)]
        seconds, above = [at[0] for at in points], [at[1] for at in points]
        axes.plot(seconds, above, marker=marker, color=colour, markersize=5, linewidth=1.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=_LEAST / 2)
    _duration_ticks(axes.set_xticks, *axes.get_xlim())
    axes.minorticks_off()
    axes.axhline(1e-6, color=drawing.theme.wall, linewidth=2)
    axes.grid(color=drawing.theme.grid, linewidth=0.8)
    axes.set_xlabel("time of a fit")
    axes.set_ylabel("objective above its minimum, relative")
    n, p, k = case["shape"]
    drawing.tidy(axes, f"{case['name']}: {n:,} x {p:,}, {k:,} classes")


def fits(drawing: Drawing) -> bool:
    """The `descents` of every data set, three side by side."""
    cases = [
        case for case in drawing.record["cases"] if any(result.get("curve") for result in case["results"].values())
    ]
    if not cases:
        return False
    columns = min(3, len(cases))
    rows = -(-len(cases) // columns)
    drawing.figure.set_size_inches(5.2 * columns, 1.4 + 3.8 * rows)
    panels = drawing.figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, case in zip(panels, cases, strict=False):
        descents(drawing, panel, case)
    for panel in panels[len(cases) :]:
        panel.set_axis_off()
    drawing.legend()
    return True


def _front(drawing: Drawing, axes: Any, points: list[tuple[float, float]], right: float) -> None:
    """The Pareto front: those than which no backend is both faster and more accurate."""
    steps: list[tuple[float, float]] = []
    for time, error in sorted(points):
        if not steps or error < steps[-1][1]:
            steps.append((time, error))
    if len(steps) > 1:
        x, y = zip(*steps, (right, steps[-1][1]), strict=True)
        axes.plot(x, y, drawstyle="steps-post", color=drawing.theme.faint, linewidth=1, linestyle=":", zorder=1)


def _scaling(drawing: Drawing) -> bool:
    """Time per logit against the number of classes, a panel for each operation and dtype, with the limit."""
    panels: dict[tuple[str, str], list[CaseRecord]] = {}
    for case in drawing.cases:
        if case["bound"] != "call":  # of one small row the logits are not what takes the time
            panels.setdefault((case["op"], case["dtype"]), []).append(case)
    panels = {key: cases for key, cases in panels.items() if len({case["shape"][1] for case in cases}) > 1}
    if not panels:
        return False
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    drawing.figure.set_size_inches(9.5, 0.7 + 2.9 * lines)
    grid = drawing.figure.subplots(lines, columns, squeeze=False)
    for axes, ((op, dtype), cases) in zip(grid.flat, panels.items(), strict=False):
        _scaling_panel(drawing, axes, cases)
        drawing.tidy(axes, f"{op}, {dtype}")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    drawing.legend(LIMIT)
    return True


def _scaling_panel(drawing: Drawing, axes: Any, cases: list[CaseRecord]) -> None:
    best = _by_classes(
        cases, {name: [c["results"].get(name, {}).get("median") for c in cases] for name in drawing.names}
    )
    for name, points in best.items():
        colour, marker = drawing.styles[name]
        axes.plot(*zip(*points, strict=True), marker=marker, color=colour, mec=drawing.theme.paper, linewidth=1.2)
    floors = [c["ceilings"]["cpu"]["floor_seconds"] if "cpu" in c["ceilings"] else None for c in cases]
    for points in _by_classes(cases, {"limit": floors}).values():
        axes.plot(*zip(*points, strict=True), color=drawing.theme.wall, linewidth=3.5, zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _duration_ticks(axes.set_yticks, *axes.get_ylim())
    axes.minorticks_off()
    axes.grid(color=drawing.theme.grid, linewidth=0.8)
    axes.set_xlabel("classes K")
    axes.set_ylabel("time per logit")


def _by_classes(cases: list[CaseRecord], times: dict[str, list[float | None]]) -> dict[str, list[tuple[int, float]]]:
    """By name: K and time per logit, the best of the cases with that K."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, column in times.items():
        best: dict[int, float] = {}
        for case, seconds in zip(cases, column, strict=True):
            if seconds is not None:
                n, k = case["shape"]
                best[k] = min(best.get(k, math.inf), seconds / (n * k))
        if best:
            found[name] = sorted(best.items())
    return found


def _costs(drawing: Drawing) -> bool:
    """What the first result costs: import, compilation or loading, the call itself."""
    bars = []
    for name in drawing.names:
        entry = drawing.record["backends"].get(name)
        startup = entry.get("startup") if entry else None
        calls = startup["first_calls"] if startup else []
        if startup and startup["imported"] is not None:
            slowest = {state: max((c[state] or 0.0 for c in calls), default=0.0) for state in ("cold", "cached")}
            bars.append((name, startup["imported"], slowest["cold"], slowest["cached"]))
    if not bars:
        return False
    axes = drawing.figure.subplots()
    drawing.figure.set_size_inches(9.5, 1.0 + 0.62 * len(bars))
    for y, (name, imported, cold, cached) in enumerate(bars):
        colour, _ = drawing.styles[name]
        for at, first, label in ((y - 0.18, cold, "nothing compiled"), (y + 0.18, cached, "compiled before")):
            axes.barh(at, imported, 0.32, color=drawing.theme.faint)
            axes.barh(at, first, 0.32, left=imported, color=colour)
            text = f" {duration(imported + first)}, {label}"
            axes.text(imported + first, at, text, va="center", fontsize=8.5, color=drawing.theme.ink)
    axes.set_yticks(range(len(bars)), [bar[0] for bar in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max(imported + max(cold, cached) for _, imported, cold, cached in bars))
    axes.set_xlabel("seconds: import (grey), then the slowest first call of an operation (coloured)")
    drawing.tidy(axes)
    return True


def _one_panel(panel: Callable[[Drawing, Any], None], height: Callable[[int], float]) -> Callable[[Drawing], bool]:
    def draw(drawing: Drawing) -> bool:
        drawing.figure.set_size_inches(9.5, height(len(drawing.cases)))
        panel(drawing, drawing.figure.subplots())
        drawing.legend("" if panel is accuracy else LIMIT)
        return True

    return draw


def _per_case(n: int) -> float:
    return 1.2 + 0.36 * n


FIGURES: Final = (
    Picture(
        "scaling",
        "Time against the number of classes",
        "Time per logit of every backend, by number of classes; the grey line is the measured limit of the memory. "
        "Lower is better.",
        _scaling,
    ),
    Picture(
        "times",
        "Time per call, against the limit",
        "A line per case: the median of every backend with its quartiles; the grey wall is the time at the measured "
        "limit of the memory. Further left is better.",
        _one_panel(times, _per_case),
    ),
    Picture(
        "fractions",
        "Fraction of the limit",
        "How much of the measured memory bandwidth each backend reaches on each case. More than 100% is impossible.",
        _one_panel(fractions, _per_case),
    ),
    Picture(
        "accuracy",
        "Accuracy against speed",
        "The largest error of every backend against its time as a multiple of the fastest. Small marks are cases, "
        "large ones a backend's worst error and mean time. The dotted line is the Pareto front: no backend is both "
        "faster and more accurate than those on it.",
        _one_panel(accuracy, lambda _: 4.6),
    ),
    Picture(
        "costs",
        "What the first result costs",
        "Seconds of importing a backend (grey) and of its slowest first call (coloured), in a fresh process, with "
        "nothing compiled and with what an earlier process has compiled.",
        _costs,
    ),
)
"""The pictures of a report, in its order."""

FITS: Final = (
    Picture(
        "fits",
        "Seconds of a fit, and how far above the minimum it ends",
        "A curve per solver, a mark for each number of iterations. The line is 1e-6 of the minimum. Further left and "
        "lower is better.",
        fits,
    ),
)
"""The pictures of a report of fits."""
