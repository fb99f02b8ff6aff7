"""Commands from outside the writer: done here where nobody writes, else handed to who does."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import CommandTimeoutError, StoreInUseError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.command import Argument, Mailbox, State, StoreCommand, Verb
from pyspark_theflash.storage.store.folder import IDENTITY_KIND, StoreIdentity, open_manifest
from pyspark_theflash.storage.store.manifest import Manifest

LOOK_MS: Final = 20
RETRY_MS: Final = 500
"""How often the lock is tried while an answer is awaited: its holder may have gone."""


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
    """Do a command to the store at `path`, or have its writer do it; returns what was done.

    The time is for the writer's answer; what is done here takes as long as it takes.

    Raises:
        CommandTimeoutError: the writer gave no answer in time. What it had not begun, it won't.
        TheFlashError: what the command failed with, wherever it was done.
    """
    with closing(open_manifest(path, fs)) as manifest:
        return _Asker(path, manifest, fs, clock, on_progress).run(
            verb, argument, clock.boottime_ms() + timeout_ms
        )


class _Asker:
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

    def run(self, verb: Verb, argument: Argument, deadline_ms: int) -> str:
        """See `administer`."""
        asked: StoreCommand | None = None
        try:
            while (told := self._here(verb, argument)) is None:
                self._on_progress(f"waiting for {self._holder}")
                if asked is None:
                    left_ms = deadline_ms - self._clock.boottime_ms()
                    asked = self._mailbox.ask(verb, argument, max(left_ms, 0))
                if (told := self._await(asked, deadline_ms)) is not None:
                    break
                if self._clock.boottime_ms() >= deadline_ms:
                    raise self._late(asked)
        finally:
            if asked is not None:
                self._mailbox.withdraw(asked)
        return told

    def _here(self, verb: Verb, argument: Argument) -> str | None:
        """Do it, unless another process writes the store."""
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

    def _await(self, command: StoreCommand, deadline_ms: int) -> str | None:
        """Look for the answer for a moment."""
        until_ms = min(self._clock.boottime_ms() + RETRY_MS, deadline_ms)
        while (answer := self._mailbox.answer(command)) is None:
            if self._clock.boottime_ms() >= until_ms:
                return None
            self._clock.sleep_ms(LOOK_MS)
        return answer

    def _late(self, command: StoreCommand) -> CommandTimeoutError:
        is_running = self._mailbox.state(command) is State.RUNNING
        state = "is still at it" if is_running else "did not begin it in time"
        return CommandTimeoutError(command.verb.value, self._holder, state)
