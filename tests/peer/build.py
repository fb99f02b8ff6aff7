"""Build a real TiDB for the tests: `python -m tests.peer.build`, or `make peer`.

    tidb/   tidb-server, and unikv, our own small store (`tidb/cmd/unikv`)
    pd/     pd-server, which needs other versions of the same modules

The commands go to `build/peer/bin`. Sources come through Go's module proxy, checked against
`go.sum`. The first time takes 5 minutes on two cores and 4 GB in Go's own caches, or in
`build/peer/go` where there is no home to have them in; a stamp says that it is done.

Exits with 3 where it cannot be built for want of Go or of a way to its modules, which is no fault
of the sources.
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
# The first version with the linker flag below.
_OLDEST_GO: Final = (1, 23)
# Modules that TiDB needs reach into Go's runtime, which newer linkers reject by default.
_FLAGS: Final = ("-ldflags=-checklinkname=0",)
_FETCH_S: Final = 1200
# What Go says when it cannot get a module: it names the address, or the setting that forbids it.
_OUT_OF_REACH: Final = re.compile(r"https?://|GOPROXY")
NOT_HERE: Final = 3
_COMMANDS: Final = {
    "pd-server": ("pd", ("-tags=without_dashboard",), "github.com/tikv/pd/cmd/pd-server"),
    "tidb-server": ("tidb", (), "github.com/pingcap/tidb/tidb-server"),
    "unikv": ("tidb", (), "./cmd/unikv"),
}


class NotHereError(Exception):
    """It cannot be built on this machine, with any sources."""


def is_built() -> bool:
    """Return whether the commands exist and were built from the present sources."""
    try:
        return _STAMP.read_text() == _fingerprint()
    except FileNotFoundError:
        return False


def build() -> None:
    """Build what is not built.

    Raises:
        NotHereError: there is no Go, or an old one, or it cannot get the modules.
        subprocess.CalledProcessError: the compiler failed; its output has the reason.
    """
    BIN.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_built():
            return
        _STAMP.unlink(missing_ok=True)
        go, environment = _find_go(), _environment()
        for module, tags, package in _COMMANDS.values():
            _fetch([go, "list", "-deps", *tags, package], SOURCES / module, environment)
        for name, (module, tags, package) in _COMMANDS.items():
            print(f"building {name}", flush=True)
            command = [go, "build", *_FLAGS, *tags, "-o", str(BIN / name), package]
            subprocess.run(command, cwd=SOURCES / module, env=environment, check=True)
        _STAMP.write_text(_fingerprint())


def _find_go() -> str:
    # Go's own installation does not put it on the PATH.
    root = os.environ.get("GOROOT", "/usr/local/go")
    go = shutil.which("go") or shutil.which(f"{root}/bin/go")
    if go is None:
        raise NotHereError(
            f"no Go found on the PATH or in {root}/bin: install Go 1.23 or newer to build a TiDB "
            "for the tests"
        )
    said = subprocess.run(
        [go, "version"], capture_output=True, text=True, env=_environment(), check=True
    ).stdout
    version = re.search(r"go(\d+)\.(\d+)", said)
    if version is None or tuple(map(int, version.groups())) < _OLDEST_GO:
        raise NotHereError(f"{said.strip()} is too old: install Go 1.23 or newer")
    return go


def _fetch(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Download the modules of a command, by listing its packages."""
    print(f"fetching modules of {command[-1]}", flush=True)
    try:
        listing = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_FETCH_S,
        )
    except subprocess.TimeoutExpired:
        raise NotHereError(f"Go has not got the modules in {_FETCH_S} s") from None
    said = listing.stderr.decode(errors="replace").strip()
    if listing.returncode and _OUT_OF_REACH.search(said):
        raise NotHereError(f"Go cannot get the modules: {said[-500:]}")
    if listing.returncode:
        print(said, file=sys.stderr)
        listing.check_returncode()


def _environment() -> dict[str, str]:
    flags = "-mod=readonly -buildvcs=false"
    if Path(os.environ.get("HOME", "/nowhere")).is_dir():
        return os.environ | {"GOFLAGS": flags, "GOTOOLCHAIN": "local"}
    # Go has its caches, and notes of its own, at home. These here can be removed with the rest.
    own = FOLDER / "go"
    caches = {"GOPATH": str(own / "path"), "GOCACHE": str(own / "cache")}
    fixed = {"HOME": str(own), "GOFLAGS": f"{flags} -modcacherw", "GOTOOLCHAIN": "local"}
    return caches | os.environ | fixed


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
    except NotHereError as error:
        print(error, file=sys.stderr)
        return NOT_HERE
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    print(f"a TiDB for the tests is in {BIN.relative_to(SOURCES.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
