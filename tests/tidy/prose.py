"""Prose of the project: docstrings and comments of Python and Scala code, and Markdown."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_FENCE = re.compile(r"^(?:```|~~~).*?^(?:```|~~~)$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"``[^`]+``|`[^`]+`")
_COMMENT = re.compile(r"(?:^ *|  )# .*$", re.MULTILINE)
_SCALA_COMMENT = re.compile(r"/\*\*.*?\*/|(?:^ *| )// .*?$", re.MULTILINE | re.DOTALL)
_STAR = re.compile(r"\n *\* ?")


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of each docstring, comment line or Markdown file, without code."""
    text = path.read_text()
    if path.suffix == ".md":
        yield 1, _CODE.sub("`code`", _FENCE.sub(lambda code: "\n" * code[0].count("\n"), text))
        return
    if path.suffix == ".scala":
        for comment in _SCALA_COMMENT.finditer(text):
            words = _STAR.sub("\n", comment[0].strip(" /*"))
            yield text.count("\n", 0, comment.start()) + 1, _CODE.sub("`code`", words)
        return
    for line, docstring in _docstrings(ast.parse(text)):
        yield line, _CODE.sub("`code`", docstring)
    for comment in _COMMENT.finditer(text):
        yield text.count("\n", 0, comment.start()) + 1, _CODE.sub("`code`", comment[0].strip())


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Docstrings of modules, classes, functions and attributes."""
    bodies: list[list[ast.stmt]] = [tree.body]
    while bodies:
        for node in bodies.pop():
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                if isinstance(node.value.value, str):
                    yield node.lineno, node.value.value
            else:
                bodies.append(getattr(node, "body", []))
