"""Backends that exit, crash, hang or print: they harm no verdict but their own, and no report says what is not so."""

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from softbench import files
from softbench.conformance import contract
from softbench.conformance.apart import judge_apart
from softbench.conformance.junit import junit_xml
from softbench.conformance.runner import selected
from softbench.conformance.verdicts import Report, Result
from softbench.errors import UnknownBackendError
from softbench.loading import Source

pytestmark = pytest.mark.processes

HOSTILE = """
import ctypes, os, signal, sys, threading, time
from softbench_backends.numpy import NumpyBackend


def backend(name, **methods):
    globals()[name] = type(name, (NumpyBackend,), {"name": name.lower(), **methods})


def hang(*_):
    while True:
        time.sleep(1)


def spin(*_):
    while True:
        pass


backend("Exits", softmax=lambda *_: sys.exit(0))
backend("ExitsHard", softmax=lambda *_: os._exit(0))
backend("Crashes", softmax=lambda *_: ctypes.string_at(0))
backend("Killed", softmax=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
backend("Hangs", softmax=hang)
backend("Spins", softmax=spin)
backend("Interrupts", softmax=lambda *_: signal.raise_signal(signal.SIGINT))
backend("Closes", softmax=lambda *_: os.closerange(3, 256))
backend("ExitsWhenMade", __init__=lambda _: sys.exit(0))
backend("ExitsHardWhenMade", __init__=lambda _: os._exit(0))
backend("CrashesWhenMade", __init__=lambda _: ctypes.string_at(0))
backend("HasNoInfo", info=lambda _: 1 / 0)


class Prints(NumpyBackend):
    name = "prints"

    def softmax(self, x, out):
        print('{"reports": []}')
        os.write(1, b'{"result": 0}\\n')
        os.write(2, b"noise\\n")
        return super().softmax(x, out)


class WritesEverywhere(NumpyBackend):
    name = "writeseverywhere"

    def softmax(self, x, out):
        for descriptor in range(1, 64):
            try:
                os.write(descriptor, b"7\\n{junk\\n")
            except OSError:
                pass
        return super().softmax(x, out)


class Slow(NumpyBackend):
    name = "slow"

    def softmax(self, x, out):
        time.sleep(0.2)
        with open(os.environ.get("CALLS_OF_SLOW", os.devnull), "a") as calls:
            calls.write(".")
        return super().softmax(x, out)


class Declares(NumpyBackend):
    name = "declares"
    deviations = {"accuracy-softmax": "made up"}


class CompilesPerShape(Declares):
    compiles_per_shape = True
"""
FEW = ["plus-infinity/softmax-float64", "plus-infinity/argmax-float64", "plus-infinity/logsumexp-float64"]
SOFTMAX, *OTHERS = FEW


@pytest.fixture(autouse=True)
def hostile(tmp_path, monkeypatch):
    (tmp_path / "hostile.py").write_text(HOSTILE)
    (tmp_path / "exits_at_import.py").write_text("import sys; sys.exit(0)")
    (tmp_path / "exits_hard_at_import.py").write_text("import os; os._exit(0)")
    (tmp_path / "hangs_at_import.py").write_text("import time; time.sleep(1e6)")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*arguments, first=None, **options):
    path = os.pathsep.join(str(p) for p in (first, *sys.path) if p)
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "softbench", "check", "--quick", *arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen(command, env=environment, **options)


def check(*arguments, **options):
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def selecting(cases):
    return [word for case in cases for word in ("--select", case)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Exits", "SystemExit: 0 at hostile.py"),
        ("ExitsHard", "ends its process (exit status 0)"),
        ("Crashes", "ends its process (ended by SIGSEGV), in File"),
        ("Killed", "ends its process (ended by SIGKILL)"),
        ("Hangs", "does not end within 1 s, in File"),
        ("Spins", "does not end within 1 s, in File"),
        ("Interrupts", "raises KeyboardInterrupt"),
        ("Closes", "ends its process (exit status 1)"),
        ("WritesEverywhere", "writes among the answers of its process"),
    ],
)
def test_a_case_without_an_answer_has_failed_and_the_others_are_judged(name, words):
    report = judge_apart(f"hostile:{name}", "quick", select=FEW, timeout=1)
    verdicts = {result.id: result for result in report.results}
    assert verdicts[SOFTMAX].status == "failed"
    assert words in verdicts[SOFTMAX].message
    assert [verdicts[case].status for case in OTHERS] == ["passed", "passed"]
    assert not report.ok
    assert not report.stopped


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("exits_at_import:X", "SystemExit: 0 at exits_at_import.py"),
        ("exits_hard_at_import:X", "ends its process (exit status 0)"),
        ("hostile:ExitsWhenMade", "SystemExit: 0 at hostile.py"),
        ("hostile:ExitsHardWhenMade", "ends its process (exit status 0)"),
        ("hostile:CrashesWhenMade", "ended by SIGSEGV"),
        ("hostile:HasNoInfo", "ZeroDivisionError"),
    ],
)
def test_a_backend_that_cannot_be_loaded_fails(spec, words):
    report = judge_apart(spec, "quick", select=FEW, timeout=5)
    assert report.stopped
    assert not report.ok
    (failed,) = report.of("failed")
    assert failed.id == "process/loading"
    assert words in failed.message
    assert {result.id for result in report.of("unjudged")} == set(FEW)


def test_loading_that_hangs_ends(monkeypatch):
    monkeypatch.setattr("softbench.conformance.apart._LOADING", 1.0)
    report = judge_apart("hangs_at_import:X", "quick", select=FEW, timeout=1)
    assert "does not end within 1 s" in report.of("failed")[0].message


def test_a_backend_that_ends_every_process_is_given_up():
    report = judge_apart("hostile:ExitsHard", "quick", select=["accuracy-softmax"])
    assert "given up" in report.stopped
    assert report.of("unjudged")
    assert len(report.of("failed")) == 12


def test_two_processes_give_the_verdicts_of_one():
    report = judge_apart("numpy", "quick", select=["layouts", "one-class"])  # more than a hundred cases
    assert report.ok, report.of("failed")
    assert len(report.results) > 100
    assert [result.id for result in report.results][:2] == ["one-class/softmax-float16", "one-class/softmax-bfloat16"]
    assert len({result.id for result in report.results}) == len(report.results)


def test_largest_errors_come_from_all_processes():
    report = judge_apart("numpy", "quick", select=["accuracy-softmax", "accuracy-loss"])
    found = {(error["function"], error["dtype"]): error for error in report.errors}
    assert set(found) == {
        (f, d) for f in ("softmax", "index_loss") for d in ("float16", "bfloat16", "float32", "float64")
    }
    assert 0 < found["softmax", "float64"]["max"] <= 4
    assert found["softmax", "float64"]["case"].startswith("accuracy-softmax/")


def test_unknown_backends_are_told_as_in_this_process():
    with pytest.raises(UnknownBackendError, match="no module named 'nowhere'"):
        judge_apart("nowhere:Thing", "quick", select=FEW)
    with pytest.raises(ValueError, match="no case"):
        judge_apart("numpy", "quick", select=["no-such-row"])


# -- the command ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["hostile:Exits", "hostile:ExitsHard", "hostile:Crashes", "exits_at_import:X"])
def test_no_verdict_is_no_success(spec, tmp_path):
    junit = tmp_path / "report.xml"
    junit.write_text("<testsuites><testsuite/></testsuites>")  # yesterday's, which passed
    status, out, _ = check(spec, "--junit", str(junit), *selecting(FEW))
    assert status == 1
    assert "FAILS" in out
    suite = ET.parse(junit).getroot().find("testsuite")
    assert suite.get("name") == spec
    assert int(suite.get("failures")) == 1


def test_a_hang_names_the_case_and_ends_at_its_limit():
    began = time.monotonic()
    status, out, _ = check("hostile:Hangs", "--timeout", "1", *selecting(FEW))
    assert status == 1
    assert f"FAILED {SOFTMAX}" in out
    assert "does not end within 1 s" in out
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("words", [["--timeout", "0"], ["--timeout", "soon"], ["--timeout", "-1"]])
def test_limits_that_are_none(words):
    status, _, err = check("numpy", *words, *selecting(FEW))
    assert status == 2
    assert "positive number" in err


def test_what_a_backend_prints_spoils_no_json():
    status, out, _ = check("hostile:Prints", "--json", *selecting(FEW))
    (report,) = json.loads(out)["reports"]
    assert status == 0
    assert report["ok"]
    assert '{"reports": []}' in report["printed"]


def test_printing_is_a_failure_of_its_own_row():
    for case in ("errors/quiet-softmax-float64",):
        report = judge_apart("hostile:Prints", "quick", select=[case])
        assert "prints" in report.of("failed")[0].message


def test_what_ml_dtypes_makes_is_not_asked_without_it(hostile):
    """README's first command does not install it: no backend may fail for that."""
    (hostile / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *rest: None if name == 'ml_dtypes' else find(name, *rest)\n"
    )
    status, out, _ = check("numpy", "--select", "combinations", "--select", "sequences", first=hostile)
    assert "ml_dtypes is not installed" in out  # hidden indeed
    assert "0 failed" in out
    assert status == 0


def test_sources_survive_a_command_line():
    source = Source("array_api", library="torch", dtypes=("float32",), options=(("namespace", "torch"),))
    assert Source.from_json(source.to_json()) == source


def test_one_backend_takes_no_other_down():
    status, out, _ = check("exits_hard_at_import:X", "nowhere:X", "numpy", "--json", *selecting(FEW))
    assert status == 2
    found = json.loads(out)
    assert [(report["backend"], report["ok"]) for report in found["reports"]] == [
        ("exits_hard_at_import:X", False),
        ("numpy", True),
    ]
    assert "nowhere" in found["unknown"]["nowhere:X"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_keep_what_was_judged_and_leave_no_process(number, status, tmp_path, monkeypatch):
    junit, calls = tmp_path / "report.xml", tmp_path / "calls"
    monkeypatch.setenv("CALLS_OF_SLOW", str(calls))
    process = start("hostile:Slow", "--junit", str(junit), "--timeout", "30", "--select", "accuracy-softmax")
    end = time.monotonic() + 60
    while time.monotonic() < end and not (calls.exists() and calls.stat().st_size >= 12):
        time.sleep(0.1)
    children = children_of(process.pid)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == status
    assert "interrupted" in out
    suite = ET.parse(junit).getroot().find("testsuite")
    assert suite.find("testcase[@name='interrupted']/error") is not None
    assert len(suite.findall("testcase")) > 1
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_workers_end_with_a_parent_that_is_killed():
    process = start("hostile:Slow", "--select", "accuracy-softmax")
    assert within(60.0, lambda: children_of(process.pid))
    children = children_of(process.pid)
    process.kill()
    process.communicate(timeout=30)
    assert within(10.0, lambda: not [child for child in children if alive(child)])


def within(seconds, happens):
    """Whether it happens in that time."""
    end = time.monotonic() + seconds
    while not happens() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(happens())


def children_of(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- reports -------------------------------------------------------------------------------------------


def test_a_reader_who_has_enough_costs_no_report(tmp_path):
    junit = tmp_path / "report.xml"
    command = f"{sys.executable} -m softbench check numpy --quick --select nan-row --junit {junit} | head -1"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert "passes" in done.stdout
    assert done.stderr == ""
    assert ET.parse(junit).getroot().find("testsuite").get("failures") == "0"


def test_a_closed_standard_output_is_no_traceback(tmp_path):
    junit = tmp_path / "report.xml"
    command = f"{sys.executable} -m softbench check numpy --quick --select nan-row --junit {junit} >&-"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert ET.parse(junit).getroot().find("testsuite").get("failures") == "0"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_an_error_and_leaves_no_half_report(tmp_path):
    with open("/dev/full", "w") as full:
        status, _, err = check("numpy", *selecting(FEW), stdout=full)
    assert status == 1
    assert err.count("\n") == 1
    assert "No space left" in err


def test_write_whole_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "report"
    files.write_whole(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_whole(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["report"] or set(os.listdir(tmp_path)) >= {"report"}
    assert not list(tmp_path.glob(".*part"))


def test_clear_removes_what_is_old_and_says_what_cannot_be_written(tmp_path):
    path = tmp_path / "report"
    path.write_text("old")
    files.clear(path)
    assert not path.exists()
    with pytest.raises(OSError, match="No such file") as caught:
        files.clear(tmp_path / "nowhere" / "report")
    assert caught.value.filename.endswith("nowhere/report")
    files.clear(Path("/dev/null"))
    assert Path("/dev/null").exists()


@pytest.mark.parametrize("text", ["\ud800", "\uffff", "\ufffe", "\x00", "\x1b[31m", "a\tb", "ok \U0001f600"])
def test_junit_is_well_formed_whatever_is_in_a_message(text):
    report = Report(
        f"back{text}end", "cpu", "compiled", "quick", {}, [Result(f"row/{text}", "failed", f"<{text}&\"'>")]
    )
    suite = ET.fromstring(junit_xml([report], {text: text})).find("testsuite")
    assert suite.get("failures") == "1"
    assert suite.find("testcase/failure").get("message").startswith("<")


def test_junit_counts_what_was_not_judged():
    results = [Result("row/a", "passed"), Result("row/b", "unjudged", "given up"), Result("row/c", "skipped", "no")]
    report = Report("mine", "cpu", "compiled", "quick", {}, results, stopped="given up")
    suite = ET.fromstring(junit_xml([report])).find("testsuite")
    assert (suite.get("tests"), suite.get("errors"), suite.get("skipped")) == ("3", "1", "1")


def test_of_who_is_asked_few_cases_no_declared_deviation_is_missed(monkeypatch):
    """As `softbench.conformance.run` has it: JAX and ONNX Runtime, which compile per shape, are asked a sample."""
    chosen = selected("standard", FEW)
    monkeypatch.setattr("softbench.conformance.apart.selected", lambda profile, select: chosen)
    assert [result.id for result in judge_apart("hostile:Declares").of("failed")] == ["deviations/accuracy-softmax"]
    assert not judge_apart("hostile:CompilesPerShape").of("failed")


def test_a_kit_that_was_changed_meanwhile_is_not_waited_for(monkeypatch):
    """Cases are asked for by number: where the processes have other ones, no answer to the last of them would come."""
    others = contract.all_cases()[::-1]
    monkeypatch.setattr(contract, "all_cases", lambda: others)
    report = judge_apart("numpy", "quick", select=["nan-row"])
    assert report.stopped == "softbench was changed meanwhile"
    assert not report.ok
