"""The record: what is written can be read again, and what no run writes is refused by path and field."""

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))

import records

from softbench.results import compare, record, tables
from softbench.results.recommend import recommend


def example():
    made = records.run(
        [records.case({"x": records.timed(np.linspace(1.0, 1.2, 7), costs={"peak": 1 << 20})}, control=1.01)],
        {"y": {"ok": False, "kind": "cpu", "reason": "not installed", "install": "pip install y", "summary": ""}},
    )
    made["stability"] = {"verdict": "stable", "reasons": [], "load_before": 0.1}
    return made


def test_a_record_survives_the_disk_and_is_plain_json(tmp_path):
    path, made = tmp_path / "run.json", example()
    made["cases"][0]["results"]["x"]["accuracy"]["max_ulp"] = math.inf
    record.write(made, path)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = record.read(path)
    assert again["cases"][0]["results"]["x"]["accuracy"]["max_ulp"] == math.inf
    assert again["cases"][0]["results"]["x"]["quartiles"] == made["cases"][0]["results"]["x"]["quartiles"]
    assert again["backends"] == made["backends"]
    assert list(tmp_path.iterdir()) == [path]


def test_samples_stand_on_one_line(tmp_path):
    record.write(example(), tmp_path / "run.json")
    (line,) = [line for line in (tmp_path / "run.json").read_text().splitlines() if '"samples"' in line]
    assert line.count(",") >= 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "is not JSON"),
        ("[]", "schema None; expected 'softbench.run/2'"),
        ('{"schema": "softbench.run/1"}', "'softbench.run/1', which an earlier version wrote: measure again; expected"),
    ],
)
def test_other_files_are_refused_by_name(text, words, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as refused:
        record.read(path)
    assert str(path) in str(refused.value)


def changed(found, path, value):
    """The JSON with what is at a path replaced, or, with ``...``, removed."""
    *steps, last = path
    for step in steps:
        found = found[step]
    if value is ...:
        del found[last]
    else:
        found[last] = value


RESULT = ("cases", 0, "results", "x")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("machine",), ..., "machine is missing"),
        (("cases",), {}, "cases is {}, expected a list"),
        (("cases", 0), 7, "cases[0] is 7, expected an object"),
        (("cases", 0, "shape"), [4, 0], "cases[0].shape[1] is 0, expected a number at least 1"),
        (("cases", 0, "shape", 0), "4", "cases[0].shape[0] is '4', expected a whole number"),
        (("cases", 0, "bound"), "disk", "cases[0].bound is 'disk', expected one of 'call', 'memory'"),
        ((*RESULT, "median"), "fast", "cases[0].results.x.median is 'fast', expected a number"),
        ((*RESULT, "median"), 0, "cases[0].results.x.median is 0, expected a number more than 0"),
        ((*RESULT, "median"), -1.0, "median is -1.0, expected a number more than 0"),
        ((*RESULT, "median"), "nan", "median is 'nan', expected a number more than 0"),
        ((*RESULT, "median"), 99.0, "cases[0].results.x.median does not lie between its quartiles"),
        ((*RESULT, "quartiles"), [1.0], "quartiles is [1.0], expected a list of 2"),
        ((*RESULT, "quartiles"), ..., "cases[0].results.x lacks quartiles"),
        ((*RESULT, "samples", 3), None, "samples[3] is None, expected a number"),
        ((*RESULT, "accuracy", "ok"), "yes", "accuracy.ok is 'yes', expected true or false"),
        ((*RESULT, "impossible"), 1, "impossible is 1, expected true or false"),
        (("backends", "x"), ..., "cases[0].results.x is of no backend of the record"),
        (("backends", "x", "conformance", "ok"), ..., "backends.x.conformance.ok is missing"),
        (("cases", 0, "stability", "control", "ratio"), 0, "stability.control.ratio is 0"),
        (("versions",), {"numpy": 2}, "versions.numpy is 2, expected text"),
        (("complete",), None, "complete is None, expected true or false"),
    ],
)
def test_what_no_run_writes_is_refused_by_path_and_field(path, value, words, tmp_path):
    file = tmp_path / "edited.json"
    record.write(example(), file)
    found = json.loads(file.read_text())
    changed(found, path, value)
    file.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"edited\.json: ") as refused:
        record.read(file)
    assert words in str(refused.value)


def test_every_field_may_hold_nonsense_without_a_traceback(tmp_path):
    """Each value of the JSON in turn is something else: that is refused as a ValueError, or can be used."""
    file = tmp_path / "edited.json"
    record.write(example(), file)
    text, whole = file.read_text(), example()

    def places(found, path=()):
        pairs = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
        for key, value in pairs:
            yield (*path, key)
            yield from places(value, (*path, key))

    for path in places(json.loads(text)):
        for value in (None, "x", -1, [], {}, 1e400, ...):
            found = json.loads(text)
            changed(found, path, value)
            file.write_text(json.dumps(found))
            try:
                edited = record.read(file)
            except ValueError:
                continue
            compare.changes(edited, whole)
            compare.changes(whole, edited)
            compare.differences(edited, whole)
            compare.one_sided(whole, edited)
            compare.unlike_machines(edited, whole)
            recommend(edited)
            tables.show(edited, Console(file=io.StringIO()))


def test_unknown_fields_are_kept(tmp_path):
    made = example()
    made["cases"][0]["comment"] = "mine"
    record.write(made, tmp_path / "run.json")
    assert record.read(tmp_path / "run.json")["cases"][0]["comment"] == "mine"
