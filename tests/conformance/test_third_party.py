"""A backend of somebody else's: the example package, built, installed into an environment of its own, and judged."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "third_party_backend"


def _run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A virtual environment with both wheels installed; libraries come from this one, so that nothing is downloaded."""
    pytest.importorskip("build", reason="build is not installed")
    pytest.importorskip("hatchling", reason="hatchling is not installed, and nothing is downloaded here")
    folder = tmp_path_factory.mktemp("third_party")
    for source in (ROOT, EXAMPLE):
        _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder / "wheels"), str(source)])
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    site = Path(_run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    wheels = [str(path) for path in (folder / "wheels").glob("*.whl")]
    assert len(wheels) == 2
    _run([sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", *wheels])
    # After this environment's own packages, so that the wheels win over an editable checkout.
    (site / "zz_libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    yield python
    shutil.rmtree(folder)


def _softbench(python, *arguments, folder):
    command = [str(python), "-m", "softbench", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_installed_plugin_is_known_by_name(scratch, tmp_path):
    code = (
        "import softbench as sb, softbench_longdouble as own; print(sb.__file__); print(own.__file__);"
        "print(sb.list_backends()['longdouble']); print(sb.softmax([0.0, 0.0], backend='longdouble'))"
    )
    where, own, summary, result = _run([str(scratch), "-c", code], cwd=tmp_path).splitlines()
    assert str(scratch.parents[1]) in where
    assert str(scratch.parents[1]) in own
    assert "softbench-longdouble" in summary
    assert result == "[0.5 0.5]"


@pytest.mark.parametrize(
    ("rows", "least"),
    [(["accuracy-*", "axes", "nan-row", "out", "errors"], 50), pytest.param([], 1500, marks=pytest.mark.deep)],
)
def test_check_judges_the_plugin_by_name(scratch, tmp_path, rows, least):
    select = [argument for row in rows for argument in ("--select", row)]
    done = _softbench(scratch, "check", "longdouble", "--quick", "--json", *select, folder=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (report,) = json.loads(done.stdout)["reports"]
    assert report["ok"]
    assert report["counts"]["passed"] > least


def test_its_own_pytest_suite_is_the_kit(scratch, tmp_path):
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    command = [
        str(scratch),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests",
        "-k",
        "nan-row or accuracy-softmax",
    ]
    out = _run(command, cwd=tmp_path)
    assert " passed" in out
    assert "failed" not in out


def test_check_finds_a_class_in_the_current_folder(tmp_path):
    shutil.copytree(EXAMPLE / "softbench_longdouble", tmp_path / "softbench_longdouble")
    command = ["check", "softbench_longdouble:LongDoubleBackend", "--quick", "--select", "nan-row"]
    done = _softbench(sys.executable, *command, folder=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "softbench_longdouble:LongDoubleBackend (cpu, quick) passes" in done.stdout
