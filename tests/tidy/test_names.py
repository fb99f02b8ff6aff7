"""A class name means one thing in the whole package."""

import ast
from collections import defaultdict

from tests.tidy.sources import ROOT, modules, name

MESSAGES = ROOT / "pyspark_theflash" / "service" / "wire" / "message.py"
"""Its classes have the names of `protos/theflash/v1/theflash.proto`."""


def test_class_names_are_unique() -> None:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in modules():
        if path == MESSAGES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(name(path))
    assert len(found) > 500
    assert {each: paths for each, paths in found.items() if len(paths) > 1} == {}
