"""The conformance kit: is a backend right, in every corner and to how many ulp?

>>> from softbench.conformance import run
>>> report = run("numpy", profile="quick", select=["argmax-ties"])
>>> report.ok, len(report.of("failed"))
(True, 0)

The contract is data (`softbench.conformance.contract`): rows, each with a sentence and cases. From it come the
lines of ``softbench check``, the cases of pytest (`softbench.conformance.suite`) and docs/semantics.md.
"""

from __future__ import annotations

from softbench.conformance.case import Case, Requirement
from softbench.conformance.failures import Failure
from softbench.conformance.profiles import Profile
from softbench.conformance.runner import CheckFailed, check_function, run
from softbench.conformance.verdicts import Report, Result

__all__ = ["Case", "CheckFailed", "Failure", "Profile", "Report", "Requirement", "Result", "check_function", "run"]
