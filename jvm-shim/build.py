"""Build the jar of Spark's `theflash` source with the Scala compiler that Spark brings along.

`make jar` runs this before everything that starts Spark. It needs Java and the locked pyspark, no
network, and takes some seconds; where the jar is of these sources and this Spark already, nothing.
The same input gives the same bytes. `build.sbt` builds the same classes for those who have sbt.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SCALA = ROOT / "src" / "main" / "scala"
RESOURCES = ROOT / "src" / "main" / "resources"
JAR = ROOT.parent / "pyspark_theflash" / "jars" / "theflash-spark-4.2_2.13.jar"
OPTIONS = [
    *("-deprecation", "-feature", "-unchecked", "-release", "17", "-Werror"),
    *("-Xlint:_,-byname-implicit", "-Wdead-code", "-Wnumeric-widen", "-Wunused:_"),
    "-Wvalue-discard",
]
_STAMP = "META-INF/theflash-sources"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def main() -> int:
    """Build the jar if it is not what the sources say."""
    spark = _spark_jars()
    stamp = _stamp(spark)
    if _is_current(stamp):
        return 0
    JAR.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        classes = Path(folder)
        status = _compile(spark, classes)
        if status:
            return status
        _write_jar(_entries(classes), stamp)
    sys.stdout.write(f"built {JAR.relative_to(ROOT.parent)}\n")
    return 0


def _spark_jars() -> Path:
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise SystemExit("pyspark is not installed, and its jars are what the jar is compiled with")
    return Path(spec.origin).parent / "jars"


def _sources() -> list[Path]:
    return sorted(SCALA.rglob("*.scala"))


def _stamp(spark: Path) -> bytes:
    """Hash the inputs of the jar."""
    digest = hashlib.sha256(repr((sorted(p.name for p in spark.iterdir()), OPTIONS)).encode())
    for path in [*_sources(), *sorted(p for p in RESOURCES.rglob("*") if p.is_file())]:
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest().encode()


def _is_current(stamp: bytes) -> bool:
    try:
        with zipfile.ZipFile(JAR) as jar:
            return jar.read(_STAMP) == stamp
    except (OSError, KeyError, zipfile.BadZipFile):
        return False


def _compile(spark: Path, classes: Path) -> int:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else "java"
    command = [java, "-Xss8m", "-cp", f"{spark}/*", "scala.tools.nsc.Main"]
    command += ["-classpath", f"{spark}/*", "-d", str(classes), *OPTIONS, *map(str, _sources())]
    return subprocess.run(command, check=False).returncode


def _entries(classes: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for root in (classes, RESOURCES)
        for path in root.rglob("*")
        if path.is_file()
    }


def _write_jar(entries: dict[str, bytes], stamp: bytes) -> None:
    """Write the jar atomically, also beside other builds."""
    partial = JAR.with_suffix(f".{os.getpid()}")
    first = [("META-INF/MANIFEST.MF", b"Manifest-Version: 1.0\r\n\r\n"), (_STAMP, stamp)]
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as jar:
        for name, content in [*first, *sorted(entries.items())]:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            jar.writestr(info, content)
    partial.replace(JAR)


if __name__ == "__main__":
    sys.exit(main())
