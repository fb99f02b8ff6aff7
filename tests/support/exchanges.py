"""Tables that are changed and exchanged with a partition, in every order that TiDB allows.

EXCHANGE PARTITION requires the same column ids in both tables, so one of them gets its columns one
by one. `COMPACT` is not a statement: there, everything is compacted.
"""

from collections.abc import Mapping, Sequence
from typing import Final

COMPACT: Final = "compact"
EXCHANGE: Final = "ALTER TABLE p EXCHANGE PARTITION p0 WITH TABLE t"
_P: Final = (
    "PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (10),"
    " PARTITION p1 VALUES LESS THAN (100))"
)
_MODIFIED: Final = (
    "CREATE TABLE t (id INT, a INT, b INT)",
    "INSERT INTO t VALUES (1, 11, 1), (2, NULL, 2)",
    "ALTER TABLE t MODIFY a VARCHAR(20)",
)
_ADDED: Final = (
    f"CREATE TABLE p (id INT, x INT, b INT) {_P}",
    "ALTER TABLE p DROP COLUMN x",
    "ALTER TABLE p ADD COLUMN a VARCHAR(20) AFTER id",
)
_DROPPED: Final = (
    "CREATE TABLE t (id INT, a INT, b INT)",
    "INSERT INTO t VALUES (1, 11, 111), (2, 2, NULL)",
    "ALTER TABLE t DROP COLUMN b",
    "INSERT INTO t VALUES (3, 3)",
    f"CREATE TABLE p (id INT, a INT) {_P}",
    EXCHANGE,
)
SCENARIOS: Final[Mapping[str, Sequence[str]]] = {
    "modified": [
        *_MODIFIED,
        *_ADDED,
        EXCHANGE,
        COMPACT,
        EXCHANGE,
        "INSERT INTO t VALUES (4,'y',4)",
    ],
    "modified_compacted": [*_MODIFIED, COMPACT, *_ADDED, EXCHANGE, EXCHANGE, COMPACT, EXCHANGE],
    "added": [
        "CREATE TABLE t (id INT, a INT)",
        "INSERT INTO t VALUES (1, 11)",
        "ALTER TABLE t ADD COLUMN d INT DEFAULT 7",
        "INSERT INTO t (id) VALUES (2)",
        "INSERT INTO t VALUES (3, 3, NULL)",
        COMPACT,
        f"CREATE TABLE p (id INT, a INT, d INT) {_P}",
        "INSERT INTO p VALUES (4, 4, 4), (5, NULL, NULL)",
        EXCHANGE,
        COMPACT,
        EXCHANGE,
    ],
    # Rows leave out a NULL where a column has no default; an update in the binlog does not.
    "nulls": [
        "CREATE TABLE t (id INT, a INT, d INT, e INT DEFAULT 5)",
        "INSERT INTO t VALUES (1, 11, NULL, NULL), (2, 2, 2, 2)",
        "UPDATE t SET a = 12 WHERE id = 1",
        "ALTER TABLE t ALTER COLUMN e DROP DEFAULT",
        "INSERT INTO t VALUES (6, 11, NULL, NULL)",
        f"CREATE TABLE p (id INT, a INT) {_P}",
        "ALTER TABLE p ADD COLUMN d INT DEFAULT 7",
        "ALTER TABLE p ADD COLUMN e INT DEFAULT 8",
        "INSERT INTO p VALUES (4, 4, 4, 4), (5, NULL, NULL, NULL)",
        EXCHANGE,
        COMPACT,
        EXCHANGE,
    ],
    # MODIFY COLUMN rewrites rows, including all values that they had omitted.
    "rewritten": [
        "CREATE TABLE t (id INT, a INT, n INT)",
        "INSERT INTO t VALUES (1, 11, NULL)",
        "ALTER TABLE t ADD COLUMN d INT DEFAULT 7",
        "ALTER TABLE t MODIFY a VARCHAR(20)",
        "INSERT INTO t VALUES (2, '11', NULL, 9)",
        f"CREATE TABLE p (id INT, x INT) {_P}",
        "ALTER TABLE p DROP COLUMN x",
        "ALTER TABLE p ADD COLUMN n INT DEFAULT 3",
        "ALTER TABLE p ADD COLUMN d INT",
        "ALTER TABLE p ADD COLUMN a VARCHAR(20) AFTER id",
        EXCHANGE,
        COMPACT,
        EXCHANGE,
    ],
    "rewritten_default": [
        "CREATE TABLE t (id INT)",
        "INSERT INTO t VALUES (1)",
        "ALTER TABLE t ADD COLUMN a INT DEFAULT 7",
        "ALTER TABLE t MODIFY a VARCHAR(20) DEFAULT 'x'",
        f"CREATE TABLE p (id INT, b INT) {_P}",
        "ALTER TABLE p DROP COLUMN b",
        "ALTER TABLE p ADD COLUMN a VARCHAR(20) DEFAULT 'x'",
        EXCHANGE,
    ],
    "modified_after": [
        "CREATE TABLE t (id INT, a INT)",
        "INSERT INTO t VALUES (1, 5)",
        "ALTER TABLE t ADD COLUMN d INT DEFAULT 7",
        f"CREATE TABLE p (id INT, a INT, d INT) {_P}",
        "INSERT INTO p VALUES (4, 4, 4), (5, NULL, NULL)",
        EXCHANGE,
        COMPACT,
        "ALTER TABLE t MODIFY a VARCHAR(20)",
        COMPACT,
        "INSERT INTO t VALUES (6, 'x', NULL)",
        "ALTER TABLE t MODIFY d VARCHAR(20)",
    ],
    "reorganized": [
        "CREATE TABLE t (id INT, a INT, d INT)",
        "INSERT INTO t VALUES (1, 11, NULL), (2, NULL, 2)",
        "ALTER TABLE t MODIFY a VARCHAR(20)",
        "INSERT INTO t VALUES (3, 'x', NULL)",
        f"CREATE TABLE p (id INT, x INT) {_P}",
        "ALTER TABLE p DROP COLUMN x",
        "ALTER TABLE p ADD COLUMN d INT DEFAULT 8",
        "ALTER TABLE p ADD COLUMN a VARCHAR(20) AFTER id",
        "INSERT INTO p VALUES (50, 'y', NULL)",
        EXCHANGE,
        "ALTER TABLE p REORGANIZE PARTITION p0 INTO"
        " (PARTITION p0 VALUES LESS THAN (2), PARTITION p01 VALUES LESS THAN (10))",
        COMPACT,
        "ALTER TABLE p REORGANIZE PARTITION p01, p1 INTO (PARTITION p1 VALUES LESS THAN (200))",
    ],
    "truncated": [
        *_MODIFIED,
        *_ADDED,
        "INSERT INTO p VALUES (5, 'five', NULL)",
        EXCHANGE,
        "ALTER TABLE p TRUNCATE PARTITION p0",
        "INSERT INTO p VALUES (6, 'six', NULL)",
        EXCHANGE,
    ],
    # TiDB shows values of former columns with the same id.
    "reused": [
        *_DROPPED,
        "ALTER TABLE p ADD COLUMN c INT DEFAULT 6",
        "INSERT INTO p VALUES (4, 4, 4)",
        COMPACT,
        "UPDATE p SET a = 5 WHERE id = 1",
    ],
    "reused_otherwise": [
        *_DROPPED,
        "ALTER TABLE p ADD COLUMN c VARCHAR(20) DEFAULT 'six'",
        "INSERT INTO p VALUES (4, 4, '4')",
        COMPACT,
        "UPDATE p SET a = 5 WHERE id = 1",
    ],
}
"""By database."""
_NULL: Final = "a NULL that may have been absent"
REFUSED: Final = {
    ("reused_otherwise", "c"): "belonged to another",
    ("added", "d"): _NULL,
    ("nulls", "d"): _NULL,
    ("nulls", "e"): _NULL,
    ("rewritten", "n"): _NULL,
    ("rewritten", "d"): _NULL,
    ("modified_after", "d"): _NULL,
    ("reorganized", "d"): _NULL,
    ("reused", "c"): _NULL,
}
"""Columns that may be rejected after EXCHANGE, because their values cannot be determined."""
