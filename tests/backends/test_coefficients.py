"""The coefficients of all exponentials are those that the study finds, and the study would notice others."""

import pytest

pytest.importorskip("numba", reason="numba is not installed")
pytest.importorskip("flint", reason="python-flint is not installed")

from benchmarks.studies import numerics

POLYNOMIALS = {f"{used.where}, {used.dtype}": used for used in numerics.polynomials()}


def test_every_source_is_read():
    assert {"cupy/arithmetic.cuh", "numba/exponential.py", "numba/exponential.py, half precision"} <= {
        used.where for used in POLYNOMIALS.values()
    }
    assert {len(used.coefficients) for used in POLYNOMIALS.values()} == {3, 5, 10, 11}


@pytest.mark.parametrize("where", POLYNOMIALS)
def test_the_study_finds_the_coefficients_that_are_used(where):
    used = POLYNOMIALS[where]
    found = numerics.fit(len(used.coefficients), used.dtype)
    assert used.coefficients == found.coefficients
    if "half precision" in where:
        assert found.error < 2.0**-17  # a unit of float16 is 2^-11 of its number at least
    else:
        assert found.ulp < 0.08


def test_the_study_says_where_a_backend_has_others(monkeypatch, capsys):
    from softbench_backends.cupy import source

    changed = source.source().replace("double p = 0x1.1e", "double p = 0x1.0e")
    monkeypatch.setattr(source, "source", lambda: changed)
    assert numerics.exponential([]) == 1
    printed = capsys.readouterr().out
    assert "cupy/arithmetic.cuh: others (t^12 0x1.0e" in printed
    assert "numba/exponential.py: these" in printed


def test_a_polynomial_that_cannot_be_read_is_no_other_polynomial():
    with pytest.raises(AssertionError):
        numerics.coefficients_in("    float p = 0.5f;\n    p = fused(p, t, c);  // new\n")
