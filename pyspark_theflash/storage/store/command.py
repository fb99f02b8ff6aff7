"""Commands to the process that holds the writer's lock, passed as transient records.

Only that process changes a store. Another process that requests a compaction, say, inserts a
command and polls for its result. The lock's holder polls for commands between batches of its work.

    waiting ──► running ──► done | failed       the requester then deletes the row

The requester waits until its deadline on the boot-time clock, and then withdraws a command that has
not started. The holder removes commands of requesters that have ended, and of an earlier boot.
"""

import json
import uuid
from collections.abc import Callable, Collection
from dataclasses import astuple, dataclass, fields, replace
from enum import Enum
from typing import Any, Final, TypeAlias, TypeVar

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import EngineError, OptionError, TheFlashError, rebuilt
from pyspark_theflash.base.types import PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.manifest import Manifest
from pyspark_theflash.storage.store.transient import COMMAND_KIND, TransientRecords
from pyspark_theflash.tidb.codec.document import (
    SHAPE_ERRORS,
    boolean,
    int64,
    load,
    shaped,
    text,
    uint64,
)

_EXCERPT: Final = 500
_Order = TypeVar("_Order", bound="Order")


class Verb(Enum):
    """The commands and their arguments."""

    COMPACT = "compact"
    """Compact all tables completely. No argument."""
    GC = "collect"
    """Collect garbage below a safe point. `CollectOrder` as text."""
    RETENTION = "retention"
    """Set the history that garbage collection retains. Milliseconds."""
    INTERVAL = "interval"
    """Set the interval at which the writer polls its source. Milliseconds."""
    STOP = "stop"
    """Stop the writer after its current batch. No argument."""
    FLUSH = "flush"
    """Distribute recently written rows among the regions of all tables. No argument."""
    SPLIT = "split"
    """Split a region. `SplitOrder` as text."""
    MERGE = "merge"
    """Merge two regions. `MergeOrder` as text."""
    MOVE = "move"
    """Move a region's files to another partition. `MoveOrder` as text."""
    COPY = "copy"
    """Copy a region's files to one more partition. `MoveOrder` as text."""
    PURGE = "purge"
    """Remove a region's rows. `PurgeOrder` as text."""
    ADD_PARTITION = "add partition"
    """Add a folder as a partition. Its absolute path."""
    REMOVE_PARTITION = "remove partition"
    """Remove a partition. Its number."""
    RESOLVE = "resolve"
    """Decide the outcome of an orphan. `ResolveOrder` as text."""
    SKIP = "skip"
    """Ignore all messages of a transaction. `ResolveOrder` as text, rolled back."""


Argument: TypeAlias = int | str | None


class Order:
    """Base class of arguments with several fields: a dataclass, encoded as a JSON list."""

    __slots__ = ()

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the fields, in order."""
        return [field.name for field in fields(cls)]  # type: ignore[arg-type]

    def to_text(self) -> str:
        """Encode the order as a command's argument."""
        values = {name: getattr(self, name) for name in self.names()}
        if "at" in values:
            values["at"] = handle_text(values["at"])
        return json.dumps(list(values.values()))

    @classmethod
    def from_text(cls: type[_Order], argument: Argument) -> _Order:
        """Inverse of `to_text`. Raises `CodecError`."""
        with shaped(cls.__name__):
            values = zip(cls.names(), load(text(argument)), strict=True)
            return cls(*(_READ[name](value) for name, value in values))


@dataclass(frozen=True, slots=True)
class CollectOrder(Order):
    """Argument of a garbage collection."""

    safe_point: TimeStamp | None = None
    """The oldest timestamp that remains readable; None: use the store's retention."""
    dry_run: bool = False
    """Only report what would be dropped."""


@dataclass(frozen=True, slots=True)
class SplitOrder(Order):
    """Argument of a split: the region, and the handle (a number, or a clustered key's bytes)."""

    physical_id: PhysicalTableID
    region_id: RegionID
    at: int | bytes


@dataclass(frozen=True, slots=True)
class MergeOrder(Order):
    """Argument of a merge: two adjacent regions."""

    physical_id: PhysicalTableID
    left_id: RegionID
    right_id: RegionID


@dataclass(frozen=True, slots=True)
class MoveOrder(Order):
    """Argument of a move or copy: the region and the target partition."""

    physical_id: PhysicalTableID
    region_id: RegionID
    partition: int


@dataclass(frozen=True, slots=True)
class ResolveOrder(Order):
    """An operator's decision about an orphan; `commit_ts` 0 means rolled back."""

    start_ts: TimeStamp
    commit_ts: TimeStamp


@dataclass(frozen=True, slots=True)
class PurgeOrder(Order):
    """Argument of a purge: the region."""

    physical_id: PhysicalTableID
    region_id: RegionID


ORDERS: Final[dict[Verb, type[Order]]] = {
    Verb.GC: CollectOrder,
    Verb.SPLIT: SplitOrder,
    Verb.MERGE: MergeOrder,
    Verb.MOVE: MoveOrder,
    Verb.COPY: MoveOrder,
    Verb.PURGE: PurgeOrder,
    Verb.RESOLVE: ResolveOrder,
    Verb.SKIP: ResolveOrder,
}
"""The commands whose argument is an `Order`, as text."""


def handle_text(handle: int | bytes) -> str:
    """Format a handle as a number, or as 0x and the bytes of a clustered key in hex."""
    return f"0x{handle.hex()}" if isinstance(handle, bytes) else str(handle)


def handle_of(handle: str) -> int | bytes:
    """Inverse of `handle_text`. Raises `OptionError`."""
    try:
        if handle.startswith("0x"):
            return bytes.fromhex(handle[2:])
        return int64(int(handle))
    except ValueError:
        reason = "is neither a 64-bit number nor 0x and the bytes of a key in hex"
        raise OptionError("at", reason) from None


def _safe_point(value: object) -> TimeStamp | None:
    return None if value is None else TimeStamp(uint64(value))


_READ: Final[dict[str, Callable[[object], Any]]] = {
    "safe_point": _safe_point,
    "dry_run": boolean,
    "at": lambda value: handle_of(text(value)),
    "start_ts": uint64,
    "commit_ts": uint64,
    **dict.fromkeys(["physical_id", "region_id", "left_id", "right_id", "partition"], int64),
}


class State(Enum):
    """State of a command."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StoreCommand:
    """A command and its result.

    `text` is the result's text, or the class and arguments of the error of a failed command.
    """

    id: str
    verb: Verb
    argument: Argument
    requester: Holder
    deadline_ms: int
    state: State = State.WAITING
    text: str = ""

    def to_body(self) -> bytes:
        """Encode the transient record of this `id`."""
        fields = [self.verb.value, self.argument, self.deadline_ms, self.state.value, self.text]
        return json.dumps([*fields, astuple(self.requester)]).encode()

    @classmethod
    def from_body(cls, id: str, body: bytes) -> "StoreCommand":
        """Inverse of `to_body`. Raises `CodecError`."""
        with shaped("command"):
            verb, argument, deadline_ms, state, answer, requester = load(body)
            return cls(
                id,
                Verb(verb),
                _argument(argument),
                Holder.from_fields(requester),
                int64(deadline_ms),
                State(state),
                text(answer),
            )

    def error(self, path: str) -> TheFlashError:
        """Return the error of a failed command.

        An error whose class is not of this package becomes an `EngineError` of `path`.
        """
        try:
            name, *arguments = load(self.text)
            if (error := rebuilt(name, arguments)) is not None:
                return error
        except SHAPE_ERRORS:
            pass
        return EngineError(path, f"the writer failed with {self.text[:_EXCERPT]}")

    def is_abandoned(self, clock: Clock) -> bool:
        """Return whether the requester does not wait any more."""
        if self.requester.boot_id != clock.boot_id() or self.deadline_ms <= clock.boottime_ms():
            return True
        return self.requester.is_gone(clock)


def _argument(value: object) -> Argument:
    if value is None or isinstance(value, str):
        return value
    return uint64(value)


class Mailbox:
    """The commands of a store: the requester's methods and those of the lock's holder."""

    def __init__(self, manifest: Manifest, clock: Clock) -> None:
        self._manifest, self._clock = manifest, clock
        self._polled_version: int | None = None

    # -- the requester

    def ask(self, verb: Verb, argument: Argument, timeout_ms: int) -> StoreCommand:
        """Insert a command for the holder of the writer's lock."""
        requester = Holder.here(self._clock)
        deadline_ms = self._clock.boottime_ms() + timeout_ms
        command = StoreCommand(uuid.uuid4().hex, verb, argument, requester, deadline_ms)
        with transient.opened(self._manifest, write=True) as rows:
            rows.put(COMMAND_KIND, command.id, command.to_body())
        return command

    def state(self, command: StoreCommand) -> State:
        """Return a command's state; WAITING if it was removed, since it was never started then."""
        with transient.opened(self._manifest, write=False) as rows:
            current = rows.load(COMMAND_KIND, command.id, StoreCommand.from_body)
        return State.WAITING if current is None else current.state

    def answer(self, command: StoreCommand) -> str | None:
        """Return and delete the result; None if there is none yet.

        Raises:
            TheFlashError: The command failed with this error.
        """
        if self.state(command) not in (State.DONE, State.FAILED):
            return None
        with transient.opened(self._manifest, write=True) as rows:
            finished = rows.load(COMMAND_KIND, command.id, StoreCommand.from_body)
            rows.remove(COMMAND_KIND, command.id)
        if finished is not None and finished.state is State.FAILED:
            raise finished.error(str(self._manifest.folder))
        return finished.text if finished is not None else None

    def withdraw(self, command: StoreCommand) -> None:
        """Delete a command, started or not."""
        with transient.opened(self._manifest, write=True) as rows:
            rows.remove(COMMAND_KIND, command.id)

    # -- the holder of the writer's lock

    def take(self, running_ids: Collection[str] = ()) -> StoreCommand | None:
        """Return the next command to execute, marked as running; cheap if there is none.

        `running_ids` are the commands that this holder is executing. Other running commands were
        started by a holder that has ended, and are executed again.
        """
        version = self._manifest.data_version()
        if version == self._polled_version:
            return None
        with transient.opened(self._manifest, write=False) as rows:
            is_empty = rows.rows(COMMAND_KIND).keys() <= set(running_ids)
        if is_empty:
            self._polled_version = version
            return None
        with transient.opened(self._manifest, write=True) as rows:
            return self._take(rows, running_ids)

    def done(self, command: StoreCommand, text: str) -> None:
        """Store the result of a command."""
        self._close(replace(command, state=State.DONE, text=text))

    def failed(self, command: StoreCommand, error: TheFlashError) -> None:
        """Store the error of a command."""
        text = json.dumps([type(error).__name__, *error.args])
        self._close(replace(command, state=State.FAILED, text=text))

    def _take(self, rows: TransientRecords, running_ids: Collection[str]) -> StoreCommand | None:
        open_commands = []
        for command in rows.load_all(COMMAND_KIND, StoreCommand.from_body):
            if command.id in running_ids:
                continue
            if command.is_abandoned(self._clock):
                rows.remove(COMMAND_KIND, command.id)
            elif command.state in (State.WAITING, State.RUNNING):
                open_commands.append(command)
        if not open_commands:
            return None
        first = min(open_commands, key=lambda command: command.deadline_ms)
        running = replace(first, state=State.RUNNING)
        rows.put(COMMAND_KIND, running.id, running.to_body())
        return running

    def _close(self, command: StoreCommand) -> None:
        """Store a finished command unless it was withdrawn."""
        with transient.opened(self._manifest, write=True) as rows:
            if rows.row(COMMAND_KIND, command.id) is not None:
                rows.put(COMMAND_KIND, command.id, command.to_body())
