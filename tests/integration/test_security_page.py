"""The commands of docs/security.md, run in the order of the page."""

import re
import shutil
from pathlib import Path

import pytest

from tests.attack.servers import free_port
from tests.support.page_commands import commands_of, output_of

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
    return PREAMBLE + re.sub(r"^! ", "refused ", commands_of(text), flags=re.MULTILINE)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_commands_do_what_the_page_says(tmp_path: Path) -> None:
    output = output_of(script(), tmp_path, TIMEOUT_S)
    errors = re.findall(r"^theflash: (\w+Error)", output, re.MULTILINE)
    assert errors == ["RoleError", *["AuthenticationError"] * 4, "OptionError"]
