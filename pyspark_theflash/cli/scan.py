"""Print a table's rows at a timestamp, in no particular order.

Formats: `table` for people; `csv`, with a header, where NULL is empty, an empty string "" and
binary strings 0xHEX; `jsonl`, one JSON array per row, of strings, null, and {"x":"hex"} for binary
strings and BIT; `arrow`, an Arrow IPC stream; `parquet`, a file. The values of the first three are
in TiDB's text form at time zone +00:00, those of the others are typed.

With `--output`, the rows are written to a new file, which appears when it is complete. An existing
file is not overwritten.
"""

import argparse
from collections.abc import Iterator, Sequence

import pyarrow as pa

from pyspark_theflash.base.errors import ColumnNotFoundError, UsageError
from pyspark_theflash.cli.jobs.arguments import add_at, count
from pyspark_theflash.cli.place import add_place
from pyspark_theflash.cli.rows import (
    TEXT_FORMATS,
    add_output,
    add_wait,
    check_output,
    opened_snapshot,
    write_rows,
)
from pyspark_theflash.service.client.theflash import TheFlash
from pyspark_theflash.service.wire.message import Moment, Plan, Presentation, Snapshot
from pyspark_theflash.tidb.schema.model import ROWID_NAME


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `scan`."""
    add_place(parser)
    parser.add_argument("table", metavar="DB.TABLE")
    add_at(parser)
    parser.add_argument(
        "--columns", metavar="a,b", help="columns by name, in output order (default: all)"
    )
    parser.add_argument(
        "--rowid",
        action="store_true",
        help="add _tidb_rowid as the last column, if the table has one",
    )
    parser.add_argument(
        "--where",
        default="",
        metavar="CONDITION",
        help="only rows for which this condition in TiDB's SQL is true",
    )
    parser.add_argument("--limit", type=count, metavar="N", help="at most N rows, any of them")
    add_wait(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the rows, or write them to a file."""
    check_output(arguments)
    with opened_snapshot(arguments) as (store, snapshot):
        plan = _plan(store, snapshot, arguments)
        schema = pa.ipc.read_schema(pa.py_buffer(plan.arrow_schema))
        batches = store.read(plan)
        if arguments.limit is not None:
            batches = _first(batches, arguments.limit)
        write_rows(arguments, schema, batches, lambda batch: batch.columns)
    return 0


def _first(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the first rows of batches; each split has already been limited to so many."""
    while rows > 0 and (batch := next(batches, None)) is not None:
        yield batch.slice(0, rows)
        rows -= batch.num_rows


def _plan(store: TheFlash, snapshot: Snapshot, arguments: argparse.Namespace) -> Plan:
    moment = Moment(handle=snapshot.handle)
    presentation = Presentation(as_text=arguments.format in TEXT_FORMATS)

    def planned(columns: Sequence[str] | None) -> Plan:
        return store.plan(
            arguments.table,
            columns,
            moment=moment,
            where=arguments.where,
            presentation=presentation,
            limit=arguments.limit or 0,
        )

    names = arguments.columns.split(",") if arguments.columns else None
    if names and len({name.lower() for name in names}) < len(names):
        raise UsageError("--columns: a column is named twice")
    if not arguments.rowid or ROWID_NAME in [name.lower() for name in names or ()]:
        return planned(names)
    if names is None:
        names = [column.name for column in store.describe(arguments.table, moment).columns]
    try:
        return planned([*names, ROWID_NAME])
    except ColumnNotFoundError:
        return planned(names)
