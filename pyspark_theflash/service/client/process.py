"""Start Python processes of this package."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def start_module(name: str, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":  # noqa: ANN401
    """Run a module of this package in a new process, with options of `subprocess.Popen`.

    The process finds this package wherever it was imported from. Its working directory is "/",
    because Python would look for modules in the caller's.
    """
    package = str(Path(__file__).parents[3])
    python_path = os.environ.get("PYTHONPATH")
    paths = package if python_path is None else f"{package}{os.pathsep}{python_path}"
    return subprocess.Popen(  # noqa: S603 (our own program, and no shell)
        [sys.executable, "-m", name, *arguments],
        cwd="/",
        env={**os.environ, "PYTHONPATH": paths},
        **options,
    )
