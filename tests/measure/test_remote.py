"""A backend in a process of its own: whatever it does is a reason, and nobody else's trouble."""

import os
import time

import pytest

from softbench.measure import remote as remotes
from softbench.measure.remote import Remote, RemoteCandidate, RemoteError
from softbench.measure.workloads import custom

pytestmark = pytest.mark.processes

SMALL = custom("softmax", (20, 10)).to_dict()

MISBEHAVING = """
class Prints(NumpyBackend):
    def softmax(self, x, out):
        print('{"answer": 42}')
        os.write(1, b"7\\n")
        os.write(2, b"noise\\n")
        return super().softmax(x, out)

class Raises(NumpyBackend):
    def softmax(self, x, out):
        raise ValueError("not\\ntoday")

class Exits(NumpyBackend):
    def softmax(self, x, out):
        sys.exit(0)

class Quits(NumpyBackend):
    def softmax(self, x, out):
        print("about to quit", flush=True)
        os._exit(0)

class Crashes(NumpyBackend):
    def softmax(self, x, out):
        os.kill(os.getpid(), signal.SIGSEGV)

class Hangs(NumpyBackend):
    def softmax(self, x, out):
        time.sleep(1000)

class ClosesEverything(NumpyBackend):
    def softmax(self, x, out):
        os.closerange(0, 100)
        time.sleep(1000)

class WritesEverywhere(NumpyBackend):
    def softmax(self, x, out):
        for descriptor in range(1, 64):
            try:
                os.write(descriptor, b"7\\n{junk\\n")
            except OSError:
                pass
        return super().softmax(x, out)

class Remembers(NumpyBackend):
    known = None
    def softmax(self, x, out):
        if self.known is None:
            Remembers.known = super().softmax(x, out).copy()
        out[:] = self.known
        return out

class CannotBeMade(NumpyBackend):
    def __init__(self):
        raise OSError("no licence")

class CannotSay(NumpyBackend):
    def info(self):
        raise KeyError("version")
"""
NAMES = {
    "prints": "Prints", "raises": "Raises", "exits": "Exits", "quits": "Quits", "crashes": "Crashes", "hangs": "Hangs",
    "closes": "ClosesEverything", "writes": "WritesEverywhere", "remembers": "Remembers", "unmade": "CannotBeMade",
    "mute": "CannotSay",
}  # fmt: skip


@pytest.fixture
def misbehaving(plugin):
    plugin("trouble", MISBEHAVING, **NAMES)


def test_a_backend_is_asked_judged_and_timed():
    with Remote("numpy") as remote:
        assert remote.ask("availability", name="numpy") == {"ok": True, "kind": "cpu", "reason": "", "install": ""}
        about = remote.ask("open", name="numpy")
        assert about["kind"] == "cpu"
        assert about["cost"] == "compiled"
        assert "softmax" in about["provides"]
        accuracy = remote.ask("load", workload=SMALL)
        assert accuracy["ok"]
        assert 0 < accuracy["max_ulp"] <= 4
        wall, cpu = RemoteCandidate(remote, "call").sample(3, warm=1)
        assert wall > 0
        assert cpu >= 0
        assert remote.ask("looks") == 1
        costs = remote.ask("costs")
        assert costs["peak"] > 1 << 20
        assert costs["to_backend"] >= 0
        described = remote.ask("describe")
        assert described["info"]["name"] == "numpy"
        assert described["threads"]["usable_cores"] >= 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", "plugin 'module_of_trouble:Raises' of trouble: ValueError: not today"),
        ("exits", "Exits' of trouble: SystemExit: 0"),
    ],
)
def test_what_a_backend_raises_is_an_answer(misbehaving, name, words):
    with Remote(name) as remote:
        remote.ask("open", name=name)
        with pytest.raises(RemoteError, match=words) as failure:
            remote.ask("load", workload=SMALL)
        assert failure.value.alive
        assert remote.ask("load", workload=custom("logsumexp", (20, 10)).to_dict())["ok"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quits", r"of trouble: exit status 0 when it ran the case for the first time \(about to quit\)"),
        ("crashes", "of trouble: ended by SIGSEGV when it ran the case for the first time"),
        ("closes", "of trouble: it closed the files of its process"),
        ("writes", "of trouble: it wrote among the answers of its process when it ran the case for the first time"),
    ],
)
def test_a_process_that_ends_is_a_reason(misbehaving, monkeypatch, name, words):
    monkeypatch.setattr(remotes, "_END", 0.5)
    with Remote(name) as remote:
        remote.ask("open", name=name)
        with pytest.raises(RemoteError, match=words) as failure:
            remote.ask("load", workload=SMALL)
        assert not failure.value.alive
        assert failure.value.kind == "crash"
        assert not remote.alive
        with pytest.raises(RemoteError):
            remote.ask("describe")


def test_a_process_that_hangs_is_ended(misbehaving):
    with Remote("hangs") as remote:
        remote.ask("open", name="hangs")
        start = time.monotonic()
        with pytest.raises(RemoteError, match=r"no answer within 0\.5 s when it ran the case") as failure:
            remote.ask("load", workload=SMALL, patience=0.5)
        assert failure.value.kind == "hang"
        assert time.monotonic() - start < 20
        assert not remote.alive


def test_what_a_backend_prints_reaches_nobody(misbehaving, capfd):
    with Remote("prints") as remote:
        remote.ask("open", name="prints")
        assert remote.ask("load", workload=SMALL)["ok"]
        assert remote.ask("sample", what="call", number=2, warm=0)[0] > 0
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_results_of_other_inputs_are_a_kind_of_their_own(misbehaving):
    with Remote("remembers") as remote:
        remote.ask("open", name="remembers")
        assert remote.ask("load", workload=SMALL)["ok"]  # the first time it is right
        with pytest.raises(RemoteError, match="no result of its inputs") as failure:
            remote.ask("sample", what="call", number=1, warm=0)
        assert failure.value.kind == "StaleResultError"


@pytest.mark.parametrize(
    ("name", "words"), [("unmade", "could not be made.*no licence"), ("nobody", "unknown backend")]
)
def test_a_backend_that_cannot_be_made(misbehaving, name, words):
    with Remote(name) as remote, pytest.raises(RemoteError, match=words):
        remote.ask("open", name=name)


def test_the_process_ends_with_its_context():
    with Remote("numpy") as remote:
        pid = remote.child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_environment_variables_can_be_taken_away(monkeypatch):
    monkeypatch.setenv("SOFTBENCH_BACKEND", "numba")
    with Remote("numpy", {"SOFTBENCH_BACKEND": None, "OMP_NUM_THREADS": "1"}) as remote:
        environment = remote.ask("open", name="numpy") and remote.ask("describe")["threads"]["environment"]
    assert environment["OMP_NUM_THREADS"] == "1"
