"""Two records side by side: what became faster or slower, by how much, and how sure that is.

Samples of one run tell how times vary from round to round. Two processes of the same program differ by more than that
(where their memory lies), so every run times one backend of each case in two processes: by how much those differ, two
runs differ by chance. And the machine is not always as fast: by what times of a case drift within a run, two runs
differ besides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from softbench.results.recommend import defect
from softbench.results.record import Record, Result, timed_results
from softbench.results.statistics import Interval

__all__ = ["Change", "Verdict", "changes", "differences", "one_sided", "regressions", "unlike_machines"]

Verdict = Literal["faster", "slower", "same", "too noisy to say", "not compared"]

ALPHA: Final = 0.05
"""How often one of all the cases of a comparison may be called changed where nothing has."""
FEWEST: Final = 5
"""Samples on either side below which nothing is said."""
WIDE: Final = 0.25
"""Intervals that reach further from 1 than that, without a verdict, are too noisy to say anything."""
NOISE: Final = 0.03
"""Of two processes that differ by chance, the standard deviation of the logarithm, where a record has no controls."""
LEAST_NOISE: Final = 0.01


class Change(NamedTuple):
    """One backend on one case, before and after."""

    case: str
    backend: str
    before: float
    after: float
    effect: Interval | None
    """After over before, with its interval, corrected for the number of cases; None with too few samples."""
    p: float | None
    """Brunner-Munzel, corrected (Holm): how probable so much of a difference is between samples of the same."""
    verdict: Verdict
    why: str = ""
    """Of a verdict that says nothing of the time."""

    @property
    def ratio(self) -> float:
        """After over before: below 1 is faster."""
        return self.after / self.before


def changes(before: Record, after: Record, least: float = 0.05) -> list[Change]:
    """Every measurement that both records hold, in the order of the second.

    Parameters
    ----------
    before, after
        Two runs, of the same machine.
    least
        Changes below this are "same", however sure they are.

    Returns
    -------
    list of Change
        Results that are wrong or impossible are not compared: they are no improvement.
    """
    old = {(case["name"], name): result for case, name, result in timed_results(before)}
    pairs = [
        ((case["name"], name), old[case["name"], name], result)
        for case, name, result in timed_results(after)
        if (case["name"], name) in old
    ]
    wrong = {
        key: _wrong(before, key[1], was, "first") or _wrong(after, key[1], now, "second") for key, was, now in pairs
    }
    fit = [(key, was, now) for key, was, now in pairs if not wrong[key] and _enough(was, now)]
    effects = {key: _effect(was["samples"], now["samples"], len(fit), _noise(before, after)) for key, was, now in fit}
    chances = _holm({key: _chance(was["samples"], now["samples"]) for key, was, now in fit})
    found = []
    for key, was, now in pairs:
        effect, chance = effects.get(key), chances.get(key)
        verdict, why = _verdict(effect, chance, least) if not wrong[key] else ("not compared", wrong[key])
        found.append(Change(*key, was["median"], now["median"], effect, chance, verdict, why))
    return found


def _wrong(record: Record, name: str, result: Result, which: str) -> str:
    """What is known against a result."""
    reason = defect(record["backends"].get(name), result)
    return f"{reason} in the {which} run" if reason else ""


def _enough(was: Result, now: Result) -> bool:
    return min(len(was["samples"]), len(now["samples"])) >= FEWEST


def _verdict(effect: Interval | None, chance: float | None, least: float) -> tuple[Verdict, str]:
    if effect is None or chance is None:
        return "too noisy to say", f"fewer than {FEWEST} samples"
    if chance < ALPHA and effect.low > 1.0 and effect.ratio > 1.0 + least:
        return "slower", ""
    if chance < ALPHA and effect.high < 1.0 and effect.ratio < 1.0 / (1.0 + least):
        return "faster", ""
    if effect.low < 1.0 / (1.0 + WIDE) or effect.high > 1.0 + WIDE:
        return "too noisy to say", ""
    return "same", ""


def _noise(*records: Record) -> tuple[float, int]:
    """How far two runs of the same differ by chance: standard deviation of the logarithm, degrees of freedom."""
    found: list[Mapping[str, Any]] = [case.get("stability", {}) for record in records for case in record["cases"]]
    controls = [math.log(case["control"]["ratio"]) for case in found if "control" in case]
    drifts = [math.log(case["drift"]) for case in found if case.get("drift")]
    between_processes = _mean_square(controls) if controls else NOISE**2
    noise = math.sqrt(between_processes + (_mean_square(drifts) if drifts else 0.0))
    return max(LEAST_NOISE, noise), len(controls) or 1000


def _mean_square(numbers: Sequence[float]) -> float:
    return sum(number * number for number in numbers) / len(numbers)


def _effect(before: Sequence[float], after: Sequence[float], comparisons: int, noise: tuple[float, int]) -> Interval:
    """The ratio of two sets of samples (Hodges and Lehmann's estimate) with an interval.

    Its two parts are independent: the interval of the samples, which inverts the Mann-Whitney test, and the noise
    between runs.
    """
    from scipy import stats

    logs = np.sort(np.subtract.outer(np.log(after), np.log(before)).ravel())
    n, m = len(before), len(after)
    alpha = ALPHA / max(1, comparisons)
    reach = stats.norm.isf(alpha / 2) * math.sqrt(n * m * (n + m + 1) / 12)
    cut = max(0, math.floor(n * m / 2 - reach))
    estimate = float(np.median(logs))
    between = float(stats.t.isf(alpha / 2, noise[1])) * noise[0]
    low = estimate - math.hypot(estimate - float(logs[cut]), between)
    high = estimate + math.hypot(float(logs[-1 - cut]) - estimate, between)
    return Interval(math.exp(estimate), math.exp(low), math.exp(high), 1.0 - alpha)


def _chance(before: Sequence[float], after: Sequence[float]) -> float:
    """How probable so much of a difference is between samples of the same: Brunner and Munzel's test."""
    from scipy import stats

    if max(before) < min(after) or max(after) < min(before):
        return 0.0  # for which the test has no number
    if len({*before, *after}) == 1:
        return 1.0
    found = float(stats.brunnermunzel(before, after).pvalue)
    return found if math.isfinite(found) else 1.0


def _holm(chances: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Corrected for their number: that one of all is below `ALPHA` by chance is as rare as of one alone."""
    corrected: dict[tuple[str, str], float] = {}
    least = 0.0
    for i, (key, chance) in enumerate(sorted(chances.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, (len(chances) - i) * chance))
        corrected[key] = least
    return corrected


def regressions(found: Sequence[Change], percent: float, before: Record, after: Record) -> list[str]:
    """What counts as worse, as sentences: slower by more than so many percent, right and wrong now, or failed now."""
    slower = [
        f"{change.case} on {change.backend}: {100 * (change.ratio - 1):.1f}% slower"
        for change in found
        if change.verdict == "slower" and change.ratio > 1 + percent / 100
    ]
    broken = [
        f"{change.case} on {change.backend}: {change.why}"
        for change in found
        if change.verdict == "not compared" and change.why.endswith("second run")
    ]
    return slower + broken + _failed(before, after)


def _failed(before: Record, after: Record) -> list[str]:
    """What was timed in the first run, and raised, crashed or had to be given up in the second, as sentences."""
    results = {case["name"]: case["results"] for case in after["cases"]}
    found = []
    for case, name, _ in timed_results(before):
        backend, result = after["backends"].get(name), results.get(case["name"], {}).get(name, {})
        why = result.get("failed")
        if why is None and "median" not in result and backend is not None and not backend["ok"]:
            why = backend["reason"]
        if why is not None:
            found.append(f"{case['name']} on {name}: fails in the second run: {why}")
    return found


def one_sided(before: Record, after: Record) -> list[str]:
    """What only one of the records has a time of, as sentences."""
    found = []
    sides = [[(case["name"], name) for case, name, _ in timed_results(record)] for record in (before, after)]
    for label, here, there in (("first", *sides), ("second", *reversed(sides))):
        by_case: dict[str, list[str]] = {}
        for case, name in here:
            if (case, name) not in there:
                by_case.setdefault(case, []).append(name)
        found += [f"only in the {label} run: {case} ({', '.join(names)})" for case, names in by_case.items()]
    return found


def unlike_machines(before: Record, after: Record) -> str:
    """Why times of the two cannot be compared at all; empty if they can."""
    if before["machine"].get("id") == after["machine"].get("id"):
        return ""
    models = [str(record["machine"].get("cpu", {}).get("model", "unknown")) for record in (before, after)]
    which = " and ".join(models) if models[0] != models[1] else f"both {models[0]}, of another kind"
    return f"the machines differ ({which}), so that times say nothing about the code"


def differences(before: Record, after: Record) -> list[str]:
    """What makes the two records hard to compare: threads, versions, an interrupted or disturbed run."""
    found = []
    counts = [_threads(record) for record in (before, after)]
    if counts[0] != counts[1]:
        found.append(f"the numbers of threads differ: {counts[0]} -> {counts[1]}")
    for name in sorted({*before["backends"], *after["backends"]}):
        own = [_own_threads(record, name) for record in (before, after)]
        if own[0] is not None and own[1] is not None and own[0] != own[1] and counts[0] == counts[1]:
            found.append(f"the numbers of threads of {name} differ: {own[0]} -> {own[1]}")
    old, new = before["versions"], after["versions"]
    found += [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    for label, record in (("first", before), ("second", after)):
        if not record["complete"]:
            found.append(f"the {label} run was interrupted")
        stability = record.get("stability")
        if stability and stability["verdict"] == "disturbed":
            found.append(f"the {label} run was disturbed: {'; '.join(stability['reasons'])}")
    return found


def _threads(record: Record) -> int | None:
    """How many threads a run had."""
    asked = record.get("config", {}).get("threads")
    usable = record.get("threads", {}).get("usable_cores") or record["machine"].get("usable_cores")
    return asked or usable


def _own_threads(record: Record, name: str) -> int | None:
    """How many threads the library of that name had in the backend's process."""
    backend = record["backends"].get(name)
    entry = backend.get("threads", {}).get(name) if backend else None
    return entry.get("threads") if isinstance(entry, dict) else None
