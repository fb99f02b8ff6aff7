"""Names of databases, tables and columns that a hostile cluster may replicate."""

import itertools
import json
from pathlib import Path

from pyspark_theflash.base.errors import InternalError, TheFlashError
from pyspark_theflash.testing.stores import StoreBuilder, id_column
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info
from tests.attack.harness import BreachError, Target, attack, breach_if, run_command
from tests.attack.servers import SMALL
from tests.support.serving import command

HOSTILE = (
    *('"', "'", "`", "\\", "a'; DROP TABLE x; --", "\"; ATTACH 'x' AS y; --", "%s%n{0}", "$x"),
    *("..", "../../etc/passwd", "/etc/passwd", "a/b", "~root", "C:\\x", "NUL\0byte", "\x1b[2J"),
    *("pg_catalog", "information_schema", "main", "temp", "system", "memory", "duckdb"),
    *("select", "TABLE", " ", "a.b", "a$files", "items$latches", "*", "?", "_handle", "\u202eabc"),
    *("\U0001f600" * 64, "\u0000", "\ufeff", "x" * 64, "\n", "\uff33\uff28"),
)
ROW = 4711


def hostile_store(path: Path, *, is_short: bool = False) -> list[TableInfo]:
    """Make a store in which each name is once a database, a table and a column, or one of these."""
    tables = [SMALL]
    places = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    cases = list(itertools.product(HOSTILE, places))
    if is_short:
        cases = [(name, places[n % 3]) for n, name in enumerate(HOSTILE)]
    for name, (db, table, column) in cases:
        info = {
            "id": 100 + len(tables),
            "name": {"O": name if table else "t"},
            "cols": [{"id": 1, "offset": 0, **id_column(name if column else "id")}],
            "pk_is_handle": True,
        }
        own_db = name if db else f"db{len(tables)}"
        tables.append(parse_table_info(own_db, json.loads(json.dumps(info))))
    versions = {each: [(each.id, 110, [each.id])] for each in tables[1:]}
    StoreBuilder(path, *tables).publish(200, {SMALL: [(ROW, 110, [ROW])], **versions})
    return tables


@attack("names", over=["frames"])
def names_in_calls(target: Target) -> str:
    """List, describe, plan and read all tables by their names."""
    with target.server.client(None) as api:
        listed = api.tables().tables
        breach_if("shop.small" not in [each.name for each in listed], "shop.small is not listed")
        refused = 0
        if target.is_short:  # in turn as a database, a table and a column
            listed = [listed[at + at // 3 % 3] for at in range(0, len(listed) - 2, 3)]
        for table in listed:
            try:
                plan = api.plan(table.name)
                rows = [row for batch in api.read(plan) for row in batch.to_pylist()]
                api.describe(table.name)
                api.release(plan.snapshot)
            except InternalError as error:
                raise BreachError(f"{table.name!r}: {error}") from error
            except TheFlashError:
                refused += 1
                continue
            values = [list(row.values()) for row in rows]
            wanted = ROW if table.id == SMALL.id else table.id
            breach_if(values != [[wanted]], f"{table.name!r} has rows of another table")
    _check_files(target.server.store)
    return f"{len(listed)} tables, {refused} cannot be named"


@attack("commands", over=["sql"])
def names_in_sql(target: Target) -> str:
    """Query a table beside those with hostile names, and one of those."""
    store = target.folder / "store"
    hostile_store(store, is_short=target.is_short)
    for text in ("SELECT sum(id) FROM shop.small", 'SELECT count(*) FROM "a.b".t, shop.small'):
        ran = run_command(command("sql", store, text, "--format", "jsonl"), 60)
        held = ran.status == 0 and str(ROW if "sum" in text else 1) in ran.output
        breach_if(not held, f"{text}: {ran.output[-300:]}")
        if target.is_short:
            break
    _check_files(store)
    return "held"


def _check_files(store: Path) -> None:
    """Raise if a name has become a path."""
    outside = [path for path in store.parent.iterdir() if path.name in ("passwd", "small")]
    breach_if(outside, f"files outside the store: {outside}")
    ordinary = all(path.name.isascii() and path.name.isprintable() for path in store.rglob("*"))
    breach_if(not ordinary, "a name is part of a path")
