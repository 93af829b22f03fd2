"""What the documents show is what the repository holds."""

import dataclasses
import doctest
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _blocks(path: str, language: str) -> list[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_guide_shows_the_example_package() -> None:
    example = (ROOT / "examples/third_party_backend/softbench_longdouble/__init__.py").read_text(encoding="utf-8")
    assert _blocks("docs/adding-a-backend.md", "python")[0] == example
    assert len(example.splitlines()) <= 40


def test_readme_begins_with_the_two_commands() -> None:
    first, second = _blocks("README.md", "bash")[:2]
    assert first == 'pip install ".[bench]" && softbench run\n'
    assert second == 'pip install -e ".[test]" && python -m pytest -n 2\n'


def test_documents_link_to_files_that_exist() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_documents_name_modules_that_exist() -> None:
    files = [path.relative_to(ROOT).as_posix() for top in ("softbench", "backends", "benchmarks", "examples", "tests")
             for path in (ROOT / top).rglob("*.py")]  # fmt: skip
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"(?<![\w/.])((?:\w+/)*\w+\.py)\b", document.read_text(encoding="utf-8")):
            assert any(f"/{file}".endswith(f"/{name}") for file in files), f"{document.name} names {name}"


@pytest.mark.parametrize("name", ["fits", "run", "goals", "cycles", "regimes", "portability", "scaling"])
def test_figures_are_those_of_the_committed_records(name: str) -> None:
    from benchmarks.studies import figures

    assert name in figures.FIGURES
    if name == "run":
        assert figures.has_picture(), "the picture is of another run"
        assert figures.has_report(), "the report is of another run"
        assert (ROOT / figures.REPORT).stat().st_size < 300_000
    assert not figures.stale(name), f"python -m benchmarks.studies figures writes another {name!r}"


def test_every_figure_is_looked_at() -> None:
    from benchmarks.studies import figures

    (tested,) = test_figures_are_those_of_the_committed_records.pytestmark
    assert list(figures.FIGURES) == tested.args[1]


def _a_run(median: float, fraction: float) -> dict[str, object]:
    """A record of which the table of README.md is made."""
    from benchmarks.studies import figures

    result = {"median": median, "quartiles": [median, median], "samples": [median], "fraction": fraction}
    result |= {"accuracy": {"ok": True, "max_ulp": 2.5}, "impossible": fraction > 1.0}
    results = {"numba": result, "python": {"skipped": "too slow"}}
    return {
        "versions": {"python": "3.11.7", "numpy": "2.4.6", "numba": "0.68.1"},
        "backends": {"numba": {"ok": True}, "python": {"ok": True}, "dask": {"ok": True}, "cupy": {"ok": False}},
        "cases": [{"name": name, "results": results} for name in figures.CASES],
    }


def test_a_figure_that_is_not_that_of_its_record_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.studies import figures

    before, behind = figures.markers("run", figures.FIGURES["run"])
    page = tmp_path / "README.md"
    page.write_text(f"Above.\n{before}\nold\n{behind}\nBelow.\n", encoding="utf-8")
    monkeypatch.setattr(figures, "read", lambda path: _a_run(0.0012, 0.5))
    assert figures.stale("run", tmp_path)
    page.write_text(figures.generated("run", figures.FIGURES["run"], tmp_path), encoding="utf-8")
    assert not figures.stale("run", tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "| `numba` | 1.20 ms (50% of the limit) | 1.20 ms (50% of the limit) | 2.50 |" in text
    assert "| `python` | too slow | too slow |  |" in text
    assert "cupy" not in text
    assert "dask" not in text  # neither timed nor asked
    assert (text[:7], text[-7:]) == ("Above.\n", "Below.\n")
    monkeypatch.setattr(figures, "read", lambda path: _a_run(0.0011, 0.5))
    assert figures.stale("run", tmp_path)


def test_a_figure_above_the_limit_is_refused() -> None:
    from benchmarks.studies import figures

    assert "| `numba` | refused | refused | 2.50 |" in figures.run_table(_a_run(0.0012, 1.01))


def test_a_run_is_taken_in_with_its_own_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    pytest.importorskip("jinja2", reason="the report needs jinja2")
    monkeypatch.syspath_prepend(str(ROOT / "tests/results"))
    full_record = importlib.import_module("full_record")
    from benchmarks.studies import figures
    from softbench.results.figures import overview
    from softbench.results.record import write

    record = full_record.record()
    monkeypatch.setattr(figures, "CASES", {record["cases"][0]["name"]: "softmax"})
    (tmp_path / "docs").mkdir()
    run = tmp_path / "run.json"
    write(record, run)
    run.with_suffix(".png").write_bytes(overview(record))
    figures.take_in(run, tmp_path)
    assert (tmp_path / figures.RUN).read_bytes() == run.read_bytes()
    assert figures.has_picture(tmp_path)
    assert figures.has_report(tmp_path)
    write(record | {"started": "2026-02-03T00:00:00+00:00"}, tmp_path / figures.RUN)
    assert not figures.has_picture(tmp_path)
    assert not figures.has_report(tmp_path)
    write(record | {"complete": False}, run)
    with pytest.raises(ValueError, match="not of a whole softbench run"):
        figures.take_in(run, tmp_path)
    write(record | {"cases": []}, run)
    with pytest.raises(ValueError, match=f"has no {record['cases'][0]['name']}"):
        figures.take_in(run, tmp_path)


def test_a_document_without_a_place_for_a_figure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.studies import figures

    (tmp_path / "README.md").write_text("nothing", encoding="utf-8")
    monkeypatch.setattr(figures, "read", lambda path: _a_run(0.0012, 0.5))
    with pytest.raises(ValueError, match=r"README\.md has no place for figure 'run'"):
        figures.stale("run", tmp_path)


def test_figures_are_of_the_peers_that_can_be_installed_again() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {re.match(r"[\w-]+", peer)[0] for peer in project["optional-dependencies"]["peers"]}
    lines = (ROOT / "benchmarks/peers.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert asked <= {*pinned, "scikit-learn"}
    measured = json.loads((ROOT / "docs/goals-epyc-zen4-2core.json").read_text(encoding="utf-8"))["versions"]
    timed = [name for name in pinned if name in measured]
    assert {"torch", "jax", "onnxruntime"} <= {*timed}
    assert {name: pinned[name] for name in timed} == {name: measured[name].partition("+")[0] for name in timed}


EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "softbench").rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_of_docstrings_run(module: str) -> None:
    ran = doctest.testmod(importlib.import_module(module))
    assert ran.attempted
    assert not ran.failed


PUBLIC = {
    f"{module}.{name}": public
    for module in ("softbench", "softbench.interface")
    for name in importlib.import_module(module).__all__
    if getattr(public := getattr(importlib.import_module(module), name), "__module__", "").startswith("softbench")
}


def _section(text: str, title: str) -> str:
    """What stands under a heading of numpydoc, if there is one."""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def lacking(function: object) -> list[str]:
    """What the docstring of a public function does not have."""
    text = inspect.getdoc(function) or ""
    described = {
        name.strip(" *")
        for line in _section(text, "Parameters").splitlines()
        for name in (line.partition(" : ")[0].split(",") if re.match(r"\S", line) else ())
    }
    lacks = [name for name in inspect.signature(function).parameters if name not in described]
    lacks += [title for title in ("Raises", "Examples") if not _section(text, title)]
    if not _section(text, "Returns") and not _section(text, "Yields"):
        lacks.append("Returns")
    return lacks


@pytest.mark.parametrize("name", [name for name, public in PUBLIC.items() if inspect.isfunction(public)])
def test_functions_document_every_parameter_what_they_return_and_raise(name: str) -> None:
    never_raises = {"Raises"} if name.endswith("_backends") else set()
    assert not set(lacking(PUBLIC[name])) - never_raises


@pytest.mark.parametrize("name", [name for name, public in PUBLIC.items() if inspect.isclass(public)])
def test_classes_show_an_example_and_document_what_they_are_made_of(name: str) -> None:
    public = PUBLIC[name]
    assert _section(inspect.getdoc(public) or "", "Examples")
    if dataclasses.is_dataclass(public):
        assert not {field.name for field in dataclasses.fields(public)} & set(lacking(public))


def test_what_a_docstring_lacks_is_named() -> None:
    def function(x: float, y: float) -> float:
        """Something.

        Parameters
        ----------
        x : float
            One of two.
        """
        return x + y

    assert lacking(function) == ["y", "Raises", "Examples", "Returns"]


def test_functions_cite_the_equations() -> None:
    from softbench.interface import FUNCTIONS

    for name in (*FUNCTIONS, *(name for name in PUBLIC if "linear_" in name)):
        text = inspect.getdoc(PUBLIC.get(name) or PUBLIC[f"softbench.{name}"]) or ""
        assert re.search(r"Lei Zhao, \*Softmax Regression\*, eq\. \(\d+\)", _section(text, "References")), name


@pytest.mark.packaging
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    """Links between documents, and what numpydoc asks of docstrings, are judged here too."""
    for module in ("sphinx", "myst_parser", "numpydoc", "pydata_sphinx_theme"):
        pytest.importorskip(module, reason=f"needs {module}, of the extra docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(tmp_path / "docs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
