"""Start Python processes of this package, and raise the limit of this one's open files."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

_FILES_MAX: Final = 65_536
_RUN: Final = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
"""Runs a module like `-m`, which would also import from the working directory before 3.11's `-P`.

`jvm-shim/src/main/scala/io/theflash/spark/Engine.scala` has a copy.
"""


def start_module(name: str, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":  # noqa: ANN401
    """Run a module of this package in a new process, with options of `subprocess.Popen`.

    The process finds this package wherever it was imported from. Its working directory is "/", and
    no working directory is searched for modules: a file in it could replace a standard module.
    """
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    paths = [str(Path(__file__).parents[2]), *map(os.path.abspath, inherited)]
    return subprocess.Popen(  # noqa: S603 (our own program, and no shell)
        [sys.executable, "-c", _RUN, name, *arguments],
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        **options,
    )


def allow_files() -> None:
    """Allow this process, and those that it starts, as many open files as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, _FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
