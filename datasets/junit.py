"""JUnit XML, as CI services show it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from xml.etree import ElementTree

Suite: TypeAlias = tuple[str, Mapping[str, Any], Sequence[tuple[str, str, str]], str]
"""Name of a suite, its properties, its cases (name, failure or nothing, details of the failure), and its output."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(name: str, suites: Sequence[Suite]) -> str:
    """Return the text of a JUnit file.

    Args:
        name: Of the whole.
        suites: In order; characters that XML does not have are replaced by ``?``.
    """
    total = ElementTree.Element("testsuites", _attributes({"name": name, **_counts([case for suite in suites for case in suite[2]])}))
    for title, properties, cases, output in suites:
        suite = ElementTree.SubElement(total, "testsuite", _attributes({"name": title, **_counts(cases)}))
        about = ElementTree.SubElement(suite, "properties")
        for key, value in properties.items():
            ElementTree.SubElement(about, "property", _attributes({"name": key, "value": value}))
        for label, failure, details in cases:
            case = ElementTree.SubElement(suite, "testcase", _attributes({"classname": title, "name": label, "time": 0}))
            if failure:
                failed = ElementTree.SubElement(case, "failure", _attributes({"message": failure, "type": "expectation"}))
                failed.text = _clean(details)
        if output:
            ElementTree.SubElement(suite, "system-out").text = _clean(output)
    ElementTree.indent(total)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(total, encoding="unicode") + "\n"


def _counts(cases: Sequence[tuple[str, str, str]]) -> dict[str, int]:
    return {"tests": len(cases), "failures": sum(bool(failure) for _, failure, _ in cases), "errors": 0, "skipped": 0, "time": 0}


def _attributes(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: _clean(str(value)) for key, value in values.items()}


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
