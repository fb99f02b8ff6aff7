"""`theflash serve` as a process: its start and end, and the state after it is killed."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import (
    LeaseExpiredError,
    ServiceUnavailableError,
    StreamCutError,
)
from pyspark_theflash.service.client.embedded import connect_embedded, socket_path
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.wire.message import Moment
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.processes import (
    children,
    command_line,
    descendants,
    engines,
    is_alive,
    wait_until,
)
from tests.support.serving import CLOCK, TOKENS, command, served, write_tokens

WIDE = table_info(
    7, "shop.items", [id_column(), column("text", MySQLType.BLOB, charset="binary", flen=1 << 20)]
)
ROWS = 2_000
TEXT = os.urandom(1 << 14)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """32 MB of rows: more than the buffer of a socket."""
    path = tmp_path_factory.mktemp("wide") / "store"
    rows = [(n, 110, [n, TEXT]) for n in range(ROWS)]
    StoreBuilder(path, WIDE).publish(200, {WIDE: rows})
    return path


def count(api):
    plan = api.plan("shop.items", ["id"])
    return sum(batch.num_rows for batch in api.read(plan))


def test_ends_when_asked(store):
    with served(store) as (process, address):
        assert address == f"unix:{store}/serve.sock"
        with connect(address) as api:
            assert count(api) == ROWS
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            with pytest.raises(ServiceUnavailableError):
                api.status()
    assert not (store / "serve.sock").exists()


def test_a_call_that_has_begun_is_finished(store):
    with served(store) as (process, address), connect(address) as api:
        with api.scan(api.plan("shop.items").splits[0].ticket) as rows:
            first = next(iter(rows))
            process.send_signal(signal.SIGTERM)
            assert first.num_rows + sum(batch.num_rows for batch in rows) == ROWS
        assert process.wait(60) == 0


def test_a_server_that_is_killed(store):
    """Rows stop typed, and the ticket is good for the next server."""
    with served(store) as (process, address), connect(address) as api:
        ticket = api.plan("shop.items").splits[0].ticket
        rows = api.scan(ticket)
        process.kill()
        process.wait()
        with pytest.raises(StreamCutError):
            rows.read_all()
        with pytest.raises(ServiceUnavailableError):
            api.status()
        with served(store):
            assert api.scan(ticket).read_all().num_rows == ROWS
            assert count(api) == ROWS


READER = """
import sys, time
from pyspark_theflash.service.wire.message import Moment
from pyspark_theflash.service.client.theflash import connect
api = connect(sys.argv[1])
plan = api.plan("shop.items", moment=Moment(ttl_ms=600_000))
rows = api.scan(plan.splits[0].ticket)
print(plan.snapshot.latch_id, api.snapshot(Moment(ttl_ms=1000)).latch_id, flush=True)
sys.stdin.read()
"""


def test_a_reader_that_is_killed(store):
    """Each of its latches ends when it expires, its connection and thread immediately."""
    with served(store) as (process, address), connect(address) as api:
        assert count(api) == ROWS  # the store stays open from now on
        pids = [process.pid, *children(process.pid)]
        threads, files = (entries(pids, what) for what in ("task", "fd"))
        with subprocess.Popen(
            [sys.executable, "-c", READER, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as reader:
            long, short = reader.stdout.readline().split()
            reader.kill()
        wait_until(
            lambda: (
                # SQLite reuses a closed file when it is opened again.
                entries(pids, "fd") <= files + 2
                and entries(pids, "task") <= threads + 4  # Arrow's own pools
            )
        )
        wait_until(lambda: short not in {latch.id for latch in api.latches().latches})
        assert long in {latch.id for latch in api.latches().latches}
        api.remove_latch(long)


def test_workers_end_with_the_server(store):
    """A killed one leaves nothing behind, and the next one serves at the same address."""
    with served(store, "--workers", 2) as (process, address), connect(address) as api:
        ticket = api.plan("shop.items").splits[0].ticket
        with api.scan(ticket), connect(address) as other:
            assert count(other) == ROWS
            wait_until(lambda: len(children(process.pid)) == 2)
            workers = children(process.pid)
            process.kill()
            process.wait()
            wait_until(lambda: not any(map(is_alive, workers)))
        with served(store, "--workers", 2):
            assert api.scan(ticket).read_all().num_rows == ROWS


@pytest.mark.slow
def test_workers_that_are_killed(store):
    """Readers that repeat calls after retryable errors get all rows."""
    with served(store, "--workers", 2) as (process, address), connect(address) as one:
        ticket = one.plan("shop.items").splits[0].ticket
        expected = one.scan(ticket).read_all()
        tables = []

        def read():
            with connect(address) as api:
                while len(tables) < 12:
                    with suppress(ServiceUnavailableError):
                        tables.append(api.scan(ticket).read_all())

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        killed = 0
        while killed < 4 and any(reader.is_alive() for reader in readers):
            CLOCK.sleep_ms(500)
            for pid in children(process.pid)[:1]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        for reader in readers:
            reader.join(60)
            assert not reader.is_alive()
        assert killed >= 2
        assert len(tables) >= 12
        assert all(rows == expected for rows in tables)


def test_a_latch_that_nobody_renews(store):
    with connect(store) as api:
        renewed = api.snapshot(Moment(ttl_ms=600_000))
        api.renew(renewed)
        snapshot = api.snapshot(Moment(ttl_ms=1000))
        CLOCK.sleep_ms(1100)
        with pytest.raises(LeaseExpiredError):
            api.renew(snapshot)
        api.release(renewed)


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        (["--listen", "0.0.0.0:0"], 2, "OptionError"),
        (["--listen", "127.0.0.1:0"], 2, "give tokens"),
        (["--cert", "x"], 2, "UsageError"),
        (["--listen", "127.0.0.1:0", "--tokens", "/nowhere"], 2, "cannot read"),
        (["--flight", "127.0.0.1:0"], 2, "give tokens"),
        (["--workers", "0"], 2, "--workers must be from 1"),
    ],
)
def test_what_it_does_not_begin_with(store, options, status, reason):
    done = subprocess.run(command("serve", store, *options), capture_output=True, text=True)
    assert done.returncode == status
    assert reason in done.stderr


def test_no_token_on_the_command_line_is_needed(store, tmp_path):
    tokens = write_tokens(tmp_path / "tokens")
    options = ["--listen", "127.0.0.1:0", "--tokens", tokens]
    with (
        served(store, *options) as (process, address),
        connect(f"theflash://{address}", token=TOKENS[Role.READ]) as api,
    ):
        assert count(api) == ROWS
        assert TOKENS[Role.READ].value not in "".join(command_line(process.pid))


def test_embedded(store):
    """Several users share one process. It is started again if it was killed, and ends if unused."""
    users = [connect_embedded(store, idle_ms=300) for _ in range(4)]
    counts = []
    threads = [threading.Thread(target=lambda u=u: counts.append(count(u))) for u in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [ROWS] * 4
    wait_until(lambda: len(engines(store)) == 1)  # late ones end on their own
    (first,) = engines(store)
    assert not listens_on_tcp(first)
    workers = descendants(first)
    os.kill(first, signal.SIGKILL)
    # One that waits for a user's next call would answer it before it sees that it is alone.
    wait_until(lambda: not any(map(is_alive, workers)))
    assert count(users[0]) == ROWS
    (second,) = engines(store)
    assert second != first
    for user in users:
        user.close()
    wait_until(lambda: not engines(store))
    assert not socket_path(store).exists()


def test_embedded_fails_typed(tmp_path):
    with (
        connect_embedded(tmp_path) as api,
        pytest.raises(ServiceUnavailableError, match="no store"),
    ):
        api.status()


def test_paths_that_are_too_long(tmp_path):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    assert socket_path(folder).parent.stat().st_mode & 0o777 == 0o700
    assert socket_path(folder) != socket_path(tmp_path)


def listens_on_tcp(pid):
    """Whether a process has a TCP socket of either kind."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(os.readlink(fd).removeprefix("socket:[").rstrip("]"))
    tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    return any(line[9] in inodes for line in lines)


def entries(pids, what):
    """Return the number of entries in folders of processes."""
    return sum(len(os.listdir(f"/proc/{pid}/{what}")) for pid in pids)


@pytest.mark.slow
def test_commands_that_ask_a_server(store, tmp_path):
    """Commands print the same through a server, if there is a token."""
    tokens = write_tokens(tmp_path / "tokens")
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(TOKENS[Role.READ].value)
    with served(store, "--listen", "127.0.0.1:0", "--tokens", tokens) as (_, address):
        place = f"theflash://{address}"
        for name, *arguments in (
            ["digest", "shop.items"],
            ["tables"],
            ["tables", "--json"],
            ["scan", "shop.items"],
            ["scan", "shop.items", "--rowid", "--format", "jsonl", "--wait", "1"],
            ["scan", "shop.items", "--format", "arrow"],
            ["sql", "SELECT * FROM shop.items ORDER BY 1"],
            ["sql", "SELECT count(*) FROM shop.items", "--format", "jsonl"],
        ):
            here = run(name, store, *arguments)
            assert here.returncode == 0
            assert run(name, place, *arguments, "--token-file", token).stdout == here.stdout
        admin = write_tokens(tmp_path / "admin", {TOKENS[Role.ADMIN].value: "admin"})
        admin.write_text(TOKENS[Role.ADMIN].value)
        for name, argument in (("interval", "5"), ("stop", None)):
            words = [w for w in (argument, "--token-file", admin) if w is not None]
            here = run(name, store, *words[: len(words) - 2])
            assert run(name, place, *words).stdout == here.stdout != ""
        assert "AuthenticationError" in run("status", place).stderr
        assert "RoleError" in run("latches", place, "--token-file", token).stderr


def run(*arguments):
    done = subprocess.run(command(*arguments), capture_output=True)
    done.stdout, done.stderr = done.stdout.decode("latin-1"), done.stderr.decode()
    return done
