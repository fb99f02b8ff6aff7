"""Class names are unique in the package, generated messages excluded."""

import ast
from collections import defaultdict

from tests.tidy.sources import modules, name


def test_class_names_are_unique() -> None:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(name(path))
    assert len(found) > 500
    assert {each: paths for each, paths in found.items() if len(paths) > 1} == {}
