"""softbench.recommend and its command: from saved results, interpolated, or measured now."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "results"))

import records

import softbench
from softbench import built_in, machine, registry
from softbench.cli import main
from softbench.measure import one_call
from softbench.results import record as saved
from softbench.results import store


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_instances", {n: b for n, b in registry._instances.items() if n != "auto"})


def measured(shapes=((4096, 1000), (1000, 1000), (64, 10)), **more):
    cases = []
    for rows, classes in shapes:
        t = 1e-5 + 1e-9 * rows * classes
        results = {"numba": records.timed([t] * 6), "numpy": records.timed([5 * t] * 6)}
        results["numpy"]["accuracy"]["max_ulp"] = 0.5
        cases.append(records.case(results, name=f"softmax-{rows}x{classes}-f32", shape=[rows, classes]))
    backends = {"numba": records.backend(startup=(0.5, 1.5, 0.1)), "numpy": records.backend(startup=(0.0, 0.0, 0.0))}
    record = records.run(cases, backends, versions=machine.versions(built_in.DISTRIBUTIONS), **more)
    record["machine"] = machine.fingerprint()
    return record


@pytest.fixture
def kept():
    store.save(measured(), machine.fingerprint()["id"], machine.thread_count())


def test_what_was_measured_is_the_answer(kept):
    found = softbench.recommend("softmax", (4096, 1000))
    assert (found.backend, found.measured, found.now) == ("numba", "softmax-4096x1000-f32", False)
    assert found.interval[0] <= found.seconds <= found.interval[1]
    assert softbench.recommend("softmax", (4096, 1000), calls=10).backend == "numpy"
    assert softbench.recommend("softmax", (4096, 1000), calls=1000).backend == "numba"
    assert softbench.recommend("softmax", (4096, 1000), max_ulp=0.7).backend == "numpy"


def test_between_shapes_it_says_how_far_off_it_may_be(kept):
    found = softbench.recommend("softmax", (3000, 700), measure=False)
    assert found.measured == ""
    assert found.interval[0] < 1e-5 + 1e-9 * 3000 * 700 < found.interval[1]
    assert "interpolated, may be off by" in str(found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"op": "softmin"}, "op is 'softmin'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"shape": (4, 0)}, "expected positive lengths"),
        ({"shape": ()}, "expected positive lengths"),
        ({"axis": 2}, "axis is 2"),
        ({"calls": 0}, "calls is 0"),
        ({"target": "both"}, "target is 'both'"),
        ({"max_ulp": -1.0}, "max_ulp is -1"),
    ],
)
def test_what_is_no_call_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        softbench.recommend(**{"op": "softmax", "shape": (4, 4)} | arguments)


def test_without_measurements_it_says_so():
    with pytest.raises(LookupError, match="nothing has been measured on this machine"):
        softbench.recommend("softmax", (4, 4), measure=False)


def test_who_is_accurate_enough_may_be_nobody(kept):
    with pytest.raises(LookupError, match=r"no backend is known to err by at most 0.1 ulp .*numba errs by 1"):
        softbench.recommend("softmax", (4096, 1000), max_ulp=0.1)


def fake_run(monkeypatch):
    """Instead of a run: what was asked for, measured in no time."""
    asked = []

    def run(config, progress):
        asked.append(config)
        (case, *_) = config.workloads()
        record = measured([case.shape])
        record["cases"][0] |= {k: getattr(case, k) for k in ("name", "op", "dtype", "target", "result", "axis")}
        record["config"] = {"check": config.check, "threads": None}
        return record

    monkeypatch.setattr(one_call, "run", run)
    return asked


def test_what_was_never_measured_is_measured_now_and_kept(monkeypatch):
    asked = fake_run(monkeypatch)
    found = softbench.recommend("loss_and_gradient", (300, 7), "float64")
    assert found.now
    assert found.measured == "loss_and_gradient-300x7-f64"
    assert asked[0].shapes == ((300, 7),)
    assert not softbench.recommend("loss_and_gradient", (300, 7), "float64").now
    assert len(asked) == 1


def test_what_is_stale_is_measured_again(monkeypatch):
    asked = fake_run(monkeypatch)
    record = measured()
    record["versions"] = {**record["versions"], "numpy": "0.1"}
    store.save(record, machine.fingerprint()["id"], machine.thread_count())
    assert softbench.recommend("softmax", (4096, 1000), measure=False).stale
    found = softbench.recommend("softmax", (4096, 1000))
    assert found.now
    assert not found.stale
    assert len(asked) == 1


def test_unchecked_runs_are_not_kept():
    record = measured()
    record["config"] = {"check": False, "threads": None}
    assert one_call.keep(record) == ""
    assert store.load(machine.fingerprint()["id"], machine.thread_count()) is None


# -- commands ------------------------------------------------------------------------------------------------------

SOFTMAX = ["recommend", "--op", "softmax", "--shape", "4096x1000"]


def test_the_answer_comes_first(kept, capsys):
    assert main([*SOFTMAX, "--calls", "1000"]) == 0
    first, what, *rest = capsys.readouterr().out.splitlines()
    assert first == "numba"
    assert "4,096 rows of 1,000 classes, float32, 1,000 calls" in what
    assert any("numpy" in line and "5x the time" in line for line in rest)
    assert any("numba from call 12" in line for line in rest)
    assert max(len(line) for line in (first, what, *rest)) <= 80


def test_as_json(kept, capsys):
    assert main([*SOFTMAX, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backend"] == "numba"
    assert [estimate["backend"] for estimate in found["estimates"]] == ["numba", "numpy"]


def test_from_files(tmp_path, capsys):
    saved.write(measured(), tmp_path / "a.json")
    other = measured()
    other["machine"] = {**other["machine"], "id": "else"}
    saved.write(other, tmp_path / "b.json")
    assert main([*SOFTMAX, "a.json"]) == 0
    assert capsys.readouterr().out.startswith("numba\n")
    assert main([*SOFTMAX, "a.json", "b.json"]) == 2
    assert "b.json: the machines differ" in capsys.readouterr().err
    (tmp_path / "old.json").write_text('{"schema": "softbench.run/1"}')
    assert main([*SOFTMAX, "old.json"]) == 2
    assert "which an earlier version wrote: measure again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--op", "softmin", "--shape", "2x2"], 2, "did you mean 'softmax'"),
        (["--op", "softmax", "--shape", "2*2"], 2, "is no shape"),
        (["--op", "softmax"], 2, "--shape"),
        (["--op", "softmax", "--shape", "2x2", "--no-measure"], 1, "nothing has been measured"),
        (["--op", "softmax", "--shape", "2x2", "absent.json"], 1, "absent.json: No such file"),
    ],
)
def test_wrong_arguments_are_explained(arguments, status, words, capsys):
    try:
        found = main(["recommend", *arguments])
    except SystemExit as stop:
        found = stop.code
    assert found == status
    assert words in capsys.readouterr().err


def test_auto_says_what_it_follows(kept, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["auto", "--explain"]) == 0
    printed = capsys.readouterr().out
    assert "Measured on" in printed
    rows = [line.split() for line in printed.splitlines() if "softmax-" in line]
    assert rows[0][:4] == ["numba", "softmax-4096x1000-f32", "5x", "122"]
    assert max(len(line) for line in printed.splitlines() if "softmax-" in line) <= 80


def test_auto_without_measurements(capsys):
    assert main(["auto"]) == 0
    assert "Nothing has been measured" in capsys.readouterr().out
