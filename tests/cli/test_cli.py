"""The command line, as people and pipes meet it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import softbench
from softbench.cli import arguments, main
from softbench.measure import run as bench

TINY = ["run", "--backends", "numpy", "--cases", "softmax-1x10-f32", "--seconds", "0.05", "--no-check"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_startup(monkeypatch):
    """Without the fresh processes, which have a test of their own."""
    nothing = {"imported": None, "first_calls": [], "problem": ""}
    monkeypatch.setattr(bench.startup, "measure", lambda name, cases, cache: nothing)


def softbench_process(*arguments, **options):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p), **options.pop("env", {}))
    return subprocess.Popen(
        [sys.executable, "-m", "softbench", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_without_a_command_it_explains_itself(capsys):
    assert main([]) == 0
    told = capsys.readouterr().out
    for command in ("list", "info", "check", "run", "compare", "warmup"):
        assert command in told


def test_list_names_everybody_and_imports_no_library():
    code = (
        "import sys; from softbench.cli import main; main(['list']); "
        "print(sorted({'numba', 'cupy', 'torch', 'jax', 'matplotlib', 'rich', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for name in softbench.list_backends():
        assert f"\n{name} " in done.stdout
    assert "numpy 2" in done.stdout


def test_list_cases(capsys):
    assert main(["list", "--cases"]) == 0
    told = capsys.readouterr().out
    assert "softmax-4096x1000-f32 " in told
    assert "digits" in told


def test_info(capsys):
    assert main(["info"]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    for name in softbench.list_backends():
        assert name in told
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["cpu"]["model"]
    assert all(entry["ok"] or entry["reason"] for entry in found["backends"].values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], ["'rnu'", "did you mean 'run'"]),
        (["run", "--backends", "nmpy"], ["'nmpy'", "did you mean 'numpy'"]),
        (["run", "--cases", "softmx-1x10-f32"], ["softmx-1x10-f32", "did you mean softmax-1x10-f32"]),
        (["run", "--cases", ","], ["names nothing"]),
        (["run", "--dtype", "float23"], ["float23", "did you mean 'float32'"]),
        (["run", "--seconds", "-1"], ["-1"]),
        (["run", "--seconds", "soon"], ["'soon' is not a positive number"]),
        (["run", "--threads", "0"], ["'0' is not a positive whole number"]),
        (["run", "--threads", "two"], ["'two' is not a positive whole number"]),
        (["run", "--threads", "100000"], ["cores"]),
        (["run", "--op", "softmx"], ["'softmx'", "did you mean 'softmax'"]),
        (["run", "--shape", "4096by1000"], ["'4096by1000' is no shape"]),
        (["run", "--shape", "4096x0"], ["'4096x0' is no shape"]),
        (["run", "--shape", "40x10", "--axis", "2"], ["axis is 2"]),
        (["run", "--op", "argmax"], ["no case does argmax"]),
        (["run", "--quick", "--full"], ["not allowed with"]),
        (["run", "--max-ulp", "0"], ["'0' is not a positive number"]),
        (["compare", "a.json"], ["B.json"]),
        (["check", "numpy", "--select", "nan-rwo"], ["'nan-rwo'", "softbench check --list"]),
    ],
)
def test_wrong_arguments_are_explained(arguments, words, capsys):
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    told = capsys.readouterr()
    assert status == 2
    assert told.out == ""
    for word in words:
        assert word in told.err
    assert "Traceback" not in told.err


def test_run_saves_one_json_and_one_picture(capsys, no_startup, tmp_path):
    assert main(TINY) == 0
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert "\r" not in told.out + told.err
    assert "numpy" in told.out
    assert "fastest" in told.out
    files = sorted(path.suffix for path in (tmp_path / "softbench-results").iterdir())
    assert files == [".json", ".png"]
    (picture,) = (tmp_path / "softbench-results").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000


def test_run_prints_json_alone(capsys, no_startup, tmp_path):
    assert main([*TINY, "--json", "--no-plot", "--out", "here"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["complete"]
    assert found["config"]["seconds"] == 0.05
    assert [path.suffix for path in (tmp_path / "here").iterdir()] == [".json"]
    assert str(tmp_path) not in json.dumps(found)


def test_an_unwritable_folder_costs_the_files_not_the_table(capsys, no_startup, tmp_path):
    (tmp_path / "file").touch()
    assert main([*TINY, "--out", "file/sub"]) == 1
    told = capsys.readouterr()
    assert "cannot write into file/sub" in told.err
    assert "fastest" in told.out
    assert "Traceback" not in told.err


def test_without_matplotlib_the_rest_is_there(capsys, no_startup, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(TINY) == 1
    told = capsys.readouterr()
    assert 'pip install "softbench[bench]"' in told.err
    assert "fastest" in told.out
    assert len(list((tmp_path / "softbench-results").glob("*.json"))) == 1


def test_a_wrong_backend_is_shown_as_wrong(capsys, no_startup, monkeypatch):
    verdict = {
        "ok": False,
        "passed": 1,
        "total": 2,
        "max_ulp": {"softmax float32": 1e6},
        "gates": {"softmax float32": 4.0},
        "failures": ["nan-row: 0"],
        "seconds": 1,
    }
    monkeypatch.setattr(bench, "conformance", lambda name, profile, progress: verdict)
    assert main([argument for argument in TINY if argument != "--no-check"]) == 0
    told = capsys.readouterr().out
    assert "numpy is WRONG" in told
    assert "no recommendation" in told


def test_ctrl_c_keeps_what_was_measured(tmp_path):
    cases = "softmax-1x10-f32,softmax-64x10-f32,softmax-60000x10-f32"
    run = softbench_process(
        *("run", "--backends", "numpy", "--cases", cases, "--seconds", "60", "--no-check", "--no-plot"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's children ignore it
    )
    for line in run.stderr:
        if "softmax-64x10-f32" in line:
            break
    time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=20)
    assert run.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in out
    (path,) = (tmp_path / "softbench-results").glob("*.json")
    found = json.loads(path.read_text())
    assert not found["complete"]
    assert "median" in found["cases"][0]["results"]["numpy"]


def test_a_closed_pipe_is_no_error(tmp_path):
    run = softbench_process("list", "--cases")
    run.stdout.close()
    _, err = run.communicate(timeout=20)
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


@pytest.mark.skipif(os.name != "posix", reason="needs a folder that nobody can write")
def test_without_a_home_and_in_ascii(tmp_path):
    nowhere = {"HOME": "/proc/nowhere", "PYTHONIOENCODING": "ascii", "XDG_CACHE_HOME": "/proc/nowhere", "TERM": "dumb"}
    run = softbench_process(*TINY, env=nowhere)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert "Traceback" not in err
    assert out.isascii()
    assert list(Path("softbench-results").glob("*.png"))


def test_the_module_runs_too():
    run = softbench_process("--version")
    out, _ = run.communicate(timeout=20)
    assert out == f"softbench {softbench.__version__}\n"
    assert arguments.DEFAULT_OUT.name == "softbench-results"
