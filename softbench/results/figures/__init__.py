"""Pictures of a record: time against the measured limit, against K, accuracy against speed, what a first result costs.

`overview` is one PNG of the most important ones; a report (`softbench.results.report`) has each as an SVG of its own,
whose colours are those of the page. Needs matplotlib (the ``bench`` extra), which is imported when something is drawn.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from softbench.results.figures.drawing import PRINT, Drawing, Theme
from softbench.results.figures.panels import FIGURES, FITS, LIMIT, Picture, accuracy, fits, fractions, times
from softbench.results.record import Record
from softbench.results.tables import machine_line

__all__ = ["FIGURES", "FITS", "Picture", "curves", "overview", "svg"]

_PAGE_NAMES: Final = ("ink", "faint", "wall", "grid", "band", "paper", "bad")
# In an SVG each colour stands for a variable of the page's style sheet.
_PAGE: Final = Theme(
    **{name: f"#fe00{i:02x}" for i, name in enumerate(_PAGE_NAMES)},
    series=tuple(f"#fd00{i:02x}" for i in range(len(PRINT.series))),
)
_VARIABLES: Final = {
    **{getattr(_PAGE, name): f"var(--{name})" for name in _PAGE_NAMES},
    **{colour: f"var(--series-{i})" for i, colour in enumerate(_PAGE.series)},
}


def overview(record: Record) -> bytes:
    """The record as one picture, a PNG.

    Raises
    ------
    ImportError
        No matplotlib.
    ValueError
        Nothing was measured.
    """
    _quiet_home()
    drawing = Drawing(record, PRINT)
    if not drawing.cases:
        raise ValueError("nothing was measured, so there is nothing to draw")
    figure = drawing.figure
    figure.set_size_inches(15.5, max(5.0, 2.2 + 0.4 * len(drawing.cases)))
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.45, 0.85, 1.05))
    times(drawing, left, "Time per call")
    fractions(drawing, middle, "Fraction of the memory limit")
    middle.set_yticks(range(len(drawing.cases)), [""] * len(drawing.cases))
    accuracy(drawing, right, "Error against time (best: bottom left)")
    drawing.legend(LIMIT)
    figure.suptitle(
        f"softbench {record.get('version', '')}: which is right, which is fast, how near the limit\n"
        + machine_line(record),
        fontsize=10.5,
        color=PRINT.ink,
    )
    picture = io.BytesIO()
    # The picture says of which run it is.
    figure.savefig(picture, format="png", dpi=100, metadata={"Creation Time": record.get("started", "")})
    return picture.getvalue()


def curves(record: Record) -> bytes:
    """A record of fits as a PNG: for every data set, how far above the minimum after how many seconds.

    Raises
    ------
    ImportError
        No matplotlib.
    ValueError
        Nothing was measured.
    """
    _quiet_home()
    drawing = Drawing(record, PRINT)
    if not fits(drawing):
        raise ValueError("nothing was measured, so there is nothing to draw")
    figure = drawing.figure
    figure.suptitle(
        f"softbench {record.get('version', '')}: seconds of a fit, and how far above the minimum it ends\n"
        + machine_line(record),
        fontsize=10.5,
        color=PRINT.ink,
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()


def svg(picture: Picture, record: Record, identifier: str) -> str:
    """A picture as an SVG element in the colours of the page, described for screen readers; empty if there is nothing.

    Raises
    ------
    ImportError
        No matplotlib.
    """
    _quiet_home()
    import matplotlib

    drawing = Drawing(record, _PAGE)
    if not drawing.cases or not picture.draw(drawing):
        return ""
    out = io.StringIO()
    # Words stay words. The salt makes ids that are the same every time, and unlike those of other pictures.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": identifier, "font.family": "sans-serif"}):
        drawing.figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(out.getvalue(), picture, identifier)


def _for_page(text: str, picture: Picture, identifier: str) -> str:
    """matplotlib's SVG as a part of a page: its colours, no fixed size, ids of its own, title and description."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(<g) id="[a-z][\w.]*_\d+"', r"\1", text)  # names of matplotlib's parts
    text = re.sub(r'\s(width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"#f[ed]00[0-9a-f]{2}", lambda found: _VARIABLES[found[0]], text)
    text = re.sub(r"(font: [\d.]+px|font-family:) [^;\"]*", r"\1 sans-serif", text)
    text = re.sub(r"(\d+\.\d)\d+", r"\1", text)  # a tenth of a point
    text = text.replace("xlink:href", "href").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    text = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", text)
    text = _without_bare_groups(re.sub(r"\s*\n\s*", "\n", text))
    text = _with_classes(text, identifier)
    head = (
        f'role="img" aria-labelledby="{identifier}-title {identifier}-desc">\n'
        f'<title id="{identifier}-title">{picture.title}</title>\n'
        f'<desc id="{identifier}-desc">{picture.reading} The figures are in the tables of this page.</desc>'
    )
    return re.sub(r">", lambda _: " " + head, text, count=1)


def _without_bare_groups(text: str) -> str:
    """The same without groups that say nothing: most of matplotlib's."""
    kept: list[bool] = []  # of the groups around

    def tag(found: re.Match[str]) -> str:
        if found[0].startswith("</g"):
            return found[0] if kept.pop() else ""
        kept.append("=" in found[0])
        return found[0] if kept[-1] else ""

    return re.sub(r"<g(?: [^>]*[^>/])?>\n?|</g>\n?", tag, text)


def _with_classes(text: str, identifier: str) -> str:
    """The same with a class for every style that several elements have. Of a page, each picture has its own."""
    count = Counter(re.findall(r' style="([^"]*)"', text))
    names = {style: f"{identifier}-{i}" for i, style in enumerate(style for style, times in count.items() if times > 1)}
    rules = "".join(f".{name}{{{style}}}" for style, name in names.items())
    text = re.sub(r' style="([^"]*)"', lambda m: f' class="{names[m[1]]}"' if m[1] in names else m[0], text)
    return text.replace("</style>", rules + "</style>", 1)


def _quiet_home() -> None:
    """Without a home to write to, matplotlib warns about its cache: give it a temporary one."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~").expanduser())
    if "MPLCONFIGDIR" not in os.environ and not os.access(home, os.W_OK):
        os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="softbench-mpl-")
