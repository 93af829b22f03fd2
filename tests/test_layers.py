"""Who may import whom: the rooms of softbench in their order, and no module in a circle."""

import ast
import functools
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from softbench.built_in import BUILT_IN

ROOT = Path(__file__).parents[1]

FLOORS = (
    {"__main__", "gpu_selftest"},  # what `python -m` starts
    {"cli"},
    {"measure"},
    {"regression"},
    {"conformance"},
    {"softbench"},  # the package itself: the public names
    {"api", "losses", "linear", "recommendation", "method_docs"},
    {"advice"},
    {"loading"},
    {"registry", "functions"},
    {"auto"},
    {"front", "accuracy", "machine", "processes"},
    {"interface", "results"},
    {"errors", "files", "built_in"},
)
"""From the top: a room imports only rooms on floors below its own."""

MOST_LINES = 400
"""Of a module, so that it can be read at a sitting."""

BACKENDS_SEE = {"interface"}
"""What a backend may import of softbench."""

BACKENDS_SHARE = {"composed", "library_arrays"}
"""Modules beside the backends that are none: what several peers have in common."""


def module_name(path, top):
    return ".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__")


def imports(source, module, known):
    """Modules among ``known`` that this source imports, anywhere in it."""
    found = set()
    for package, name in statements(source):
        full = f"{package}.{name}"
        found.add(full if full in known else package)
    return {name for name in found if name in known} - {module}


@functools.cache
def statements(source):
    """What is imported anywhere in it, as pairs of a module and, with ``from``, a name of that."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {(node.module, alias.name) for alias in node.names}
    return found


def room(module):
    return module.split(".")[1] if "." in module else module


def floor(name):
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


def graph(top, *packages):
    sources = {module_name(p, top): p.read_text(encoding="utf-8") for q in packages for p in (top / q).rglob("*.py")}
    return {name: imports(source, name, sources) for name, source in sources.items()}


def upward(found):
    """Imports that do not run down, as sentences."""
    return [
        f"{module} imports {target}"
        for module, targets in found.items()
        for target in targets
        if room(module) != room(target) and floor(room(module)) >= floor(room(target))
    ]


def test_every_room_has_a_floor():
    assert {room(module) for module in graph(ROOT, "softbench")} <= set().union(*FLOORS)


def test_imports_run_down():
    assert upward(graph(ROOT, "softbench")) == []


def test_no_module_imports_itself_through_others():
    list(TopologicalSorter(graph(ROOT, "softbench")).static_order())  # CycleError names the circle


def too_long(top):
    """Modules beyond `MOST_LINES`, by path below ``top``."""
    sources = (path for room in ("softbench", "backends", "benchmarks") for path in (top / room).rglob("*.py"))
    lengths = {str(p.relative_to(top)): len(p.read_text(encoding="utf-8").splitlines()) for p in sources}
    return {path for path, lines in lengths.items() if lines > MOST_LINES}


def test_modules_have_few_lines():
    assert too_long(ROOT) == set()


def test_a_long_module_is_seen(tmp_path):
    for lines in (MOST_LINES, MOST_LINES + 1):
        (tmp_path / "benchmarks").mkdir(exist_ok=True)
        (tmp_path / "benchmarks" / f"of_{lines}.py").write_text("x = 1\n" * lines)
    assert too_long(tmp_path) == {f"benchmarks/of_{MOST_LINES + 1}.py"}


def test_backends_import_the_interface_and_nothing_else_of_softbench():
    top = ROOT / "backends"
    known = set(graph(ROOT, "softbench"))
    for path in (top / "softbench_backends").rglob("*.py"):
        module = module_name(path, top)
        rooms = {room(name) for name in imports(path.read_text(encoding="utf-8"), module, known)}
        assert rooms <= BACKENDS_SEE, f"{module} imports {sorted(rooms - BACKENDS_SEE)}"


def test_no_backend_imports_another():
    top = ROOT / "backends"
    assert not BACKENDS_SHARE & {entry.module.split(".")[1] for entry in BUILT_IN.values()}
    for module, targets in graph(top, "softbench_backends").items():
        shared = set() if room(module) in BACKENDS_SHARE else BACKENDS_SHARE
        assert {room(t) for t in targets} <= {room(module)} | shared, f"{module} imports {sorted(targets)}"


@pytest.mark.parametrize(
    ("below", "line"),
    [
        ("softbench/interface/dtypes.py", "from softbench.front.backend import Backend"),
        ("softbench/accuracy/ulp.py", "import softbench.registry"),
        ("softbench/machine.py", "def f():\n    from softbench import front"),
    ],
)
def test_an_import_that_runs_up_is_seen(tmp_path, below, line):
    (tmp_path / "softbench").symlink_to(ROOT / "softbench")
    known = graph(tmp_path, "softbench")
    module = module_name(tmp_path / below, tmp_path)
    assert upward({module: known[module] | imports(line, module, known)})


def test_a_circle_is_seen():
    found = graph(ROOT, "softbench")
    found["softbench.accuracy.engine"] |= {"softbench.accuracy.oracle"}
    with pytest.raises(CycleError):
        list(TopologicalSorter(found).static_order())
