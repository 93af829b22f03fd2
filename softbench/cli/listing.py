"""``softbench list`` and ``softbench info``: which backends there are, and which can run here."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
from typing import TYPE_CHECKING, Any

import softbench
from softbench.cli.arguments import columns
from softbench.registry import BUILT_IN, DISTRIBUTIONS, available_backends, get_backend, list_backends

if TYPE_CHECKING:  # rich and everything that measures are imported by the commands that need them
    from softbench.results.record import BackendRecord, Record

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    listing = commands.add_parser("list", help="names of all backends; imports none of their libraries")
    listing.add_argument("--cases", action="store_true", help="list the workloads instead, and why each is there")
    listing.set_defaults(function=_list)

    info = commands.add_parser("info", help="which backends can run here, and why others cannot; this machine")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(function=_info)


def _installed(name: str) -> str:
    """Versions of the distributions behind a backend, or which one is missing; imports nothing."""
    if name not in BUILT_IN:
        return "installed"
    required = BUILT_IN[name].requires
    found = []
    for distribution in required:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{distribution} {importlib.metadata.version(distribution)}")
    if found:
        return ", ".join(found)
    return f"{' or '.join(required)} not installed" if required else "nothing needed"


def _list(parsed: argparse.Namespace) -> None:
    if parsed.cases:
        _list_cases()
        return
    rows = [(name, _installed(name), summary) for name, summary in list_backends().items()]
    columns([("backend", "package", "what it is"), *rows])


def _list_cases() -> None:
    from softbench.measure.workloads import CASES

    rows = [(case.name, " ".join(sorted(case.suites)) or "-", case.why) for case in CASES]
    columns([("case", "suites", "why it is there"), *rows])


def _info(parsed: argparse.Namespace) -> None:
    from softbench import machine
    from softbench.results import tables as report

    summaries = list_backends()
    backends: dict[str, BackendRecord] = {}
    for name, state in available_backends().items():
        backends[name] = {
            "summary": summaries.get(name, ""),
            "ok": state.ok,
            "kind": state.kind,
            "reason": state.reason,
            "install": state.install,
        }
        if state.ok:
            backends[name]["info"] = get_backend(name).info()
    record: Record = {
        "version": softbench.__version__,
        "machine": machine.fingerprint(),
        "versions": machine.versions(DISTRIBUTIONS),
        "threads": machine.threads(),
        "backends": backends,
    }
    if parsed.json:
        from softbench.results.record import dumps

        print(dumps(record), end="")
        return
    out = report.console()
    out.print(report.machine_line(record))
    out.print(report.backend_table(backends))
    for name, entry in backends.items():
        if "info" in entry:
            told = {key: value for key, value in entry["info"].items() if key not in ("name", "kind")}
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in told.items()))
    print("versions: " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()))
    print("threads: " + json.dumps(record["threads"]))
