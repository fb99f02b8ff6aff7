"""Fetch Delta Lake's jars into build/jars with the Ivy that Spark brings along.

The tests of the engine delta run this before they start Spark. The hashes of the jars are in
requirements/jars.txt; where the jars are there already, nothing is fetched.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "jars.txt"
JARS = ROOT / "build" / "jars"


def main() -> int:
    """Fetch the jars that are missing, and check them."""
    for coordinates, sha256 in locked():
        _, artifact, version = coordinates.split(":")
        jar = JARS / f"{artifact}-{version}.jar"
        if not jar.is_file():
            _fetch(coordinates, jar)
        if hashlib.sha256(jar.read_bytes()).hexdigest() != sha256:
            raise SystemExit(f"{jar} has not the hash of {LOCK.name}: remove it and try again")
    return 0


def locked() -> list[tuple[str, str]]:
    """Return coordinates and hash of each jar."""
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    return [(line.split()[0], line.split()[1]) for line in lines]


def _fetch(coordinates: str, jar: Path) -> None:
    group, artifact, version = coordinates.split(":")
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise SystemExit("pyspark is not installed, whose Ivy fetches jars")
    (ivy,) = (Path(spec.origin).parent / "jars").glob("ivy-*.jar")
    home = os.environ.get("JAVA_HOME")
    with tempfile.TemporaryDirectory() as cache:
        command = [str(Path(home) / "bin" / "java") if home else "java", "-jar", str(ivy)]
        command += ["-cache", cache, "-notransitive", "-dependency", group, artifact, version]
        command += ["-retrieve", f"{cache}/[type]s/[artifact]-[revision].[ext]"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        fetched = Path(cache) / "jars" / jar.name
        if done.returncode or not fetched.is_file():
            output = done.stdout[-500:] + done.stderr[-500:]
            raise SystemExit(f"cannot fetch {coordinates}: {output}")
        JARS.mkdir(parents=True, exist_ok=True)
        part = jar.with_suffix(".part")
        part.write_bytes(fetched.read_bytes())
        part.replace(jar)


if __name__ == "__main__":
    sys.exit(main())
