"""The machine: what explains a time, and nobody's name."""

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest

from softbench import machine


def test_fingerprint_says_what_explains_a_time_and_names_nobody(monkeypatch):
    monkeypatch.setattr(machine.platform, "node", lambda: "secret-host")
    monkeypatch.setattr(machine.platform, "release", lambda: "6.1.2-secret-build")
    for name in ("HOSTNAME", "USER", "LOGNAME", "HOME"):
        monkeypatch.setenv(name, "/secret")
    found = machine.fingerprint()
    assert found["cpu"]["model"]
    assert found["usable_cores"] >= 1
    assert found["kernel"] == "6.1.2"
    assert len(found["id"]) == 12
    assert found == machine.fingerprint()
    text = json.dumps([found, machine.versions(), machine.threads()])
    assert "secret" not in text
    assert str(Path.cwd()) not in text
    assert "numpy" in machine.versions()


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """A process in a control group below two others; files by their path from the root."""

    def make(files):
        inner = tmp_path / "a" / "b"
        inner.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(machine, "_control_groups", lambda: [inner, inner.parent, tmp_path])

    return make


def test_the_narrowest_control_group_counts(cgroup):
    cgroup({"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000", "cpu.max": "400000 100000"})
    assert machine.cpu_quota() == 1.5
    cgroup({"a/cpu.max": "max 100000", "cpu.max": "max 100000"})
    assert machine.cpu_quota() is None
    cgroup({"a/b/cpu.stat": "usage_usec 5\nthrottled_usec 2500000\n"})
    assert machine.throttled_seconds() == 2.5
    cgroup({"a/memory.max": "1000000", "a/memory.current": "400000"})
    assert machine.available_memory() == 600_000


def test_own_processor_time_is_not_others():
    if machine.busy_time() is None:
        pytest.skip("the system does not say how busy it is")
    before = machine.process_time([])
    total = 0
    while machine.process_time([]) - before < 0.05:
        total += sum(range(100_000))
    assert machine.busy_time().busy >= machine.process_time([]) - before
    alone = machine.process_time([])
    assert machine.process_time([os.getpgid(0)]) >= alone


def test_the_memory_of_a_call_is_seen():
    if machine.peak_memory_of(lambda: None).total is None:
        pytest.skip("the system does not say how much memory was used")
    size = 64 << 20
    found = machine.peak_memory_of(lambda: np.ones(size // 8))
    assert found.total > size
    if found.call is not None:
        assert found.call == pytest.approx(size, rel=0.2)


def test_garbage_does_not_hide_the_memory_of_a_call():
    """A collection while the memory is looked at frees arrays that nobody has any more."""
    size = 64 << 20

    class Knot:
        def __init__(self):
            self.me, self.array = self, np.ones(2 * size // 8)

    def call():
        gc.collect()
        return np.ones(size // 8)

    Knot()
    found = machine.peak_memory_of(call)
    if found.call is None:
        pytest.skip("the system does not say how much memory a call used")
    assert found.call == pytest.approx(size, rel=0.2)


def test_the_load_average_is_a_number_or_none(monkeypatch):
    assert machine.load_average() >= 0

    def unknown():
        raise OSError

    monkeypatch.setattr(machine.os, "getloadavg", unknown)
    assert machine.load_average() is None
