"""A pytest plugin that puts mutants through the collected tests: each in a fork, as far as the first test that fails.

Everything is imported and collected once. The tests run once on the right code, which says for each how long it takes
and which functions it reaches; a mutant then meets the tests that reach its function, those first that killed another
mutant of that function, then the quickest.

``$SOFTBENCH_MUTANTS`` names a JSON file: ``todo`` lists mutants, ``verdicts`` receives what came of them, as
``killed``, ``timeout`` or ``survived`` and the test that decided, until ``until`` (seconds since the epoch) is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path

from switch import SWITCHES

import softbench.registry

ALLOWED = 20.0  # seconds of CPU beyond five times what the right code takes, until a mutant counts as hanging


def pytest_runtestloop(session):
    """In place of pytest's own loop."""
    path = Path(os.environ["SOFTBENCH_MUTANTS"])
    job = json.loads(path.read_text(encoding="utf-8"))
    reached, seconds = _on_the_right_code(session)
    killers = defaultdict(Counter)
    for mutant, (verdict, test) in job["verdicts"].items():
        if verdict == "killed":
            killers[_function(mutant)][test] += 1
    for mutant in job["todo"]:
        if time.time() > job["until"]:
            break
        function = _function(mutant)
        items = [item for item in session.items if function in reached[item]]
        items.sort(key=lambda item: (-killers[function][item.nodeid], seconds[item]))
        verdict = _judge(mutant, items, sum(seconds[item] for item in items)) if items else ("no tests", "")
        if verdict[0] == "killed":
            killers[function][verdict[1]] += 1
        job["verdicts"][mutant] = verdict
        path.write_text(json.dumps(job), encoding="utf-8")
    return True


def _function(mutant):
    return mutant.rpartition("__mutmut_")[0]


def _on_the_right_code(session):
    """By test: the functions it reaches, and the time it takes."""
    reached, seconds = {}, {}
    for item in session.items:
        for switch in SWITCHES.values():
            switch.reached = False
        softbench.registry._instances.clear()  # made anew, so that what makes a backend is reached by every test
        start = time.perf_counter()
        if not _passes(item):
            raise session.Failed(f"{item.nodeid} fails on the right code")
        seconds[item] = time.perf_counter() - start
        reached[item] = {name for name, switch in SWITCHES.items() if switch.reached}
    return reached, seconds


def _passes(item):
    before = item.session.testsfailed
    item.session.testsfailed = 0
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    passed = not item.session.testsfailed
    item.session.testsfailed = before
    return passed


def _judge(mutant, items, due):
    """The verdict on one mutant, by a child that runs the tests in order."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            _die_after(due)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            softbench.registry._instances.clear()
            SWITCHES[_function(mutant)].choose(mutant.rpartition(".")[2])
            for item in items:
                os.write(writing, f"{item.nodeid}\n".encode())
                if not _passes(item):
                    os._exit(1)
            os._exit(0)
        os._exit(1)  # a mutant that breaks pytest itself
    os.close(writing)
    with os.fdopen(reading) as lines:
        last = ""
        for line in lines:
            last = line.strip()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 0:
        return "survived", ""
    return ("killed" if status > 0 else "timeout" if status in (-signal.SIGXCPU, -signal.SIGALRM) else "killed"), last


def _die_after(due):
    """SIGXCPU for a mutant that runs on, SIGALRM for one that waits."""
    limit = int(5 * due + ALLOWED)
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + limit, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(5 * limit)
