"""Actions of the bank's customers and operators, in SQL, in a separate process.

    python -m tests.bank.workload HOST PORT

works until its standard input ends, and prints how often it did what, as JSON.

Money is in four tables, on accounts that are always there, so that its sum never changes:

    acc      integer keys over many regions       savings   clustered text keys, by collation
    part     range partitions                     apart     takes the place of one of them

`journal` (no key of its own) and `pages` (long rows) hold none; they are truncated, renamed, and
written with async commit and in one phase. Money is moved without these two: the store calculates
their commit_ts before a lock is visible, so a reader in between would miss it.
"""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.bank.crew import Crew
from tests.support.mysql import MySqlConnection, MySqlError

ACCOUNTS, SAVINGS, BALANCE, PAGES = 200, 60, 1000, 400
STEP = 10_000
TOTAL = (ACCOUNTS + SAVINGS + ACCOUNTS + ACCOUNTS // 2) * BALANCE
_TIMEOUT_S = 600
PAUSE_S, DDL_PAUSE_S, LARGE_PAUSE_S = 0.05, 0.8, 2

SETUP = (
    "SET GLOBAL tidb_gc_life_time = '2h'",
    "CREATE DATABASE bank",
    "CREATE TABLE bank.acc (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, note VARCHAR(400))",
    "CREATE TABLE bank.savings (name VARCHAR(20) COLLATE utf8mb4_general_ci,"
    " balance DECIMAL(20,2) NOT NULL, PRIMARY KEY (name) CLUSTERED)",
    "CREATE TABLE bank.part (id INT PRIMARY KEY, balance BIGINT NOT NULL)"
    " PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (100),"
    " PARTITION p1 VALUES LESS THAN (200))",
    "CREATE TABLE bank.apart (id INT PRIMARY KEY, balance BIGINT NOT NULL)",
    "CREATE TABLE bank.journal (what VARCHAR(300), at DATETIME(6), amount DECIMAL(20,4), doc JSON)",
    "CREATE TABLE bank.pages (id INT PRIMARY KEY, body VARCHAR(3000), state ENUM('new', 'old'))",
    "CREATE TABLE bank.slots (id INT PRIMARY KEY, v INT) PARTITION BY RANGE (id)"
    " (PARTITION p0 VALUES LESS THAN (50), PARTITION p1 VALUES LESS THAN (100))",
    "INSERT INTO bank.acc VALUES "
    + ", ".join(f"({n * STEP}, {BALANCE}, REPEAT('n', {n * 2}))" for n in range(ACCOUNTS)),
    "INSERT INTO bank.savings VALUES "
    + ", ".join(f"('Customer é {n}', {BALANCE})" for n in range(SAVINGS)),
    "INSERT INTO bank.part VALUES " + ", ".join(f"({n}, {BALANCE})" for n in range(ACCOUNTS)),
    "INSERT INTO bank.apart VALUES "
    + ", ".join(f"({n}, {BALANCE})" for n in range(ACCOUNTS // 2, ACCOUNTS)),
    "INSERT INTO bank.pages VALUES "
    + ", ".join(f"({n}, REPEAT('p', {n * 5}), 'new')" for n in range(PAGES)),
)
DDL = (
    "ALTER TABLE bank.acc ADD COLUMN extra INT NOT NULL DEFAULT 7",
    "split bank.acc",
    "CREATE INDEX by_balance ON bank.acc (balance)",
    "ALTER TABLE bank.part EXCHANGE PARTITION p1 WITH TABLE bank.apart",
    "TRUNCATE TABLE bank.journal",
    "ALTER TABLE bank.journal MODIFY COLUMN amount VARCHAR(40)",
    "ALTER TABLE bank.pages ADD COLUMN (a DATE DEFAULT '2020-02-02', b DOUBLE)",
    "RENAME TABLE bank.journal TO bank.diary",
    "split bank.pages",
    "CREATE TABLE bank.later (id INT PRIMARY KEY, d DATE) PARTITION BY HASH (id) PARTITIONS 3",
    "INSERT INTO bank.later VALUES (1, '2020-01-01'), (2, NULL), (3, '1999-12-31')",
    "ALTER TABLE bank.acc DROP INDEX by_balance, DROP COLUMN extra",
    "ALTER TABLE bank.slots TRUNCATE PARTITION p0",
    "RENAME TABLE bank.diary TO bank.journal",
    "ALTER TABLE bank.slots REORGANIZE PARTITION p1 INTO (PARTITION p1 VALUES LESS THAN (70),"
    " PARTITION p2 VALUES LESS THAN (100))",
    "ALTER TABLE bank.pages DROP COLUMN a, DROP COLUMN b",
    "DROP TABLE bank.later",
    "ALTER TABLE bank.journal MODIFY COLUMN amount DECIMAL(20,4)",
    "ALTER TABLE bank.slots REORGANIZE PARTITION p1, p2 INTO (PARTITION p1 VALUES LESS THAN (100))",
    "ALTER TABLE bank.savings ADD COLUMN since DATETIME DEFAULT '2001-02-03 04:05:06' FIRST",
    "ALTER TABLE bank.savings DROP COLUMN since",
)


class Workload:
    """The actions and their counts. Each method is a thread's work, until `over`."""

    def __init__(self, connect: Callable[[], MySqlConnection]) -> None:
        self._connect = connect
        self.done: Counter[str] = Counter()

    def transfers(self, seed: int) -> Callable[[threading.Event], None]:
        """Move money between any two accounts."""

        def work(over: threading.Event) -> None:
            rng = Random(seed)
            with self._connect() as session:
                session.query("SET tidb_enable_async_commit = OFF, tidb_enable_1pc = OFF")
                while not over.wait(rng.random() * PAUSE_S):
                    self._transfer(session, rng)

        return work

    def _transfer(self, session: MySqlConnection, rng: Random) -> None:
        kind = rng.choice(["OPTIMISTIC", "PESSIMISTIC"])
        amount = rng.randrange(1, 50)
        (a, b), end = _accounts(rng), "ROLLBACK" if rng.random() < 0.1 else "COMMIT"
        statements = [
            f"BEGIN {kind}",
            f"UPDATE {a[0]} SET balance = balance - {amount} WHERE {a[1]}",
            f"UPDATE {b[0]} SET balance = balance + {amount} WHERE {b[1]}",
            end,
        ]
        self._count(session, "transfers" if end == "COMMIT" else "rolled back", *statements)

    def fees(self, over: threading.Event) -> None:
        """Large transactions: all accounts pay one, or all pages are rewritten."""
        rng = Random(3)
        with self._connect() as session:
            session.query("SET tidb_enable_async_commit = OFF, tidb_enable_1pc = OFF")
            while not over.wait(LARGE_PAUSE_S):
                to = rng.randrange(ACCOUNTS) * STEP
                fee = (
                    f"BEGIN {rng.choice(['OPTIMISTIC', 'PESSIMISTIC'])}",
                    f"UPDATE bank.acc SET balance = balance - 1 WHERE id <> {to}",
                    f"UPDATE bank.acc SET balance = balance + {ACCOUNTS - 1} WHERE id = {to}",
                    "COMMIT",
                )
                letter, size = rng.choice("abc"), rng.choice([3, 7])
                pages = (
                    f"UPDATE bank.pages SET body = REPEAT('{letter}', MOD(id * {size}, 3000)),"
                    f" state = '{rng.choice(['new', 'old'])}'"
                )
                self._count(session, "large", *(fee if rng.random() < 0.5 else (pages,)))

    def journal(self, over: threading.Event) -> None:
        """Statements of their own, committed in one phase or asynchronously."""
        rng = Random(4)
        with self._connect() as session:
            session.query("SET tidb_enable_async_commit = ON, tidb_enable_1pc = ON")
            while not over.wait(rng.random() * PAUSE_S):
                name, doc = (
                    rng.choice(["journal", "diary"]),
                    json.dumps({"n": [rng.random(), None]}),
                )
                size, amount, n = rng.choice([3, 90]), rng.randrange(10**6), rng.randrange(100)
                statement = rng.choice(
                    [
                        f"INSERT INTO bank.{name} VALUES (REPEAT('ö', {size}), NOW(6),"
                        f" {amount / 100}, '{doc}'), ('', NULL, NULL, NULL)",
                        f"UPDATE bank.{name} SET what = 'new' WHERE MOD(amount, 7) = 1 LIMIT 20",
                        f"DELETE FROM bank.{name} WHERE MOD(amount, 5) = 1 LIMIT 50",
                        f"INSERT INTO bank.slots VALUES ({n}, {amount}), ({99 - n}, {amount})"
                        f" ON DUPLICATE KEY UPDATE v = v + {n}",
                        f"DELETE FROM bank.slots WHERE id = {n}",
                        f"UPDATE bank.pages SET body = CONCAT('{n}', LEFT(body, 2000))"
                        f" WHERE id = {n}",
                    ]
                )
                self._count(session, "statements", statement)

    def ddl(self, over: threading.Event) -> None:
        """The operators'."""
        rng, number = Random(6), 0
        with self._connect() as session:
            # There is only one store, so do not wait for regions to be scattered.
            session.query("SET tidb_wait_split_region_finish = 0")
            while not over.wait(DDL_PAUSE_S):
                step = DDL[number % len(DDL)]
                number += 1
                if step.startswith("split "):
                    low = rng.randrange(ACCOUNTS * STEP)
                    statement = (
                        f"SPLIT TABLE {step[6:]} BETWEEN ({low}) AND ({low + 90_000}) REGIONS 4"
                    )
                    self._count(session, "splits", statement)
                else:
                    self._count(session, "ddl", step)

    def _count(self, session: MySqlConnection, what: str, *statements: str) -> None:
        try:
            for statement in statements:
                session.query(statement)
        except MySqlError as error:
            self.done[f"{what} refused: {error.code}"] += 1
            with suppress(MySqlError):
                session.query("ROLLBACK")
        else:
            self.done[what] += 1


class Sessions:
    """The process, from `with` to its end."""

    def __init__(self, host: str, port: int) -> None:
        self.done: Counter[str] = Counter()
        self._command = [sys.executable, "-m", "tests.bank.workload", host, str(port)]

    def __enter__(self) -> "Sessions":
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        return self

    def __exit__(self, *_: object) -> None:
        said, _ = self._process.communicate()
        if self._process.returncode == 0:
            self.done.update(json.loads(said))

    def check(self) -> None:
        """Raise `RuntimeError` if it has ended by itself."""
        if self._process.poll() is not None:
            raise RuntimeError("the sessions have ended")


def _accounts(rng: Random) -> list[tuple[str, str]]:
    """Two accounts: a table, and which of its rows."""
    n, half = rng.sample(range(ACCOUNTS), 2), ACCOUNTS // 2
    all_of_them = [
        *(("bank.acc", f"id = {i * STEP}") for i in n),
        *(("bank.savings", f"name = 'CUSTOMER É {i % SAVINGS}'") for i in n[:1]),
        *(("bank.part", f"id = {i}") for i in n[:1]),
        *(("bank.apart", f"id = {half + i % half}") for i in n[:1]),
    ]
    return rng.sample(all_of_them, 2)


def main() -> None:
    """See the module."""
    host, port = sys.argv[1:]
    work = Workload(lambda: MySqlConnection(host, int(port), _TIMEOUT_S))
    with Crew() as crew:
        for each in (work.transfers(1), work.transfers(2), work.fees, work.journal, work.ddl):
            crew.start(each)
        threading.Thread(target=_read_to_the_end, args=(crew.over,), daemon=True).start()
        crew.over.wait()
    sys.stdout.write(json.dumps(work.done))


def _read_to_the_end(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


if __name__ == "__main__":
    main()
