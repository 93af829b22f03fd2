"""``softbench run --suite regression``: what solvers are asked, what is said of them, and what Ctrl-C keeps."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("sklearn")

from softbench.cli import main
from softbench.measure.fits import run as fits
from softbench.measure.fits import solvers, worker
from softbench.measure.fits.data import DATA, load, save, select
from softbench.results import fit_tables, record

FIT = {"peak": 300, "call": 100}


def events(*points):
    return [{"iterations": n, "seconds": s, "objective": f, **FIT} for n, s, f in points]


def test_the_time_is_that_of_the_fewest_iterations_that_come_near():
    seen = events((1, 0.1, 3.0), (2, 0.2, 2.000001), (4, 0.4, 2.0), (2, 0.3, 2.000001), (2, 0.25, 2.000001))
    result = fits._result([{"setting": "BLAS on one thread"}, *seen], 2.0, 0, 4.0, "")
    assert (result["median"], result["minimum"], result["samples"]) == (0.25, 0.2, [0.2, 0.25, 0.3])
    assert result["setting"] == "BLAS on one thread"
    assert result["costs"] == {"peak": 300, "call": 100}
    assert [point["iterations"] for point in result["curve"]] == [1, 2, 2, 2, 4]
    assert result["curve"][0]["suboptimality"] == 0.5


@pytest.mark.parametrize(
    ("more", "ended", "said"),
    [
        ([], "", "out of time (4 s), 5.0e-01 above the minimum"),
        ([], "cut off", "cut off, 5.0e-01 above the minimum"),
        (
            [{"ended": "stopped by itself after 3 iterations"}],
            "",
            "stopped by itself after 3 iterations, 5.0e-01 above",
        ),
    ],
)
def test_who_does_not_come_near_has_a_curve_and_a_reason(more, ended, said):
    result = fits._result([*events((1, 0.1, 3.0)), *more], 2.0, 0, 4.0, ended)
    assert "median" not in result
    assert result["failed"].startswith(said)
    assert len(result["curve"]) == 1


def test_memory_is_extrapolated_by_a_line_through_two_measured_points():
    sizes = [{"rows": 200, "call": 5000, "bytes": 800}, {"rows": 100, "call": 3000, "bytes": 400}]
    whole = fits._result([*events((1, 0.1, 3.0)), *sizes], 2.0, 1000, 4.0, "")["costs"]["whole"]
    assert whole == {"rows": 1000, "features": 4000, "call": 5000 + 20 * 800}


class Taking(solvers.Solver):
    """Takes 8 kB for every row."""

    def fit(self, X, y, iterations):
        np.ones((len(X), 1000))
        return solvers.Fitted(None, None, iterations)


def test_memory_is_measured_with_so_many_rows_that_their_number_shows(capsys):
    worker._memory(Taking("a", "b", "sys"), np.zeros((2000, 1)), np.zeros(2000, np.int64))
    half, all_rows = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (half["rows"], all_rows["rows"], all_rows["bytes"]) == (13_000, 26_000, 208_000)
    if half["call"] is not None:
        assert all_rows["call"] - half["call"] == pytest.approx(13_000 * 8_000, rel=0.05)


class Halving(solvers.Solver):
    """Every iteration halves the distance."""

    def fit(self, X, y, iterations):
        return solvers.Fitted(2.0 + 2.0**-iterations, None, iterations)


def test_the_search_doubles_then_halves_then_repeats(monkeypatch, capsys):
    monkeypatch.setattr(worker, "objective", lambda X, y, coef, intercept: coef)
    search = worker._Search(Halving("a", "b", "sys"), np.zeros((4, 1)), np.array([0, 1, 0, 1]), 60.0, 2.0)
    search.go()
    asked = [json.loads(line)["iterations"] for line in capsys.readouterr().out.splitlines()]
    assert asked == [1, 2, 4, 8, 16, 32, 24, 20, 18, 18, 18] or asked == [1, 2, 4, 8, 16, 32, 24, 20, 18, 20, 20]
    assert 2.0**-18 > 2 * worker.WITHIN > 2.0**-19  # 19 would do, which is within a tenth of 20


def test_the_objective_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 4)).astype(np.float32), rng.integers(0, 3, 90)
    model = LogisticRegression(tol=1e-8).fit(X, y)
    logits = model.decision_function(X).astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(90), y]
    due = losses.mean() + 0.5 * np.sum(np.square(model.coef_, dtype=np.float64)) / 90
    assert solvers.objective(X, y, model.coef_, model.intercept_) == pytest.approx(due, rel=1e-6)
    better = solvers.SOLVERS[0].fit(X, y, 100)
    assert solvers.objective(X, y, better.coef, better.intercept) <= due * (1 + 1e-9)


def test_what_cannot_be_asked_is_said():
    by_name = {str(solver): solver for solver in solvers.SOLVERS}
    newton, torch = by_name["scikit-learn newton-cholesky"], by_name["torch lbfgs"]
    assert newton.unfit(False, (10, 256, 1000), 16e9, 5.0).startswith("its Hessian would take 528 GB")
    assert newton.unfit(False, (60_000, 784, 10), 16e9, 5.0) == "one of its Hessians takes 3.7e+12 multiply-adds"
    assert newton.unfit(False, (1797, 64, 10), 16e9, 5.0) == torch.unfit(False, (10, 64, 10), 16e9, 5.0) == ""
    assert torch.unfit(True, (10, 64, 10), 16e9, 5.0) == "takes dense features"


def test_data_of_a_profile_and_by_name():
    assert list(select([], "quick")) == ["digits", "mnist"]
    assert {name: data.shape[0] for name, data in select([], "full").items()} == {
        n: d.shape[0] for n, d in DATA.items()
    }
    assert select(["many*"], "quick")["many-classes"].shape == (3000, 256, 1000)
    with pytest.raises(ValueError, match="no data set matches 'minst'"):
        select(["minst"], "quick")


def test_every_class_occurs_in_every_profile():
    for name in ("many-classes", "probe"):
        problem = DATA[name].of("standard")
        _, y = problem.arrays()
        assert len(np.unique(y[: len(y) // 2])) == problem.shape[2]  # a worker also fits half of the rows


@pytest.mark.parametrize("name", ["text", "mnist", "many-classes"])
def test_data_go_through_files(name, tmp_path):
    data = DATA[name]
    X, y = data._replace(shape=(300, *data.shape[1:])).arrays()
    again = data._replace(shape=(300, *data.shape[1:])).arrays()
    assert (again[0] != X).sum() == 0  # seeded
    assert X.dtype == np.float32
    save(X, y, tmp_path)
    read_X, read_y = load(tmp_path)
    assert (read_X != X).sum() == 0
    assert (read_y == y).all()
    assert read_X.shape == (300, data.shape[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--op", "softmax"], "--op is no option of --suite regression"),
        (["--backend", "numba"], "--backend is no option of --suite regression"),
        (["--no-check"], "--no-check is no option of --suite regression"),
        (["--cases", "minst"], "no data set matches 'minst'"),
        (["--solver", "adam"], "no solver has 'adam' in its name"),
        (["--threads", "100000"], "--threads 100000: this process may use"),
    ],
)
def test_wrong_options(arguments, said, capsys):
    assert main(["run", "--suite", "regression", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_solver_needs_the_suite(capsys):
    assert main(["run", "--solver", "lbfgs"]) == 2
    assert "--suite regression" in capsys.readouterr().err


def test_what_was_measured_is_kept_and_drawn_when_it_is_interrupted(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    answers = iter([[{"objective": 2.0, "bound": 0.0}], events((1, 0.1, 3.0), (2, 0.2, 2.0)), KeyboardInterrupt()])

    def answer(*_):
        found = next(answers)
        if isinstance(found, BaseException):
            raise found
        return found, ""

    monkeypatch.setattr(fits, "_apart", answer)
    assert main(["run", "--suite", "regression", "--cases", "digits", "--solver", "softbench,saga"]) == 130
    printed = capsys.readouterr().out
    assert "softbench auto" in printed
    assert "200 ms" in printed
    assert "The run was interrupted" in printed
    (path,) = tmp_path.glob("softbench-results/regression-*.json")
    found = record.read(path)
    assert found["cases"][0]["results"]["softbench auto"]["median"] == 0.2
    assert found["cases"][0]["minimum"] == 2.0
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    for width in (60, 80, 200):
        fit_tables.show(found, console := Console(file=io.StringIO(), width=width))
        assert max(map(len, console.file.getvalue().splitlines())) <= width


def test_a_report_of_fits_and_a_comparison(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    monkeypatch.chdir(tmp_path)

    def answer(limit, folder, number, *_):
        if number < 0:
            return [{"objective": 2.0, "bound": 0.0}], ""
        if number == 1:
            return events((1, 0.1, 3.0)), "cut off"
        return events((1, 0.1, 3.0), (2, 0.2 + number, 2.0)), ""

    monkeypatch.setattr(fits, "_apart", answer)
    solvers = "softbench,scikit-learn lbfgs,sag"
    assert main(["run", "--suite", "regression", "--cases", "digits", "--solver", solvers, "--no-plot"]) == 0
    (path,) = tmp_path.glob("softbench-results/regression-*.json")
    assert main(["compare", str(path), str(path)]) == 0
    assert "softbench auto" in capsys.readouterr().out
    assert main(["report", str(path), "--out", "fits.html"]) == 0
    page = (tmp_path / "fits.html").read_text(encoding="utf-8")
    assert "<h1>Which solver fits softmax regression fastest here</h1>" in page
    assert 'class="take">softbench auto</td>' in page
    assert "cut off, 5.0e-01 above the minimum" in page
    assert 'aria-labelledby="fits-title fits-desc"' in page
    assert "digits,1797,64,10,float64,softbench auto,2,0.2,0.0" in page
    other = record.read(path)
    other["command"] = "run"
    record.write(other, tmp_path / "run.json")
    assert main(["report", str(path), "run.json", "--out", "both.html"]) == 2
    assert "a report is of runs of one suite" in capsys.readouterr().err


@pytest.mark.processes
def test_a_fit_in_a_process_of_its_own(tmp_path):
    config = fits.FitConfig(cases=("digits",), solvers=("softbench", "sag"), seconds=0.5)
    found = fits.run(config)
    assert found["complete"]
    results = found["cases"][0]["results"]
    assert results["softbench auto"]["curve"], results
    assert results["scikit-learn saga"]["curve"], results
    assert results["scikit-learn saga"]["costs"]["peak"] > 50e6
    record.write(found, tmp_path / "record.json")
    assert record.read(tmp_path / "record.json")["command"] == "regression"
