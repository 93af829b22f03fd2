"""The numba backend against PyTorch, JAX, ONNX Runtime and the machine's memory, goal by goal.

    python -m benchmarks.studies goals [PATTERN ...] [--peers NAME,...] [--seconds S] [--out FILE.json]
    python -m benchmarks.studies goals --table FILE.json    # the table of docs/performance.md, of a run that was saved

All candidates of a goal take turns in a process of their own (`softbench.measure.timing`), beside the parallel copy
(or reading) of the same bytes; what counts are the ratios of the medians. Peers that are missing are left out and
named; ``pip install -e ".[bench,peers]" -c benchmarks/peers.txt`` provides all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import softbench as sb
from softbench import machine, processes
from softbench.measure.ceiling import ceiling
from softbench.measure.timing import Candidate, Timing, interleave
from softbench.registry import DISTRIBUTIONS
from softbench.results.units import duration, three_digits

SCHEMA: Final = "softbench.goals/1"


class Goal(NamedTuple):
    """What to time, and how much faster than each peer, and how near the limit, it is to be."""

    op: str
    shape: tuple[int, int]
    faster: dict[str, float]
    """At least so many times as fast as this peer."""
    within: float | None = None
    """At most so many times the duration of the copy (or the reading) of the same bytes."""
    out: bool = True
    """Into a preallocated array; else into a new one per call."""
    axis: int = 1
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """``op-NxK-dtype[-out][-axis0]``."""
        suffix = {"float32": "f32", "float64": "f64"}[self.dtype]
        place = ("-out" if self.out and self.op != "loss" else "") + ("-axis0" if self.axis == 0 else "")
        return f"{self.op}-{self.shape[0]}x{self.shape[1]}-{suffix}{place}"


_LARGE, _LLAMA3, _IMAGENET, _MNIST = (2048, 32768), (512, 128_256), (4096, 1000), (60_000, 10)

# Large rows are bound by memory, small ones by the call; between them lie ImageNet and MNIST. Doubles move twice the
# bytes for half the lanes; the factors asked of them are a third less.
_FIRST: Final = (
    Goal("softmax", _LARGE, {"torch": 2.0}, 1.35),
    Goal("softmax", _LLAMA3, {"torch": 1.8}, 1.6),
    Goal("softmax", _LARGE, {"torch": 3.0}, out=False),
    Goal("softmax", _LLAMA3, {"torch": 3.0}, out=False),
    Goal("loss_and_gradient", _LARGE, {"torch": 12.0}, 1.6),
    Goal("loss_and_gradient", _LLAMA3, {"torch": 12.0}, 1.6),
    Goal("loss", _LLAMA3, {"torch": 5.0}, 1.3),
    Goal("softmax", _IMAGENET, {"torch": 1.6}),
    Goal("loss_and_gradient", _IMAGENET, {"torch": 8.0}),
)
LIMIT: Final = 3600.0
"""Seconds after which the process of a goal ends, whatever becomes of the study."""

GOALS: Final = (
    *_FIRST,
    Goal("softmax", _MNIST, {"torch": 12.0, "jax": 1.5, "onnxruntime": 1.5}),
    Goal("loss_and_gradient", _MNIST, {"torch": 15.0, "jax": 1.5}),
    Goal("softmax", (1_000_000, 2), {"torch": 10.0}),
    Goal("softmax", (32, 1 << 20), {"torch": 1.5}),
    Goal("softmax", (1000, 4096), {"torch": 1.3}, axis=0),
    Goal("softmax", (64, 10), {"torch": 3.0}, out=False),
    Goal("softmax", (1, 10), {"torch": 1 / 1.25}, out=False),
    *(goal._replace(dtype="float64", faster={"torch": goal.faster["torch"] * 2 / 3}, within=None) for goal in _FIRST),
)


# -- candidates: each makes a call without arguments, or raises ImportError or NotImplementedError ---------------------


def _numba(goal: Goal, x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    options: dict[str, Any] = {"axis": goal.axis, "backend": "numba"}
    if goal.out and goal.op != "loss":
        options["out"] = np.zeros_like(x)
    if goal.op == "softmax":
        return lambda: sb.softmax(x, **options)
    function = getattr(sb, goal.op)
    return lambda: function(x, y, **options)


def _torch(goal: Goal, x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    import torch

    logits, labels = torch.from_numpy(x), torch.from_numpy(y)
    cross_entropy = torch.nn.functional.cross_entropy
    if goal.op == "softmax":
        if not goal.out:
            return lambda: torch.softmax(logits, goal.axis)
        out = torch.zeros_like(logits)
        return lambda: torch.softmax(logits, goal.axis, out=out)
    if goal.op == "loss":

        def forward() -> Any:
            with torch.no_grad():
                return cross_entropy(logits, labels)

        return forward
    leaf = logits.clone().requires_grad_()

    def forward_backward() -> Any:
        leaf.grad = None
        loss = cross_entropy(leaf, labels)
        loss.backward()
        return loss, leaf.grad

    return forward_backward


def _jax(goal: Goal, x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    import jax

    jax.config.update("jax_enable_x64", True)
    logits, labels = jax.numpy.asarray(x), jax.numpy.asarray(y)

    def loss(o: Any) -> Any:
        log_p = jax.nn.log_softmax(o, axis=goal.axis)
        return -jax.numpy.mean(jax.numpy.take_along_axis(log_p, labels[:, None], 1))

    function = {
        "softmax": lambda o: jax.nn.softmax(o, axis=goal.axis),
        "loss": loss,
        "loss_and_gradient": jax.value_and_grad(loss),
    }[goal.op]
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(logits))


def _onnxruntime(goal: Goal, x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    if goal.op != "softmax":
        raise NotImplementedError("inference only: no loss in this runtime")
    import onnxruntime
    from onnx import TensorProto, helper

    kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[goal.dtype]
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["p"], axis=goal.axis)],
        "softmax",
        [helper.make_tensor_value_info("x", kind, goal.shape)],
        [helper.make_tensor_value_info("p", kind, goal.shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = machine.usable_cores()
    # Its threads go on spinning after a call, on the cores of whoever is measured next.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    if not goal.out:
        return lambda: session.run(None, {"x": x})
    binding = session.io_binding()
    given, out = onnxruntime.OrtValue.ortvalue_from_numpy(x), np.zeros_like(x)
    binding.bind_ortvalue_input("x", given)
    binding.bind_output("p", "cpu", 0, x.dtype, x.shape, out.ctypes.data)
    return lambda: (session.run_with_iobinding(binding), out)


PEERS: Final = {"torch": _torch, "jax": _jax, "onnxruntime": _onnxruntime}


# -- one goal ----------------------------------------------------------------------------------------------------


def measure(goal: Goal, seconds: float, peers: list[str]) -> dict[str, Any]:
    """Time everybody who can; a record for the JSON file."""
    rng = np.random.Generator(np.random.SFC64(1))
    x = rng.standard_normal(goal.shape, dtype=np.dtype(goal.dtype).type)
    x *= x.dtype.type(4.0)
    y = rng.integers(0, goal.shape[1], goal.shape[0])
    arms, absent = {"numba": Candidate(_numba(goal, x, y))}, {}
    for name in peers:
        try:
            arms[name] = Candidate(PEERS[name](goal, x, y))
        except (ImportError, NotImplementedError) as error:
            absent[name] = str(error)
    operation = "read" if goal.op == "loss" else "copy"
    limit = None if x.size < 1 << 16 else ceiling(operation, x.nbytes)
    if limit:
        arms[operation] = limit.candidate
    timings = interleave(arms, seconds)
    ours = timings["numba"]
    verdicts = {
        f"{name} / numba": (timings[name].median / ours.median, ">=", factor)
        for name, factor in goal.faster.items()
        if name in timings
    }
    if goal.within and limit:
        verdicts[f"numba / {operation}"] = (ours.median / timings[operation].median, "<=", goal.within)
    return {
        "name": goal.name,
        "method": limit.method if limit else None,
        "times": {name: _spread(timing) for name, timing in timings.items()},
        "absent": absent,
        "verdicts": {what: _verdict(*compared) for what, compared in verdicts.items()},
    }


def _alone(goal: Goal, seconds: float, peers: list[str]) -> tuple[dict[str, Any], Any]:
    """`measure`, and how many threads every library has, for a process of its own."""
    return measure(goal, seconds, peers), machine.threads()


def _verdict(ratio: float, sign: str, bound: float) -> dict[str, Any]:
    return {"ratio": ratio, "goal": f"{sign} {bound:.3g}", "met": ratio >= bound if sign == ">=" else ratio <= bound}


def _spread(timing: Timing) -> dict[str, Any]:
    low, high = timing.quartiles
    return {"median": timing.median, "quartiles": [low, high], "samples": len(timing.samples), "cores": timing.cores}


def _row(entry: dict[str, Any], columns: list[str]) -> list[str]:
    cells = [entry["name"]]
    for name in columns:
        time = entry["times"].get(name)
        cells.append("" if time is None else f"{duration(time['median'])} ±{_relative_spread(time):.0%}")
    verdicts = entry["verdicts"].items()
    lines = [f"{what} {v['ratio']:.2f} ({v['goal']}) {'met' if v['met'] else 'NOT met'}" for what, v in verdicts]
    return [*cells, "\n".join(lines)]


def table(record: dict[str, Any]) -> list[str]:
    """Lines of Markdown: per goal how many times as long peers take, and numba compared with the limit; misses bold."""
    names = {"torch": "torch", "jax": "JAX", "onnxruntime": "ONNX Runtime"}
    lines = [f"| case | numba | {' | '.join(names.values())} | numba / limit |", "|---" * (3 + len(names)) + "|"]
    for goal in record["goals"]:
        medians = {name: time["median"] for name, time in goal["times"].items()}
        ours = medians["numba"]
        cells = [goal["name"], duration(ours)]
        for name in names:
            ratio = f"{three_digits(medians[name] / ours)}x" if name in medians else ""
            cells.append(_marked(ratio, goal["verdicts"].get(f"{name} / numba")))
        limit = medians.get("copy", medians.get("read"))
        verdict = goal["verdicts"].get("numba / copy", goal["verdicts"].get("numba / read"))
        cells.append(_marked(_of_limit(ours, limit), verdict))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _of_limit(time: float, limit: float | None) -> str:
    """A time in units of the limit's. One below the limit is none: something was wrong with that limit."""
    if not limit:
        return ""
    return f"{time / limit:.2f}" if time >= limit else "refused"


def _marked(ratio: str, verdict: dict[str, Any] | None) -> str:
    """A ratio; bold, with what was asked of it, where that was missed."""
    return f"**{ratio}** (goal {verdict['goal'].split()[1]})" if verdict and not verdict["met"] else ratio


def _relative_spread(time: dict[str, Any]) -> float:
    low, high = time["quartiles"]
    return float((high - low) / 2 / time["median"])


def goals(arguments: Sequence[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies goals", description=str(__doc__).split("\n\n")[0]
    )
    parser.add_argument("patterns", nargs="*", default=["*"], help="shell patterns of names of goals")
    parser.add_argument("--seconds", type=float, default=4.0, help="time per goal")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; may be empty")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--table", type=Path, metavar="FILE", help="measure nothing, print that JSON as Markdown")
    parsed = parser.parse_args(arguments)
    if parsed.table:
        print("\n".join(table(json.loads(parsed.table.read_text()))))
        return 0
    goals = [goal for goal in GOALS if any(fnmatch.fnmatch(goal.name, pattern) for pattern in parsed.patterns)]
    if not goals:
        parser.error(f"no goal matches {' '.join(parsed.patterns)}; there are {', '.join(g.name for g in GOALS)}")
    asked = [name for name in parsed.peers.split(",") if name]
    if unknown := sorted(set(asked) - set(PEERS)):
        parser.error(f"unknown peers {', '.join(unknown)}; there are {', '.join(PEERS)}")
    peers = [name for name in asked if importlib.util.find_spec(name)]
    console = Console(stderr=False)
    for name in asked:
        if name not in peers:
            console.print(f"{name} is not installed: left out")
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "machine": machine.fingerprint(),
        "versions": machine.versions(DISTRIBUTIONS) | {name: importlib.metadata.version(name) for name in peers},
        "threads": None,  # as libraries have them when they are loaded
        "goals": [],
    }
    # A process for each: with what peers keep of earlier cases, short calls take longer.
    fresh = ProcessPoolExecutor(
        1,
        mp_context=get_context("spawn"),
        max_tasks_per_child=1,
        initializer=processes.end_with_parent,
        initargs=(os.getpid(), LIMIT),
    )
    with contextlib.suppress(KeyboardInterrupt), fresh:
        for goal in goals:
            with console.status(goal.name):
                entry, record["threads"] = fresh.submit(_alone, goal, parsed.seconds, peers).result()
            record["goals"].append(entry)
            _print(console, record["goals"][-1:], peers, header=len(record["goals"]) == 1)
    if parsed.out:
        parsed.out.write_text(json.dumps(record, indent=1) + "\n")
    missed = [entry["name"] for entry in record["goals"] if not all(v["met"] for v in entry["verdicts"].values())]
    console.print(f"{len(record['goals']) - len(missed)} of {len(record['goals'])} goals met")
    return 0


def _print(console: Console, entries: list[dict[str, Any]], peers: list[str], header: bool) -> None:
    columns = ["numba", *peers, "copy", "read"]
    table = Table(show_header=header, box=None, pad_edge=False)
    table.add_column("goal", width=36)
    for name in columns:
        table.add_column(name, width=14, justify="right")
    table.add_column("verdict", min_width=44)
    for entry in entries:
        table.add_row(*_row(entry, columns))
    console.print(table)
