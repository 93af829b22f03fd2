"""The canary: what is used of Numba beyond its public interface is there, with the parameters it is used with.

It fails with the first Numba that changes any of it, and says what: look at `numba_internals` then, and at every use.
"""

import inspect
import re
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="numba is not installed")

import numba

from softbench_backends.numba import numba_internals

PATHS = {path: signature for needed in numba_internals.PARTS.values() for path, signature in needed.items()}


def change(path, signature):
    """What is no longer as it was, empty if nothing."""
    try:
        found = numba_internals.find(path)
    except (ImportError, AttributeError) as error:
        return f"numba {numba.__version__} has no {path}: {error}"
    if not signature:
        return ""
    now = str(inspect.signature(found).replace(return_annotation=inspect.Signature.empty))
    return "" if now == signature else f"numba {numba.__version__}: {path} takes {now}, it took {signature}"


@pytest.mark.parametrize("path", PATHS)
def test_what_is_used_of_numba_is_as_it_was(path):
    assert not (changed := change(path, PATHS[path])), changed


def test_this_numba_lacks_nothing():
    assert numba_internals.MISSING == {}


def test_the_canary_says_what_is_gone_and_what_has_changed():
    assert "has no numba.core.compiler:Compiler.gone" in change("numba.core.compiler:Compiler.gone", "")
    assert "has no numba.gone:it" in change("numba.gone:it", "")
    path = "numba.core.caching:FunctionCache.__init__"
    assert change(path, "(self, py_func, place)").endswith(
        f"{path} takes (self, py_func), it took (self, py_func, place)"
    )


def test_nothing_else_of_this_package_imports_what_numba_keeps_private():
    """`cgutils` and data models are what `numba.extending` has authors of intrinsics and types use."""
    folder = Path(numba_internals.__file__).parent
    public = {"from numba.core import cgutils", "from numba.core.datamodel import models"}
    for source in folder.glob("*.py"):
        if source.name != "numba_internals.py":
            lines = set(re.findall(r"^\s*((?:from|import) numba\.(?:core|np|_).*)$", source.read_text(), re.MULTILINE))
            assert lines <= public, source.name
