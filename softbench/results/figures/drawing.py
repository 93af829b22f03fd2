"""A figure being drawn: colours, the style of each candidate, the common look of panels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from softbench.results.record import Record, timed_results

__all__ = ["MARKERS", "PRINT", "Drawing", "Theme"]

MARKERS: Final = ("o", "s", "D", "^", "v", "P", "X", "*", "<", "h", ">", "p", "d")


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a picture."""

    ink: str
    faint: str
    wall: str
    grid: str
    band: str
    paper: str
    bad: str
    series: tuple[str, ...]


# Okabe and Ito's colours, which stay apart for colour-blind readers, some darker; every one has a marker of its own.
PRINT: Final = Theme(
    ink="#222222", faint="#6a6a6a", wall="#9a9a9a", grid="#dddddd", band="#f4f4f4", paper="#ffffff", bad="#c00000",
    series=("#0072B2", "#D55E00", "#007D5A", "#AA4499", "#A66A00", "#2E7FB8", "#000000", "#6F5320"),
)  # fmt: skip


class Drawing:
    """A figure being drawn from a record, with the style of each candidate."""

    def __init__(self, record: Record, theme: Theme) -> None:
        from matplotlib.figure import Figure

        self.record, self.theme = record, theme
        self.figure = Figure(layout="constrained")
        self.cases = [c for c in record["cases"] if any("median" in r for r in c["results"].values())]
        timed = dict.fromkeys(name for _, name, _ in timed_results(record))
        timed |= dict.fromkeys(n for c in record["cases"] for n, result in c["results"].items() if result.get("curve"))
        self.names = [name for name in record["backends"] if name in timed] or list(timed)
        self.styles = {
            name: (theme.series[i % len(theme.series)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(self.names)
        }

    def tidy(self, axes: Any, title: str = "") -> None:
        """The common look of all panels."""
        if title:
            axes.set_title(title, loc="left", fontsize=10.5, color=self.theme.ink, fontweight="bold")
        for side, spine in axes.spines.items():
            spine.set_visible(side not in ("top", "right"))
            spine.set_color(self.theme.faint)
        axes.tick_params(labelsize=9, colors=self.theme.ink)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(self.theme.ink)
            label.set_fontsize(9)
        axes.patch.set_alpha(0.0)
        axes.set_axisbelow(True)

    def legend(self, limit: str = "") -> None:
        """Candidates, and the limit, below the panels."""
        from matplotlib.lines import Line2D

        handles = [
            Line2D([], [], color=colour, marker=marker, linestyle="", markersize=8, label=name)
            for name, (colour, marker) in self.styles.items()
        ]
        if limit:
            handles.append(Line2D([], [], color=self.theme.wall, linewidth=3.5, label=limit))
        legend = self.figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 5), frameon=False, fontsize=10
        )
        for text in legend.get_texts():
            text.set_color(self.theme.ink)
