"""A table whose rows change by transactions of all kinds, for tests of the change feed."""

from collections.abc import Sequence
from random import Random
from typing import Final

from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.tidb.codec.key import encode_record_key
from tests.support.mysql import MySqlConnection, MySqlError
from tests.support.peer import Peer

ACCOUNTS: Final = 30
STEP: Final = 10_000
_CHANGES: Final = (
    "UPDATE bank.acc SET n = {n} WHERE id = {key}",
    "UPDATE bank.acc SET note = REPEAT('x', {n}) WHERE id = {key}",
    "DELETE FROM bank.acc WHERE id = {key}",
    "REPLACE INTO bank.acc (id, n, note) VALUES ({key}, {n}, REPEAT('r', {n}))",
    "SELECT * FROM bank.acc WHERE id = {key} FOR UPDATE",
)
_DDL: Final = (
    "ALTER TABLE bank.acc ADD COLUMN c{n} INT DEFAULT 5",
    "ALTER TABLE bank.acc ADD INDEX i{n} (note(20))",
    "ALTER TABLE bank.acc DROP INDEX i{n}",
    "CREATE TABLE bank.t{n} (a INT PRIMARY KEY)",
    "INSERT INTO bank.t{n} VALUES (1)",
    "DROP TABLE bank.t{n}",
)


def create(peer: Peer) -> RawKeyRange:
    """Create `bank.acc` in several regions; return the range of its rows."""
    peer.sql(
        "DROP DATABASE IF EXISTS bank",
        "CREATE DATABASE bank",
        "CREATE TABLE bank.acc (id BIGINT PRIMARY KEY, n BIGINT, note VARCHAR(900), KEY (n))",
        "INSERT INTO bank.acc VALUES "
        + ", ".join(f"({n * STEP}, {n}, REPEAT('n', {n * 20}))" for n in range(ACCOUNTS)),
    )
    split(peer, 3)
    return RawKeyRange.of_prefix(encode_record_key(table_id(peer, "bank", "acc"), b""))


def table_id(peer: Peer, database: str, table: str) -> PhysicalTableID:
    ((number,),) = peer.sql(
        "SELECT TIDB_TABLE_ID FROM information_schema.tables"
        f" WHERE TABLE_SCHEMA = '{database}' AND TABLE_NAME = '{table}'"
    )
    return PhysicalTableID(int(number or 0))


def split(peer: Peer, regions: int) -> None:
    peer.sql(
        # There is only one store.
        "SET tidb_wait_split_region_finish = 0",
        f"SPLIT TABLE bank.acc BETWEEN (0) AND ({ACCOUNTS * STEP}) REGIONS {regions}",
    )


def run_ddl(peer: Peer, number: int) -> None:
    peer.sql(*(statement.format(n=number) for statement in _DDL))


def transact(session: MySqlConnection, random: Random, changes: Sequence[str] = _CHANGES) -> None:
    """Run one transaction of some changes, committed in any of TiDB's ways or rolled back."""
    for name in ("async_commit", "1pc"):
        session.query(f"SET tidb_enable_{name} = {random.randint(0, 1)}")
    try:
        session.query(f"BEGIN {random.choice(['OPTIMISTIC', 'PESSIMISTIC'])}")
        for _ in range(random.choice([1, 1, 2, 5])):
            key = random.randrange(ACCOUNTS) * STEP
            session.query(random.choice(changes).format(key=key, n=random.randrange(900)))
        session.query("ROLLBACK" if random.random() < 0.1 else "COMMIT")
    except MySqlError:
        session.query("ROLLBACK")
