"""A process of `theflash follow` that is killed and started again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from pyspark_theflash.base.types import from_physical_ms
from tests.soak.follow_load import CLOCK
from tests.soak.outcome import Outcome
from tests.support.peer import Peer
from tests.support.progress import read_progress

STUCK_MS = 240_000
POLL_MS = 150
"""Time without progress after which a process hangs."""
_MODULE = (sys.executable, "-X", "faulthandler", "-m", "pyspark_theflash.cli.main")
_TAIL = 3_000


def _quickly_started(folder: Path) -> dict[str, str]:
    """Return an environment for processes that are started often.

    Their modules are compiled once. And pyarrow imports pandas wherever it is installed, which the
    command does not require.
    """
    without = folder / "without_pandas"
    without.mkdir(exist_ok=True)
    (without / "pandas.py").write_text("raise ImportError\n")
    paths = [str(without), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**environment, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}


class Follower:
    """One store and its process. Errors and hangs are differences in `outcome`."""

    kill_ms = 0
    """Time at which the process may be killed."""

    def __init__(self, peer: Peer, store: Path, outcome: Outcome) -> None:
        self.store, self._peer, self._outcome = store, peer, outcome
        self._log = store.with_suffix(".log")
        self._environment = _quickly_started(store.parent)
        self._seen_ts = self._due_ts = 0
        self._seen_ms = 0

    def start(self, lives_ms: int = 2000) -> None:
        """Start a process."""
        options = ("--pd", self._peer.pd_address, "--tables", "shop.*", "--lock-policy", "resolve")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_MODULE, "follow", str(self.store), *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )
        self._due_ts, self._seen_ms = from_physical_ms(CLOCK.wall_ms()), CLOCK.boottime_ms()
        self.kill_ms = self._seen_ms + lives_ms

    def kill(self) -> None:
        """Kill the process."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End the process in order."""
        self._process.terminate()
        if self._process.wait(60):
            self._outcome.differs(f"the process ended with {self._process.returncode}")
        self._outcome.counts["warnings"] = self._log.read_text().count("WARNING")

    def is_readable(self) -> bool:
        """Return whether the store is loaded."""
        return self.resolved_ts() > 0

    def has_caught_up(self) -> bool:
        """Return whether the store has what TiDB had when the process was started.

        Processes that were killed before would get further and further behind.
        """
        return self.resolved_ts() > self._due_ts

    def resolved_ts(self) -> int:
        """Return the newest readable timestamp, 0 before the end of the load."""
        if not (self.store / "format").exists():
            return 0
        progress = read_progress(self.store)
        return progress.resolved_ts if progress else 0

    def check(self) -> None:
        """Start the process again if it ended by itself, or made no progress for long."""
        now_ms = CLOCK.boottime_ms()
        if (ts := self.resolved_ts()) > self._seen_ts:
            self._seen_ts, self._seen_ms = ts, now_ms
        if (code := self._process.poll()) is not None:
            self._outcome.differs(f"the process ended with {code}: {self._last_words()}")
            assert len(self._outcome.different) < 20
            self.start()
        elif now_ms > self._seen_ms + STUCK_MS:
            # Prints the stack of each thread.
            self._process.send_signal(signal.SIGABRT)
            self._process.wait()
            self._outcome.differs(f"no progress since {self._seen_ts}: {self._last_words()}")
            assert len(self._outcome.different) < 20
            self.start()

    def reach(self, ts: int) -> None:
        """Wait until the store is readable at a timestamp."""
        while self.resolved_ts() < ts:
            self.check()
            CLOCK.sleep_ms(POLL_MS)

    def verify(self, ts: int, timeout_s: float) -> bool:
        """Run `theflash verify`; return whether nothing differs."""
        command = [*_MODULE, "verify", str(self.store), "--pd", self._peer.pd_address]
        command += ["--at", str(ts)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        if done.returncode:
            self._outcome.differs(f"verify at {ts}: {done.stdout[-_TAIL:]}{done.stderr[-_TAIL:]}")
        return not done.returncode

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-_TAIL:]
