"""Reports as JUnit XML, one suite per backend, as CI services read it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Final

from softbench.conformance.verdicts import Report

__all__ = ["junit_xml"]

_ELEMENTS: Final = {"failed": "failure", "skipped": "skipped", "deviation": "skipped", "unjudged": "error"}


def junit_xml(reports: Sequence[Report], absent: Mapping[str, str] | None = None) -> bytes:
    """The reports, and a failing suite for each backend that was asked for and could not be judged.

    Parameters
    ----------
    reports
        One per backend.
    absent
        By name of a backend that was asked for, why it could not be judged.
    """
    suites = ET.Element("testsuites", name="softbench check")
    for report in reports:
        suite = ET.SubElement(suites, "testsuite", name=_xml(report.backend))
        for result in report.results:
            requirement, _, name = result.id.partition("/")
            place = f"{report.backend}.{requirement}"
            _case(suite, place, name, _ELEMENTS.get(result.status), result.message, result.seconds)
        if report.interrupted:
            _case(suite, report.backend, "interrupted", "error", "interrupted: the cases that are left were not judged")
        suite.set("time", f"{report.seconds:.3f}")
    for backend, reason in (absent or {}).items():
        suite = ET.SubElement(suites, "testsuite", name=_xml(backend))
        _case(suite, backend, "available", "error", reason)
    for suite in suites:
        suite.set("tests", str(len(suite.findall("testcase"))))
        for element, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            suite.set(attribute, str(len(suite.findall(f"testcase/{element}"))))
    text: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return text


def _case(
    suite: ET.Element, place: str, name: str, element: str | None, message: str = "", seconds: float = 0.0
) -> None:
    case = ET.SubElement(suite, "testcase", classname=_xml(place), name=_xml(name), time=f"{seconds:.4f}")
    if element is not None:
        ET.SubElement(case, element, message=_xml(message))


def _xml(text: str) -> str:
    """``text`` with the characters that XML 1.0 cannot hold as escapes of Python's (section 2.2, production [2])."""
    return "".join(c if _is_allowed(ord(c)) else c.encode("unicode_escape").decode() for c in text)


def _is_allowed(code: int) -> bool:
    if code < 0x20:
        return code in (0x9, 0xA, 0xD)
    return code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000
