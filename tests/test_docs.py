"""What the documents show is what the repository holds."""

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def _blocks(path: str, language: str) -> list[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_guide_shows_the_example_package() -> None:
    example = (ROOT / "examples/third_party_backend/softbench_longdouble/__init__.py").read_text(encoding="utf-8")
    assert _blocks("docs/adding-a-backend.md", "python")[0] == example


def test_readme_begins_with_the_two_commands() -> None:
    first, second = _blocks("README.md", "bash")[:2]
    assert first == 'pip install ".[bench]" && softbench run\n'
    assert second == 'pip install -e ".[test]" && python -m pytest\n'


def test_documents_link_to_files_that_exist() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_tables_of_the_performance_guide_are_those_of_the_runs_it_links_to() -> None:
    from benchmarks.studies import goals, portability

    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    for benchmark, name in ((goals, "goals-epyc-zen4-2core"), (portability, "portability-epyc-zen4-2core")):
        record = json.loads((ROOT / f"docs/{name}.json").read_text(encoding="utf-8"))
        assert record["schema"] == benchmark.SCHEMA
        assert "\n".join(benchmark.table(record)) in text, f"not what --table makes of {name}.json"


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
