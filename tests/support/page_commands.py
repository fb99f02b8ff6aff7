"""The commands and programs of a documentation page, run by a shell."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path


def blocks_of(text: str) -> list[tuple[str, str]]:
    """Return the language and content of a page's blocks of `sh` and `python`, in order."""
    return re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands_of(text: str) -> str:
    """Return the commands in a page's blocks of `sh`."""
    return "".join(content for language, content in blocks_of(text) if language == "sh")


def script_of(text: str, folders: Mapping[str, Path], not_run: tuple[str, ...] = ()) -> str:
    """Return a script of bash that runs a page's blocks, in order.

    Consecutive blocks of Python are one program. The page's `folders` are replaced by others, and
    blocks that start with one of `not_run` are left out.
    """
    run = [block for block in blocks_of(text) if not block[1].startswith(not_run)]
    script = "set -euo pipefail\n"
    for language, blocks in groupby(run, key=itemgetter(0)):
        content = "".join(block for _, block in blocks)
        script += content if language == "sh" else f"python - <<'END'\n{content}END\n"
    for folder, other in folders.items():
        script = script.replace(folder, str(other))
    return script


def output_of(script: str, folder: Path, timeout_s: int) -> str:
    """Run a script of bash in a folder, where `theflash` is a command; return what it prints.

    It must succeed. Processes that it leaves are killed if it takes too long.
    """
    command = Path(sys.executable).with_name("theflash")
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-2000:]
    return output
