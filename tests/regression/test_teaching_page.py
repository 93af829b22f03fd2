"""docs/softmax-regression.md, from top to bottom."""

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "softmax-regression.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```pycon\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PICTURES = re.findall(r"\]\((softmax-regression[\w-]*\.png)\)", TEXT)


def test_it_has_all_equations_in_order():
    assert [int(n) for n in re.findall(r"\\tag\{(\d+)\}", TEXT)] == list(range(1, 12))


@pytest.mark.packaging
def test_its_code_does_what_it_says_and_draws_its_pictures(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    said = []
    code = doctest.DocTestParser().get_doctest("\n".join(BLOCKS), {}, "softmax-regression.md", None, 0)
    doctest.DocTestRunner().run(code, out=said.append)
    assert not said, "".join(said)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PICTURES)
    for name in PICTURES:
        assert (DOCS / name).read_bytes().startswith(b"\x89PNG")
