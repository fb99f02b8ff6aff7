"""`theflash learn` in a separate process."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyspark_theflash.tidb.schema.history import SchemaHistory

END_S = 60


@dataclass
class Learn:
    """A running command, with its addresses for TiKV and for readers."""

    process: subprocess.Popen[str]
    listen: str
    serve: str

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.terminate()
        return self.process.wait(END_S)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pyspark_theflash.cli.main", *map(str, arguments)]


@contextmanager
def learning(store: Path, pd: str, *options: object) -> Iterator[Learn]:
    """Start the command and wait until it serves; kill it at the end if it is still running."""
    arguments = ["learn", store, "--pd", pd, "--listen", f"unix:{store}/learn", *options]
    with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            places = [process.stdout.readline().split()[-1] for _ in range(2)]
            yield Learn(process, *places)
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=END_S)


def write_schema(path: Path, history: SchemaHistory, end_ts: int) -> Path:
    """Write a schema file of a history that ends at `end_ts`."""
    changes = [
        {
            "ts": event.ts,
            "op": "put",
            "kind": "table",
            "db": event.db,
            "table_id": event.table_id,
            "table": json.loads(event.json_text or ""),
        }
        for event in history.events
    ]
    document = {"start_ts": history.start_ts, "end_ts": end_ts, "changes": changes}
    path.write_text(json.dumps(document | {"initial": [], "schema_versions": []}))
    return path
