"""Commands for whoever holds the writer's lock, left in the store's transient records.

Only that process changes a store. Another that wants it compacted puts a command in the transient
records and looks for the answer; the holder looks for commands between two batches of its own work.

    waiting ──► running ──► done | failed       the asker then takes the row away

The asker waits on the boot-time clock until its deadline. At the deadline it takes back what was
not begun. What is left of askers that died, and of an earlier run of the machine, is cleared by the
holder.
"""

import json
import uuid
from collections.abc import Callable, Collection
from dataclasses import astuple, dataclass, fields, replace
from enum import Enum
from typing import Any, Final, TypeAlias, TypeVar

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    CodecError,
    CorruptionError,
    EngineError,
    OptionError,
    TheFlashError,
    rebuilt,
)
from pyspark_theflash.base.types import PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.manifest import DATABASE, Manifest
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
    """The commands that can be given, and their arguments."""

    COMPACT = "compact"
    """Rewrite all tables into the form that reads fastest. No argument."""
    GC = "collect"
    """Drop what no timestamp from the safe point on needs. `CollectOrder` as text."""
    RETENTION = "retention"
    """Keep that much history when garbage is collected. Milliseconds."""
    INTERVAL = "interval"
    """Poll the source that often. Milliseconds."""
    STOP = "stop"
    """End the writer after what it is at. No argument."""
    FLUSH = "flush"
    """Distribute recently written rows among the regions of all tables. No argument."""
    SPLIT = "split"
    """Split a region. `SplitOrder` as text."""
    MERGE = "merge"
    """Merge two regions. `MergeOrder` as text."""
    MOVE = "move"
    """Have a region's files in another partition. `MoveOrder` as text."""
    COPY = "copy"
    """Have a region's files in one more partition. `MoveOrder` as text."""
    PURGE = "purge"
    """Remove a region's rows. `PurgeOrder` as text."""
    ADD_PARTITION = "add partition"
    """Make a folder a partition. Its absolute path."""
    REMOVE_PARTITION = "remove partition"
    """Give a partition's folder back. The partition's number."""
    RESOLVE = "resolve"
    """Decide how an orphan ended. `ResolveOrder` as text."""


Argument: TypeAlias = int | str | None


class Order:
    """The argument of a command that has several: the fields of a dataclass, in a JSON list."""

    __slots__ = ()

    @classmethod
    def names(cls) -> list[str]:
        """The names of the fields, in their order."""
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
    """A garbage collection."""

    safe_point: TimeStamp | None = None
    """The oldest timestamp to keep readable; None: by the store's retention."""
    dry_run: bool = False
    """Report what would be dropped, and drop nothing."""


@dataclass(frozen=True, slots=True)
class SplitOrder(Order):
    """A split of a region at a handle: a number, or a clustered key's bytes."""

    physical_id: PhysicalTableID
    region_id: RegionID
    at: int | bytes


@dataclass(frozen=True, slots=True)
class MergeOrder(Order):
    """A merge of two neighbouring regions."""

    physical_id: PhysicalTableID
    left_id: RegionID
    right_id: RegionID


@dataclass(frozen=True, slots=True)
class MoveOrder(Order):
    """A move of a region to a partition, or a copy."""

    physical_id: PhysicalTableID
    region_id: RegionID
    partition: int


@dataclass(frozen=True, slots=True)
class ResolveOrder(Order):
    """An operator's decision about an orphan; `commit_ts` 0: it was rolled back."""

    start_ts: TimeStamp
    commit_ts: TimeStamp


@dataclass(frozen=True, slots=True)
class PurgeOrder(Order):
    """A removal of a region's rows."""

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
}
"""The commands whose argument is an order, as text."""


def handle_text(handle: int | bytes) -> str:
    """A handle for people: a number, or 0x and the bytes of a clustered key in hex."""
    return f"0x{handle.hex()}" if isinstance(handle, bytes) else str(handle)


def handle_of(shown: str) -> int | bytes:
    """Inverse of `handle_text`. Raises `OptionError`."""
    try:
        if shown.startswith("0x"):
            return bytes.fromhex(shown[2:])
        return int64(int(shown))
    except ValueError:
        reason = "is neither a number of 64 bits nor 0x and the bytes of a key in hex"
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
    """Where a command is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StoreCommand:
    """A command and, once there is one, its answer.

    `text` is what to tell the asker; of a failed command, the error: its class and arguments.
    """

    id: str
    verb: Verb
    argument: Argument
    asker: Holder
    deadline_ms: int
    state: State = State.WAITING
    text: str = ""

    def to_body(self) -> bytes:
        """Encode the transient record of this `id`."""
        fields = [self.verb.value, self.argument, self.deadline_ms, self.state.value, self.text]
        return json.dumps([*fields, astuple(self.asker)]).encode()

    @classmethod
    def from_body(cls, id: str, body: bytes) -> "StoreCommand":
        """Inverse of `to_body`. Raises `CodecError` on anything else."""
        with shaped("command"):
            verb, argument, deadline_ms, state, answer, asker = load(body)
            return cls(
                id,
                Verb(verb),
                _argument(argument),
                Holder.from_fields(asker),
                int64(deadline_ms),
                State(state),
                text(answer),
            )

    def error(self, path: str) -> TheFlashError:
        """The error of a failed command: by the name of its class, if this is one of ours.

        `path`: the store's, for an error that is not.
        """
        try:
            name, *arguments = load(self.text)
            if (error := rebuilt(name, arguments)) is not None:
                return error
        except SHAPE_ERRORS:
            pass
        return EngineError(path, f"the writer failed with {self.text[:_EXCERPT]}")

    def is_abandoned(self, clock: Clock) -> bool:
        """Whether nobody waits for the answer any more."""
        if self.asker.boot_id != clock.boot_id() or self.deadline_ms <= clock.boottime_ms():
            return True
        return self.asker.is_gone(clock)


def _argument(value: object) -> Argument:
    if value is None or isinstance(value, str):
        return value
    return uint64(value)


class Mailbox:
    """The commands on one store's board. The asker's half and the holder's."""

    def __init__(
        self, manifest: Manifest, clock: Clock, new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    ) -> None:
        self._manifest, self._clock, self._new_id = manifest, clock, new_id
        self._seen: int | None = None

    # -- the asker

    def ask(self, verb: Verb, argument: Argument, timeout_ms: int) -> StoreCommand:
        """Leave a command; whoever holds the writer's lock will see it."""
        asker = Holder.here(self._clock)
        deadline_ms = self._clock.boottime_ms() + timeout_ms
        command = StoreCommand(self._new_id(), verb, argument, asker, deadline_ms)
        with transient.opened(self._manifest, write=True) as rows:
            rows.put(COMMAND_KIND, command.id, command.to_body())
        return command

    def state(self, command: StoreCommand) -> State:
        """How far a command is; WAITING if it has vanished, for then nobody has taken it."""
        with transient.opened(self._manifest, write=False) as rows:
            found = self._find(rows, command.id)
        return State.WAITING if found is None else found.state

    def answer(self, command: StoreCommand) -> str | None:
        """The answer, which is taken away with this; None if there is none yet.

        Raises:
            TheFlashError: the command failed, with this.
        """
        if self.state(command) not in (State.DONE, State.FAILED):
            return None
        with transient.opened(self._manifest, write=True) as rows:
            found = self._find(rows, command.id)
            rows.remove(COMMAND_KIND, command.id)
        if found is not None and found.state is State.FAILED:
            raise found.error(str(self._manifest.folder))
        return found.text if found is not None else None

    def withdraw(self, command: StoreCommand) -> None:
        """Take a command back, begun or not."""
        with transient.opened(self._manifest, write=True) as rows:
            rows.remove(COMMAND_KIND, command.id)

    # -- the holder of the writer's lock

    def take(self, begun: Collection[str] = ()) -> StoreCommand | None:
        """The next command to execute, marked as running; cheap where there is none.

        `begun` are the ids of those that the holder is at. Another that is running already was
        begun by a holder that died.
        """
        seen = self._manifest.others_wrote()
        if seen == self._seen:
            return None
        with transient.opened(self._manifest, write=False) as rows:
            is_empty = rows.rows(COMMAND_KIND).keys() <= set(begun)
        if is_empty:
            self._seen = seen
            return None
        with transient.opened(self._manifest, write=True) as rows:
            return self._take(rows, begun)

    def done(self, command: StoreCommand, text: str) -> None:
        """Answer a command."""
        self._close(replace(command, state=State.DONE, text=text))

    def failed(self, command: StoreCommand, error: TheFlashError) -> None:
        """Answer that a command came to this error."""
        text = json.dumps([type(error).__name__, *error.args])
        self._close(replace(command, state=State.FAILED, text=text))

    def _take(self, rows: TransientRecords, begun: Collection[str]) -> StoreCommand | None:
        open_commands = []
        for id, body in rows.rows(COMMAND_KIND).items():
            if id in begun:
                continue
            command = self._command(id, body)
            if command.is_abandoned(self._clock):
                rows.remove(COMMAND_KIND, id)
            elif command.state in (State.WAITING, State.RUNNING):
                open_commands.append(command)
        if not open_commands:
            return None
        first = min(open_commands, key=lambda command: command.deadline_ms)
        taken = replace(first, state=State.RUNNING)
        rows.put(COMMAND_KIND, taken.id, taken.to_body())
        return taken

    def _close(self, command: StoreCommand) -> None:
        """Leave an answer where somebody still waits for it."""
        with transient.opened(self._manifest, write=True) as rows:
            if self._find(rows, command.id) is not None:
                rows.put(COMMAND_KIND, command.id, command.to_body())

    def _find(self, rows: TransientRecords, id: str) -> StoreCommand | None:
        body = rows.row(COMMAND_KIND, id)
        return None if body is None else self._command(id, body)

    def _command(self, id: str, body: bytes) -> StoreCommand:
        try:
            return StoreCommand.from_body(id, body)
        except CodecError as error:
            raise CorruptionError(
                str(self._manifest.folder / DATABASE), 0, f"command {id} is not one"
            ) from error
