"""The host logic of the GPU self-test, with NumPy standing in for a device. Nothing here ran on a GPU."""

import json
import time

import numpy as np
import pytest

import softbench
from softbench import gpu_selftest
from softbench.gpu_contestants import Clock, Contestant
from softbench.gpu_selftest import benchmark, main


class FakeClock(Clock):
    """Host time as device time."""

    def span(self, calls, n):
        start = time.perf_counter()
        for i in range(n):
            calls[i % len(calls)]()
        return (time.perf_counter() - start) / n

    def synchronize(self):
        pass


class Fake(Contestant):
    """The numpy backend under another name."""

    ours = True

    def __init__(self, name="fake", factor=1.0):
        self.name = name
        self.clock = FakeClock()
        self.backend = softbench.get_backend("numpy")
        self.factor = factor

    def upload(self, host):
        return np.array(host)

    def download(self, array):
        return array

    def call(self, op, logits, labels):
        arguments = (logits,) if "softmax" in op else (logits, labels)
        return lambda: getattr(self.backend, op)(*arguments)

    def judged(self, op, logits, labels):
        if "softmax" in op:
            return {op: getattr(self.backend, op)(logits) * logits.dtype.type(self.factor)}
        losses, gradient = self.backend.loss_and_gradient(logits, labels, reduction="none")
        return {"loss": losses} if op == "loss" else {"loss": losses, "gradient": gradient}

    def copy(self, source, target):
        return lambda: np.copyto(target, source)


class Picky(Fake):
    def call(self, op, logits, labels):
        raise NotImplementedError(f"no {op} here\nand more")


class Idle(Fake):
    """Does no work, so moves its bytes impossibly fast."""

    def call(self, op, logits, labels):
        return lambda: None


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_selftest, "ELEMENTS", 1 << 14)
    monkeypatch.setattr(gpu_selftest, "CLASSES", (256, 1024))
    monkeypatch.setattr(gpu_selftest, "DTYPES", ("float32", "float16"))
    monkeypatch.setattr(gpu_selftest, "SMALL", ((1, 10),))
    monkeypatch.setattr(gpu_selftest, "COLD_BYTES", 1 << 18)
    monkeypatch.setattr(gpu_selftest, "SPAN_SECONDS", 1e-4)
    monkeypatch.setattr(gpu_selftest, "MIN_BENCHMARK_SECONDS", 0.0)


def test_without_a_gpu_it_says_why_and_fails(capsys):
    if any(state.ok and state.kind == "gpu" for state in softbench.available_backends().values()):
        pytest.skip("there is a GPU here")
    assert main([]) == 1
    told = capsys.readouterr()
    assert "not here: cupy: " in told.out
    assert "not here: numba_cuda: " in told.out
    assert "No GPU backend" in told.out
    assert "Traceback" not in told.out + told.err


def test_every_operation_is_measured_and_judged():
    found = benchmark([Fake()], 60.0, lambda text: None)
    ops = {(row["op"], row["k"], row["dtype"]) for row in found["rows"]}
    assert len(ops) == len(found["rows"]) == 4 * (1 + 2 * 2)
    for row in found["rows"]:
        assert "skipped" not in row or "impossible" in row["skipped"]
        assert row["within_contract"], row
    assert found["left_out"] == []
    assert all(best["copy"] > 0 for best in found["ceilings"].values())


def test_a_wrong_result_is_beyond_the_contract():
    (row,) = gpu_selftest._measure([Fake(factor=1.001)], "softmax", (64, 256), "float32", None)
    assert not row["within_contract"]
    assert row["max_ulp"] > 1000


def test_figures_above_the_limit_are_refused():
    row, fine = gpu_selftest._measure([Idle("idle"), Fake()], "softmax", (64, 256), "float32", 1e10)
    assert "impossible" in row["skipped"]
    assert not {"kernel_seconds", "bandwidth", "call_seconds", "fraction"} & set(row)
    assert 0 < fine["fraction"] < 1


def test_one_that_cannot_do_it_says_so_and_the_others_go_on():
    picky, fine = gpu_selftest._measure([Picky("picky"), Fake()], "loss", (64, 256), "float32", None)
    assert picky["skipped"] == "NotImplementedError: no loss here"
    assert fine["kernel_seconds"] > 0


def test_what_there_was_no_time_for_is_named():
    found = benchmark([Fake()], 0.0, lambda text: None)
    assert found["rows"] == []
    assert any("no time left" in line for line in found["left_out"])


def test_ctrl_c_keeps_what_was_measured():
    def interrupt(text):
        if "log_softmax" in text:
            raise KeyboardInterrupt

    found = benchmark([Fake()], 60.0, interrupt)
    assert found["interrupted"]
    assert len(found["rows"]) == 1


def test_rotating_buffers_outrun_the_cache(monkeypatch):
    monkeypatch.setattr(gpu_selftest, "COLD_BYTES", 256 << 20)
    assert gpu_selftest._rotation(1 << 29) == 1
    assert gpu_selftest._rotation(64 << 20) == 4
    assert gpu_selftest._rotation(80) == 64


def test_the_whole_of_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu_selftest, "contestants", lambda: iter([Fake("numpy"), "torch: torch is not installed"]))
    verdict = {"ok": True, "counts": {"passed": 3}, "failures": []}
    monkeypatch.setattr(gpu_selftest, "_conformance", lambda player, profile: verdict)
    assert main(["--out", "gpu.json", "--seconds", "20"]) == 0
    told = capsys.readouterr().out
    assert "not here: torch" in told
    assert "limit at" in told
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["schema"] == gpu_selftest.SCHEMA
    assert found["rows"]
    assert found["devices"]["numpy"]["name"] == "numpy"
    monkeypatch.setattr(
        gpu_selftest, "_conformance", lambda player, profile: verdict | {"ok": False, "failures": ["x: y"]}
    )
    assert main(["--out", "gpu.json", "--seconds", "0.01"]) == 1
    assert "WRONG x: y" in capsys.readouterr().out
