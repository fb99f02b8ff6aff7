"""The commands of docs/follow.md, run in the order of the page, with a live cluster."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.page_commands import commands_of, output_of
from tests.support.peer import Peer

pytestmark = [pytest.mark.peer]

PAGE = Path(__file__).parents[2] / "docs" / "follow.md"
TIMEOUT_S = 900


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path / "peer", cdc="v6.5") as peer:
        peer.sql(
            "CREATE DATABASE shop",
            "CREATE TABLE shop.orders (id INT PRIMARY KEY, status VARCHAR(9), total DECIMAL(9,2))",
            "INSERT INTO shop.orders VALUES (1, 'new', 1.50), (2, 'paid', 2), (3, 'new', 4)",
            "CREATE DATABASE stock",
            "CREATE TABLE stock.items (id INT PRIMARY KEY)",
            "INSERT INTO stock.items VALUES (1), (2), (3), (4), (5)",
        )
        yield peer


def test_the_commands_do_what_the_page_says(peer: Peer, tmp_path: Path) -> None:
    text = PAGE.read_text().replace("127.0.0.1:2379", peer.pd_address)
    script = "set -euo pipefail\n" + commands_of(text)
    output = output_of(script, tmp_path, TIMEOUT_S)
    assert re.search(r"^loaded 3 rows of 1 tables", output, re.MULTILINE)
    assert re.search(r"^new +2 +5.50$", output, re.MULTILINE), output
    assert re.search(r"^compared 3 rows of 1 tables.*no difference$", output, re.MULTILINE)
    assert re.search(r"^5$", output, re.MULTILINE), output
    assert not re.search(r"^theflash: \w+Error", output, re.MULTILINE)
