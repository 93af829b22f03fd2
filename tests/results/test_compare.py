"""Two runs side by side: what is called changed has changed, and what is wrong is no improvement."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import records

from softbench.cli import main
from softbench.results import compare, record


def verdicts(before, after, **options):
    return [change.verdict for change in compare.changes(before, after, **options)]


def two(was, now, **more):
    """A run before and one after, of one backend on one case."""
    return records.run([records.case({"x": records.timed(was)})], **more), records.run(
        [records.case({"x": records.timed(now)})], **more
    )


def around(median, spread=0.01, n=15):
    return median * (1 + spread * np.linspace(-1, 1, n))


# -- verdicts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        (around(1.0), "same"),
        (around(1.3), "slower"),
        (around(0.7), "faster"),
        (around(1.03), "same"),  # below what counts
        (around(1.3, n=4), "too noisy to say"),  # too few
        (around(1.1, spread=0.9), "too noisy to say"),
    ],
)
def test_a_change_is_called_one_where_it_is_sure_and_large_enough(now, verdict):
    assert verdicts(*two(around(1.0), now)) == [verdict]


def test_the_effect_has_an_interval_that_holds_the_truth():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        was, now = records.noisy(rng, 1.0), records.noisy(rng, 1.2)
        (change,) = compare.changes(
            *(records.run([records.case({"x": records.timed(s)}, control=np.exp(0.02))]) for s in (was, now))
        )
        held += change.effect.low <= 1.2 <= change.effect.high
    assert held >= 185


def test_how_far_one_differs_from_itself_is_no_change():
    """Processes that differ by a fifth by chance, as the controls say, make a change of a fifth no news."""
    was, now = (
        records.run([records.case({"x": records.timed(around(t))}, name=f"c{i}", control=1.2) for i in range(3)])
        for t in (1.0, 1.2)
    )
    assert set(verdicts(was, now)) == {"too noisy to say"}
    quiet = [
        records.run([records.case({"x": records.timed(around(t))}, name=f"c{i}", control=1.01) for i in range(3)])
        for t in (1.0, 1.2)
    ]
    assert set(verdicts(*quiet)) == {"slower"}


@pytest.mark.parametrize(("drifts", "verdict"), [((1.3, 0.9), "too noisy to say"), ((1.02, 0.99), "slower")])
def test_what_times_drift_within_a_run_is_no_change_between_runs(drifts, verdict):
    """As two runs of the same program on a machine whose clock went from 1 to 1.4 and back."""
    was, now = (
        records.run([records.case({"x": records.timed(around(t))}, name=f"c{i}", control=1.02, drift=d) for i in "ab"])
        for t, d in zip((1.0, 1.36), drifts, strict=True)
    )
    assert set(verdicts(was, now)) == {verdict}


def a_run(rng, cases=10, factor=1.0):
    """A run of some cases on three backends, with the controls that it would have."""
    made = []
    for i in range(cases):
        results = {name: records.timed(records.noisy(rng, t * factor)) for name, t in (("a", 1), ("b", 3), ("c", 9))}
        control = np.median(records.noisy(rng, 1.0)) / np.median(records.noisy(rng, 1.0))
        made.append(records.case(results, name=f"case{i}", control=float(control)))
    return records.run(made)


@pytest.mark.thorough
def test_two_runs_of_the_same_are_the_same():
    """Of 50 comparisons of 30 results each, at most two have an alarm: less than one in twenty."""
    rng = np.random.default_rng(1)
    alarms = sum(
        any(verdict in ("faster", "slower") for verdict in verdicts(a_run(rng), a_run(rng))) for _ in range(50)
    )
    assert alarms <= 2


def test_a_planted_slowdown_is_found():
    rng = np.random.default_rng(2)
    found = [verdicts(a_run(rng), a_run(rng, factor=1.25)) for _ in range(10)]
    assert sum(verdict == "slower" for row in found for verdict in row) > 0.9 * sum(map(len, found))


@pytest.mark.thorough
def test_without_the_correction_there_would_be_alarms(monkeypatch):
    """The test above can fail: the samples of two processes alone differ surely, and often by more than the least."""
    rng = np.random.default_rng(1)
    monkeypatch.setattr(compare, "_noise", lambda *records: (0.0, 1000))
    monkeypatch.setattr(compare, "_holm", lambda chances: chances)
    alarms = sum(
        any(verdict in ("faster", "slower") for verdict in verdicts(a_run(rng), a_run(rng))) for _ in range(20)
    )
    assert alarms > 5


# -- what is not compared ----------------------------------------------------------------------------------------------

WRONG = {"ok": False, "max_ulp": 1e6, "elements": 1, "detail": "off"}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"accuracy": WRONG}, "wrong on this case in the second run"),
        ({"impossible": True}, "above the limit, which is impossible in the second run"),
        ({"failed": "ended by SIGSEGV"}, "ended by SIGSEGV in the second run"),
    ],
)
def test_what_is_wrong_is_never_faster(more, why):
    before = records.run([records.case({"x": records.timed(around(1.0))})])
    after = records.run([records.case({"x": records.timed(around(0.1), **more)})])
    (change,) = compare.changes(before, after)
    assert (change.verdict, change.why) == ("not compared", why)
    assert compare.regressions([change], 5.0, before, after)
    (change,) = compare.changes(after, before)
    assert change.verdict == "not compared"
    assert not compare.regressions([change], 5.0, after, before)


def test_who_fails_the_checks_is_never_faster():
    before = records.run([records.case({"x": records.timed(around(1.0))})])
    after = records.run([records.case({"x": records.timed(around(0.1))})], {"x": records.backend(conforms=False)})
    assert verdicts(before, after) == ["not compared"]
    unchecked = records.run([records.case({"x": records.timed(around(0.1))})], {"x": records.backend(conforms=None)})
    assert verdicts(unchecked, unchecked) == ["same"]  # run with --no-check, both of them


def test_what_fails_now_is_a_regression():
    before = records.run([records.case({"x": records.timed(around(1.0)), "y": records.timed(around(1.0))}, name="c")])
    raised = records.run([records.case({"x": {"failed": "ValueError: no"}, "y": {"skipped": "slow"}}, name="c")])
    assert compare.regressions([], 5.0, before, raised) == ["c on x: fails in the second run: ValueError: no"]
    assert not compare.regressions([], 5.0, raised, before)
    gone = {"x": records.backend(ok=False, reason="ImportError: no library"), "y": records.backend()}
    absent = records.run([records.case({"y": records.timed(around(1.0))}, name="c")], gone)
    assert compare.regressions([], 5.0, before, absent) == ["c on x: fails in the second run: ImportError: no library"]


def test_what_one_run_lacks_is_said():
    before = records.run([records.case({"x": records.timed(around(1.0)), "y": records.timed(around(1.0))}, name="c")])
    after = records.run(
        [
            records.case({"x": records.timed(around(1.0)), "y": {"skipped": "slow"}}, name="c"),
            records.case({"x": records.timed(around(1.0))}, name="d"),
        ]
    )
    assert compare.one_sided(before, after) == ["only in the first run: c (y)", "only in the second run: d (x)"]


def test_what_differs_is_said():
    before = records.run([], {"numba": records.backend(threads={"numba": {"threads": 2}})}, versions={"numpy": "2.0"})
    after = records.run(
        [], {"numba": records.backend(threads={"numba": {"threads": 1}})}, versions={"numpy": "2.1"}, complete=False,
        stability={"verdict": "disturbed", "reasons": ["others used 1.0 of 2 processors"]},
    )  # fmt: skip
    text = " ".join(compare.differences(before, after))
    assert "threads of numba differ: 2 -> 1" in text
    assert "numpy: 2.0 -> 2.1" in text
    assert "second run was interrupted" in text
    assert "second run was disturbed: others used 1.0" in text
    after = records.run([], config={"threads": 1})
    assert "the numbers of threads differ: 2 -> 1" in " ".join(compare.differences(before, after))
    assert compare.unlike_machines(before, after) == ""
    assert "machines differ" in compare.unlike_machines(before, records.run([], machine={"id": "other"}))


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    def save(name, found):
        record.write(found, tmp_path / name)
        return str(tmp_path / name)

    return save


def test_the_command_says_what_changed(saved, capsys):
    before = records.run([records.case({"x": records.timed(around(1e-3)), "y": records.timed(around(1e-3))})])
    after = records.run([records.case({"x": records.timed(around(2e-3)), "y": records.timed(around(1e-3))})])
    a, b = saved("a.json", before), saved("b.json", after)
    assert main(["compare", a, b]) == 0
    printed = capsys.readouterr().out
    assert "slower   softmax-4096x1000-f32  x" in printed
    assert "1 slower, 1 same" in printed
    assert main(["compare", a, b, "--fail-on-regression", "50"]) == 1
    assert "softmax-4096x1000-f32 on x: 100.0% slower" in capsys.readouterr().err
    assert main(["compare", a, b, "--fail-on-regression", "150"]) == 0
    assert main(["compare", b, a, "--fail-on-regression", "5"]) == 0


def test_markdown_shows_what_changed_and_folds_the_rest(saved, capsys):
    before = records.run([records.case({"x": records.timed(around(1e-3)), "y": records.timed(around(1e-3))})])
    after = records.run([records.case({"x": records.timed(around(2e-3)), "y": records.timed(around(1e-3))})])
    assert main(["compare", saved("a.json", before), saved("b.json", after), "--markdown"]) == 0
    head, _, rest = capsys.readouterr().out.partition("<details>")
    assert head.startswith("### softbench: 1 slower, 1 same\n")
    assert "| 🔴 slower | softmax-4096x1000-f32 | x |" in head
    assert "| same | softmax-4096x1000-f32 | y |" in rest


def test_unlike_machines_are_refused(saved, capsys):
    before = records.run([records.case({"x": records.timed(around(1.0))})])
    after = records.run([records.case({"x": records.timed(around(1.0))})], machine={"id": "other", "usable_cores": 2})
    a, b = saved("a.json", before), saved("b.json", after)
    assert main(["compare", a, b]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["compare", a, b, "--force"]) == 0
    assert "note: the machines differ" in capsys.readouterr().out


def test_nothing_in_common_is_an_error(saved, capsys):
    a = saved("a.json", records.run([records.case({"x": records.timed(around(1.0))})]))
    b = saved("b.json", records.run([records.case({"y": records.timed(around(1.0))})]))
    assert main(["compare", a, b]) == 2
    assert "no measurement in common; only in the first run" in capsys.readouterr().err


def test_what_is_wrong_says_so(saved, capsys):
    a = saved("a.json", records.run([records.case({"x": records.timed(around(1.0))})]))
    b = saved("b.json", records.run([records.case({"x": records.timed(around(0.1), accuracy=WRONG)})]))
    assert main(["compare", a, b, "--fail-on-regression", "5"]) == 1
    printed = capsys.readouterr()
    assert "note: softmax-4096x1000-f32 on x is not compared: wrong on this case in the second run" in printed.out
    assert "wrong on this case in the second run" in printed.err


def test_a_file_that_was_edited_is_refused_by_path_and_field(saved, capsys, tmp_path):
    a = saved("a.json", records.run([records.case({"x": records.timed(around(1.0))})]))
    found = json.loads(Path(a).read_text())
    found["cases"][0]["results"]["x"]["median"] = 0
    (tmp_path / "b.json").write_text(json.dumps(found))
    assert main(["compare", a, str(tmp_path / "b.json")]) == 2
    printed = capsys.readouterr().err
    assert "b.json: cases[0].results.x.median is 0, expected a number more than 0" in printed
    assert "Traceback" not in printed
