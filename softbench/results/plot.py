"""A record as one picture: time per case against the measured limit, and accuracy against speed per backend.

Needs matplotlib (the ``bench`` extra), which is imported when a picture is drawn.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from softbench.results.record import CaseRecord, Record
from softbench.results.tables import machine_line
from softbench.results.units import duration, percent

__all__ = ["draw"]

# Okabe and Ito's colours, which stay apart for colour-blind readers; one marker each for print.
_STYLES: Final = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "D"), ("#CC79A7", "^"), ("#E69F00", "v"), ("#56B4E9", "P"),
    ("#000000", "X"), ("#8C6D31", "*"),
)  # fmt: skip
_INK, _FAINT, _WALL = "#222222", "#7a7a7a", "#b0b0b0"
_LINEAR_ULP: Final = 10
_TICKS: Final = tuple(10.0**e for e in range(-7, 3))


def draw(record: Record) -> bytes:
    """The record as a picture, a PNG.

    Raises
    ------
    ImportError
        No matplotlib.
    ValueError
        Nothing was measured.
    """
    cases = [c for c in record.get("cases", []) if any("median" in r for r in c["results"].values())]
    if not cases:
        raise ValueError("nothing was measured, so there is nothing to draw")
    _quiet_home()
    from matplotlib.figure import Figure

    names = [name for name in record["backends"] if any("median" in c["results"].get(name, {}) for c in cases)]
    styles = {name: _STYLES[i % len(_STYLES)] for i, name in enumerate(names)}
    figure = Figure(figsize=(15.5, max(5.0, 2.2 + 0.4 * len(cases))), dpi=100, layout="constrained")
    times, fractions, scatter = figure.subplots(1, 3, width_ratios=(1.45, 0.8, 1))
    _times(times, cases, names, styles)
    _fractions(fractions, cases, names, styles)
    _accuracy(scatter, cases, names, styles)
    handles, labels = times.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10)
    figure.suptitle(
        f"softbench {record.get('version', '')}: which is right, which is fast, how near the limit\n"
        + machine_line(record),
        fontsize=10.5,
        color=_INK,
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _quiet_home() -> None:
    """Without a home to write to, matplotlib warns about its cache: give it a temporary one."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~").expanduser())
    if "MPLCONFIGDIR" not in os.environ and not os.access(home, os.W_OK):
        os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="softbench-mpl-")


def _tidy(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=_INK, fontweight="bold")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)
    axes.set_axisbelow(True)


def _rows(axes: Any, n: int) -> None:
    """Every other case on a grey band, so that the eye stays in its row across the panels."""
    for y in range(0, n, 2):
        axes.axhspan(y - 0.5, y + 0.5, color="#f4f4f4", linewidth=0, zorder=0)
    axes.set_ylim(n - 0.5, -0.5)


def _times(axes: Any, cases: list[CaseRecord], names: list[str], styles: dict[str, tuple[str, str]]) -> None:
    """One line per case: the time of each backend with its quartiles, and the measured limit as a wall."""
    _rows(axes, len(cases))
    for y, case in enumerate(cases):
        limit = case["ceilings"].get("cpu")
        if limit:
            axes.plot(
                [limit["floor_seconds"]] * 2, [y - 0.4, y + 0.4], color=_WALL, linewidth=3.5, solid_capstyle="butt"
            )
        for name in names:
            result = case["results"].get(name, {})
            if "median" not in result:
                continue
            colour, marker = styles[name]
            low, high = result["quartiles"]
            axes.plot([low, high], [y, y], color=colour, linewidth=2, alpha=0.5)
            axes.plot(result["median"], y, marker, color=colour, markersize=8, markeredgecolor="white", zorder=3)
    for name in names:
        colour, marker = styles[name]
        axes.plot([], [], marker, color=colour, markersize=8, label=name)
    axes.plot([], [], color=_WALL, linewidth=3.5, label="measured limit: the same bytes read or copied")
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [t for t in _TICKS if low <= t <= high]
    axes.set_xticks(ticks, [duration(t).replace(".00", "").replace(".0 ", " ") for t in ticks])
    axes.minorticks_off()
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_yticks(range(len(cases)), [case["name"] for case in cases])
    axes.set_xlabel("time per call; further left is better", fontsize=9)
    _tidy(axes, "Time per call")


def _fractions(axes: Any, cases: list[CaseRecord], names: list[str], styles: dict[str, tuple[str, str]]) -> None:
    """The fraction of the measured limit that each backend reaches; more than all of it is marked as impossible."""
    _rows(axes, len(cases))
    shown = [n for n in names if any(c["results"].get(n, {}).get("fraction") is not None for c in cases)]
    thickness = 0.84 / max(1, len(shown))
    longest = 100.0
    for y, case in enumerate(cases):
        found = {n: f for n in shown if (f := case["results"].get(n, {}).get("fraction")) is not None}
        if case["bound"] == "call":
            axes.text(2, y, "a call's own cost: no limit applies", va="center", fontsize=8, color=_FAINT)
        for i, name in enumerate(shown):
            if name not in found:
                continue
            impossible = found[name] > 1.0
            at = y + (i - (len(shown) - 1) / 2) * thickness
            length = 100 * found[name]
            longest = max(longest, length)
            hatch = "////" if impossible else ""
            axes.barh(at, length, 0.92 * thickness, color=styles[name][0], hatch=hatch, edgecolor="white", linewidth=0)
            if impossible or found[name] == max(found.values()):
                text = percent(found[name]) + (" impossible" if impossible else "")
                axes.text(length + 1.5, at, text, va="center", fontsize=8.5, color="#c00000" if impossible else _INK)
    axes.axvline(100, color=_WALL, linewidth=3.5)
    axes.set_xlim(0, 1.16 * longest if longest == 100 else 1.4 * longest)
    axes.set_yticks(range(len(cases)), [""] * len(cases))
    axes.set_xlabel("% of the measured limit; further right is better", fontsize=9)
    _tidy(axes, "Fraction of the memory limit")


def _accuracy(axes: Any, cases: list[CaseRecord], names: list[str], styles: dict[str, tuple[str, str]]) -> None:
    """Each backend's worst error on each case against how many times slower than the fastest it is."""
    for name in names:
        points = []
        for case in cases:
            result = case["results"].get(name, {})
            if "median" in result and "accuracy" in result:
                best = min(r["median"] for r in case["results"].values() if "median" in r)
                points.append((result["median"] / best, float(result["accuracy"]["max_ulp"])))
        if points:
            colour, marker = styles[name]
            axes.plot(
                *zip(*points, strict=True), marker, color=colour, markersize=6, alpha=0.75, markeredgecolor="white"
            )
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 1000, 10_000) if low <= t <= high] or [1]
    axes.set_xticks(ticks, [f"{t}x" for t in ticks])
    axes.minorticks_off()
    axes.axhline(4, color=_WALL, linewidth=2, linestyle="--")
    highest = axes.get_ylim()[1]
    if highest > _LINEAR_ULP:  # somebody is far off: keep the good ones apart all the same
        axes.set_yscale("symlog", linthresh=_LINEAR_ULP, linscale=2)
        marks = [0, 1, 2, 4, 6, 8, 10, *(t for t in (100, 1000, 10**4, 10**6, 10**9) if t <= highest)]
        axes.set_yticks(marks, [f"{t:,}" for t in marks])
    axes.set_ylim(0, max(4.8, 1.1 * highest))
    axes.text(
        axes.get_xlim()[1],
        4.08,
        "what the contract allows softmax: 4 ulp ",
        ha="right",
        va="bottom",
        fontsize=8,
        color=_FAINT,
    )
    axes.set_xlabel("a point per case: time, as a multiple of the fastest", fontsize=9)
    axes.set_ylabel("worst error, ulp", fontsize=9)
    _tidy(axes, "Accuracy against speed (best: bottom left)")
