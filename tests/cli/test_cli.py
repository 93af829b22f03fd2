"""The command line, as people and pipes meet it."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "results"))

import records

import softbench
from softbench.cli import arguments, main
from softbench.measure import comparison
from softbench.measure import run as bench
from softbench.results import record, tables
from softbench.results.recommend import recommend

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
    printed = capsys.readouterr().out
    for command in ("list", "info", "check", "run", "compare", "warmup"):
        assert command in printed


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
    printed = capsys.readouterr().out
    assert "softmax-4096x1000-f32 " in printed
    assert "digits" in printed


@pytest.mark.processes
def test_info(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    for name in softbench.list_backends():
        assert name in printed


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
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    for word in words:
        assert word in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.processes
def test_run_saves_one_json_and_one_picture(capsys, no_startup, tmp_path):
    assert main(TINY) == 0
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "\r" not in printed.out + printed.err
    assert "numpy" in printed.out
    assert "fastest" in printed.out
    files = sorted(path.suffix for path in (tmp_path / "softbench-results").iterdir())
    assert files == [".json", ".png"]
    (picture,) = (tmp_path / "softbench-results").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000


@pytest.mark.processes
def test_run_prints_json_alone(capsys, no_startup, tmp_path):
    assert main([*TINY, "--json", "--no-plot", "--out", "here"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["complete"]
    assert found["config"]["seconds"] == 0.05
    assert [path.suffix for path in (tmp_path / "here").iterdir()] == [".json"]
    assert str(tmp_path) not in json.dumps(found)


@pytest.mark.processes
def test_an_unwritable_folder_costs_the_files_not_the_table(capsys, no_startup, tmp_path):
    (tmp_path / "file").touch()
    assert main([*TINY, "--out", "file/sub"]) == 1
    printed = capsys.readouterr()
    assert "cannot write into file/sub" in printed.err
    assert "fastest" in printed.out
    assert "Traceback" not in printed.err


@pytest.mark.processes
def test_without_matplotlib_the_rest_is_there(capsys, no_startup, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(TINY) == 1
    printed = capsys.readouterr()
    assert 'pip install "softbench[bench]"' in printed.err
    assert "fastest" in printed.out
    assert len(list((tmp_path / "softbench-results").glob("*.json"))) == 1


@pytest.mark.processes
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
    printed = capsys.readouterr().out
    assert "numpy is WRONG" in printed
    assert "no recommendation" in printed


THREE = "softmax-1x10-f32,softmax-64x10-f32,softmax-60000x10-f32"
LONG = ("run", "--backends", "numpy", "--cases", THREE, "--seconds", "60", "--no-check", "--no-plot")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda s: str(s)
)
def test_a_signal_keeps_what_was_measured_and_ends_the_children(number, status, tmp_path):
    run = softbench_process(
        *LONG,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a background job's children ignore SIGINT
    )
    for line in run.stderr:
        if "softmax-64x10-f32" in line:
            break
    time.sleep(0.5)
    children = _children(run.pid)
    assert children
    run.send_signal(number)
    out, err = run.communicate(timeout=60)
    assert run.returncode == status
    assert "Traceback" not in err
    assert "interrupted" in out
    (path,) = (tmp_path / "softbench-results").iterdir()  # and nothing half written
    found = record.read(path)
    assert not found["complete"]
    assert "median" in found["cases"][0]["results"]["numpy"]
    assert f"to go on: softbench run --resume {path.relative_to(tmp_path)}" in out
    end = time.monotonic() + 20
    while (left := [pid for pid in children if Path(f"/proc/{pid}").exists()]) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []


def _children(pid):
    """Processes that a process has started, and those they have."""
    if not Path(f"/proc/{pid}/task").exists():
        pytest.skip("the system does not say which processes a process has started")
    direct = [int(n) for p in Path(f"/proc/{pid}/task").glob("*/children") for n in p.read_text().split()]
    return direct + [grandchild for child in direct for grandchild in _children(child)]


@pytest.mark.processes
def test_an_interrupted_run_goes_on(no_startup, monkeypatch, capsys, tmp_path):
    real, seen = comparison.interleave, []

    def interrupted(candidates, seconds, **options):
        seen.append(candidates)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(candidates, seconds, **options)

    monkeypatch.setattr(comparison, "interleave", interrupted)
    arguments = [*TINY[:3], "--cases", THREE, "--seconds", "0.3", "--no-check", "--no-plot"]
    assert main(arguments) == 130
    (first,) = (tmp_path / "softbench-results").iterdir()
    assert main(["run", "--resume", str(first), "--no-plot"]) == 0
    (second,) = set((tmp_path / "softbench-results").iterdir()) - {first}
    old, new = record.read(first), record.read(second)
    assert new["complete"]
    assert new["config"] == old["config"]
    assert new["cases"][0] == old["cases"][0]
    assert all("median" in case["results"]["numpy"] for case in new["cases"])
    capsys.readouterr()
    assert main(["run", "--resume", str(second)]) == 2
    assert "nothing to go on with" in capsys.readouterr().err
    old["machine"]["id"] = "another"
    record.write(old, first)
    assert main(["run", "--resume", str(first)]) == 2
    assert "measured on another machine" in capsys.readouterr().err


@pytest.mark.processes
def test_three_runs_at_once_have_a_file_each(tmp_path):
    runs = [softbench_process(*TINY, "--no-plot") for _ in range(3)]
    named = []
    for run in runs:
        out, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
        named.append(out.splitlines()[-1].removeprefix("saved: "))
    assert len(set(named)) == 3
    assert sorted(named) == sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "softbench-results").iterdir())
    for name in named:
        assert record.read(tmp_path / name)["complete"]


@pytest.mark.processes
def test_a_full_disk_leaves_nothing_behind(tmp_path):
    run = softbench_process(*TINY, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)))
    out, err = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "cannot write into softbench-results" in err
    assert "Traceback" not in err
    assert "fastest" in out
    assert list((tmp_path / "softbench-results").iterdir()) == []


@pytest.mark.processes
def test_who_reads_only_the_first_line_gets_the_files_all_the_same(tmp_path):
    run = softbench_process(*TINY, "--no-plot")
    assert run.stdout.readline()
    run.stdout.close()
    run.stdout = None
    _, err = run.communicate(timeout=120)
    assert "Traceback" not in err
    assert len(list((tmp_path / "softbench-results").iterdir())) == 1


@pytest.mark.processes
@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_without_standard_output_the_files_are_written(tmp_path, json_too):
    run = softbench_process(*TINY, "--no-plot", *json_too, preexec_fn=lambda: os.close(1))
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert "Traceback" not in err
    assert len(list((tmp_path / "softbench-results").iterdir())) == 1


@pytest.mark.processes
def test_who_was_named_and_is_not_here_is_said_and_the_others_are_measured(no_startup, plugin, capsys, tmp_path):
    plugin("trouble", "class Unmade(NumpyBackend):\n    def __init__(self):\n        sys.exit(3)\n", unmade="Unmade")
    assert main(["run", "--backend", "unmade,numpy", *TINY[3:], "--no-plot"]) == 1
    printed = capsys.readouterr()
    assert "unmade" in printed.err
    assert "Unmade' of trouble" in printed.err
    assert "fastest" in printed.out
    (path,) = (tmp_path / "softbench-results").iterdir()
    assert not record.read(path)["backends"]["unmade"]["ok"]


@pytest.mark.processes
def test_a_backend_that_prints_leaves_the_json_alone(no_startup, plugin):
    plugin(
        "loud",
        """
        print("12.5")
        class Loud(NumpyBackend):
            def softmax(self, x, out):
                print("{")
                return super().softmax(x, out)
            def info(self):
                print("and more")
                return super().info()
        """,
        loud="Loud",
    )
    for command in (["run", "--backend", "loud", *TINY[3:], "--no-plot", "--json"], ["info", "--json"]):
        run = softbench_process(*command)
        out, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
        assert json.loads(out)["backends"]["loud"]["ok"]


@pytest.mark.processes
def test_a_message_that_no_stream_can_encode_costs_nobody_the_tables(no_startup, plugin, tmp_path):
    plugin(
        "torn",
        r"""
        class Torn(NumpyBackend):
            def softmax(self, x, out):
                raise ValueError("torn \ud800 in two")
        """,
        torn="Torn",
    )
    run = softbench_process("run", "--backend", "torn,numpy", *TINY[3:], "--no-plot")
    out, err = run.communicate(timeout=120)
    assert "Traceback" not in err
    assert r"torn \ud800 in two" in " ".join(out.split())
    (path,) = (tmp_path / "softbench-results").iterdir()
    assert r"torn \\ud800 in two" in path.read_text()  # a backslash, where JSON would have the surrogate


@pytest.mark.processes
def test_info_lists_who_fails_with_the_reason(plugin, capsys):
    plugin(
        "trouble",
        """
        class Mute(NumpyBackend):
            def info(self):
                raise KeyError("version")
        class Crashing(NumpyBackend):
            @classmethod
            def availability(cls):
                os.kill(os.getpid(), signal.SIGSEGV)
        """,
        mute="Mute",
        crashing="Crashing",
    )
    assert main(["info", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["machine"]["cpu"]["model"]
    found = said["backends"]
    assert all(entry["ok"] or entry["reason"] for entry in found.values())
    assert found["mute"]["reason"] == "plugin 'module_of_trouble:Mute' of trouble: KeyError: 'version'"
    assert "ended by SIGSEGV when it was asked whether it can run here" in found["crashing"]["reason"]
    assert found["numpy"]["info"]["name"] == "numpy"


@pytest.mark.parametrize("width", [140, 80, 60])
def test_the_answer_is_the_last_thing_to_be_cut(width):
    cases = [
        records.case({"numba": records.timed([1.0] * 6), "numpy": records.timed([9.0] * 6)}, name=name)
        for name in ("loss_and_gradient-512x128256-f32-out", "log_softmax-4096x1000-f32-inplace")
    ]
    found = records.run(cases)
    recommend(found)
    text = io.StringIO()
    tables.show(found, Console(file=text, width=width))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    answers = [line for line in lines if line.startswith("numba  lo")]
    assert [line.split()[:2] for line in answers] == [["numba", case["name"]] for case in cases]
    (headings,) = (line for line in lines if line.startswith("take "))
    said = " ".join(text.getvalue().split())
    for heading in ("pays from call", "next best", "interval", "before"):  # columns that are cut are not explained
        assert (heading in headings) == (f"{heading}: " in said)
    assert ("interval" in headings) == (width == 140)


def test_what_is_declared_is_not_called_wrong():
    beyond = {"ok": False, "max_ulp": 60.0, "elements": 1, "detail": "off"}
    found = records.run(
        [
            records.case(
                {
                    "a_long_name": records.timed([1.0] * 6, accuracy={**beyond, "deviation": "the shift is rounded"}),
                    "bad": records.timed([9.0] * 6, accuracy=beyond),
                    "good": records.timed([2.5] * 6),
                }
            )
        ]
    )
    recommend(found)
    text = io.StringIO()
    tables.show(found, Console(file=text, width=80))
    lines = {line.split()[0]: line for line in text.getvalue().splitlines() if line.startswith("  ")}
    assert lines["a_long_name"].endswith("fastest  deviates as declared")
    assert lines["bad"].endswith("WRONG")
    assert max(map(len, lines.values())) <= 80
    said = " ".join(text.getvalue().split())
    assert "faster but less accurate: a_long_name, 2.5x as fast on softmax-4096x1000-f32; --max-ulp 60 lets it" in said


def test_a_closed_pipe_is_no_error(tmp_path):
    run = softbench_process("list", "--cases")
    run.stdout.close()
    _, err = run.communicate(timeout=20)
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


@pytest.mark.processes
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
