"""What asv does not record, beside each result: versions, threads, the machine's fingerprint, reasons of skips.

    python -m benchmarks.sidecar MACHINE      (after asv run; see results/README.md)

writes ``results/MACHINE/<result>.sidecar.jsonc`` for the results that have none, asking the environment that asv made
for them: a record as `softbench.results.record` has it. (JSON by another ending: asv reads every ``.json`` in that
folder as a result of its own.) Results of ``benchmarks.history`` alone get none.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_HISTORY = "history.Calls.time_call"


def collect() -> dict[str, object]:
    """The record of the interpreter this runs in: its backends, asked in processes of their own, and what they skip."""
    from softbench.built_in import RESERVED
    from softbench.measure.comparison import skip_reason
    from softbench.measure.inputs import missing_extra
    from softbench.measure.remote import Remote
    from softbench.measure.run import beginning
    from softbench.measure.survey import survey
    from softbench.measure.workloads import select
    from softbench.registry import list_backends

    record = beginning("asv", {})
    known = [name for name in RESERVED if name in list_backends()]
    record["backends"] = survey(known, info=True)
    skipped = {name: "a reserved name, without a backend yet" for name in RESERVED if name not in known}
    for name, entry in record["backends"].items():
        if not entry["ok"] or entry["kind"] == "simulator":
            skipped[name] = entry["reason"] or entry["kind"]
            continue
        with Remote(name) as remote:
            about = remote.ask("open", name=name)
        for case in select(["asv"]):
            if reason := skip_reason(about["cost"], frozenset(about["provides"]), case) or missing_extra(case):
                skipped[f"{name} on {case.name}"] = reason
    record["notes"] = [f"skipped: {what}: {reason}" for what, reason in skipped.items()]
    record["complete"] = True
    return dict(record)


def environment(result: dict, environments: Path) -> Path:
    """The interpreter of the asv environment with the result's Python and requirements; FileNotFoundError."""
    for info in sorted(environments.glob("*/asv-env-info.json")):
        found = json.loads(info.read_text())
        if (found["python"], found["requirements"]) == (result["python"], result["requirements"]):
            return info.parent / "bin" / "python"
    raise FileNotFoundError(f"no environment under {environments} has made this result; run asv run first")


def write(folder: Path, environments: Path) -> tuple[list[Path], list[str]]:
    """Sidecars for the results in ``folder`` that have none: the paths written, and why others were not."""
    from softbench import processes

    written, problems = [], []
    for path in sorted(folder.glob("*-*.json")):
        target = path.with_suffix(".sidecar.jsonc")
        if target.exists():
            continue
        result = json.loads(path.read_text())
        if set(result.get("results", [""])) <= {_HISTORY}:  # of old commits, which cannot all be asked
            continue
        try:
            python = environment(result, environments)
        except FileNotFoundError as error:  # the others go on
            problems.append(f"{path.name}: {error}")
            continue
        # -P: the installed softbench that was measured, not the one of the current folder.
        done = processes.run([python, "-P", __file__, "--collect"], limit=600, cwd=folder)
        record = {"commit": result["commit_hash"], **json.loads(done.checked())}
        target.write_text(json.dumps(record, indent=1) + "\n")
        written.append(target)
    return written, problems


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sidecar", description=__doc__.split("\n\n")[0])
    parser.add_argument("machine", nargs="?", help="folder under results/")
    parser.add_argument("--collect", action="store_true", help="print the record of this interpreter and write nothing")
    parsed = parser.parse_args()
    if parsed.collect:
        print(json.dumps(collect(), default=str))
        return 0
    if not parsed.machine or not (ROOT / "results" / parsed.machine / "machine.json").is_file():
        known = sorted(path.parent.name for path in (ROOT / "results").glob("*/machine.json"))
        parser.error(f"name a machine with results: {', '.join(known) or 'there is none yet'}")
    try:
        written, problems = write(ROOT / "results" / parsed.machine, ROOT / ".asv" / "env")
    except RuntimeError as error:
        print(f"the environment could not be asked: {error}", file=sys.stderr)
        return 1
    for path in written:
        print(f"wrote {path.relative_to(ROOT)}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
