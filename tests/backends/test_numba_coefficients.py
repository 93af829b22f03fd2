"""The exponentials' coefficients are those that the study finds, and the study would notice others."""

import pytest

pytest.importorskip("numba", reason="numba is not installed")
pytest.importorskip("flint", reason="python-flint is not installed")

from benchmarks.studies import numerics
from softbench_backends.numba.exponential import EXPONENTIALS


@pytest.mark.parametrize("dtype", EXPONENTIALS)
def test_the_study_finds_the_coefficients_that_are_used(dtype):
    found = numerics.fit(len(EXPONENTIALS[dtype]), dtype)
    assert found.coefficients == EXPONENTIALS[dtype]
    assert found.ulp < 0.08


def test_the_study_says_where_the_backend_has_others(monkeypatch, capsys):
    used = EXPONENTIALS["float32"]
    monkeypatch.setitem(EXPONENTIALS, "float32", (*used[:-1], 0.001))
    assert numerics.exponential([]) == 1
    printed = capsys.readouterr().out
    assert "float32: the backend has others" in printed
    assert "there 0x1.0624dd2f1a9fcp-10" in printed
    assert "float64: the backend has these" in printed
