"""Write docs/peers.md: what other people's softmaxes do otherwise than the contract says.

python examples/peers/report.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from softbench.accuracy.gates import GATES  # noqa: E402
from softbench.conformance import contract, run  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "peers.md"
PEERS = {"scipy": "softbench_peers.scipy:ScipyBackend", "torch": "softbench_peers.torch:TorchBackend",
         "sklearn": "softbench_peers.sklearn:SklearnBackend"}  # fmt: skip

HEAD = """<!-- Written by `python examples/peers/report.py`; do not edit. -->
# What other libraries do otherwise

SciPy, PyTorch on the CPU and scikit-learn's multinomial loss, put through softbench's conformance kit as ordinary
plugins ([examples/peers](../examples/peers/README.md)): each calls what its library offers; what it lacks is composed
as its users do. Argument checks are softbench's own, so this is about results only. The contract is stricter than what
these libraries promise: a deviation here is not always a bug there.

"""


def cell(text: str) -> str:
    """Text for a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def link(text: str) -> str:
    """Addresses of issues as links."""
    words = []
    for word in text.split(" "):
        address = word.strip("()")
        issue = address.rsplit("/", 1)[-1]
        words.append(f"([#{issue}]({address}))" if address.startswith("https://") else word)
    return " ".join(words)


def main() -> None:
    """Run the kit on the peers and write the page."""
    reports = {name: run(spec) for name, spec in PEERS.items()}
    parts = [HEAD, "## Largest errors\n\nIn the unit of each gate ([semantics](semantics.md)).\n\n"]
    names = list(reports)
    parts.append("| quantity | dtype | gate | " + " | ".join(names) + " |\n|---|---|---|" + "---|" * len(names) + "\n")
    worst: dict[tuple[str, str], dict[str, Any]] = {}
    for name, report in reports.items():
        for error in report.errors:
            worst.setdefault((error["function"], error["dtype"]), {})[name] = error
    for quantity in GATES:
        for dtype in ("float64", "float32"):
            found = worst.get((quantity, dtype), {})
            cells = [f"{found[name]['max']:.3g}" if name in found else "" for name in names]
            parts.append(f"| {quantity} | {dtype} | {GATES[quantity].bounds[dtype]:g} | " + " | ".join(cells) + " |\n")
    for name, report in reports.items():
        version = ", ".join(f"{key} {value}" for key, value in report.info.items() if key == name)
        counts = {status: len(report.of(status)) for status in ("passed", "deviation", "failed")}
        parts.append(
            f"\n## {name}\n\n{version}: {counts['passed']} cases pass, {counts['deviation']} deviate as declared"
            + (f", {counts['failed']} fail" if counts["failed"] else "")
            + ".\n\n| row | what differs | cases | an example |\n|---|---|---|---|\n"
        )
        rows = {row.id: row for row in contract.all_requirements()}
        declared = __import__(f"softbench_peers.{name}", fromlist=["x"])
        cls = getattr(declared, PEERS[name].partition(":")[2])
        for row, why in cls.deviations.items():
            results = [result for result in report.of("deviation") if result.id.startswith(f"{row}/")]
            if not results:
                continue
            example = results[0].message.partition(" [")[2].rstrip("]")
            parts.append(f"| {cell(rows[row].case)} | {link(cell(why))} | {len(results)} | {cell(example[:220])} |\n")
    PAGE.write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
