"""Tables with values of every type and keys of every kind, and their comparison with TiDB."""

from collections import Counter
from pathlib import Path
from typing import Final

from pyspark_theflash.read.plan.snapshot import open_snapshot
from tests.support.mysql import Row
from tests.support.peer import Peer
from tests.support.progress import read_progress

TYPES: Final = (
    "ti TINYINT, tu TINYINT UNSIGNED, bu BIGINT UNSIGNED, z INT(8) ZEROFILL, y YEAR, f FLOAT, "
    "fd FLOAT(7,2), d DOUBLE, c DECIMAL(30,10), da DATE, dt DATETIME(6), ts TIMESTAMP(3) NULL, "
    "tm TIME(2), s VARCHAR(60), ch CHAR(5), bi BINARY(4), vb VARBINARY(40), bl BLOB, "
    "g VARCHAR(20) CHARACTER SET gbk, l VARCHAR(20) CHARACTER SET latin1, b1 BIT(1), b64 BIT(64), "
    "e ENUM('x','é,','3'), st SET('a','b c','9'), j JSON, v INT AS (id + 1), "
    "vs INT AS (id * 2) STORED"
)
NAMES: Final = (
    "id, ti, tu, bu, z, y, f, fd, d, c, da, dt, ts, tm, s, ch, bi, vb, bl, g, l, b1, b64, e, st, j"
)
ROWS: Final = (
    "(1, -128, 255, 18446744073709551615, 7, 2155, 0.1, 1.1, 0.1, -0.0712, '2024-02-29', "
    "'9999-12-31 23:59:59.999999', '2024-02-03 04:05:06.123', '-838:59:59.00', "
    "'né''\\\\\"\\n\\0\\Z', "
    "'ab', x'00', x'ff00275c', x'0a0d', '一二', 'a', 1, 18446744073709551615, 'é,', 'a,9', "
    '\'{"a": [1, 2.5, null, "é"], "b": 1e300}\')',
    "(2, 127, 0, 0, 0, 1901, 3.4e38, -99999.99, -1.7976931348623157e308, 12345678901234567890, "
    "'0000-00-00', '2020-02-00 10:00:00', '0000-00-00', '00:00:00.01', '', '', '', '', '', '', '', "
    "0, 0, '', '', '[]')",
    "(3, 0, 1, 9223372036854775808, 123456789, 0, 16777217, 0, 1e15, 0.5, '1000-01-01', "
    "'1000-01-01', '1970-01-01 00:00:01', '12:13:14.5', '\\\\N', 'NULL', x'41', 'NULL', '\"', "
    "'é', 'x', 0, 1, '3', 'b c', '\"text\"')",
    "(4, 1, 1, 1, 1, 2000, 1.2345678e20, 0.01, -0.0, 1, '2024-01-01', '2024-01-01', "
    "'2024-01-01', '1:0:0', 'a,b\\r\\nc\\td', 'x', 'abcd', 'a', 'b', 'c', 'd', 1, 5, 'x', 'a', "
    "'-1.5e-7')",
    "(5, 1, 1, 1, 1, 2000, -1.5e-30, 0.01, 5e-324, 1, '2024-01-01', '2024-01-01', "
    "'2024-01-01', '1:0:0', 'x', 'x', 'abcd', 'a', 'b', 'c', 'd', 1, 5, 'x', 'a', 'true')",
    "(6, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, "
    "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
)
TABLES: Final = (
    f"CREATE TABLE shop.types (id INT PRIMARY KEY, {TYPES})",
    "CREATE TABLE shop.`uns``igned` (id BIGINT UNSIGNED PRIMARY KEY, v INT DEFAULT 7)",
    "CREATE TABLE shop.ci (a VARCHAR(20) COLLATE utf8mb4_general_ci, b DECIMAL(9,2), c TEXT, "
    "PRIMARY KEY (a, b) CLUSTERED)",
    "CREATE TABLE shop.bytes (a VARBINARY(20), t TIMESTAMP(2), PRIMARY KEY (a, t) CLUSTERED)",
    "CREATE TABLE shop.odd (e ENUM('z','a','m'), f DOUBLE, d DATETIME, b BIT(9), "
    "PRIMARY KEY (e, f, d, b) CLUSTERED)",
    "CREATE TABLE shop.prefix (a VARCHAR(40), v INT, PRIMARY KEY (a(3)) CLUSTERED)",
    "CREATE TABLE shop.parts (id INT PRIMARY KEY, v INT) PARTITION BY RANGE (id) "
    "(PARTITION `p 0` VALUES LESS THAN (300), PARTITION p1 VALUES LESS THAN (301), "
    "PARTITION p2 VALUES LESS THAN MAXVALUE)",
    "CREATE TABLE shop.hashes (a VARCHAR(9), b INT, PRIMARY KEY (a, b) CLUSTERED) "
    "PARTITION BY HASH (b) PARTITIONS 3",
    "CREATE TABLE shop.empty (id INT PRIMARY KEY)",
)
KEYLESS: Final = (
    "CREATE TABLE shop.rowid (a INT, b VARCHAR(9))",
    "CREATE TABLE shop.rowparts (a INT, b INT) PARTITION BY HASH (a) PARTITIONS 2",
)


def fill(peer: Peer, count: int = 1000) -> None:
    """Create the database `shop` with its tables and rows."""
    numbers = range(count)
    rows = {
        "`uns``igned`": (f"({n if n % 3 else 2**64 - 1 - n}, {n})" for n in numbers),
        "ci": (f"('{'aAäb'[n % 4]}k{n // 4}', {n % 7}.25, REPEAT('c', {n % 50}))" for n in numbers),
        "bytes": (f"(x'{n:06x}', '2024-02-03 04:05:{n % 60:02}.{n % 100:02}')" for n in numbers),
        "odd": (
            f"({n % 3 + 1}, {(n * 37 % 101) / 7!r}, '2024-02-03 04:{n % 60:02}:00', {n % 512})"
            for n in numbers
        ),
        "prefix": (
            f"('{chr(97 + n // 26 % 26)}{chr(97 + n % 26)}{n // 676}x{n}', {n})" for n in numbers
        ),
        "parts": (f"({n}, {n * 7})" for n in numbers),
        "hashes": (f"('k{n % 9}', {n})" for n in numbers),
        "rowid": (f"({n % 10}, 'b{n}')" for n in numbers),
        "rowparts": (f"({n % 10}, {n})" for n in numbers),
    }
    with peer.connect() as session:
        for statement in ("SET time_zone = '+00:00'", "SET sql_mode = ''", "CREATE DATABASE shop"):
            session.query(statement)
        for statement in (*TABLES, *KEYLESS):
            session.query(statement)
        for row in ROWS:
            session.query(f"INSERT INTO shop.types ({NAMES}) VALUES {row}")
        for table, values in rows.items():
            session.query(f"INSERT INTO shop.{table} VALUES {','.join(values)}")
        for statement in (
            "ALTER TABLE shop.`uns``igned` ADD COLUMN later INT NOT NULL DEFAULT 7",
            "UPDATE shop.`uns``igned` SET later = 9, v = NULL WHERE v < 100",
            "DELETE FROM shop.rowid WHERE a = 3",
            "CREATE VIEW shop.seen AS SELECT * FROM shop.parts",
        ):
            session.query(statement)


def answers(peer: Peer, ts: int) -> dict[str, list[Row]]:
    """Return TiDB's rows of all tables at a timestamp."""
    with peer.connect() as session:
        for statement in ("SET time_zone = '+00:00'", f"SET tidb_snapshot = {ts}"):
            session.query(statement)
        names = [
            row[0] or ""
            for row in session.query("SHOW FULL TABLES FROM shop")
            if row[1] == "BASE TABLE"
        ]
        return {
            name: session.query("SELECT * FROM shop.`" + name.replace("`", "``") + "`")
            for name in names
        }


def check_store(store: Path, expected: dict[str, list[Row]]) -> int:
    """Compare a store's tables with TiDB's rows, at its newest timestamp; return their number."""
    count = 0
    with open_snapshot(store) as snapshot:
        for name, rows in expected.items():
            columns = list(zip(*snapshot.texts(snapshot.plan(f"shop.{name}")), strict=True))
            ours = [[_text(v) for part in column for v in part.to_pylist()] for column in columns]
            got, wanted = Counter(zip(*ours, strict=True)), Counter(rows)
            assert got == wanted, (name, got - wanted, wanted - got)
            count += len(rows)
    return count


def _text(value: str | bytes | None) -> str | None:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def resolved_ts(store: Path) -> int:
    """Return the newest timestamp of a store."""
    progress = read_progress(store)
    assert progress is not None
    return progress.resolved_ts
