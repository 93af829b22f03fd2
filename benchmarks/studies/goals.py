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
from softbench.measure.inputs import make_inputs
from softbench.measure.records import case_record, ceiling_record, result_record
from softbench.measure.run import beginning
from softbench.measure.timing import Candidate, Timing, interleave
from softbench.measure.workloads import TargetForm, Where, Workload, custom
from softbench.results.record import CaseRecord, Record, Result, read, write
from softbench.results.units import duration, three_digits


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
    target: TargetForm = "index"
    """Of losses and gradients: class indices, or distributions (``soft``)."""

    @property
    def workload(self) -> Workload:
        """What is timed."""
        target = self.target if self.op in ("loss", "loss_and_gradient") else None
        result: Where = "out" if self.out else "fresh"
        return custom(self.op, self.shape, self.dtype, result=result, target=target, axis=self.axis)

    @property
    def name(self) -> str:
        """That of the workload: ``op-NxK-dtype[-soft][-out][-axis0]``."""
        return self.workload.name


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
    Goal("loss", (1, 10), {"torch": 1.0}),
    Goal("loss_and_gradient", (1, 10), {"torch": 1.0}, out=False),
    Goal("log_softmax", (1000, 4096), {"torch": 1.0}, axis=0),
    Goal("log_softmax", _MNIST, {"torch": 1.0}),
    *(Goal("loss", (60_000, k), {"torch": 1.0}, target="soft") for k in (10, 64)),
    *(Goal("loss_and_gradient", (60_000, k), {"torch": 1.0}, target="soft") for k in (10, 64)),
    *(goal._replace(dtype="float64", faster={"torch": goal.faster["torch"] * 2 / 3}, within=None) for goal in _FIRST),
)


# -- candidates: each makes a call without arguments, or raises ImportError or NotImplementedError ---------------------


def _numba(goal: Goal, x: np.ndarray, y: np.ndarray | None) -> Callable[[], Any]:
    options: dict[str, Any] = {"axis": goal.axis, "backend": "numba"}
    if goal.out and goal.op != "loss":
        options["out"] = np.zeros_like(x)
    function = getattr(sb, goal.op)
    if y is None:
        return lambda: function(x, **options)
    return lambda: function(x, y, **options)


def _torch(goal: Goal, x: np.ndarray, y: np.ndarray | None) -> Callable[[], Any]:
    import torch

    logits = torch.from_numpy(x)
    cross_entropy = torch.nn.functional.cross_entropy
    if y is None:
        function = getattr(torch, goal.op)
        if not goal.out:
            return lambda: function(logits, goal.axis)
        out = torch.zeros_like(logits)
        return lambda: function(logits, goal.axis, out=out)
    labels = torch.from_numpy(y)
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


def _jax(goal: Goal, x: np.ndarray, y: np.ndarray | None) -> Callable[[], Any]:
    import jax

    jax.config.update("jax_enable_x64", True)
    logits, labels = jax.numpy.asarray(x), None if y is None else jax.numpy.asarray(y)

    def loss(o: Any) -> Any:
        log_p = jax.nn.log_softmax(o, axis=goal.axis)
        if goal.target == "soft":
            return -jax.numpy.mean(jax.numpy.sum(labels * log_p, axis=goal.axis))
        return -jax.numpy.mean(jax.numpy.take_along_axis(log_p, labels[:, None], 1))

    function = {
        "softmax": lambda o: jax.nn.softmax(o, axis=goal.axis),
        "log_softmax": lambda o: jax.nn.log_softmax(o, axis=goal.axis),
        "loss": loss,
        "loss_and_gradient": jax.value_and_grad(loss),
    }[goal.op]
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(logits))


def _onnxruntime(goal: Goal, x: np.ndarray, y: np.ndarray | None) -> Callable[[], Any]:
    if y is not None:
        raise NotImplementedError("inference only: no loss in this runtime")
    import onnxruntime
    from onnx import TensorProto, helper

    kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[goal.dtype]
    graph = helper.make_graph(
        [helper.make_node({"softmax": "Softmax", "log_softmax": "LogSoftmax"}[goal.op], ["x"], ["p"], axis=goal.axis)],
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


Verdicts = dict[str, dict[str, Any]]
"""Of one goal, by what is compared: ratio, goal, and whether it is met."""


def measure(goal: Goal, seconds: float, peers: list[str]) -> tuple[CaseRecord, Verdicts]:
    """Time everybody who can; the case of the record, and the verdicts."""
    x, y = make_inputs(goal.workload)
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
    case = recorded(goal.workload, {name: timings[name] for name in arms if name != operation})
    case["results"] |= {name: {"skipped": reason} for name, reason in absent.items()}
    if limit:
        found = ceiling_record(goal.workload, operation, limit.method, limit.moved, timings[operation])
        case["ceilings"]["cpu"] = found
        for result in case["results"].values():
            if "bandwidth" in result:
                result["fraction"] = result["bandwidth"] / found["bandwidth"]
                result["impossible"] = result["fraction"] > 1.0
    return case, {what: _verdict(*compared) for what, compared in verdicts.items()}


def recorded(workload: Workload, timings: dict[str, Timing]) -> CaseRecord:
    """The case of a record, with these results."""
    case = case_record(workload)
    case["results"] = {name: result_record(workload, timing) for name, timing in timings.items()}
    return case


def _alone(goal: Goal, seconds: float, peers: list[str]) -> tuple[tuple[CaseRecord, Verdicts], Any]:
    """`measure`, and how many threads every library has, for a process of its own."""
    return measure(goal, seconds, peers), machine.threads()


def _verdict(ratio: float, sign: str, bound: float) -> dict[str, Any]:
    return {"ratio": ratio, "goal": f"{sign} {bound:.3g}", "met": ratio >= bound if sign == ">=" else ratio <= bound}


def _row(case: CaseRecord, verdicts: Verdicts, columns: list[str]) -> list[str]:
    cells = [case["name"]]
    times: dict[str, Any] = {limit["operation"]: limit for limit in case["ceilings"].values()} | case["results"]
    for name in columns:
        time = times.get(name, {})
        cells.append(f"{duration(time['median'])} ±{relative_spread(time):.0%}" if "median" in time else "")
    said = [f"{what} {v['ratio']:.2f} ({v['goal']}) {'met' if v['met'] else 'NOT met'}" for what, v in verdicts.items()]
    return [*cells, "\n".join(said)]


def medians(case: CaseRecord) -> dict[str, float]:
    """Median seconds of a case by candidate; those of the limit by the name of its operation."""
    found = {name: result["median"] for name, result in case["results"].items() if "median" in result}
    return found | {limit["operation"]: limit["median"] for limit in case["ceilings"].values()}


def table(record: Record) -> list[str]:
    """Lines of Markdown: per goal how many times as long peers take, and numba compared with the limit; misses bold."""
    names = {"torch": "torch", "jax": "JAX", "onnxruntime": "ONNX Runtime"}
    lines = [f"| case | {' | '.join(names.values())} | numba / limit |", "|---" * (2 + len(names)) + "|"]
    for case in record["cases"]:
        times, verdicts = medians(case), record["checks"]["goals"][case["name"]]
        ours = times["numba"]
        cells = [case["name"]]
        for name in names:
            ratio = f"{three_digits(times[name] / ours)}x" if name in times else ""
            cells.append(_marked(ratio, verdicts.get(f"{name} / numba")))
        limit = times.get("copy", times.get("read"))
        verdict = verdicts.get("numba / copy", verdicts.get("numba / read"))
        cells.append(_marked(of_limit(ours, limit), verdict))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def count_met(record: Record) -> tuple[int, int]:
    """How many goals were met, and how many there are."""
    found = record["checks"]["goals"].values()
    return sum(all(verdict["met"] for verdict in verdicts.values()) for verdicts in found), len(found)


def of_limit(time: float, limit: float | None) -> str:
    """A time in units of the limit's. A time below the limit is refused: that limit was measured wrongly."""
    if not limit:
        return ""
    return f"{time / limit:.2f}" if time >= limit else "refused"


def _marked(ratio: str, verdict: dict[str, Any] | None) -> str:
    """A ratio; bold, with what was asked of it, where that was missed."""
    return f"**{ratio}** (goal {verdict['goal'].split()[1]})" if verdict and not verdict["met"] else ratio


def relative_spread(time: Result) -> float:
    """Half the distance of the quartiles, relative to the median."""
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
        print("\n".join(table(read(parsed.table))))
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
    record = beginning("goals", {"seconds": parsed.seconds, "threads": None})
    record["versions"] |= {name: importlib.metadata.version(name) for name in peers}
    met = record["checks"] = {"goals": {}}
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
                (case, verdicts), record["threads"] = fresh.submit(_alone, goal, parsed.seconds, peers).result()
            record["cases"].append(case)
            met["goals"][case["name"]] = verdicts
            _print(console, case, verdicts, peers, header=len(record["cases"]) == 1)
        record["complete"] = True
    if parsed.out:
        write(record, parsed.out)
    console.print("{} of {} goals met".format(*count_met(record)))
    return 0


def _print(console: Console, case: CaseRecord, verdicts: Verdicts, peers: list[str], header: bool) -> None:
    columns = ["numba", *peers, "copy", "read"]
    table = Table(show_header=header, box=None, pad_edge=False)
    table.add_column("goal", width=36)
    for name in columns:
        table.add_column(name, width=14, justify="right")
    table.add_column("verdict", min_width=44)
    table.add_row(*_row(case, verdicts, columns))
    console.print(table)
