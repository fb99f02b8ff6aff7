"""The package's own source text, for tests about it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "pyspark_theflash" / "tidb" / "protocol" / "_generated"
MESSAGES = ROOT / "pyspark_theflash" / "service" / "wire" / "message.py"
"""Generated from `protos/theflash/v1/theflash.proto`."""


def modules() -> list[Path]:
    """Every module of the package that a person wrote."""
    package = ROOT / "pyspark_theflash"
    modules = sorted(package.rglob("*.py"))
    return [p for p in modules if p != MESSAGES and not p.is_relative_to(GENERATED)]


def name(path: Path) -> str:
    """Path below the project's folder, to name a test or a finding by."""
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods of a module, inner ones too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
