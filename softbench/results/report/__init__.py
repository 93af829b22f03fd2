"""Records as one HTML file that can be mailed: verdicts, pictures, tables, and the data itself.

Nothing is loaded from anywhere: style, script, pictures (SVG) and data are inside, so it opens from disk without a
network. Tables are tables; a script of some lines sorts them and offers the data for download.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, Final, NamedTuple

from softbench.results.figures import FIGURES, FITS, Picture, svg
from softbench.results.record import Record, dumps
from softbench.results.report import content, fits
from softbench.results.report.cells import Source, Table, sources

__all__ = ["render"]

LARGEST: Final = 300_000
"""Bytes of a page beyond which its data are compressed: what can be mailed anywhere."""
_COMPRESSED: Final = "application/gzip;base64"


class _Suite(NamedTuple):
    """What a report says of runs of one suite."""

    title: str
    pictures: Sequence[Picture]
    verdict: Callable[[Sequence[Source]], Table]
    tables: Sequence[Callable[[Sequence[Source]], Table]]
    csv_text: Callable[[Sequence[Source]], str]


_SOFTMAX: Final = _Suite(
    "Which softmax backend to use here",
    FIGURES,
    content.verdicts,
    (content.measurements, content.costs, content.conformance, content.machines),
    content.csv_text,
)
_FITS: Final = _Suite(
    "Which solver fits softmax regression fastest here",
    FITS,
    fits.verdicts,
    (fits.measurements, content.machines),
    fits.csv_text,
)


def render(records: Sequence[Record]) -> str:
    """One HTML page of one or several records.

    Parameters
    ----------
    records
        As `softbench.results.record.read` returns them. Several are told apart by letters.

    Returns
    -------
    str
        The page, complete in itself.

    Raises
    ------
    ImportError
        jinja2 or matplotlib is not installed (``pip install "softbench[bench]"``).
    ValueError
        No record, nothing was measured in any of them, or some are of calls and some of fits.
    """
    found = sources(records)
    of_fits = [source.record.get("command") == "regression" for source in found]
    if any(of_fits) and not all(of_fits):
        raise ValueError("a report is of runs of one suite: some of these are of --suite regression, some are not")
    suite = _FITS if any(of_fits) else _SOFTMAX
    if not any("median" in r for s in found for case in s.record["cases"] for r in case["results"].values()):
        raise ValueError("nothing was measured, so there is nothing to report")
    data = [json.loads(dumps(source.record)) for source in found]
    texts = {
        "json": ("application/json", json.dumps(data[0] if len(data) == 1 else data, separators=(",", ":"))),
        "csv": ("text/csv", suite.csv_text(found)),
    }
    page = _page(suite, found, {name: (kind, _in_script(text)) for name, (kind, text) in texts.items()})
    if len(page.encode()) > LARGEST:
        page = _page(suite, found, {name: (_COMPRESSED, _compressed(text)) for name, (_, text) in texts.items()})
    return page


def _page(suite: _Suite, found: Sequence[Source], data: dict[str, tuple[str, str]]) -> str:
    """The page, with data of these types as text."""
    page: str = _template().render(
        title="softbench: " + suite.title[0].lower() + suite.title[1:],
        heading=suite.title,
        sources=found,
        overall=[(s.letter, s.record["overall"]) for s in found if s.record.get("overall")],
        warnings=[(s.letter, text) for s in found for text in _warnings(s.record)],
        verdict=suite.verdict(found),
        pictures=[_pictures(source, suite.pictures) for source in found],
        tables=[make(found) for make in suite.tables],
        data=data,
    )
    return page


def _template() -> Any:
    from jinja2 import Environment, StrictUndefined, select_autoescape

    environment = Environment(
        autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    here = files(__package__)
    environment.globals["style"] = (here / "page.css").read_text(encoding="utf-8")
    environment.globals["script"] = (here / "page.js").read_text(encoding="utf-8")
    return environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))


def _pictures(source: Source, pictures: Sequence[Picture]) -> dict[str, Any]:
    drawn = []
    for picture in pictures:
        text = svg(picture, source.record, f"{picture.name}{source.letter}")
        if text:
            drawn.append({"picture": picture, "svg": text, "id": f"{picture.name}{source.letter}"})
    return {"source": source, "drawn": drawn}


def _warnings(record: Record) -> list[str]:
    """What a reader must know before believing the figures."""
    found = list(record.get("notes", []))
    stability = record.get("stability")
    if stability and stability["verdict"] != "stable":
        found.append("The machine was disturbed, so do not trust small differences: " + "; ".join(stability["reasons"]))
    if not record["complete"]:
        found.append(f"The run did not end ({record.get('stopped') or 'stopped'}): this is what it had measured.")
    return found


def _compressed(text: str) -> str:
    """Text as the page's script unpacks it; the same every time."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _in_script(text: str) -> str:
    """Text that cannot end the script element it stands in; JSON reads it as the same."""
    return text.replace("<", "\\u003c")
