"""The commands of docs/follow.md, run in the order of the page, with a live cluster."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.peer import Peer

pytestmark = [pytest.mark.peer]

PAGE = Path(__file__).parents[2] / "docs" / "follow.md"
TIMEOUT_S = 300


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path / "peer", cdc="v6.5") as peer:
        peer.sql(
            "CREATE DATABASE shop",
            "CREATE TABLE shop.orders (id INT PRIMARY KEY, status VARCHAR(9), total DECIMAL(9,2))",
            "INSERT INTO shop.orders VALUES (1, 'new', 1.50), (2, 'paid', 2), (3, 'new', 4)",
        )
        yield peer


def test_the_commands_do_what_the_page_says(peer: Peer, tmp_path: Path) -> None:
    text = PAGE.read_text().replace("127.0.0.1:2379", peer.pd_address)
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    command = Path(sys.executable).with_name("theflash")
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", "-c", "set -euo pipefail\n" + "".join(blocks)],
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
    assert re.search(r"^loaded 3 rows of 1 tables", output, re.MULTILINE)
    assert re.search(r"^new +2 +5.50$", output, re.MULTILINE), output
    assert re.search(r"^compared 3 rows of 1 tables.*no difference$", output, re.MULTILINE)
    assert not re.search(r"^theflash: \w+Error", output, re.MULTILINE)
