"""What PyTorch is installed here, found out without importing it where that is possible."""

from __future__ import annotations

import ast
import ctypes
import functools
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["no_gpu"]


@functools.cache
def no_gpu() -> str:
    """Why torch cannot use a GPU here, or ''; torch is imported only if it could."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "torch is not installed"
    built = _constants(Path(spec.origin).with_name("version.py"))
    if built and not built.get("cuda") and not built.get("hip"):
        return f"torch {built.get('__version__', '')} is built for the CPU only"
    if built.get("cuda") and sys.platform == "linux":
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            return "no NVIDIA driver is installed (libcuda.so.1 is missing)"
    try:
        torch = importlib.import_module("torch")
        return "" if torch.cuda.is_available() else "torch finds no GPU"
    except Exception as error:  # a broken installation
        return f"torch cannot be imported: {error}"


def _constants(module: Path) -> dict[str, Any]:
    """The names that a module assigns strings or None to, read without running it; none of a file that is no such."""
    try:
        statements = ast.parse(module.read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, UnicodeDecodeError):
        return {}
    found: dict[str, Any] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Constant):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {target.id: statement.value.value for target in targets if isinstance(target, ast.Name)}
    return found
