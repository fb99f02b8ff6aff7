"""The commands and programs of README and of the tutorial, run in the order of the page."""

import gzip
import json
import re
import shutil
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest

from tests.support.page_commands import blocks_of, output_of

PROJECT = Path(__file__).parents[2]
TIMEOUT_S = 600
NOT_RUN = ("make demo", "make wheel")
"""Starts of the blocks that install the package, which the tests have."""


def script(page: Path, store: Path) -> str:
    """Return a script of bash that runs the page's blocks, in order.

    Consecutive blocks of Python are one program.
    """
    run = [block for block in blocks_of(page.read_text()) if not block[1].startswith(NOT_RUN)]
    parts = ["set -euo pipefail\n"]
    for language, blocks in groupby(run, key=itemgetter(0)):
        content = "".join(block for _, block in blocks)
        parts.append(content if language == "sh" else f"python - <<'END'\n{content}END\n")
    return "".join(parts).replace("/tmp/bank", str(store))


def tidbs_sum() -> int:
    """Return the sum of balances in the rows that TiDB had at the timestamp of both pages."""
    rows = PROJECT / "tests/fixtures/bank/truth/470613571969220631.bank.acc_int.jsonl.gz"
    with gzip.open(rows, "rt") as lines:
        return sum(int(json.loads(line)[2]) for line in lines)


@pytest.mark.parametrize(
    ("page", "sums", "last"),
    [("README.md", 3, "balance: [["), ("docs/tutorial.md", 4, "all sound")],
)
def test_the_page_does_what_it_says(page: str, sums: int, last: str, tmp_path: Path) -> None:
    bank = "tests/fixtures/bank"
    shutil.copytree(PROJECT / bank, tmp_path / bank)
    output = output_of(script(PROJECT / page, tmp_path / "store"), tmp_path, TIMEOUT_S)
    assert len(re.findall(rf"\b{tidbs_sum()}\b", output)) == sums, output
    assert last in output.splitlines()[-1], output
