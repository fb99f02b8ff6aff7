"""Names in the package: classes are unique, and variables say what they hold."""

import ast
from collections import defaultdict
from collections.abc import Iterator

from tests.tidy.sources import MESSAGES, modules, name


def test_class_names_are_unique() -> None:
    modules_of: defaultdict[str, list[str]] = defaultdict(list)
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                modules_of[node.name].append(name(path))
    assert len(modules_of) > 500
    assert {each: paths for each, paths in modules_of.items() if len(paths) > 1} == {}


def _variables(tree: ast.AST) -> Iterator[str]:
    """Names that a module assigns: variables, arguments, attributes and fields."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=variable, ctx=ast.Store()) | ast.arg(arg=variable):
                yield variable
            case ast.Attribute(attr=variable, ctx=ast.Store()):
                yield variable


def test_variables_say_what_they_hold() -> None:
    riddles = {"asked", "found", "known", "told"}
    variables = [
        (name(path), variable)
        for path in (*modules(), MESSAGES)
        for variable in _variables(ast.parse(path.read_text()))
    ]
    assert len(variables) > 5_000
    assert [each for each in variables if each[1].lstrip("_") in riddles] == []
