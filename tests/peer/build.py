"""Build a real TiDB for the tests: `python -m tests.peer.build`, or `make peer`.

    tidb/   tidb-server, and unikv, our own small store (`tidb/cmd/unikv`)
    pd/     pd-server, which needs other versions of the same modules

The commands go to `build/peer/bin`. Sources come through Go's module proxy, checked against
`go.sum`. The first time takes 5 minutes on two cores and 4 GB in Go's own caches; a stamp says that
it is done.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).resolve().parent
FOLDER: Final = SOURCES.parents[1] / "build" / "peer"
BIN: Final = FOLDER / "bin"
_STAMP: Final = FOLDER / "stamp"
# The flag below came with it.
_OLDEST_GO: Final = (1, 23)
# Modules that TiDB needs reach into Go's runtime, which newer linkers refuse unless told.
_FLAGS: Final = ("-ldflags=-checklinkname=0",)
_COMMANDS: Final = {
    "pd-server": ("pd", ("-tags=without_dashboard",), "github.com/tikv/pd/cmd/pd-server"),
    "tidb-server": ("tidb", (), "github.com/pingcap/tidb/tidb-server"),
    "unikv": ("tidb", (), "./cmd/unikv"),
}


def is_built() -> bool:
    """Whether the commands are there and made of the present sources."""
    try:
        return _STAMP.read_text() == _fingerprint()
    except FileNotFoundError:
        return False


def build() -> None:
    """Build what is not built.

    Raises:
        RuntimeError: there is no Go, or an old one.
        subprocess.CalledProcessError: it did not compile; it has said why.
    """
    go = _find_go()
    BIN.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_built():
            return
        _STAMP.unlink(missing_ok=True)
        for name, (module, flags, package) in _COMMANDS.items():
            print(f"building {name}", flush=True)
            command = [go, "build", *_FLAGS, *flags, "-o", str(BIN / name), package]
            subprocess.run(command, cwd=SOURCES / module, env=_environment(), check=True)
        _STAMP.write_text(_fingerprint())


def _find_go() -> str:
    # Go's own installation does not put it on the PATH.
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        raise RuntimeError("no Go found: install Go 1.23 or newer to build a TiDB for the tests")
    said = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"go(\d+)\.(\d+)", said)
    if version is None or tuple(map(int, version.groups())) < _OLDEST_GO:
        raise RuntimeError(f"{said.strip()} is too old: install Go 1.23 or newer")
    return go


def _environment() -> dict[str, str]:
    return os.environ | {"GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local"}


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*")):
        if path.suffix in (".go", ".mod", ".sum", ".py"):
            digest.update(path.relative_to(SOURCES).as_posix().encode() + b"\0")
            digest.update(path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    """Build; the exit status."""
    try:
        build()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    print(f"a TiDB for the tests is in {BIN.relative_to(SOURCES.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
