"""One option set, one answer: TiDB's, whichever way Spark reads, while the store is changed.

Beside every read a writer goes on from answer to answer, garbage is collected below the ones that
are asked for, and files and regions are rewritten.
"""

import random
from collections import defaultdict
from contextlib import suppress
from decimal import Decimal
from functools import reduce

import pytest

from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.read.present import Presentation
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.storage.engine import registry
from tests.support.processes import wait_until
from tests.support.sources import JAR
from tests.support.spark_digest import spark_digest
from tests.support.victims import Victim, small_steps
from tests.support.workloads import NAMES, workload

GATHER_BYTES = 1 << 17
SOURCES = ("jar", "server", "python", "python_server", "connect", "connect_python")
FAST = ("jar", "bank")


def keep_busy(name, store, moments):
    """A victim's target: write on from one moment to the next, and rewrite all in between."""
    small_steps(GATHER_BYTES)
    chosen, third = workload(name), len(moments) // 3
    *arguments, _ = chosen.writer_arguments(store)
    for until_ts in [*moments[-third - 1 :], chosen.end_ts]:
        assert main(["writer", *arguments, str(until_ts)]) == 0
        assert main(["gc", str(store), "--safe-point", str(moments[third])]) == 0
        assert main(["compact", str(store)]) == 0
    with connect(store) as api:
        while True:
            for table in api.tables().tables:
                with suppress(TheFlashError):  # nothing to divide, or to unite
                    divide(api, table.name)
            api.compact()


def divide(api, table):
    """Cut a table's first region in two, or unite the first two."""
    first, *others = api.regions(table).regions
    if others and others[0].physical_id == first.physical_id:
        api.merge_regions(first.physical_id, first.region_id, others[0].region_id)
        return
    plan = api.plan(table, ["_tidb_rowid"])
    handles = [row["_tidb_rowid"] for batch in api.read(plan) for row in batch.to_pylist()]
    api.release(plan.snapshot)
    api.split_region(first.physical_id, first.region_id, str(sorted(handles)[len(handles) // 2]))


def cases():
    """Workloads and ways; all but one take long."""
    return [
        pytest.param(name, source, marks=[] if (source, name) == FAST else [pytest.mark.slow])
        for name in NAMES
        for source in SOURCES
    ]


@pytest.mark.parametrize(("name", "source"), cases())
def test_every_way_has_tidbs_answers_while_the_store_is_changed(name, source, request, tmp_path):
    store = tmp_path / "store"
    registry.create(store, registry.MAGIC, LocalFileSystem())
    answers = list(workload(name).answers())
    moments = sorted({answer.snapshot_ts for answer in answers})
    third = len(moments) // 3
    middle = moments[third : len(moments) - third]
    writer = Victim(keep_busy, name, store, moments)
    try:
        way = request.getfixturevalue(source)
        chance, by_table = random.Random(f"{name} {source}"), defaultdict(list)
        for answer in answers:
            if answer.snapshot_ts in middle:
                by_table[answer.table].append(answer)
        wait_until(lambda: has_come_to(store, middle[-1]), 300_000)
        for table in sorted(by_table):
            check(way, store, chance.choice(by_table[table]), as_text=name == "ddl")
        assert writer.is_alive()
    finally:
        writer.kill_after(0)


def has_come_to(store, moment):
    with connect(store) as api:
        return (api.status().resolved_ts or 0) >= moment


def check(way, store, answer, *, as_text):
    """All rows, in parts that Spark may leave to the store, and what it may add up there."""
    options = {"snapshot_ts": answer.snapshot_ts, "wait_for_ts": 120, "all_as_text": as_text}
    for pushdown in ("true", "false") if way.name == JAR else ("true",):
        frame = way.reader(store, pushdown=pushdown, **options).load(answer.table)
        first = f"`{frame.columns[0]}`"
        counted, not_null, least, most = frame.selectExpr(
            "count(*)", f"count({first})", f"min({first})", f"max({first})"
        ).collect()[0]
        assert counted == answer.rows, answer
        half = f"{first} < {literal(most)}"
        parts = [frame.where(each) for each in (half, f"NOT ({half})", f"{first} IS NULL")]
        rows = reduce(lambda a, b: a.unionAll(b), parts).toArrow()
        with open_snapshot(store, answer.snapshot_ts) as snapshot:
            columns = snapshot.table(answer.table).public_columns
        digest = spark_digest(rows, columns, Presentation(as_text=as_text))
        assert (digest.rows, digest.hexdigest()) == (answer.rows, answer.checksum), answer
        values = [value for value in rows.column(0).to_pylist() if value is not None]
        assert not_null == len(values)
        assert (least, most) == (min(values, default=None), max(values, default=None))


def literal(value):
    """A value in Spark's SQL."""
    if value is None or isinstance(value, int | Decimal):
        return "NULL" if value is None else str(value)
    return f"X'{value.hex()}'" if isinstance(value, bytes | bytearray) else f"'{value}'"
