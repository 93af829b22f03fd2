"""The asv suite: asv finds it, its parameters never depend on what is installed, and it times what it says."""

import itertools
import json
import math
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

from softbench import available_backends, processes
from softbench.built_in import PEERS, RESERVED
from softbench.measure.timing import Timing
from softbench.results import record

pytest.importorskip("asv", reason="needs asv (the bench extra)")
pytest.importorskip("asv_runner", reason="needs asv_runner (the bench extra)")

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "benchmarks"
CPU_PEERS = [name for name in PEERS if name != "torch_cuda"]


@pytest.fixture(scope="module")
def conf():
    from asv.util import load_json

    return load_json(str(ROOT / "asv.conf.json"), js_comments=True)


@pytest.fixture
def suite(monkeypatch):
    """Benchmarks by name, as asv's runner discovers them."""
    from asv_runner.discovery import disc_benchmarks

    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")  # undone afterwards: the suite sets a default
    found = {benchmark.name: benchmark for benchmark in disc_benchmarks(str(SUITE))}
    yield found
    for name in [name for name in sys.modules if name == "benchmarks" or name.startswith("benchmarks.")]:
        del sys.modules[name]


def test_configuration(conf):
    assert conf["branches"] == ["HEAD"]
    assert conf["environment_type"] == "virtualenv"
    assert "pythons" not in conf  # the one that runs asv
    assert conf["results_dir"] == "results"
    assert conf["env_dir"].startswith(".asv/")
    assert conf["html_dir"].startswith(".asv/")
    requirements = conf["matrix"]["req"]
    assert requirements["pip+asv_runner"] == ["0.2.5"]
    assert {"numpy", "numba", "scipy", "rich", "scikit-learn"} <= set(requirements)


def test_the_configuration_with_peers_has_them_besides_and_nothing_else(conf):
    from asv.util import load_json

    with_peers = load_json(str(ROOT / "asv.peers.conf.json"), js_comments=True)
    more = with_peers["matrix"]["req"].keys() - conf["matrix"]["req"].keys()
    assert more == {"torch", "jax", "onnx", "onnxruntime", "array-api-compat"}
    for name in more:
        del with_peers["matrix"]["req"][name]
    assert with_peers == conf


def test_the_folder_is_imported_with_what_asv_installs():
    """asv imports every module beside its benchmarks, in an environment of its own: the rest must come late."""
    code = """
        import importlib, pkgutil, sys
        absent = ("cuda", "cupy", "jax", "numba_cuda", "onnx", "onnxruntime", "torch")
        sys.modules.update(dict.fromkeys(absent))  # importing one of them is an ImportError
        import benchmarks
        for module in pkgutil.iter_modules(benchmarks.__path__):
            importlib.import_module(f"benchmarks.{module.name}")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_benchmark_has_a_unit_and_fixed_parameters(suite):
    assert {name.rsplit(".", 1)[1].split("_")[0] for name in suite} == {"time", "peakmem", "track"}
    for benchmark in suite.values():
        assert benchmark.unit not in ("", "unit", None)
        backends = [name.strip("'") for name in benchmark.params[0]]
        assert backends == list(RESERVED)
        assert benchmark.param_names[0] == "backend"


def test_cases_of_the_suite(suite):
    assert len(suite["speed.Steady.time_call"].params[1]) <= 14
    for name, benchmark in suite.items():
        if name.startswith("metrics."):
            assert len(benchmark.params[1]) == 4


def test_a_tiny_benchmark_is_timed_many_calls_at_a_time(suite):
    """asv_runner 0.3 times benchmarks that have a setup with number=1: microseconds then read as the clock's cost."""
    benchmark = suite["speed.Steady.time_call"]
    benchmark.set_param_idx(_index(benchmark, "numpy", "softmax-1x10-f32"))
    assert not benchmark.do_setup()
    benchmark.repeat = 2
    found = benchmark.do_run()
    assert found["number"] > 1
    assert max(found["samples"]) < 1e-3


def test_what_is_not_here_is_skipped_with_its_reason(suite, capsys):
    benchmark = suite["speed.Steady.time_call"]
    here = [name for name, state in available_backends().items() if state.ok]
    absent = next((name for name in ("torch_cuda", "cupy", "dask", "jax") if name not in here), None)
    if absent is None:
        pytest.skip("every backend is available here")
    benchmark.set_param_idx(_index(benchmark, absent, "softmax-1x10-f32"))
    assert benchmark.do_setup()
    assert absent in capsys.readouterr().out
    benchmark.set_param_idx(_index(benchmark, "python", "softmax-4096x1000-f32"))
    assert benchmark.do_setup()
    assert "interpreted" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "least", "most"), [("max_ulp", 0.01, 4.0), ("time_over_limit", 1.0, 1e3)])
def test_metrics(suite, name, least, most):
    benchmark = suite[f"metrics.Tracked.track_{name}"]
    benchmark.set_param_idx(_index(benchmark, "numpy", "softmax-4096x1000-f32"))
    assert not benchmark.do_setup()
    assert least <= benchmark.do_run() <= most


def test_of_every_metric_less_is_better(suite):
    """asv knows no other sense: a fraction of the limit would make gains look like regressions."""
    assert sorted(name.rsplit("_", 1)[0].split("track_")[1] for name in suite if "Tracked" in name) == [
        "max",
        "time_over",
    ]


def test_committed_results_are_of_benchmarks_that_the_suite_has(suite):
    """Others would stand in the published site for ever: a fraction of the limit did, and read gains as losses."""
    assert set(json.loads((ROOT / "results/benchmarks.json").read_text())) <= {*suite, "version"}
    for path in (ROOT / "results").glob("*/*-*.json"):
        assert set(json.loads(path.read_text())["results"]) <= set(suite), path


def test_a_history_of_eight_commits_is_committed_and_asv_reads_it(suite):
    """On one machine, by the benchmark as it is now; of softbench's own backends, and of all peers that need no GPU."""
    from asv.results import Results

    commits, with_peers = ((SUITE / name).read_text().split() for name in ("history.txt", "history-peers.txt"))
    assert len(with_peers) >= 8
    name = "history.Calls.time_call"
    known = json.loads((ROOT / "results/benchmarks.json").read_text())[name]
    assert known["version"] == suite[name].version
    for folder in [path.parent for path in (ROOT / "results").glob("*/machine.json")]:
        found = {}
        for path in folder.glob("*-*.json"):
            result = Results.load(str(path))
            if name in result.get_all_result_keys() and result.benchmark_version[name] == known["version"]:
                found[result.commit_hash] = dict(
                    zip(_combinations(known), result.get_result_value(name, known["params"]), strict=True)
                )
        assert len(found) >= 8
        assert set(found) == {*commits, *with_peers}
        assert all(times["'numba'", "'softmax-4096x1000-f32'"] > 0 for times in found.values())
        peers = [(commit, f"'{peer}'") for commit in with_peers for peer in CPU_PEERS]
        assert all(found[commit][peer, "'softmax-4096x1000-f32'"] > 0 for commit, peer in peers)


def _combinations(benchmark):
    return list(itertools.product(*benchmark["params"]))


@pytest.mark.parametrize("path", ["README.md", "docs/committed-results.md", "docs/reading-results.md"])
def test_asv_compare_is_shown_as_it_works(path):
    """Where there are results of several machines it wants a name, and most rows are of backends that are not here."""
    shown = re.findall(r"`(asv compare [^`]*)`", " ".join((ROOT / path).read_text(encoding="utf-8").split()))
    assert shown
    assert set(shown) == {"asv compare --machine NAME --only-changed A B"}


def test_what_is_impossible_is_measured_again_and_then_left_out(suite, capsys, monkeypatch):
    """A busy machine slows the limit down, too: that fails no ``asv run --quick``."""
    benchmark = suite["metrics.Tracked.track_time_over_limit"]
    benchmark.set_param_idx(_index(benchmark, "numpy", "softmax-4096x1000-f32"))
    assert not benchmark.do_setup()
    module, tried = sys.modules["benchmarks.metrics"], []

    def slow_limit(candidates, seconds):
        tried.append(seconds)
        return {"call": Timing(samples=[1e-3]), "limit": Timing(samples=[2e-3])}

    monkeypatch.setattr(module, "interleave", slow_limit)
    assert math.isnan(benchmark.do_run())
    assert len(tried) == 3
    assert "impossible, so not recorded" in capsys.readouterr().out


def test_the_suite_loads_no_backend_library():
    """asv forks a process that has imported it, which is only safe without CUDA and without thread pools."""
    import os
    import subprocess

    code = "import benchmarks.speed, benchmarks.metrics, sys; print({'numba', 'cupy', 'torch'} & set(sys.modules))"
    path = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    done = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ, PYTHONPATH=path), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_sidecar_records_what_asv_does_not(suite, tmp_path, monkeypatch):
    from benchmarks import sidecar

    environments = tmp_path / "env"
    (environments / "abc" / "bin").mkdir(parents=True)
    (environments / "abc" / "bin" / "python").symlink_to(sys.executable)
    requirements = {"numpy": "", "numba": ""}
    (environments / "abc" / "asv-env-info.json").write_text(
        json.dumps({"python": "3.11", "requirements": requirements, "tool_name": "virtualenv"})
    )
    results = tmp_path / "box"
    results.mkdir()
    made = {"commit_hash": "c0ffee", "python": "3.11", "requirements": requirements}
    (results / "c0ffee-env.json").write_text(json.dumps(made))
    (results / "machine.json").write_text("{}")
    monkeypatch.setattr(sidecar, "collect", lambda: pytest.fail("asks the environment, not this interpreter"))
    asked = []

    def run(command, **options):
        asked.append(command)
        return types.SimpleNamespace(checked=lambda: '{"versions": {"numpy": "2.0"}}')

    monkeypatch.setattr(processes, "run", run)
    (results / "abcdef-env.json").write_text(json.dumps(made | {"python": "3.99"}))
    (written,), (problem,) = sidecar.write(results, environments)
    assert written.name == "c0ffee-env.sidecar.jsonc"  # asv would read a .json as a result
    assert json.loads(written.read_text()) == {"commit": "c0ffee", "versions": {"numpy": "2.0"}}
    assert "abc" in str(asked[0][0])
    assert problem.startswith("abcdef-env.json: no environment")  # and the others go on
    assert problem.endswith("run asv run first")
    assert sidecar.write(results, environments) == ([], [problem])


@pytest.mark.processes
def test_sidecar_collects_versions_threads_and_reasons(suite, tmp_path):
    from benchmarks import sidecar

    found = sidecar.collect()
    assert found["versions"]["numpy"]
    assert found["backends"]["numpy"]["info"]["kind"] == "cpu"
    assert found["backends"]["numpy"]["threads"]["usable_cores"] >= 1
    for name in RESERVED:
        assert found["backends"].get(name, {}).get("ok") or any(f"skipped: {name}: " in note for note in found["notes"])
    assert any("skipped: python on softmax-4096x1000-f32: interpreted" in note for note in found["notes"])
    record.write(found, tmp_path / "sidecar.json")
    record.read(tmp_path / "sidecar.json")


def _index(benchmark, name, case):
    """Flat index of a combination, as asv counts them."""
    backends, cases = benchmark.params
    return backends.index(repr(name)) * len(cases) + cases.index(repr(case))
