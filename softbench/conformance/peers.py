"""docs/peers.md: what other people's libraries do otherwise than the contract says, by the verdicts of the kit.

::

    python -m softbench.conformance.peers [NAME ...]           # judge, write docs/peers.json and docs/peers.md
    python -m softbench.conformance.peers --quick [NAME ...]   # the same by the quick profile, which takes less memory
    python -m softbench.conformance.peers --check [NAME ...]   # judge by the quick profile; 1 if the page is stale
    python -m softbench.conformance.peers --sample [NAME ...]  # by one or two cases of each row; 1 if one is not here

Without names every peer is judged that is installed. The page is made of the verdicts in the JSON file alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from softbench.accuracy.gates import GATES
from softbench.conformance import contract
from softbench.conformance.apart import judge_apart
from softbench.conformance.profiles import Profile
from softbench.conformance.runner import matches
from softbench.conformance.verdicts import Report
from softbench.errors import BackendUnavailableError
from softbench.front.backend import Backend
from softbench.loading import Source
from softbench.registry import get_backend

__all__ = ["OVERHEAD", "PAGE", "PEERS", "VERDICTS", "Peer", "judge", "main", "render", "stale"]

_DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = _DOCS / "peers.md"
VERDICTS: Final = _DOCS / "peers.json"
SCHEMA: Final = "softbench.peers/1"

OVERHEAD: Final = {"softmax": 25e-6, "loss_and_gradient": 75e-6}
"""Seconds that a call may take longer through a backend than made directly; a test in tests/backends holds it."""

_MICROSECONDS: Final = tuple(round(seconds * 1e6) for seconds in OVERHEAD.values())

_EXAMPLE: Final = 200  # characters of a message: the page is for reading, `softbench check` has them all


class Peer(NamedTuple):
    """A backend over somebody else's library, in one of its forms."""

    backend: str
    options: Mapping[str, Any]
    libraries: tuple[str, ...]
    """Keys of `softbench.Backend.info` that are versions."""
    sampled: bool = False
    """Whether ``--check`` asks one or two cases of each row: of what is asked in full under another name, or slow."""
    sample: int = 2
    """Cases of a row, at most, that ``--sample`` asks: one where every shape is compiled anew."""


PEERS: Final[dict[str, Peer]] = {
    "scipy": Peer("scipy", {}, ("scipy",)),
    "sklearn": Peer("sklearn", {}, ("sklearn",)),
    "torch": Peer("torch", {}, ("torch",)),
    "jax": Peer("jax", {}, ("jax",), sample=1),
    "onnxruntime": Peer("onnxruntime", {}, ("onnxruntime",)),
    "array_api (NumPy)": Peer("array_api", {}, ("numpy",)),
    "array_api (array_api_strict)": Peer("array_api", {"namespace": "array_api_strict"}, ("array_api_strict",), True),
    "array_api (torch)": Peer("array_api", {"namespace": "torch"}, ("torch",), True),
    "array_api (JAX)": Peer("array_api", {"namespace": "jax.numpy"}, ("jax.numpy",), True, sample=1),
}
"""What is judged. `torch_cuda` is judged on machines with a GPU: ``softbench check torch_cuda``."""

_HEAD: Final = f"""<!-- Written by `python -m softbench.conformance.peers`; do not edit. -->
# What other libraries do otherwise

SciPy, scikit-learn, PyTorch, JAX, ONNX Runtime, and plain code on the Python array API standard, judged by softbench's
conformance kit as backends (`softbench check NAME`). Each backend calls what its library offers; what a library lacks
is composed as its users compose it, and its class says so (`backends/softbench_backends/`). Argument checks are
softbench's own, so this is about results only. The contract is stricter than what these libraries promise: a deviation
here is not always a bug there.

A deviation is declared in the backend's class, with the reason, and the kit holds it to that: what is not declared
fails, and so does a declaration that no longer occurs. The libraries' versions are those of
[benchmarks/peers.txt](../benchmarks/peers.txt):

```bash
pip install -e ".[peers]" -c benchmarks/peers.txt
python -m softbench.conformance.peers          # judges what is installed and writes this page
python -m softbench.conformance.peers --check  # does this page still say what the kit finds?
```

What a backend adds to its library is small: on arrays of the library's own, a call takes less than {_MICROSECONDS[0]}
us longer than a direct one, or less than {_MICROSECONDS[1]} us with labels, whose range the contract has checked. No
array is copied (`pytest -m peers -k "overhead or memory or operators"`).

On Linux, `pip` gets a PyTorch with CUDA libraries of several gigabytes; without a card, get the CPU build first:
`pip install torch --index-url https://download.pytorch.org/whl/cpu`.

"""


def judge(peer: Peer, profile: Profile = "standard", most: int | None = None) -> dict[str, Any]:
    """The verdict on a peer, by at most so many cases of a row, as plain data. BackendUnavailableError."""
    backend = get_backend(peer.backend, **peer.options)
    sampled = most is not None or (peer.sampled and profile == "quick")
    select = contract.sample("quick", most) if sampled else None
    # Apart: one library's threads must not be there when the kit forks another's process.
    report = judge_apart(Source(peer.backend, options=tuple(peer.options.items())), profile, select=select)
    return _record(report, peer, dict(backend.rows.deviations), sampled or _compiles(backend))


def _compiles(backend: Backend) -> bool:
    """Whether the kit asks a few cases of each row, because each shape is compiled anew."""
    return getattr(backend.rows, "compiles_per_shape", False) is True


def _record(report: Report, peer: Peer, declared: dict[str, str], sampled: bool) -> dict[str, Any]:
    rows = {}
    for key, why in declared.items():
        found = [result for result in report.of("deviation") if matches(key, result.id)]
        example = found[0].message.partition(" [")[2].rstrip("]") if found else ""
        example = re.sub(r" at \S+\.py:\d+ in \w+", "", example)  # lines of their files say nothing here
        rows[key] = {"why": why, "cases": len(found), "example": example[:_EXAMPLE]}
    return {
        "sampled": sampled,
        "versions": {name: str(report.info.get(name, "")).partition("+")[0] for name in peer.libraries},
        "profile": report.profile,
        "passed": len(report.of("passed")),
        "deviations": len(report.of("deviation")),
        "failed": [f"{result.id}: {result.message[:_EXAMPLE]}" for result in report.of("failed")],
        "rows": rows,
        "errors": {f"{error['function']} {error['dtype']}": float(f"{error['max']:.3g}") for error in report.errors},
    }


def stale(name: str, recorded: dict[str, Any], sample: bool = False) -> tuple[list[str], str]:
    """What the quick profile finds otherwise than the page says of a peer, and a sentence on what it found."""
    peer = PEERS[name]
    found = judge(peer, "quick", peer.sample if sample else None)
    versions = ", ".join(f"{library} {version}" for library, version in found["versions"].items())
    said = f"{name} ({versions}): {found['passed']} cases pass, {found['deviations']} deviate as declared"
    problems = [f"{name}: {failure}" for failure in found["failed"]]
    if found["versions"] != recorded["versions"]:
        return problems, f"{said}; the page is of {recorded['versions']}, so its rows are not compared"
    for key, row in found["rows"].items():
        known = recorded["rows"].get(key)
        if known is None or known["why"] != row["why"]:
            problems.append(f"{name}: {key} ({row['why']}) is not what {PAGE.name} says")
        elif not row["cases"] and known["cases"] and not sample and _judged_whole(peer, key):
            problems.append(f"{name}: declared deviation {key!r} ({row['why']}) no longer occurs")
    problems += [f"{name}: {key} is no longer declared" for key in recorded["rows"].keys() - found["rows"].keys()]
    return problems, said


def _judged_whole(peer: Peer, key: str) -> bool:
    """Whether the quick profile asks every case that the standard profile would."""
    if peer.sampled or _compiles(get_backend(peer.backend, **peer.options)):
        return False
    quick = {case.id for case in contract.cases("quick")}
    return all(case.id in quick for case in contract.cases("standard") if matches(key, case.id))


def render(verdicts: dict[str, Any]) -> str:
    """The page that says what is in the JSON file."""
    judged: dict[str, Any] = verdicts["peers"]
    parts = [_HEAD, "## Largest errors\n\nIn the unit of each gate ([semantics](semantics.md)).\n\n"]
    parts.append(f"| quantity | dtype | gate | {' | '.join(judged)} |\n{'|---' * (3 + len(judged))}|\n")
    for quantity in GATES:
        for dtype in ("float64", "float32"):
            cells = [_number(entry["errors"].get(f"{quantity} {dtype}")) for entry in judged.values()]
            if any(cells):
                gate = GATES[quantity].bounds[dtype]
                parts.append(f"| {quantity} | {dtype} | {gate:g} | {' | '.join(cells)} |\n")
    sentences = {row.id: row.case for row in contract.all_requirements()}
    for name, entry in judged.items():
        versions = ", ".join(f"{library} {version}" for library, version in entry["versions"].items())
        counts = f"{entry['passed']} cases pass, {entry['deviations']} deviate as declared"
        failed = f", {len(entry['failed'])} fail" if entry["failed"] else ""
        sampled = " A few cases of each row are asked." if entry["sampled"] else ""
        parts.append(f"\n## {name}\n\n{versions}: {counts}{failed}.{sampled}\n\n")
        parts.append("| row | what differs | cases | an example |\n|---|---|---|---|\n")
        for key, row in entry["rows"].items():
            case = sentences.get(key, f"`{key}`")
            parts.append(f"| {_cell(case)} | {_link(_cell(row['why']))} | {row['cases']} | {_cell(row['example'])} |\n")
    return "".join(parts)


def _number(error: float | None) -> str:
    return "" if error is None else f"{error:.3g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _link(text: str) -> str:
    """Addresses of issues as links with their numbers."""
    return re.sub(r"https://\S+?/(\d+)\b", r"[#\1](\g<0>)", text)


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or with ``--check`` or ``--sample`` say whether it is stale (exit status 1)."""
    parser = argparse.ArgumentParser(prog="python -m softbench.conformance.peers", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(map(repr, PEERS))}")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="write nothing; exit status 1 if something differs")
    how.add_argument(
        "--sample", action="store_true", help="as --check, by one or two cases of each row; every peer must be here"
    )
    how.add_argument("--quick", action="store_true", help="judge by the quick profile")
    parsed = parser.parse_args(arguments)
    unknown = [name for name in parsed.names if name not in PEERS]
    if unknown:
        parser.error(f"unknown {', '.join(map(repr, unknown))}; there are {', '.join(map(repr, PEERS))}")
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # for code on jax.numpy as it is; read when JAX is imported
    verdicts: dict[str, Any] = json.loads(VERDICTS.read_text(encoding="utf-8"))
    names = parsed.names or list(PEERS)
    if parsed.check or parsed.sample:
        return _check(names, verdicts, parsed.sample)
    return _write(names, verdicts, "quick" if parsed.quick else "standard")


def _write(names: Iterable[str], verdicts: dict[str, Any], profile: Profile) -> int:
    judged = verdicts["peers"]
    for name in names:
        try:
            judged[name] = judge(PEERS[name], profile)
        except BackendUnavailableError as error:
            print(f"{name} is left as it is: {error}")
            continue
        print(f"{name}: {judged[name]['passed']} pass, {judged[name]['deviations']} deviate as declared")
        by_row: dict[str, list[str]] = {}
        for failure in judged[name]["failed"]:
            by_row.setdefault(failure.partition("/")[0], []).append(failure)
        for failures in by_row.values():
            print(f"  FAILED, {len(failures)} in this row: {failures[0]}")
    verdicts["peers"] = {name: judged[name] for name in PEERS if name in judged}
    VERDICTS.write_text(json.dumps(verdicts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(render(verdicts), encoding="utf-8")
    return int(any(entry["failed"] for entry in judged.values()))


def _check(names: Iterable[str], verdicts: dict[str, Any], sample: bool) -> int:
    problems: list[str] = []
    for name in names:
        try:
            found, said = stale(name, verdicts["peers"].get(name, {"versions": {}, "rows": {}}), sample)
        except BackendUnavailableError as error:
            print(f"{name} is not judged: {error}")
            problems += [f"{name} is not judged"] if sample else []
            continue
        print(said, flush=True)
        problems += found
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
