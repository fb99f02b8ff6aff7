import dataclasses
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    SnapshotTooOldError,
    StoreFullError,
    TheFlashError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.command import Mailbox, State, StoreCommand, Verb
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.manifest import Manifest
from tests.support.manual_clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def manifests(store: Path) -> Iterator[tuple[Manifest, Manifest]]:
    fs = LocalFileSystem()
    with closing(open_manifest(store, fs)) as first, closing(open_manifest(store, fs)) as second:
        yield first, second


@pytest.fixture
def asker(manifests: tuple[Manifest, Manifest], clock: ManualClock) -> Mailbox:
    return Mailbox(manifests[0], clock)


@pytest.fixture
def holder(manifests: tuple[Manifest, Manifest], clock: ManualClock) -> Mailbox:
    return Mailbox(manifests[1], clock)


def rows(manifest: Manifest) -> dict[str, bytes]:
    with transient.opened(manifest, write=False) as records:
        return records.rows(transient.COMMAND_KIND)


def test_a_command_is_taken_and_answered(
    asker: Mailbox, holder: Mailbox, manifests: tuple[Manifest, Manifest]
) -> None:
    assert holder.take() is None
    command = asker.ask(Verb.GC, 2**63, 1_000)
    assert (asker.answer(command), asker.state(command)) == (None, State.WAITING)
    taken = holder.take()
    assert taken is not None
    assert (taken.id, taken.verb, taken.argument) == (command.id, Verb.GC, 2**63)
    assert (asker.answer(command), asker.state(command)) == (None, State.RUNNING)
    holder.done(taken, "all gone")
    assert asker.answer(command) == "all gone"
    assert rows(manifests[0]) == {}
    assert holder.take() is None


def test_what_the_holder_is_at_is_not_taken_again(
    asker: Mailbox, holder: Mailbox, manifests: tuple[Manifest, Manifest], clock: ManualClock
) -> None:
    first = asker.ask(Verb.COMPACT, None, 1_000)
    assert (taken := holder.take()) is not None
    assert holder.take({taken.id}) is None
    second = asker.ask(Verb.FLUSH, None, 2_000)
    assert (other := holder.take({first.id})) is not None
    assert other.id == second.id
    assert holder.take({first.id, second.id}) is None
    # Another holder continues the command of one that died.
    again = Mailbox(manifests[1], clock).take({second.id})
    assert again is not None
    assert again.id == first.id


def test_commands_are_taken_in_the_order_of_their_deadlines(
    asker: Mailbox, holder: Mailbox
) -> None:
    for timeout_ms, argument in [(300, 1), (100, 2), (200, 3)]:
        asker.ask(Verb.INTERVAL, argument, timeout_ms)
    taken = []
    while (command := holder.take()) is not None:
        holder.done(command, "")
        taken.append(command.argument)
    assert taken == [2, 3, 1]


def test_looking_for_commands_is_cheap_until_somebody_writes(
    asker: Mailbox, holder: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert holder.take() is None
    with monkeypatch.context() as patch:
        patch.setattr(transient, "opened", None)
        assert holder.take() is None
    asker.ask(Verb.COMPACT, None, 100)
    assert holder.take() is not None


@pytest.mark.parametrize(
    "error",
    [
        SnapshotTooOldError(5, 6),
        StoreFullError("disk"),
        CorruptionError("file", 7, "bad"),
        EngineError("é", "x"),
    ],
)
def test_an_error_arrives_as_it_was(asker: Mailbox, holder: Mailbox, error: TheFlashError) -> None:
    command = asker.ask(Verb.COMPACT, None, 100)
    taken = holder.take()
    assert taken is not None
    holder.failed(taken, error)
    with pytest.raises(type(error)) as raised:
        asker.answer(command)
    assert (type(raised.value), raised.value.args) == (type(error), error.args)
    assert asker.answer(command) is None


@pytest.mark.parametrize("name", ["NoSuchError", "ClassVar", "annotations", "StoreFullError"])
def test_an_error_of_another_version(
    asker: Mailbox, manifests: tuple[Manifest, Manifest], name: str
) -> None:
    command = asker.ask(Verb.COMPACT, None, 100)
    failed = dataclasses.replace(command, state=State.FAILED, text=json.dumps([name, 1, 2, 3]))
    with transient.opened(manifests[0], write=True) as records:
        records.put(transient.COMMAND_KIND, failed.id, failed.to_body())
    with pytest.raises(EngineError, match=name):
        asker.answer(command)


def test_what_nobody_waits_for_is_cleared(
    asker: Mailbox, holder: Mailbox, clock: ManualClock, manifests: tuple[Manifest, Manifest]
) -> None:
    asker.ask(Verb.COMPACT, None, 100)
    clock.now_ms += 100
    assert holder.take() is None
    asker.ask(Verb.COMPACT, None, 100)
    clock.boot = "the next run"
    assert holder.take() is None
    dead = dataclasses.replace(Holder.here(clock), pid=2**22 + 1)
    command = StoreCommand("x", Verb.STOP, None, dead, clock.now_ms + 100)
    with transient.opened(manifests[0], write=True) as records:
        records.put(transient.COMMAND_KIND, command.id, command.to_body())
    assert holder.take() is None
    assert rows(manifests[0]) == {}


def test_an_answer_that_nobody_waits_for_is_not_left(
    asker: Mailbox, holder: Mailbox, manifests: tuple[Manifest, Manifest]
) -> None:
    command = asker.ask(Verb.COMPACT, None, 100)
    taken = holder.take()
    assert taken is not None
    asker.withdraw(command)
    holder.done(taken, "late")
    assert rows(manifests[0]) == {}


def test_a_command_whose_holder_died_is_taken_again(
    asker: Mailbox, holder: Mailbox, manifests: tuple[Manifest, Manifest], clock: ManualClock
) -> None:
    command = asker.ask(Verb.COMPACT, None, 100)
    assert holder.take() is not None
    again = Mailbox(manifests[1], clock).take()
    assert again is not None
    assert again.id == command.id


@pytest.mark.parametrize("body", [b"", b"[]", b'["compact", null, 1, "waiting", "", [1]]'])
def test_a_row_that_is_no_command(
    holder: Mailbox, manifests: tuple[Manifest, Manifest], body: bytes
) -> None:
    with transient.opened(manifests[0], write=True) as records:
        records.put(transient.COMMAND_KIND, "x", body)
    with pytest.raises(CorruptionError, match="command x"):
        holder.take()
