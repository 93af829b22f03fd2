"""``softbench list`` and ``softbench info``: which backends there are, and which can run here."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
from typing import Any

from softbench.built_in import BUILT_IN
from softbench.cli.arguments import columns
from softbench.cli.progress import make_console
from softbench.registry import list_backends

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
    from softbench.measure.workloads import WORKLOADS

    rows = [(case.name, " ".join(sorted(case.suites)) or "-", case.why) for case in WORKLOADS]
    columns([("case", "suites", "why it is there"), *rows])


def _info(parsed: argparse.Namespace) -> None:
    from softbench.measure.run import beginning
    from softbench.measure.survey import survey
    from softbench.results import tables
    from softbench.results.record import dumps

    record = beginning("info", {})
    record["backends"] = survey(list_backends(), info=True)
    record["complete"] = True
    if parsed.json:
        print(dumps(record), end="")
        return
    out = make_console()
    out.print(tables.machine_line(record))
    out.print(tables.backend_table(record["backends"], out.width))
    for name, entry in record["backends"].items():
        if "info" in entry:
            shown = {key: value for key, value in entry["info"].items() if key not in ("name", "kind")}
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in shown.items()))
            print(f"{name}: threads {json.dumps(entry['threads'])}")
    print("versions: " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()))
    print("threads: " + json.dumps(record["threads"]))
