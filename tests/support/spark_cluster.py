"""Spark as several processes: a cluster of two workers, and applications on it, all to be killed.

The workers have addresses of their own (both of this machine), as Spark puts the second try of a
slow task on another host only.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyspark

from tests.support.processes import children, command_line, descendants, is_alive, wait_until

ROOT = Path(__file__).parents[2]
HOSTS = ("127.0.0.1", "127.0.0.2")
_HOME = Path(pyspark.__file__).parent
_MASTER = re.compile(r"spark://127\.0\.0\.1:\d+")


class Cluster:
    """A master at `url`, and a worker with a core at each of `HOSTS`."""

    def __init__(self, url: str, workers: list["subprocess.Popen[bytes]"]) -> None:
        self.url, self._workers = url, workers

    def executors(self) -> list[int]:
        """The processes that run tasks."""
        started = (pid for worker in self._workers for pid in children(worker.pid))
        return [p for p in started if any("ExecutorBackend" in w for w in command_line(p))]


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that keeps its files in `folder`."""
    with ExitStack() as undo:
        log = folder / "master.log"
        undo.enter_context(_spark("master.Master", log, "--host", HOSTS[0]))

        def url() -> str:
            match = _MASTER.search(log.read_text())
            return match.group() if match else ""

        wait_until(url, 60_000)
        workers = [
            undo.enter_context(
                _spark(
                    "worker.Worker",
                    folder / f"worker-{n}.log",
                    *("--host", host, "--cores", "1", "--memory", "1g"),
                    *("--work-dir", str(folder / f"work-{n}"), url()),
                )
            )
            for n, host in enumerate(HOSTS)
        ]
        yield Cluster(url(), workers)


@contextmanager
def _spark(name: str, log: Path, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [str(_HOME / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}"]
    with (
        open(log, "wb") as output,
        subprocess.Popen(
            [*command, "--port", "0", "--webui-port", "0", *arguments],
            env=_environment() | {"SPARK_HOME": str(_HOME), "SPARK_DAEMON_MEMORY": "256m"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            yield process
        finally:
            _end(process)


def _environment() -> dict[str, str]:
    """Environment of Spark's processes: with the package's path, without SPARK_LOCAL_IP."""
    kept = {name: value for name, value in os.environ.items() if name != "SPARK_LOCAL_IP"}
    return kept | {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}


def _end(process: "subprocess.Popen[Any]") -> None:
    """Kill a process and its descendants."""
    left = descendants(process.pid)
    process.kill()
    for pid in filter(is_alive, left):
        os.kill(pid, 9)


class Driver:
    """An application: see `tests.support.spark_driver`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.application_id = str(self._answer()["applicationId"])

    @property
    def processes(self) -> list[int]:
        """The driver's own: Python's, and Java's."""
        return [self._process.pid, *children(self._process.pid)]

    def ask(self, **query: Any) -> "PendingQuery":
        """Begin a query."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(query) + "\n")
        self._process.stdin.flush()
        return PendingQuery(self._answer)

    def _answer(self) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: Mapping[str, Any] = json.loads(line) if line else {"error": "the driver is gone"}
        return answer


class PendingQuery:
    """A query that is being answered."""

    def __init__(self, answer: Any) -> None:
        self._answer: Mapping[str, Any] = {}

        def wait() -> None:
            self._answer = answer()

        self._thread = threading.Thread(target=wait, daemon=True)
        self._thread.start()

    def is_answered(self) -> bool:
        """Return whether it has ended."""
        return not self._thread.is_alive()

    def rows(self) -> list[list[Any]]:
        """Wait for the result, and return its rows."""
        answer = self._wait()
        assert "error" not in answer, answer
        rows: list[list[Any]] = answer["rows"]
        return rows

    def error(self) -> str:
        """Return the error that it fails with."""
        answer = self._wait()
        assert "rows" not in answer
        return str(answer["error"])

    def _wait(self) -> Mapping[str, Any]:
        self._thread.join(120)
        assert self.is_answered()
        return self._answer


@contextmanager
def driver(master: str, folder: Path, **conf: str) -> Iterator[Driver]:
    """Run an application on `master`; it and its processes end afterwards."""
    command = [sys.executable, "-m", "tests.support.spark_driver", master, str(folder)]
    with (
        open(folder / "driver.log", "ab") as log,
        subprocess.Popen(
            [*command, json.dumps(conf)],
            cwd=ROOT,
            env=_environment() | {"SPARK_LOCAL_IP": HOSTS[0]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            yield Driver(process)
        finally:
            _end(process)
