"""A slowdown that somebody commits is found by ``asv continuous``, with this repository's suite and configuration."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("asv", reason="needs asv (the bench extra)")
pytest.importorskip("virtualenv", reason="needs virtualenv (the bench extra)")
pytest.importorskip("hatchling", reason="needs hatchling (the test extra)")

ROOT = Path(__file__).resolve().parents[2]
SLOWER = """

_shift_once = _shift


def _shift(x: list[float]) -> _Row | None:
    for _ in range(9):
        _shift_once(x)
    return _shift_once(x)
"""
"""At the end of the python backend: what most of its time goes to is done ten times.

Done twice it was lost in the noise of a machine that runs other tests beside.
"""


def _offline(configuration: Path, libraries: Path) -> None:
    """Have asv download nothing: what is installed here serves its environment, too."""
    from asv.util import load_json

    conf = load_json(str(configuration), js_comments=True)
    conf["matrix"] = {"req": {"pip+asv_runner": conf["matrix"]["req"]["pip+asv_runner"]}}
    conf["build_command"] = []
    # For benchmarks: asv takes the folders of PYTHONPATH away from them, but not from pip.
    link = f"pathlib.Path(sysconfig.get_path('purelib'), 'libraries.pth').write_text('{libraries}')"
    conf["install_command"] = [
        f'in-dir={{env_dir}} python -c "import pathlib, sysconfig; {link}"',
        "in-dir={env_dir} python -m pip install --no-deps --no-index --no-build-isolation {build_dir}",
    ]
    configuration.write_text(json.dumps(conf), encoding="utf-8")


@pytest.mark.packaging
def test_a_planted_slowdown_is_found(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("asv compares commits, and this is no clone")
    clone, libraries, of_pip = tmp_path / "clone", tmp_path / "libraries", tmp_path / "libraries-of-pip"
    libraries.mkdir()
    folders = [Path(entry) for entry in sys.path if entry.endswith("site-packages")]
    for path in (path for folder in reversed(folders) for path in folder.iterdir()):  # the first one counts
        if not path.name.startswith(("softbench", "__editable__")):  # asv installs that
            (libraries / path.name).unlink(missing_ok=True)
            (libraries / path.name).symlink_to(path)
    author = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **author, "HOME": str(tmp_path), "ASV_PYTHONPATH": str(of_pip)}
    of_pip.symlink_to(libraries)

    def call(*command, status=0):
        done = subprocess.run(
            command, cwd=clone if clone.exists() else tmp_path, env=environment, text=True, check=False, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == status, done.stdout
        return done.stdout

    call("git", "clone", "--quiet", "--no-checkout", str(ROOT), str(clone))
    call("git", "checkout", "--quiet", "-b", "planted", call("git", "-C", str(ROOT), "rev-parse", "HEAD").strip())
    backend = clone / "backends/softbench_backends/python.py"
    backend.write_text(backend.read_text(encoding="utf-8") + SLOWER, encoding="utf-8")
    call("git", "commit", "--quiet", "--no-verify", "-a", "-m", "slower")
    _offline(clone / "asv.conf.json", libraries)

    asv = (sys.executable, "-m", "asv")
    call(*asv, "machine", "--yes")
    one = r"history\.Calls\.time_call\('python', 'softmax-1x10-f32'\)"
    said = call(*asv, "continuous", "--show-stderr", "--factor", "1.3", "--bench", one, "HEAD^", "HEAD", status=1)
    assert re.search(r"^\| \+ .*history\.Calls\.time_call\('python', 'softmax-1x10-f32'\)", said, re.M), said
    assert "PERFORMANCE DECREASED" in said
