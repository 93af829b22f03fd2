"""Error texts exist once: no backend, and nothing else, spells one of `softbench.interface.messages` out again."""

from __future__ import annotations

import ast
from pathlib import Path

import softbench
import softbench_backends
from softbench.interface import messages


def texts(path: Path) -> list[str]:
    """Every string of a module that is not a docstring, parts of f-strings by themselves."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def phrases() -> list[str]:
    """What is particular to each message: parts of it that are longer than a few words."""
    return [text.strip() for text in texts(Path(messages.__file__)) if len(text.split()) > 3]


def test_every_error_text_is_written_once() -> None:
    found = phrases()
    assert len(found) >= 10
    roots = [Path(softbench.__file__).parent, *map(Path, softbench_backends.__path__)]
    for path in (path for root in roots for path in root.rglob("*.py")):
        if path == Path(messages.__file__) or "conformance" in path.parts:  # the kit states what it expects itself
            continue
        written = texts(path)
        again = [phrase for phrase in found for text in written if phrase in text]
        assert not again, f"{path} repeats {again}"


def test_a_message_names_the_argument_the_value_and_what_was_expected() -> None:
    assert str(messages.no_class(3, 7, 5, None)) == "target[3] is 7, which is no class: expected 0 <= label < 5"
    assert str(messages.no_class(3, 7, 5, -1)).endswith("expected 0 <= label < 5 or ignore_index=-1")
    assert str(messages.out_of_range("probs", (1, 2), 1.5, 0.0, 1.0)) == "probs[1, 2] is 1.5, expected in [0, 1]"
    assert messages.type_name([]) == "list"
    assert "make that device current" in str(messages.on_another_device("out", 1, 0))
