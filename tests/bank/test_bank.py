"""A short run of the bank; `make bank` runs it longer."""

from pathlib import Path

import pytest

from tests.bank.run import run

pytestmark = [pytest.mark.peer, pytest.mark.slow]
SECONDS, AT_LEAST = 12, 10


@pytest.mark.parametrize("binlog", [False, True], ids=["regions", "regions and binlog"])
def test_bank(tmp_path: Path, *, binlog: bool) -> None:
    figures = run(tmp_path, SECONDS, at_least=AT_LEAST, binlog=binlog)
    assert figures.different == []
    assert figures.wrong_totals == []
    assert figures.timestamps >= AT_LEAST
    assert (figures.from_binlog > 0) is binlog
    assert min(figures.done[what] for what in ("transfers", "ddl", "statements")) > 0
    assert figures.happened["commands"] > 0
