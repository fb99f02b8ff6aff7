"""Commands to a store: executed here if it has no writer, otherwise sent to the writer."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import CommandTimeoutError, StoreInUseError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.command import Argument, Mailbox, State, StoreCommand, Verb
from pyspark_theflash.storage.store.folder import IDENTITY_KIND, StoreIdentity, open_manifest
from pyspark_theflash.storage.store.manifest import Manifest

LOOK_MS: Final = 20
RETRY_MS: Final = 500
"""Interval of trying the lock while waiting for an answer, since the writer may have ended."""


def administer(
    path: Path,
    verb: Verb,
    argument: Argument,
    *,
    timeout_ms: int,
    fs: FileSystem,
    clock: Clock,
    on_progress: Callable[[str], None] = lambda _: None,
) -> str:
    """Execute a command on the store at `path`, or let its writer do so; return a description.

    `timeout_ms` limits the wait for the writer's answer, not the execution here.

    Raises:
        CommandTimeoutError: No answer in time. If the writer had not begun, the command is
            withdrawn.
        TheFlashError: The error of the command, wherever it was executed.
    """
    with closing(open_manifest(path, fs)) as manifest:
        return _Administration(path, manifest, fs, clock, on_progress).run(
            verb, argument, Deadline(clock, timeout_ms)
        )


class _Administration:
    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        fs: FileSystem,
        clock: Clock,
        on_progress: Callable[[str], None],
    ) -> None:
        self._path, self._manifest, self._fs, self._clock = path, manifest, fs, clock
        self._on_progress = on_progress
        self._holder = ""
        self._mailbox = Mailbox(manifest, clock)
        self._identity = StoreIdentity.of(manifest.read([IDENTITY_KIND]))

    def run(self, verb: Verb, argument: Argument, deadline: Deadline) -> str:
        """See `administer`."""
        command: StoreCommand | None = None
        try:
            while (result := self._execute(verb, argument)) is None:
                self._on_progress(f"waiting for {self._holder}")
                if command is None:
                    command = self._mailbox.ask(verb, argument, deadline.left_ms())
                if (result := self._await(command, deadline)) is not None:
                    break
                if not deadline.left_ms():
                    raise self._late(command)
        finally:
            if command is not None:
                self._mailbox.withdraw(command)
        return result

    def _execute(self, verb: Verb, argument: Argument) -> str | None:
        """Execute a command here; None if another process writes the store."""
        try:
            engine = registry.open_engine(self._path, self._identity, self._fs, self._clock)
        except StoreInUseError as held:
            self._holder = held.holder
            return None
        with closing(engine):
            if verb is Verb.STOP:
                return "no writer is running"
            maintenance = Maintenance(
                engine, self._manifest, self._clock, on_progress=self._on_progress
            )
            return maintenance.execute(verb, argument)

    def _await(self, command: StoreCommand, deadline: Deadline) -> str | None:
        """Wait up to `RETRY_MS` for the writer's answer."""
        until = Deadline(self._clock, min(RETRY_MS, deadline.left_ms()))
        while (answer := self._mailbox.answer(command)) is None:
            if not until.sleep_ms(LOOK_MS):
                return None
        return answer

    def _late(self, command: StoreCommand) -> CommandTimeoutError:
        is_running = self._mailbox.state(command) is State.RUNNING
        state = "is still executing it" if is_running else "did not begin it in time"
        return CommandTimeoutError(command.verb.value, self._holder, state)
