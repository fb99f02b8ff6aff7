"""The commands of docs/security.md, run in the order of the page."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attack.servers import free_port

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
PORTS = ("9000", "8250")
PREAMBLE = """set -euo pipefail
refused() { if "$@"; then echo "not refused: $*" >&2; exit 99; fi; }
trap 'jobs -p | xargs -r kill' EXIT
"""
TIMEOUT_S = 240


def script() -> str:
    """The page's commands; those after `!` must fail."""
    text = PAGE.read_text()
    for port in PORTS:
        text = text.replace(f":{port}", f":{free_port()}")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return PREAMBLE + re.sub(r"^! ", "refused ", "".join(blocks), flags=re.MULTILINE)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_commands_do_what_the_page_says(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("theflash")
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", "-c", script()],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-2000:]
    errors = re.findall(r"^theflash: (\w+Error)", output, re.MULTILINE)
    assert errors == ["RoleError", *["AuthenticationError"] * 4, "OptionError"]
