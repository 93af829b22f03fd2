"""A report: what it says, that it holds everything, and what it does not load."""

import base64
import csv
import gzip
import io
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from full_record import record

from softbench.cli import main
from softbench.results.record import dumps, read
from softbench.results.report import render

RUN = Path(__file__).parents[2] / "docs/softbench-run.json"

pytest.importorskip("jinja2", reason="reports need jinja2 (the bench extra)")
pytest.importorskip("matplotlib", reason="reports need matplotlib (the bench extra)")


@pytest.fixture(scope="module")
def one():
    return render([record()])


@pytest.fixture(scope="module")
def two():
    return render([record(), record(version="0.2.0")])


class Tables(HTMLParser):
    """Rows of every table, by its id."""

    def __init__(self, page):
        super().__init__()
        self.found, self.rows, self.cell = {}, None, None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.rows = self.found[dict(attributes)["id"].removesuffix("-table")] = []
        elif tag == "tr" and self.rows is not None:
            self.rows.append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self.cell is not None:
            self.rows[-1].append(" ".join(self.cell.split()))
            self.cell = None
        elif tag == "table":
            self.rows = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def script(page, identifier):
    return re.search(rf'<script type="[^"]*" id="{identifier}">(.*?)</script>', page, re.DOTALL)[1]


def test_the_record_of_these_tests_is_what_a_run_writes(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(record()), encoding="utf-8")
    assert read(path)["overall"] == record()["overall"]


def test_the_verdict_comes_first_and_says_who_and_by_how_much(one):
    rows = Tables(one).found["verdict"]
    assert one.index("verdict-table") < one.index("<figure>")
    winner, tie = rows[1], rows[2]
    assert winner[3] == "fast"
    assert winner[5].startswith("slow 20x (18 to")
    assert winner[8] == "400 (until then slow)"
    assert tie[3] == "fast = slow"


def test_every_result_is_in_the_table_and_every_failure_with_its_reason(one):
    rows = Tables(one).found["measurements"]
    assert len(rows) == 1 + 8
    assert any("RuntimeError: <no & luck>" in row[-1] for row in rows)
    assert any(row[3] == "fast" and row[6] == "fastest" for row in rows)


def test_who_deviates_is_named_with_the_cases(one):
    rows = {row[0]: row for row in Tables(one).found["conformance"]}
    assert "1 failed" in rows["slow"][-1]
    assert "nan-row/x" in rows["slow"][-1]
    assert rows["gone"][-1] == "not installed"


def test_what_is_declared_is_no_failure():
    made = record()
    accuracy = made["cases"][3]["results"]["slow"]["accuracy"]
    accuracy["deviation"] = "it has <none> of its own"
    page = render([made])
    row = next(row for row in Tables(page).found["measurements"] if row[3] == "slow" and "loss" in row[0])
    assert row[-1] == "deviates as declared"
    assert "it has &lt;none&gt; of its own" in page


def test_the_data_are_inside_and_the_same(one):
    assert json.loads(script(one, "data-json")) == json.loads(json.dumps(record()))
    text = script(one, "data-csv").replace("\\u003c", "<")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 8
    assert float(rows[0]["median"]) == record()["cases"][0]["results"]["fast"]["median"]
    assert rows[6]["reason"] == "RuntimeError: <no & luck>"


def test_nothing_in_a_record_ends_the_script_that_holds_it(one):
    assert one.count("</script>") == one.count("<script")


def test_several_runs_are_told_apart(two):
    assert "A: " in two
    assert "B: " in two
    assert [row[0] for row in Tables(two).found["verdict"]] == ["run", "A", "A", "B", "B"]
    ids = re.findall(r'\sid="([^"]+)"', two)
    assert len(ids) == len(set(ids))


def test_it_is_small_and_names_no_other_host(one):
    assert len(one.encode()) < 300_000
    assert not re.findall(r'(?:src|href)="(?!data:|#)', one)
    assert not re.search(r"@import|url\((?!#)", one)


@pytest.mark.thorough
def test_a_default_run_of_all_peers_can_be_mailed():
    """Data and all: of a large page they are compressed."""
    run = read(RUN)
    for i, name in enumerate(["torch", "jax", "onnxruntime", "array_api", "dask"]):
        like = ["scipy", "sklearn"][i % 2]
        run["backends"][like]["conformance"]["failures"] = []  # what deviates as declared is no failure
        run["backends"][name] = run["backends"][like]
        for case in run["cases"]:
            case["results"][name] = case["results"][like]
    page = render([run])
    assert len(page.encode()) < 300_000
    unpacked = gzip.decompress(base64.b64decode(script(page, "data-json")))
    assert json.loads(unpacked) == json.loads(dumps(run))
    assert gzip.decompress(base64.b64decode(script(page, "data-csv"))).count(b"\n") > 100


def test_of_many_failures_the_page_tells_some_and_the_data_all():
    run = record()
    run["backends"]["slow"]["conformance"]["failures"] = [f"row/{i}: {'wrong ' * 100}" for i in range(500)]
    page = render([run])
    assert "and 480 more" in {row[0]: row for row in Tables(page).found["conformance"]}["slow"][-1]
    assert json.loads(gzip.decompress(base64.b64decode(script(page, "data-json")))) == json.loads(json.dumps(run))


def test_it_is_the_same_every_time(one):
    assert render([record()]) == one


def test_of_nothing_there_is_no_report():
    empty = record(cases=[], recommendations=[])
    for records in ([], [empty]):
        with pytest.raises(ValueError, match="nothing was measured"):
            render(records)


# -- the command ---------------------------------------------------------------------------------------------------


def _saved(folder, *versions):
    paths = []
    for version in versions:
        path = folder / f"run-{version}.json"
        path.write_text(json.dumps(record(version=version)), encoding="utf-8")
        paths.append(str(path))
    return paths


def test_the_command_writes_one_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *_saved(tmp_path, "0.1.0", "0.2.0"), "--out", "r.html"]) == 0
    assert [path.name for path in tmp_path.glob("*.html")] == ["r.html"]
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "A: A &amp; B &lt;processor&gt;" in page
    assert capsys.readouterr().out.startswith("saved: r.html (2 runs, ")


def test_without_a_file_it_takes_the_newest_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 2
    assert "no FILE.json was named" in capsys.readouterr().err
    folder = tmp_path / "softbench-results"
    folder.mkdir()
    old, new = (Path(path) for path in _saved(folder, "0.1.0", "0.2.0"))
    os.utime(old, (1, 1))
    os.utime(new, (2, 2))
    assert main(["report"]) == 0
    assert "softbench 0.2.0" in (tmp_path / "softbench-report.html").read_text(encoding="utf-8")


def test_what_is_no_run_is_refused_by_name_and_the_old_report_stays(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text('{"schema": "softbench.run/1"}', encoding="utf-8")
    (tmp_path / "r.html").write_text("old", encoding="utf-8")
    assert main(["report", "bad.json", "--out", "r.html"]) == 2
    assert "bad.json has schema 'softbench.run/1'" in capsys.readouterr().err
    assert main(["report", "missing.json", "--out", "r.html"]) == 1
    assert "missing.json" in capsys.readouterr().err
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == "old"


def test_every_backend_has_a_marker_of_its_own():
    """Colours come round again after eight."""
    from softbench.built_in import RESERVED
    from softbench.results.figures.drawing import MARKERS

    assert len(set(MARKERS)) == len(MARKERS) >= len(RESERVED)
