"""Names in the code: classes of the package are unique, and variables say what they hold."""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.sources import GENERATED, ROOT, modules, name

RIDDLES = {"asked", "found", "known", "told"}
FOLDERS = ("demo", "jvm-shim", "protos", "pyspark_theflash", "tests", "tools")
SCALA_TEXT = re.compile(r'/\*.*?\*/|//[^\n]*|"""(?:.|\n)*?"""|"(?:\\.|[^"\\\n])*"', re.DOTALL)
"""Comments and strings of Scala."""


def test_class_names_are_unique() -> None:
    modules_of: defaultdict[str, list[str]] = defaultdict(list)
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                modules_of[node.name].append(name(path))
    assert len(modules_of) > 500
    assert {each: paths for each, paths in modules_of.items() if len(paths) > 1} == {}


def _assigned(tree: ast.AST) -> Iterator[str]:
    """Names that Python code gives to variables, arguments, attributes, functions and classes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=each, ctx=ast.Store()) | ast.arg(arg=each):
                yield each
            case ast.Attribute(attr=each, ctx=ast.Store()):
                yield each
            case ast.FunctionDef(name=each) | ast.AsyncFunctionDef(name=each):
                yield each
            case ast.ClassDef(name=each):
                yield each
            case ast.MatchAs(name=str(each)) | ast.MatchStar(name=str(each)):
                yield each


def _names(path: Path) -> list[str]:
    """Names that a file assigns; all words of the code of a Scala file."""
    text = path.read_text()
    if path.suffix == ".scala":
        return re.findall(r"\w+", SCALA_TEXT.sub(" ", text))
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    return list(_assigned(ast.parse(text)))


def _code() -> Iterator[Path]:
    """All code in Python and Scala that a person wrote, and the notebooks."""
    for folder in FOLDERS:
        for suffix in (".py", ".scala"):
            for path in sorted((ROOT / folder).rglob(f"*{suffix}")):
                if not path.is_relative_to(GENERATED):
                    yield path
    yield from sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_names_say_what_they_name() -> None:
    names = {path: _names(path) for path in _code()}
    for suffix, least in ((".py", 60_000), (".scala", 10_000), (".ipynb", 20)):
        assert sum(len(own) for path, own in names.items() if path.suffix == suffix) > least
    assert [
        (name(path), each)
        for path, own in names.items()
        for each in own
        if each.strip("_").lower() in RIDDLES
    ] == []
