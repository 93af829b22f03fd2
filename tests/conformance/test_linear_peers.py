"""docs/peers-linear.md says what the kit finds of linear logits in other people's libraries."""

import json

import numpy as np
import pytest

import softbench as sb
from softbench.conformance import linear_peers
from softbench.conformance.linear_logits import REQUIREMENTS

VERDICTS = json.loads(linear_peers.VERDICTS.read_text(encoding="utf-8"))


def test_the_page_says_what_is_in_the_verdicts():
    assert linear_peers.PAGE.read_text(encoding="utf-8") == linear_peers.render(VERDICTS)


def test_every_library_and_case_is_on_the_page():
    assert list(VERDICTS["peers"]) == [form.name for form in linear_peers.FORMS]
    ids = [case.id for requirement in REQUIREMENTS for case in requirement.checks]
    assert all(list(entry["cases"]) == ids for entry in VERDICTS["peers"].values())


@pytest.mark.peers
@pytest.mark.parametrize("form", linear_peers.FORMS, ids=lambda form: form.name)
def test_libraries_still_do_so(form):
    pytest.importorskip(form.module)
    recorded = VERDICTS["peers"][form.name]["cases"]
    found = linear_peers.judge(form())["cases"]
    assert {case: text in ("", "-") and text for case, text in found.items()} == {
        case: text in ("", "-") and text for case, text in recorded.items()
    }


def test_what_is_asked_of_scikit_learn_is_the_same_objective():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    x, w, b, y = rng.normal(size=(9, 4)), rng.normal(size=(3, 4)), rng.normal(size=3), rng.integers(0, 3, 9)
    found = linear_peers.Sklearn().linear_loss_and_gradient(x, w, b, y)
    for got, due in zip(found, sb.linear_loss_and_gradient(x, w, b, y), strict=True):
        np.testing.assert_allclose(got, due, rtol=1e-12)
