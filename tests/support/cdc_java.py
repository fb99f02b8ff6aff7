"""TiKV's own Java client of the change feed, from Maven Central.

with JavaFeed(peer.pd_address, keys, checkpoint_ts, folder) as feed:
    ...
    lines = feed.rows_to(ts)     # those of tests/peer/java/CdcRows.java
"""

import hashlib
import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final

from pyspark_theflash.cluster.located import RawKeyRange
from tests.peer.build import FOLDER, SOURCES

_PROGRAM: Final = SOURCES / "java" / "CdcRows.java"
_JAR: Final = FOLDER.parent / "java" / "tikv-client-java-3.2.0.jar"
# 3.3 has only the messages.
_ARTIFACT: Final = "org.tikv:tikv-client-java:3.2.0"
_SHA256: Final = "fa61e9533d58261b87df94852315e3205cf0f603ec0fbd98f7b84e09881c3f9d"
_PLUGIN: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy"
_FETCH_S: Final = 600


class NotHereError(Exception):
    """The client cannot be had on this machine."""


def fetch() -> list[Path]:
    """Download the client once; return its class path.

    Raises:
        NotHereError: There is no Java or Maven, or Maven cannot reach a repository.
    """
    if shutil.which("java") is None or shutil.which("mvn") is None:
        raise NotHereError("no java or no mvn on the PATH")
    if not _JAR.exists():
        _JAR.parent.mkdir(parents=True, exist_ok=True)
        command = ["mvn", "-q", "-B", _PLUGIN, f"-Dartifact={_ARTIFACT}"]
        try:
            done = subprocess.run(
                [*command, f"-DoutputDirectory={_JAR.parent}"],
                capture_output=True,
                text=True,
                timeout=_FETCH_S,
                cwd=_JAR.parent,
            )
        except subprocess.TimeoutExpired:
            raise NotHereError(f"Maven has not got {_ARTIFACT} in {_FETCH_S} s") from None
        if done.returncode:
            raise NotHereError(f"Maven cannot get {_ARTIFACT}: {done.stdout[-500:]}")
    if hashlib.sha256(_JAR.read_bytes()).hexdigest() != _SHA256:
        raise NotHereError(f"{_JAR} is not the {_ARTIFACT} that the tests were written for")
    spark = importlib.util.find_spec("pyspark")
    if spark is None or spark.origin is None:
        raise NotHereError("no pyspark, whose slf4j-api the client needs")
    return [_JAR, *(Path(spark.origin).parent / "jars").glob("slf4j-api-*.jar")]


class JavaFeed:
    """The running program."""

    def __init__(self, pd: str, keys: RawKeyRange, checkpoint_ts: int, folder: Path) -> None:
        """Start it; `folder` gets its errors. Raises `NotHereError`."""
        classes = ":".join(str(path) for path in fetch())
        folder.mkdir(parents=True, exist_ok=True)
        self._errors = folder / "java.err"
        arguments = [pd, keys.start.hex(), keys.end.hex(), str(checkpoint_ts)]
        self._rows = folder / "rows"
        with self._errors.open("wb") as errors, self._rows.open("wb") as rows:
            self._process = subprocess.Popen(
                ["java", "-Xmx512m", "-cp", classes, str(_PROGRAM), *arguments],
                stdin=subprocess.PIPE,
                stdout=rows,
                stderr=errors,
            )

    def __enter__(self) -> "JavaFeed":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def has_started(self) -> bool:
        assert self._process.poll() is None, self._errors.read_text()[-2000:]
        return self._rows.read_bytes().startswith(b"started\n")

    def rows_to(self, ts: int, timeout_s: float = 120) -> list[list[str]]:
        """Return the fields of all rows, received until no change at or below `ts` is missing."""
        self._process.communicate(f"{ts}\n".encode(), timeout_s)
        first, *rows, last = self._rows.read_text().splitlines()
        assert (first, last) == ("started", "done"), self._errors.read_text()[-2000:]
        return [row.split(" ") for row in rows]
