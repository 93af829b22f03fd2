"""The kit itself: what it asks, how it judges, what it says, how it is called. That it catches bugs: test_zoo.py."""

import json
import subprocess
import sys
import textwrap
import types
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from softbench import cli
from softbench.conformance import contract, docs, run
from softbench.conformance.backend_under_test import under_test
from softbench.conformance.case import Case, Raises
from softbench.conformance.failures import Failure, mismatch, near
from softbench.conformance.profiles import PROFILES
from softbench.conformance.runner import decide, judge_case, stale_deviations
from softbench.conformance.same_bits import all_bits, compare_bits
from softbench.errors import BackendUnavailableError, NotProvidedError, UnknownBackendError
from softbench.front.backend import Backend
from softbench.interface import RowBackend
from softbench.interface.dtypes import formats
from softbench.loading import load
from softbench_backends.numpy import NumpyBackend

# -- what it asks --------------------------------------------------------------------------------------


def test_case_ids_are_unique_and_belong_to_rows():
    rows = {row.id for row in contract.all_requirements()}
    ids = [case.id for case in contract.all_cases()]
    assert len(ids) == len(set(ids))
    assert {case.requirement for case in contract.all_cases()} == rows


def test_every_row_has_a_sentence_and_a_case_in_the_standard_profile():
    standard, deep = ({case.requirement for case in contract.cases(profile)} for profile in ("standard", "deep"))
    for row in contract.all_requirements():
        assert row.case
        assert row.result
        assert row.id in (deep if row.id.startswith("linear-") else standard)  # which compile for minutes


def test_profiles_contain_each_other():
    quick, standard, deep = ({case.id for case in contract.cases(profile)} for profile in PROFILES)
    assert quick < standard < deep


def test_no_two_rows_share_an_id():
    ids = [row.id for row in contract.all_requirements()]
    assert len(ids) == len(set(ids))


def test_semantics_page_is_fresh():
    assert docs.PATH.read_text(encoding="utf-8") == docs.render(), "run: python -m softbench.conformance.docs"


def test_stale_page_is_told(tmp_path, capsys):
    page = tmp_path / "semantics.md"
    assert docs.main(["--check", "--out", str(page)]) == 1
    assert "stale" in capsys.readouterr().err
    assert docs.main(["--out", str(page)]) == 0
    assert docs.main(["--check", "--out", str(page)]) == 0
    page.write_text(page.read_text() + "by hand\n")
    assert docs.main(["--check", "--out", str(page)]) == 1


# -- how it judges -------------------------------------------------------------------------------------


def _case(check, **more):
    return Case("row", "name", check, **more)


def test_a_crash_is_a_failure_of_the_case_with_the_place_it_came_from():
    class Crashes(NumpyBackend):
        name = "crashes"

        def softmax(self, x, out):
            raise ZeroDivisionError("of mine")

    report = run(Crashes, "quick", select=["one-class"])
    assert not report.ok
    (failed,) = {result.message for result in report.of("failed")}
    assert "ZeroDivisionError: of mine" in failed
    assert "test_conformance_kit.py" in failed
    assert {result.id for result in report.of("failed")} == {
        f"one-class/softmax-{dtype}" for dtype in ("float16", "bfloat16", "float32", "float64")
    }


def test_skips_say_why():
    subject = under_test("python")
    result = judge_case(subject, _case(lambda s: None, max_k=70000))
    assert (result.status, "70000 classes" in result.message) == ("skipped", True)
    result = judge_case(subject, _case(lambda s: None, needs=frozenset({"no_such_module"})))
    assert (result.status, "no_such_module is not installed" in result.message) == ("skipped", True)
    subject.host = False
    result = judge_case(subject, _case(lambda s: None, needs=frozenset({"host"})))
    assert (result.status, "host memory" in result.message) == ("skipped", True)


@pytest.mark.parametrize(
    ("result", "expected", "signed", "words"),
    [
        ([1.0, 2.0], [1.0, 2.5], False, "[1] is 2.0, expected 2.5"),
        ([np.nan], [0.0], False, "nan"),
        ([0.0], [np.nan], False, "expected nan"),
        ([-0.0], [0.0], True, "-0.0"),
        ([1.0], [[1.0]], False, "shape (1,), expected (1, 1)"),
        (np.float32([1.0]), [1.0], False, "dtype float32, expected float64"),
        ([np.inf], [-np.inf], False, "inf"),
    ],
)
def test_mismatch_tells_the_first_difference(result, expected, signed, words):
    with pytest.raises(Failure) as failure:
        mismatch(np.asarray(result), np.asarray(expected), "it", signed=signed)
    assert words in str(failure.value)


@pytest.mark.parametrize("values", [[np.nan, 1.0], [-0.0], [], [np.inf]])
def test_mismatch_accepts_what_is_equal(values):
    array = np.asarray(values)
    mismatch(array, array.copy(), "it", signed=True)
    mismatch(np.abs(array), array, "it")


def test_messages_show_the_call_what_came_and_what_was_due():
    class Wrong(NumpyBackend):
        name = "wrong"

        def logsumexp(self, x, out):
            return super().logsumexp(x, out) * 1.001

    report = run(Wrong, "quick", select=["accuracy-logsumexp", "absent-classes/logsumexp-one-left-float64"])
    messages = [result.message for result in report.of("failed")]
    assert any("logsumexp([[-inf, 3.0, -inf]]:float64)[0] is 3.00" in m and "expected 3.0" in m for m in messages)
    assert any("ulp" in message and "normal-30 float32[" in message for message in messages)
    worst = [error for error in report.errors if error["function"] == "logsumexp" and error["dtype"] == "float64"]
    assert worst[0]["max"] > 1e9
    assert worst[0]["case"].startswith("accuracy-logsumexp/")


def test_raises_wants_the_words():
    expected = Raises(ValueError, ("1", "-1"))
    assert repr(expected) == "ValueError naming 1, -1"

    class Mute(Backend):
        def loss(self, *args, **options):
            try:
                return super().loss(*args, **options)
            except ValueError:
                raise ValueError("something is wrong with row 11") from None

    report = run(Mute(NumpyBackend()), "quick", select=["label-range/names-first-*-loss"])
    assert not report.of("passed")
    assert "does not name" in report.of("failed")[0].message


def test_interruption_keeps_what_was_judged():
    def interrupt(done, total, result):
        assert total > 20
        if done == 20:
            raise KeyboardInterrupt

    report = run("python", "quick", interrupt)
    assert report.interrupted
    assert not report.ok
    assert len(report.results) == 20


def test_report_is_json():
    report = run("python", "quick", select=["accuracy-softmax", "nan-row"])
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["backend"] == "python"
    assert plain["ok"] is True
    assert plain["counts"]["passed"] == len(report.results)
    assert {"function", "dtype", "max", "gate", "contract", "input", "case"} == set(plain["errors"][0])


def test_arguments_of_run():
    with pytest.raises(ValueError, match="profile"):
        run("numpy", "thorough")
    with pytest.raises(ValueError, match="no case"):
        run("numpy", select=["no-such-row"])
    with pytest.raises(ValueError, match=r"no case of profile 'quick' matches 'smoothing\*'$"):
        run("numpy", "quick", select=["nan-row", "smoothing*"])
    with pytest.raises(ValueError, match="select is empty"):
        run("numpy", select=[])
    with pytest.raises(UnknownBackendError, match="did you mean"):
        run("numpie")
    for form in (NumpyBackend, NumpyBackend(), Backend(NumpyBackend()), "softbench_backends.numpy:NumpyBackend"):
        assert run(form, "quick", select=["all-ignored"]).ok


def test_anything_with_the_functions_can_be_judged():
    class Duck:
        """Not a Backend, no ``to_numpy``, no ``rows``."""

    for name in ("argmax", "logsumexp", "softmax", "log_softmax", "log_loss", "loss", "gradient", "loss_and_gradient"):
        setattr(Duck, name, staticmethod(getattr(Backend(NumpyBackend()), name)))
    assert run(Duck(), "quick", select=["one-class", "out", "determinism"]).ok


# -- declarations --------------------------------------------------------------------------------------


class Flushes(NumpyBackend):
    """Returns 0 for results below the normal range."""

    name = "flushes"
    dtypes = RowBackend.dtypes  # `numpy.finfo` knows no bfloat16

    def softmax(self, x, out):
        result = super().softmax(x, out)
        result[np.abs(result) < 2.0 ** formats[x.dtype.name].emin] = 0
        return result


def test_declared_flush_is_accepted():
    assert not run(Flushes, "quick", select=["subnormal/*-softmax-float32"]).ok

    class Declares(Flushes):
        flushes_subnormals = True

    assert run(Declares, "quick", select=["subnormal/*-softmax-*", "accuracy-softmax"]).ok


class Coarse(NumpyBackend):
    """Softmax to about 50 ulp."""

    name = "coarse"

    def softmax(self, x, out):
        return super().softmax(x, out) * x.dtype.type(1 + 50 * formats[x.dtype.name].eps)


def test_declared_bounds_are_judged_and_both_are_reported():
    assert not run(Coarse, "quick", select=["accuracy-softmax"]).ok

    class Declares(Coarse):
        gates = types.MappingProxyType({"softmax": {"float32": 120.0, "float64": 120.0}})

    report = run(Declares, "quick", select=["accuracy-softmax/*float32*"])
    assert report.ok, report.of("failed")[0].message
    (error,) = report.errors
    assert (error["gate"], error["contract"]) == (120.0, 4)
    assert 4 < error["max"] < 120


class LastTie(NumpyBackend):
    """Argmax of the last of several maxima."""

    name = "last_tie"

    def argmax(self, x, out):
        return x.shape[1] - 1 - x[:, ::-1].argmax(axis=1)


def _declaring(**deviations):
    return type("Declares", (LastTie,), {"deviations": {k.replace("__", "/"): v for k, v in deviations.items()}})


def test_declared_deviation_is_no_failure():
    backend = type("Declares", (LastTie,), {"deviations": {"argmax-ties": "the last one wins"}})
    report = run(backend, "quick", select=["argmax-ties"])
    assert report.ok
    assert report.of("deviation")
    assert "the last one wins" in report.of("deviation")[0].message


def test_declared_deviation_that_does_not_occur_fails():
    backend = type("Declares", (LastTie,), {"deviations": {"argmax-ties/argmax-negative-float64": "none, really"}})
    report = run(backend, "quick", select=["argmax-ties/argmax-negative-float64"])
    assert "no longer occurs" in report.of("failed")[0].message


def test_deviation_of_a_row_that_no_longer_occurs_fails():
    backend = type("Declares", (NumpyBackend,), {"name": "fine", "deviations": {"argmax-ties": "mended"}})
    report = run(backend, "quick", progress=_stop_after("empty-batch"))
    assert report.interrupted  # not known before everything has run
    subject = under_test(backend)
    results = [judge_case(subject, case) for case in contract.cases() if case.requirement == "argmax-ties"]
    (stale,) = stale_deviations(subject.deviations, results, whole=True)
    assert "no longer occurs" in stale.message


def _stop_after(row):
    def progress(done, total, result):
        if result.id.startswith(row):
            raise KeyboardInterrupt

    return progress


def test_deviation_that_means_no_case_fails():
    backend = type("Declares", (LastTie,), {"deviations": {"argmax-tiez": "typo"}})
    report = run(backend, "quick", select=["one-class"])
    assert "no row or case" in report.of("failed")[0].message


@pytest.mark.parametrize(
    ("attributes", "name", "words"),
    [
        ({"cost": "fast"}, "cost", "'fast' is not known: known are compiled, interpreted, simulated"),
        ({"cost": "compield"}, "cost", "did you mean 'compiled'?"),
        ({"kind": "CPU"}, "kind", "did you mean 'cpu'?"),
        ({"name": "my-backend"}, "name", "expected an identifier"),
        ({"gates": {"sofmax": 8}}, "gates", "did you mean 'softmax'?"),
        ({"gates": {"softmax": {"flaot32": 8}}}, "gates", "did you mean 'float32'?"),
        ({"gates": {"softmax": "8"}}, "gates", "expected a number"),
        ({"gates": ["softmax"]}, "gates", "expected a mapping"),
        ({"dtypes": {"float46"}}, "dtypes", "did you mean 'float64'?"),
        ({"dtypes": "float64"}, "dtypes", "expected a set"),
        ({"provides": {"softmx"}}, "provides", "did you mean 'softmax'?"),
        ({"requires": "torch"}, "requires", "expected a tuple"),
        ({"deviations": {"layouts": ""}}, "deviations", "and a reason"),
        ({"flushes_subnormals": "yes"}, "flushes_subnormals", "expected True or False"),
        ({"accepts_strided": 1}, "accepts_strided", "expected True or False"),
        ({"flush_subnormals": True}, "flush_subnormals", "did you mean 'flushes_subnormals'?"),
        ({"gate": {"softmax": 8}}, "gate", "did you mean 'gates'?"),
        ({"deviation": {"layouts": "x"}}, "deviation", "did you mean 'deviations'?"),
        ({"dtype": {"float32"}}, "dtype", "did you mean 'dtypes'?"),
    ],
)
def test_a_misspelt_declaration_fails(attributes, name, words):
    backend = type("Misspells", (NumpyBackend,), {"name": "misspells", **attributes})
    report = run(backend, "quick", select=["one-class/softmax-float64"])
    (failed,) = report.of("failed")
    assert failed.id == f"declarations/{name}"
    assert words in failed.message


@pytest.mark.parametrize("attributes", [{"dtype": np.float32}, {"costs": 3}, {"named": None}, {"gate": len}])
def test_attributes_of_ones_own_are_no_declarations(attributes):
    backend = type("Fine", (NumpyBackend,), {"name": "fine", **attributes})
    assert run(backend, "quick", select=["one-class/softmax-float64"]).ok


# -- a part of the interface ---------------------------------------------------------------------------


class OnlySoftmax(RowBackend):
    """One function."""

    name = "only_softmax"
    provides = frozenset({"softmax"})

    def softmax(self, x, out):
        return NumpyBackend().softmax(x, out)


def test_a_partial_backend_says_what_it_lacks():
    be = Backend(OnlySoftmax())
    assert be.softmax([0.0, 0.0]).tolist() == [0.5, 0.5]
    for call in (lambda: be.argmax([0.0]), lambda: be.loss([[0.0]], [0]), lambda: be.log_softmax([0.0], axis=0)):
        with pytest.raises(NotProvidedError, match=r"'only_softmax' does not provide .*: it provides softmax$"):
            call()
    with pytest.raises(NotProvidedError, match="loss_and_gradient"):
        be.rows.loss_and_gradient()


def test_what_is_provided_must_be_there():
    with pytest.raises(TypeError, match="log_softmax"):
        type("Lacks", (OnlySoftmax,), {"provides": {"softmax", "log_softmax"}})()
    with pytest.raises(TypeError, match="loss_and_gradient"):
        type("Lacks", (OnlySoftmax,), {"provides": {"softmax", "loss"}})()
    own = type("Has", (OnlySoftmax,), {"provides": {"softmax", "loss"}, "loss": lambda self, x, target, loss: loss})
    assert own().name == "only_softmax"


class Reluctant(NumpyBackend):
    """Says that it has everything."""

    name = "reluctant"

    def softmax(self, x, out):
        raise NotProvidedError("not today")


@pytest.mark.parametrize("provides", [NumpyBackend.provides, {"softmax", "argmax"}])
def test_what_is_claimed_and_refused_fails(provides):
    made = type("Made", (Reluctant,), {"provides": provides})
    report = run(made, "quick", select=["one-class/softmax-float32", "many-rows/repeated-softmax-float32"])
    assert [result.status for result in report.results] == ["failed", "failed"]
    assert all(
        "softmax is in `provides`, and raises NotProvidedError('not today')" in r.message for r in report.results
    )


# -- module:Class --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such_module_of_anybody:Thing", "no module named 'no_such_module_of_anybody'"),
        ("softbench_backends.numpy:NoSuchClass", "NoSuchClass"),
        ("math:pi", "is no backend"),
        ("softbench.interface:RowBackend", "abstract"),
        ("broken_module:Thing", "ZeroDivisionError"),
        ("raising_module:Thing", "cannot start"),
    ],
)
def test_what_cannot_be_loaded_is_a_clear_error(spec, words, tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    (tmp_path / "raising_module.py").write_text(
        "class Thing:\n    def __init__(self):\n        raise RuntimeError('cannot start')\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownBackendError, match=words):
        load(spec)


def test_the_current_folder_is_searched(tmp_path, monkeypatch):
    (tmp_path / "my_own_backend.py").write_text(
        textwrap.dedent(
            """
            from softbench_backends.numpy import NumpyBackend
            class Mine(NumpyBackend):
                name = "mine"
            instance = Mine()
            def make():
                return Mine()
            """
        )
    )
    monkeypatch.chdir(tmp_path)
    for attribute in ("Mine", "instance", "make"):
        assert load(f"my_own_backend:{attribute}").name == "mine"


# -- softbench check -----------------------------------------------------------------------------------


def test_check_prints_the_verdict(capsys):
    assert cli.main(["check", "python", "numpy", "--quick", "--select", "nan-row", "--select", "accuracy-softmax"]) == 0
    out = capsys.readouterr().out
    assert "python (cpu, quick) passes" in out
    assert "numpy (cpu, quick) passes" in out
    assert "largest error in ulp" in out
    assert "float64" in out


def test_check_of_a_wrong_backend_fails_and_names_row_case_and_values(tmp_path, monkeypatch, capsys):
    (tmp_path / "wrong_backend.py").write_text(
        textwrap.dedent(
            """
            import numpy as np
            from softbench_backends.numpy import NumpyBackend
            class Wrong(NumpyBackend):
                name = "wrong"
                def softmax(self, x, out):
                    with np.errstate(all="ignore"):
                        out[...] = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
                    return out
            """
        )
    )
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(["check", "wrong_backend:Wrong", "--quick", "--select", "shift-overflow", "--select", "one-class"])
        == 1
    )
    out = capsys.readouterr().out
    assert "FAILS" in out
    assert "FAILED shift-overflow/softmax-float16" in out
    assert "softmax([[65504.0, -65504.0]]:float16)[0, 0] is nan, expected 1.0" in out
    assert "softmax-float64" in out


def test_check_of_unknown_names_is_a_usage_error(capsys):
    assert cli.main(["check", "numpie"]) == 2
    assert "did you mean 'numpy'" in capsys.readouterr().err
    assert cli.main(["check", "nowhere:Thing"]) == 2
    assert cli.main(["check", "numpy", "--select", "no-such-row"]) == 2
    with pytest.raises(SystemExit) as stop:
        cli.main(["check", "--quick", "--deep"])
    assert stop.value.code == 2


def test_check_of_a_named_backend_that_is_not_here_fails(capsys, monkeypatch, tmp_path):
    def absent(name, *_, **__):
        raise BackendUnavailableError('no_such_module is not installed (install: pip install "softbench[cuda13]")')

    monkeypatch.setattr("softbench.conformance.apart.judge_apart", absent)
    junit = tmp_path / "report.xml"
    assert cli.main(["check", "cupy", "--junit", str(junit)]) == 1
    assert "no_such_module is not installed" in (printed := capsys.readouterr().out)
    assert "softbench[cuda13]" in printed  # brackets are no markup
    assert ET.parse(junit).getroot().find("testsuite").get("errors") == "1"


def test_check_json(capsys):
    assert cli.main(["check", "python", "--quick", "--json", "--select", "all-ignored"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["reports"][0]["ok"] is True
    assert {result["status"] for result in verdict["reports"][0]["results"]} == {"passed"}


def test_check_junit(tmp_path, capsys):
    path = tmp_path / "report.xml"
    assert cli.main(["check", "python", "--quick", "--select", "wide-accumulator", "--junit", str(path)]) == 0
    suite = ET.parse(path).getroot().find("testsuite")
    assert suite.get("name") == "python"
    assert suite.get("failures") == "0"
    assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped")) > 0
    assert len(suite.findall("testcase")) == int(suite.get("tests"))


def test_a_report_that_cannot_be_written_is_no_news_after_minutes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("softbench.conformance.runner.run", None)  # never reached
    path = tmp_path / "no-such-folder" / "report.xml"
    assert cli.main(["check", "numpy", "--junit", str(path)]) == 1
    assert str(path) in capsys.readouterr().err


def test_check_list(capsys):
    assert cli.main(["check", "--list", "--select", "nan-row"]) == 0
    lines = capsys.readouterr().out.split()
    assert "nan-row/softmax-float32" in lines
    assert all(line.startswith("nan-row/") for line in lines)


# -- pytest --------------------------------------------------------------------------------------------


def _pytest(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.processes
def test_base_class_for_a_suite_of_ones_own(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(
            """
            from softbench.conformance.suite import BackendSuite
            from softbench_backends.numpy import NumpyBackend

            class LastTie(NumpyBackend):
                name = "last_tie"
                def argmax(self, x, out):
                    return x.shape[1] - 1 - x[:, ::-1].argmax(axis=1)

            class Declares(LastTie):
                deviations = {"argmax-ties": "the last one wins"}

            class Fine(NumpyBackend):
                deviations = {"argmax-ties": "mended"}

            class TestWrong(BackendSuite):
                backend = LastTie
                profile = "quick"

            class TestDeclared(BackendSuite):
                backend = Declares
                profile = "quick"

            class TestStale(BackendSuite):
                backend = Fine
                profile = "quick"
            """
        )
    )
    out = _pytest(tmp_path, "-k", "argmax-ties or deviations_occur").stdout
    assert "FAILED test_mine.py::TestWrong::test_contract[argmax-ties/argmax-float64]" in out
    assert "PASSED test_mine.py::TestWrong::test_contract[argmax-ties/argmax-negative-float64]" in out
    assert "XFAIL test_mine.py::TestDeclared::test_contract[argmax-ties/argmax-float64]" in out
    assert "PASSED test_mine.py::TestDeclared::test_declared_deviations_occur" in out
    assert "FAILED test_mine.py::TestStale::test_declared_deviations_occur" in out


@pytest.mark.processes
def test_any_backend_from_the_command_line_of_pytest(tmp_path):
    module = "softbench.conformance.check_backend"
    options = ["-p", "softbench.conformance.pytest_plugin", "--conformance-profile", "quick", "--pyargs", module]
    done = _pytest(tmp_path, *options, "--backend", "softbench_backends.numpy:NumpyBackend", "-k", "nan-row")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "test_contract[softbench_backends.numpy:NumpyBackend-nan-row/softmax-float32]" in done.stdout


@pytest.mark.processes
def test_required_backend_that_is_not_here_fails(tmp_path, monkeypatch):
    (tmp_path / "conftest.py").write_text(
        textwrap.dedent(
            """
            from softbench import registry
            from softbench.interface import RowBackend
            class Missing(RowBackend):
                name = "cupy"
                requires = ("no_such_module_of_anybody",)
            real = registry._load
            registry._load = lambda name: Missing if name == "cupy" else real(name)
            """
        )
    )
    module = "softbench.conformance.check_backend"
    options = ["-p", "softbench.conformance.pytest_plugin", "--pyargs", module, "--backend", "cupy"]
    done = _pytest(tmp_path, *options, "--confcutdir", str(tmp_path), "-c", "/dev/null", "-p", "conftest")
    assert "SKIPPED" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert "no_such_module_of_anybody is not installed" in done.stdout
    monkeypatch.setenv("SOFTBENCH_REQUIRE", "numba_cuda,cupy")
    done = _pytest(tmp_path, *options, "--confcutdir", str(tmp_path), "-c", "/dev/null", "-p", "conftest")
    assert done.returncode == 1
    assert "$SOFTBENCH_REQUIRE names it" in done.stdout


def test_a_failing_check_shows_in_decide():
    def fails(subject):
        raise Failure("no")

    with pytest.raises(Failure, match="no"):
        decide(under_test("python"), _case(fails))


@pytest.mark.parametrize("returned", [[[0.5, 0.5]], None, "half"])
def test_a_result_that_is_no_array_is_told_first(returned):
    class Wrong:
        def __getattr__(self, name):
            return lambda *arguments, **options: returned

    subject = under_test("python")
    subject.be = Wrong()
    with pytest.raises(Failure, match=f"^softmax returned {type(returned).__name__}, expected an array"):
        subject.call("softmax", np.zeros((1, 2)))


def test_nan_is_not_told_in_ulp():
    with pytest.raises(Failure) as caught:
        near(np.array([np.nan]), np.array([1.0]), 4, "float64", "x", "the other")
    assert str(caught.value) == "x[0] is nan, the other 1.0"
    with pytest.raises(Failure, match=r"2.25e\+15 ulp apart, more than 4"):
        near(np.array([2.0]), np.array([1.0]), 4, "float64", "x", "the other")


def test_calls_are_put_into_words_where_bits_differ_and_not_before():
    class Shape(tuple):
        __slots__ = ()

        def __repr__(self):  # as of a tuple in a signal handler that interrupts its repr
            return "(...)"

    shape = (2, 5)
    due = all_bits(under_test(NumpyBackend()), ["argmax"], [shape])
    found = all_bits(under_test(NumpyBackend()), ["argmax"], [Shape(shape)])
    compare_bits(found, due, "in a signal handler")
    with pytest.raises(Failure, match=r"argmax of float32 \(2, 5\) in a signal handler has other bits"):
        compare_bits({("argmax", shape): b""}, due, "in a signal handler")
