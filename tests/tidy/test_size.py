"""Functions that fit a screen, modules that fit a head, each module introduced by its docstring."""

import ast

import pytest

from tests.tidy.sources import functions, modules, name

MAX_FUNCTION_LINES = 70
MAX_MODULE_LINES = 800


def _lines(function):
    """Lines of a function without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


@pytest.mark.parametrize("path", modules(), ids=name)
def test_module_is_readable(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "has no docstring"
    assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES
    long = {f.name: _lines(f) for f in functions(path) if _lines(f) > MAX_FUNCTION_LINES}
    assert long == {}
