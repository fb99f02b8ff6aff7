"""Print a table's rows at a timestamp, in no particular order.

Formats: `table` for people; `jsonl`, one JSON array per row, of strings, null, and {"x":"hex"} for
binary strings and BIT; `arrow`, an Arrow IPC stream; `parquet`, a file. The values of the first two
are in TiDB's text form at time zone +00:00, those of the others are typed.

With `--output`, the rows are written to a new file, which appears when it is complete. An existing
file is not overwritten.
"""

import argparse
from collections.abc import Sequence

import pyarrow as pa

from pyspark_theflash.base.errors import ColumnNotFoundError, UsageError
from pyspark_theflash.cli.jobs.arguments import add_at
from pyspark_theflash.cli.place import add_place
from pyspark_theflash.cli.rows import (
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
    add_wait(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the rows, or write them to a file."""
    check_output(arguments)
    with opened_snapshot(arguments) as (store, snapshot):
        plan = _plan(store, snapshot, arguments)
        schema = pa.ipc.read_schema(pa.py_buffer(plan.arrow_schema))
        write_rows(arguments, schema, store.read(plan), lambda batch: batch.columns)
    return 0


def _plan(store: TheFlash, snapshot: Snapshot, arguments: argparse.Namespace) -> Plan:
    moment = Moment(handle=snapshot.handle)
    presentation = Presentation(as_text=arguments.format in ("table", "jsonl"))

    def planned(columns: Sequence[str] | None) -> Plan:
        return store.plan(arguments.table, columns, moment=moment, presentation=presentation)

    names = arguments.columns.split(",") if arguments.columns else None
    if names and len({name.lower() for name in names}) < len(names):
        raise UsageError("--columns: a column is named twice")
    if not arguments.rowid or ROWID_NAME in [name.lower() for name in names or ()]:
        return planned(names)
    if names is None:
        names = [column.name for column in store.table(arguments.table, moment).columns]
    try:
        return planned([*names, ROWID_NAME])
    except ColumnNotFoundError:
        return planned(names)
