"""Measurements of this machine on the disk: what is kept, what a new run replaces, what no longer holds."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import records

from softbench.results import store


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def a_run(**times):
    """A run with one case per argument: ``name={"backend": seconds}``."""
    return records.run(
        [records.case({b: records.timed([t] * 6) for b, t in row.items()}, n) for n, row in times.items()]
    )


def medians(record):
    return {case["name"]: {b: r["median"] for b, r in case["results"].items()} for case in record["cases"]}


def test_runs_of_a_machine_add_up():
    assert store.load("m", 2) is None
    store.save(a_run(x={"a": 1.0, "b": 2.0}, y={"a": 3.0}), "m", 2)
    store.save(a_run(x={"a": 1.5}, z={"c": 4.0}), "m", 2)
    found = store.load("m", 2)
    assert medians(found) == {"x": {"a": 1.5, "b": 2.0}, "y": {"a": 3.0}, "z": {"c": 4.0}}
    assert set(found["backends"]) == {"a", "b", "c"}


def test_runs_that_end_at_once_lose_nothing(monkeypatch):
    pytest.importorskip("fcntl", reason="this system has no locks of files")
    load = store.load
    monkeypatch.setattr(store, "load", lambda *key: (load(*key), time.sleep(0.02))[0])
    names = [f"case{i}" for i in range(6)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: store.save(a_run(**{name: {"a": 1.0}}), "m", 2), names))
    assert sorted(medians(load("m", 2))) == names


def test_machines_and_threads_are_kept_apart():
    store.save(a_run(x={"a": 1.0}), "m", 2)
    assert store.load("m", 1) is None
    assert store.load("n", 2) is None
    assert store.others("m", 2) == []
    assert store.others("m", 1) == ["there are measurements with 2 threads, none with 1"]
    assert "another machine (m)" in store.others("n", 2)[0]


def test_other_versions_replace_everything():
    store.save({**a_run(x={"a": 1.0}, y={"a": 1.0}), "versions": {"numpy": "1"}}, "m", 2)
    store.save({**a_run(x={"a": 2.0}), "versions": {"numpy": "2"}}, "m", 2)
    assert medians(store.load("m", 2)) == {"x": {"a": 2.0}}


def test_what_has_changed_is_said():
    assert store.changed({"numpy": "1", "asv": "1"}, {"numpy": "1", "asv": "2", "torch": "3"}) == []
    assert store.changed({"numpy": "1", "numba": "1"}, {"numpy": "2"}) == [
        "measured with numba 1, now without it",
        "measured with numpy 1, now 2",
    ]


def test_a_run_that_did_not_reach_a_backend_loses_nothing_of_it():
    store.save(
        records.run([records.case({"a": records.timed([1.0])})], {"a": records.backend(startup=(1.0, 2.0, 3.0))}),
        "m",
        2,
    )
    gone = {"ok": False, "kind": "cpu", "reason": "not today", "install": "", "summary": ""}
    store.save(records.run([], {"a": gone}, complete=False), "m", 2)
    kept = store.load("m", 2)
    assert kept["backends"]["a"]["startup"]["imported"] == 1.0
    assert kept["backends"]["a"]["conformance"]["ok"]


def test_first_calls_of_several_runs_are_all_there():
    first, second = (
        records.run([records.case({"a": records.timed([1.0])})], {"a": records.backend(startup=(1.0, 2.0, 3.0))})
        for _ in "ab"
    )
    second["backends"]["a"]["startup"]["first_calls"][0]["op"] = "loss"
    store.save(first, "m", 2)
    store.save(second, "m", 2)
    assert {c["op"] for c in store.load("m", 2)["backends"]["a"]["startup"]["first_calls"]} == {"softmax", "loss"}


def test_a_damaged_file_counts_as_none(folder):
    store.save(a_run(x={"a": 1.0}), "m", 2)
    store.path_of("m", 2).write_text("{")
    assert store.load("m", 2) is None
    store.save(a_run(x={"a": 1.0}), "m", 2)
    assert store.load("m", 2)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_DATA_HOME": "/x"}, "/x/softbench"),
        ("linux", {"HOME": "/h"}, "/h/.local/share/softbench"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Application Support/softbench"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/softbench"),
    ],
)
def test_the_folder_is_where_the_system_keeps_such_data(platform, variables, expected, monkeypatch):
    for name in ("SOFTBENCH_DATA", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(store.sys, "platform", platform)
    assert store.data_folder() == Path(expected)
