"""Starting further Python processes of this package."""

import os
import sys
from pathlib import Path


def python_module(name: str) -> list[str]:
    """The command that runs a module of this package."""
    return [sys.executable, "-m", name]


def python_environment() -> dict[str, str]:
    """Ours, and where this package is, wherever it was imported from."""
    package = str(Path(__file__).parents[3])
    known = os.environ.get("PYTHONPATH")
    paths = package if known is None else f"{package}{os.pathsep}{known}"
    return {**os.environ, "PYTHONPATH": paths}
