"""A writer on another machine than its store: `theflash writer theflash://HOST:PORT`.

`test_killed_writer.py` kills such writers, and their servers.
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    CodecError,
    LatchHeldError,
    LatchLostError,
    OptionError,
    RoleError,
    StoreInUseError,
    TheFlashError,
)
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cli.jobs.outcome import OTHER_FAILURE
from pyspark_theflash.cli.jobs.upkeep import RemoteUpkeep
from pyspark_theflash.cli.main import main
from pyspark_theflash.replication import writer
from pyspark_theflash.replication.apply import applier
from pyspark_theflash.replication.apply.columns import StoredColumns
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.service.api.records import change_table
from pyspark_theflash.service.client.remote_engine import RemoteEngine
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.client.transport import transport_to
from pyspark_theflash.service.wire.message import PublishRequest
from pyspark_theflash.service.wire.method import PUBLISH, Role
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication, ScanSpec, VersionBatch
from pyspark_theflash.storage.engine.magic import engine as magic
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.mvcc.project import columns_to_copy
from pyspark_theflash.storage.store.catalog import feed_history
from pyspark_theflash.storage.store.command import CollectOrder, Mailbox, ResolveOrder, Verb
from pyspark_theflash.storage.store.feed import MAIN, SIDE
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.tidb.schema.file import FileSchema
from tests.support.binlog_writer import write_file
from tests.support.cutting_proxy import cutting
from tests.support.feeds import messages
from tests.support.lost_frames import binlog_file, without
from tests.support.processes import wait_until
from tests.support.progress import read_progress
from tests.support.serving import (
    TOKENS,
    served,
    server_tls,
    serving,
    serving_workers,
    tokens,
    write_tokens,
)
from tests.support.tls import FOLDER
from tests.support.victims import files_in_manifest, files_on_disk
from tests.support.workloads import check_answers, workload

FS, CLOCK = LocalFileSystem(), SystemClock()
BANK = workload("bank")
MOVE = Record("move", "00000000000000000001-1", b"")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store; the writer's token is in the environment."""
    monkeypatch.setenv("THEFLASH_TOKEN", TOKENS[Role.WRITE].value)
    assert main(["init", str(tmp_path / "store")]) == 0
    return tmp_path / "store"


@pytest.fixture
def address(store: Path, tmp_path: Path) -> Iterator[str]:
    with serving(store, "127.0.0.1:0", tokens=tokens(tmp_path)) as server:
        yield f"theflash://{server.address}"


@contextmanager
def engine(address: str, **settings: Any) -> Iterator[RemoteEngine]:
    token = TOKENS[Role.WRITE]
    with closing(RemoteEngine(lambda: transport_to(address, token=token), **settings)) as remote:
        yield remote


def generation(store: Path) -> int:
    identity = read_identity(store, FS)
    with closing(registry.open_reader(store, identity, FS, CLOCK)) as reader:
        return reader.read([]).generation


def versions_in(store: Path) -> int:
    """Return the number of stored versions of rows."""
    with closing(registry.open_reader(store, read_identity(store, FS), FS, CLOCK)) as reader:
        view = reader.read([])
        return sum(reader.stats(view, i).rows for i in reader.tables(view))


def is_free(store: Path) -> bool:
    """Whether the store has no writer."""
    try:
        registry.open_engine(store, read_identity(store, FS), FS, CLOCK).close()
    except StoreInUseError:
        return False
    return True


@pytest.mark.parametrize("name", ["bank", "ddl", "tpcc"])
def test_gives_tidbs_answers(name: str, store: Path, address: str) -> None:
    chosen = workload(name)
    arguments = chosen.writer_arguments(store)[1:]
    assert main(["writer", address, *arguments]) == 0
    assert check_answers(store, chosen.answers()) > 0
    assert main(["fsck", str(store)]) == 0


def test_over_tls_and_between_workers(store: Path, tmp_path: Path) -> None:
    """The engine stays in the process of its connection, while other calls go to others."""
    arguments = BANK.writer_arguments(store)[1:]
    with serving_workers(store, "127.0.0.1:0", tokens=write_tokens(tmp_path / "tokens")) as front:
        assert main(["writer", f"theflash://{front.address}", *arguments]) == 0
    settings = {"tokens": tokens(tmp_path), "tls": server_tls()}
    with serving(store, "127.0.0.1:0", **settings) as server:
        files = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}
        tls = [f"--store-{name}={FOLDER / file}" for name, file in files.items()]
        assert main(["writer", f"theflash://{server.address}", *arguments, *tls]) == 0
    assert check_answers(store, BANK.answers()) > 0


def test_an_answer_that_is_lost(
    store: Path,
    address: str,
    workload_store: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Committed transactions are not applied twice, and later ones are not omitted."""
    monkeypatch.setattr(writer, "GATHER_BYTES", 600_000)
    monkeypatch.setattr(applier, "BATCH_BYTES", 300_000)
    source = write_file(tmp_path / "binlog", messages(BANK, BANK.end_ts))
    arguments = ["--source", f"file:{source}", "--schema", f"file:{BANK.schema}"]
    arguments += ["--base", str(BANK.base)] if BANK.base else []
    with cutting(address.removeprefix("theflash://"), 4) as proxy:
        there = f"theflash://{proxy.address}"
        command = ["writer", there, *arguments, "--until-ts", str(BANK.end_ts)]
        # While it loads the base, it ends typed.
        assert {main(command) for _ in range(3)} == {OTHER_FAILURE, 0}
        assert proxy.cuts >= 3
    assert check_answers(store, BANK.answers()) > 0
    assert versions_in(store) == versions_in(workload_store("bank"))


# -- permission


def test_there_is_one_writer(store: Path, address: str) -> None:
    arguments = BANK.writer_arguments(store)[1:]
    with engine(address) as first:
        first.open()
        with engine(address) as second, pytest.raises(LatchHeldError, match="stream's writer"):
            second.open()
        assert main(["writer", address, *arguments]) == 5
        assert main(["writer", str(store), *arguments]) == 5
        end = threading.Timer(0.3, lambda: first.close())
        with engine(address) as second:
            end.start()
            second.open(60_000)
            end.join()
            second.publish(Publication((), ManifestChange([MOVE])))
    wait_until(lambda: is_free(store))


def test_a_local_writer_keeps_others_out(store: Path, address: str) -> None:
    held = registry.open_engine(store, read_identity(store, FS), FS, CLOCK)
    with closing(held), engine(address, ttl_ms=1_000) as other, pytest.raises(StoreInUseError):
        other.open()


def test_a_reader_may_not_write(address: str) -> None:
    token = TOKENS[Role.READ]
    with (
        closing(RemoteEngine(lambda: transport_to(address, token=token))) as remote,
        pytest.raises(RoleError),
    ):
        remote.open()


def test_a_token_from_before(store: Path, address: str) -> None:
    """A writer without the latch changes nothing, also if the latch ends during a commit."""
    admin = TOKENS[Role.ADMIN]
    with connect(address, token=admin) as api, engine(address) as old, engine(address) as new:
        old.open()

        def end_latch() -> None:
            (latch,) = api.latches().latches
            api.remove_latch(latch.id)

        before = generation(store)
        with armed("writers.before_publish", end_latch), pytest.raises(LatchLostError):
            old.publish(Publication((), ManifestChange([MOVE])))
        new.open()
        with pytest.raises(LatchLostError):
            old.publish(Publication((), ManifestChange([MOVE])))
        with pytest.raises(LatchLostError):
            old.read([])
        assert generation(store) == before
        new.publish(Publication((), ManifestChange([MOVE])))
        assert generation(store) == before + 1


def expires_in(api: TheFlash) -> int:
    (latch,) = api.latches().latches
    return latch.expires_in_ms


def test_who_is_silent_loses_the_store(store: Path, address: str) -> None:
    """The other machine fails without closing its connection."""
    admin = TOKENS[Role.ADMIN]
    with engine(address, ttl_ms=3_000) as remote, connect(address, token=admin) as api:
        remote.open()
        ends_ms = expires_in(api) + CLOCK.boottime_ms()
        wait_until(lambda: CLOCK.boottime_ms() + expires_in(api) > ends_ms)  # by its thread
        assert remote.publish(Publication((), ManifestChange([MOVE])))
        remote._ended.set()
        wait_until(lambda: is_free(store))
        with pytest.raises(LatchLostError):
            remote.read([])


def test_a_latch_ends_with_the_server(store: Path) -> None:
    """If both are killed, the next writer does not wait until the latch expires."""
    with served(store, "--workers", 1) as (process, address):
        left = RemoteEngine(lambda: transport_to(address))
        left.open()
        process.kill()
        process.wait()
    # The writer sends nothing to the next server.
    left._ended.set()
    left._latch = None
    left.close()
    with served(store, "--workers", 1) as (_, address), engine_at(address) as remote:
        remote.open()
        assert remote.publish(Publication((), ManifestChange([MOVE])))


# -- upkeep


def done(store: Path, upkeep: RemoteUpkeep, verb: Verb, argument: int | str | None) -> str:
    """Return the answer to a command issued on the server's machine."""
    with closing(open_manifest(store, FS)) as manifest:
        mailbox = Mailbox(manifest, CLOCK)
        command = mailbox.ask(verb, argument, 600_000)
        while (answer := mailbox.answer(command)) is None:
            upkeep.poll()
            CLOCK.sleep_ms(5)
        return answer


def test_upkeep_is_done_beside_the_files(store: Path, address: str, tmp_path: Path) -> None:
    """Its changes of the writer's memory reach it: oldest_ts, the ledger, decisions."""
    times = sorted({answer.snapshot_ts for answer in BANK.answers()})
    kept, (lost,) = without(messages(BANK, times[6]), random.Random(2), 1)
    source, half = tmp_path / "binlog", len(kept) // 2
    source.write_bytes(binlog_file(kept[:half]))
    with engine(address) as remote:
        remote.open()
        made = writer.Writer(remote, FileSchema(BANK.schema))
        assert BANK.base is not None
        made.load_base(BANK.base)
        made.poll(FileSource(source))
        upkeep = RemoteUpkeep(remote, made.state, CLOCK, lambda: times[0])
        safe_point = TimeStamp(made.resolved_ts - 1)
        collected = done(store, upkeep, Verb.GC, CollectOrder(safe_point).to_text())
        assert collected.startswith("safe point ")
        source.write_bytes(binlog_file(kept))
        made.poll(FileSource(source))
        progress = read_progress(store)
        assert progress is not None
        assert progress.oldest_ts == safe_point
        assert made.resolved_ts < lost.commit_ts
        order = ResolveOrder(TimeStamp(lost.start_ts), TimeStamp(lost.commit_ts))
        assert done(store, upkeep, Verb.RESOLVE, order.to_text()).endswith(f"{lost.commit_ts}")
        made.poll(FileSource(source))
        assert made.resolved_ts == times[6]
        assert done(store, upkeep, Verb.COMPACT, None).startswith("compacted ")
        assert done(store, upkeep, Verb.INTERVAL, 500) == "polling every 500 ms"
        assert upkeep.interval_ms == 500
        upkeep.set_interval(700)
        assert upkeep.interval_ms == 700
        with pytest.raises(OptionError):
            upkeep.set_interval(1)
        assert not upkeep.is_stopping
        done(store, upkeep, Verb.STOP, None)
        assert upkeep.is_stopping
    readable = [a for a in BANK.answers() if safe_point <= a.snapshot_ts <= times[6]]
    assert check_answers(store, readable) > 0
    assert main(["fsck", str(store)]) == 0


EAGER = partial(CompactionLimits, region_rows=2000, deltas=1, layer_rows=1, direct_rows=1 << 20)


@contextmanager
def held_compaction() -> Iterator[threading.Event]:
    """Let every publication start a compaction, which ends when the event is set."""
    ends, begun = threading.Event(), threading.Event()

    def hold() -> None:
        if threading.current_thread().name.startswith("compaction"):
            begun.set()
            assert ends.wait(600)

    with armed("magic.after_file", hold), patch.object(magic, "CompactionLimits", EAGER):
        try:
            yield ends
        finally:
            ends.set()
    assert begun.is_set()


def test_what_comes_while_a_table_is_compacted(
    store: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publications do not wait, and a writer that ends during one leaves nothing behind."""
    monkeypatch.setattr(writer, "GATHER_BYTES", 200_000)
    times = sorted({answer.snapshot_ts for answer in BANK.answers()})
    source = FileSource(write_file(tmp_path / "binlog", messages(BANK, times[1])))
    for wanted, is_drained in ((times[0], True), (times[1], False)):
        with held_compaction() as ends, engine(address) as remote:
            remote.open(20_000)
            made = writer.Writer(remote, FileSchema(BANK.schema), compact=remote.touched)
            assert BANK.base is not None
            made.load_base(BANK.base)
            made.run_once(source, until_ts=wanted)
            progress = read_progress(store)
            assert progress is not None
            assert progress.resolved_ts == wanted
            if is_drained:
                ends.set()
                RemoteUpkeep(remote, made.state, CLOCK).drain()
                assert "delta" not in kinds_of_files(store)
    wait_until(lambda: is_free(store), 120_000)
    assert "delta" in kinds_of_files(store)
    assert files_on_disk(store) == files_in_manifest(store)
    reached = [a for a in BANK.answers() if a.snapshot_ts <= times[1]]
    assert check_answers(store, reached) == len(reached)
    assert main(["fsck", str(store)]) == 0


def kinds_of_files(store: Path) -> set[str]:
    with closing(registry.open_reader(store, read_identity(store, FS), FS, CLOCK)) as reader:
        view = reader.read([])
        return {f.kind for i in reader.tables(view) for f in reader.files(view, i)}


# -- what may come


def versions(*handles: int) -> pa.Table:
    return pa.table(
        {
            "_handle": pa.array(handles, pa.int64()),
            "_commit_ts": pa.array([150] * len(handles), pa.uint64()),
            "_start_ts": pa.array([140] * len(handles), pa.uint64()),
            "_op": pa.array([1] * len(handles), pa.uint8()),
            "c1": pa.array(handles, pa.int64()),
        }
    )


def test_a_publication_that_comes_again(store: Path, address: str) -> None:
    with engine(address) as remote:
        remote.open()
        (batch,) = versions(1, 2).to_batches()
        published = remote.publish(
            Publication([VersionBatch(PhysicalTableID(7), batch)], ManifestChange([MOVE]))
        )
        request = PublishRequest(remote._held, 1, (7,))
        again = [change_table(ManifestChange([MOVE])), versions(1, 2)]
        response = remote._calls.call(PUBLISH, request, 5_000, again)
        assert response.generation == published == generation(store)
        for number in (0, 3):
            request = PublishRequest(remote._held, number, (7,))
            with pytest.raises(CodecError, match="after 1"):
                remote._calls.call(PUBLISH, request, 5_000, again)
        assert published == generation(store)


@pytest.mark.parametrize(
    ("change", "rows", "error"),
    [
        (ManifestChange([Record("file", "7/1", b"{}")]), [], OptionError),
        (ManifestChange(deletes=[("setting", "retention")]), [], OptionError),
        (ManifestChange([Progress(TimeStamp(90), TimeStamp(200)).to_record()]), [], CodecError),
        (ManifestChange([Progress(TimeStamp(100), TimeStamp(190)).to_record()]), [], CodecError),
        (
            ManifestChange([Progress(TimeStamp(100), TimeStamp(300)).to_record(SIDE)]),
            [],
            CodecError,
        ),
        (ManifestChange([MOVE]), [versions(2, 1)], CodecError),
        (
            ManifestChange([MOVE]),
            [versions(1).rename_columns(["_handle", "_commit_ts", "_start_ts", "_op", "../x"])],
            CodecError,
        ),
        (ManifestChange([MOVE]), [versions(1).drop_columns(["_op"])], CodecError),
    ],
)
def test_what_no_writer_publishes(
    store: Path,
    address: str,
    change: ManifestChange,
    rows: list[pa.Table],
    error: type[TheFlashError],
) -> None:
    with engine(address) as remote:
        remote.open()
        progress = Progress(TimeStamp(100), TimeStamp(200)).to_record()
        before = remote.publish(Publication((), ManifestChange([progress])))
        request = PublishRequest(remote._held, 2, (7,) * len(rows))
        with pytest.raises(error):
            remote._calls.call(PUBLISH, request, 5_000, [change_table(change), *rows])
        assert generation(store) == before
        assert remote.publish(Publication((), ManifestChange([MOVE]))) == before + 1


def test_reads_what_the_engine_does(
    workload_copy: Callable[[str, Path], Path], tmp_path: Path
) -> None:
    store = workload_copy("ddl", tmp_path / "store")
    with closing(registry.open_reader(store, read_identity(store, FS), FS, CLOCK)) as local:
        kinds = ["progress", MAIN.schema_kind, MAIN.ledger_kind]
        view = local.read(kinds)
        history, progress = feed_history(view), read_progress(store)
        assert history is not None
        assert progress is not None
        with serving(store, f"unix:{tmp_path}/s") as server, engine_at(server.address) as remote:
            remote.open()
            copied = remote.read(kinds)
            assert copied.generation == view.generation
            assert {kind: copied.of_kind(kind) for kind in kinds} == {
                kind: view.of_kind(kind) for kind in kinds
            }
            stored = StoredColumns(history)
            rows = 0
            for physical_id in local.tables(view):
                columns = [k for c in stored.of(physical_id) for k in columns_to_copy(c.id, c.type)]
                for ts in (TimeStamp(progress.resolved_ts - 1), TimeStamp(progress.resolved_ts)):
                    for wanted in ([], columns):
                        here, there = (
                            [
                                batch
                                for region in one.plan(view, physical_id)
                                for batch in one.scan(
                                    region, ScanSpec(wanted, ts, with_handle=True)
                                )
                                if batch.num_rows
                            ]
                            for one in (local, remote)
                        )
                        assert here == there
                        rows += sum(batch.num_rows for batch in there)
                keys = [one.keys(view, physical_id, None, None) for one in (local, remote)]
                here, there = ([b for b in each if b.num_rows] for each in keys)
                assert here == there
            assert rows


@contextmanager
def engine_at(address: str) -> Iterator[RemoteEngine]:
    with closing(RemoteEngine(lambda: transport_to(address))) as remote:
        yield remote
