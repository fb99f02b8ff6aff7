"""An environment with a Spark that Iceberg supports: build/iceberg, of requirements/iceberg.txt."""

import hashlib
import subprocess
import sys
import venv

from tests.benchmark.system import PROJECT

FOLDER = PROJECT / "build" / "iceberg"
# Its pyspark is built, without isolation, by the tools that also build ours.
LOCKS = [PROJECT / "requirements" / name for name in ("build.txt", "iceberg.txt")]
INSTALL = ("-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps")


def iceberg_python() -> str:
    """Its interpreter. Making the environment takes some minutes, once."""
    python, stamp = FOLDER / "bin" / "python", FOLDER / "made-from"
    wanted = _stamp()
    if not stamp.exists() or stamp.read_text() != wanted:
        sys.stderr.write(f"making {FOLDER.relative_to(PROJECT)}, which takes some minutes\n")
        venv.create(FOLDER, clear=True, with_pip=True)
        for lock in LOCKS:
            install = [*INSTALL, "--no-build-isolation", "-r", str(lock)]
            subprocess.run([str(python), *install], check=True)
        stamp.write_text(wanted)
    return str(python)


def _stamp() -> str:
    """Return a digest of the environment's inputs."""
    digest = hashlib.sha256(sys.version.encode())
    for lock in LOCKS:
        digest.update(lock.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    print(iceberg_python())
