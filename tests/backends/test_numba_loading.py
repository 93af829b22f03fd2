"""From where the numba backend is loaded, and with which Numba: archives, compiled modules, parts that are missing.

Kernels on disk belong to what was loaded. Every test starts processes with a compilation cache of their own.
"""

import os
import sys
import types
import zipfile
from pathlib import Path

import pytest

import softbench
from softbench import processes

pytest.importorskip("numba", reason="numba is not installed")
pytestmark = pytest.mark.processes


def _packages():
    import softbench_backends

    return [Path(softbench.__file__).parent, Path(softbench_backends.__file__).parent]


def _archive(path, compiled=False, changes=()):
    """Both packages in a zip archive; ``compiled``: without sources; ``changes``: of files, text by other text."""
    import py_compile

    with zipfile.ZipFile(path, "w") as archive:
        for package in _packages():
            for source in package.rglob("*.py"):
                name = str(source.relative_to(package.parent))
                text = source.read_text()
                for file, old, new in changes:
                    if name.endswith(file):
                        assert old in text
                        text = text.replace(old, new)
                if not compiled:
                    archive.writestr(name, text)
                    continue
                (path.parent / "source.py").write_text(text)
                made = py_compile.compile(str(path.parent / "source.py"), str(path.parent / "made.pyc"), dfile=name)
                archive.write(made, name + "c")


CALL = """
import sys
import numpy as np
import softbench as sb
assert sys.argv[1] in sb.__file__, sb.__file__
import softbench.measure.memory_kernels  # compiled functions outside the backend
from softbench_backends.numba import sources
print(sb.argmax(np.eye(3, 10, dtype="f")[::-1], backend="numba").tolist(), sources.source_hash())
"""

# A change that shows: the first minimum is looked for.
CHANGE = ("numba/reductions.py", "ahead = ((x > best)", "ahead = ((best > x)")


def _call(path, folder, text=CALL, **environment):
    """What a program prints that loads softbench from ``path``, with a cache in ``folder``."""
    done = processes.run(
        [sys.executable, "-P", "-c", text, str(path)],
        limit=120,
        # Of an archive's functions Numba keeps what it compiles in the user's own cache.
        env={**os.environ, "PYTHONPATH": str(path), "HOME": str(folder), "XDG_CACHE_HOME": str(folder), **environment},
        cwd=folder,
    )
    assert not done.problem, done.stderr
    return done.stdout


def test_an_index_of_other_sources_may_name_types_that_are_gone(tmp_path, monkeypatch):
    from softbench_backends.numba import numba_internals

    if "disk cache" in numba_internals.MISSING:
        pytest.skip("this Numba keeps nothing on disk")

    def cache(stamp):
        monkeypatch.setattr(numba_internals, "source_hash", lambda: stamp)
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
        return numba_internals._PackageCache(_archive)._cache_file

    module = types.ModuleType("module_of_a_type")
    module.Key = type("Key", (), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    before = cache("before")
    before._index_path = str(tmp_path / "index")
    before._save_index({module.Key(): "name"})
    assert len(before._load_index()) == 1
    del module.Key
    after = cache("after")
    after._index_path = before._index_path
    assert after._load_index() == {}


@pytest.mark.parametrize("compiled", [False, True], ids=["sources", "compiled"])
def test_from_an_archive_changed_sources_are_compiled_anew(tmp_path, compiled):
    path = tmp_path / "all.zip"
    _archive(path, compiled)
    before, first = _call(path, tmp_path).split("] ")
    assert before == "[2, 1, 0"
    assert first != "None\n"
    assert _call(path, tmp_path) == f"{before}] {first}"
    _archive(path, compiled, [CHANGE])
    after, second = _call(path, tmp_path).split("] ")
    assert after != before
    assert first != second != "None\n"


def test_compiled_modules_alone_are_hashed_too(tmp_path):
    import compileall

    top = tmp_path / "top"
    top.mkdir()
    path = tmp_path / "all.zip"
    results = []
    for changes in ([], [CHANGE]):
        _archive(path, False, changes)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(top)
        compileall.compile_dir(top, quiet=2, legacy=True, force=True)
        for source in top.rglob("*.py"):
            source.unlink()
        found, stamp = _call(top, tmp_path).split("] ")
        results.append(found)
        assert stamp != "None\n"
    assert results[0] == "[2, 1, 0" != results[1]


def test_sources_that_change_after_they_were_loaded_are_not_those_of_the_kernels(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    _archive(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        archive.extractall(top)
    changed = top / "softbench_backends" / "numba" / "short_rows.py"
    code = (
        "import sys, softbench as sb, numpy as np\n"
        "be = sb.get_backend('numba')\n"
        f"path = {str(changed)!r}\n"
        "with open(path, 'a') as file:\n    file.write('# changed\\n')\n"
        "be.argmax(np.eye(3, 10, dtype='f'))\n"
        "from softbench_backends.numba import sources\n"
        "assert sources.source_hash() is None\n"
    )
    done = processes.run(
        [sys.executable, "-P", "-c", code],
        limit=120,
        env={**os.environ, "PYTHONPATH": str(top), "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        cwd=tmp_path,
    )
    assert not done.problem, done.stderr
    assert not list((tmp_path / "cache").rglob("*.nbc"))


# -- a Numba that lacks something ------------------------------------------------------------------------------------

WITHOUT = """
import hashlib
import sys
import numpy as np
import softbench as sb
assert sys.argv[1] in sb.__file__, sb.__file__
be, rng = sb.get_backend("numba"), np.random.default_rng(0)
large, apart = rng.normal(size=(600, 200)), rng.normal(size=(2, 90, 300))
results = [be.softmax(large), be.softmax(large[:3, :5]), *be.loss_and_gradient(large, np.arange(600) % 200),
           be.softmax(apart, axis=1)]
digest = hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in results)).hexdigest()
print(digest, *be.info().get("numba_lacks", []), sep=", ")
"""

GONE = {
    "libraries": "numba.core.compiler:Compiler.compile_extra",
    "disk cache": "numba.core.caching:FunctionCache._index_key",
    "entry points": "numba.core.compiler:CompileResult.entry_point",
    "compiler lock": "numba.core.compiler_lock:global_compiler_lock.is_locked",
}


def test_where_numba_lacks_parts_its_public_ways_give_the_same_bits(tmp_path):
    found = {}
    for lacking in ([], ["entry points"], sorted(GONE)):
        folder = tmp_path / f"{len(lacking)}"
        folder.mkdir()
        changes = [("numba/numba_internals.py", f'"{GONE[part]}": ', f'"{GONE[part]}_gone": ') for part in lacking]
        _archive(folder / "all.zip", changes=changes)
        digest, *said = _call(folder / "all.zip", folder, WITHOUT, NUMBA_NUM_THREADS="2").strip().split(", ")
        assert said == lacking
        found[digest] = lacking
        assert bool(list(folder.rglob("*.nbc"))) == ("disk cache" not in lacking)
    assert len(found) == 1, found
