"""The commands and programs of pages that need a store and no Spark, run in the page's order."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.page_commands import output_of, script_of
from tests.support.workloads import check_answers, make_store, workload

DOCS = Path(__file__).parents[2] / "docs"
TIMEOUT_S = 120


def run(page: str, folder: Path, **folders: Path) -> str:
    """Run a page; its folders are given with `_` for each `/`."""
    replaced = {name.replace("_", "/"): path for name, path in folders.items()}
    return output_of(script_of((DOCS / page).read_text(), replaced), folder, TIMEOUT_S)


def theflash(*arguments: object) -> str:
    command = [sys.executable, "-m", "pyspark_theflash", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_statements_of_sql(tmp_path: Path) -> None:
    output = run("sql.md", tmp_path, _tmp_own=tmp_path / "own")
    rows, commit_ts = output.splitlines()[-1].split()
    assert rows == "1"
    lines = theflash("scan", tmp_path / "own", "shop.rate", "--at", commit_ts, "--format", "jsonl")
    assert sorted(map(json.loads, lines.splitlines())) == [
        ["EUR", "1.000000", "2026-11-24"],
        ["USD", "1.060000", "2026-11-24"],
    ]


def test_the_api(tmp_path: Path) -> None:
    output = run("api.md", tmp_path, _tmp_bank=make_store(workload("bank"), tmp_path / "bank"))
    batches = [int(line) for line in output.splitlines() if line.isdigit()]
    of_tidb = [
        answer.rows
        for answer in workload("bank").answers()
        if (answer.snapshot_ts, answer.table) == (470613571969220631, "bank.acc_int")
    ]
    assert [sum(batches)] == of_tidb


def test_a_copy(tmp_path: Path) -> None:
    bank = workload("bank")
    run("copy.md", tmp_path, _data_shop=make_store(bank, tmp_path / "shop"))
    assert check_answers(tmp_path / "shop2", bank.answers())
