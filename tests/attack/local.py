"""Other users and files of the machine: embedded engines, the C library, the process list."""

import os
import subprocess
import sys
from pathlib import Path

from pyspark_theflash.testing.stores import StoreBuilder
from tests.attack.harness import Target, attack, breach_if, run_command
from tests.attack.servers import SMALL
from tests.support.serving import TOKENS

PROJECT = Path(__file__).parents[2]
NOBODY = 65_534
EMBEDDED = """
import sys
from pathlib import Path
from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.service.client.embedded import connect_embedded
with connect_embedded(Path(sys.argv[1]), idle_ms=200) as api:
    print("rows", api.status().rows)
"""
LIBRARY = """
import ctypes, sys
lib = ctypes.CDLL(sys.argv[1])
lib.theflash_last_error.restype = ctypes.c_char_p
null, out, store = None, ctypes.c_void_p(), ctypes.c_uint64()
one = ctypes.byref
assert lib.theflash_open(null, null, one(store)) != 0
assert lib.theflash_open(b"/nowhere", null, null) != 0
assert lib.theflash_open(b"\\xff\\xfe", null, one(store)) != 0
assert lib.theflash_open(sys.argv[2].encode(), b"[" * 100000, one(store)) != 0
assert lib.theflash_open(sys.argv[2].encode(), null, one(store)) == 0
for number in (0, store.value + 1, 2**64 - 1):
    wrong = ctypes.c_uint64(number)
    assert lib.theflash_call(wrong, b"GetStatus", null, 0, one(out)) != 0
    assert lib.theflash_close(wrong) != 0
assert lib.theflash_call(store, null, null, 0, one(out)) != 0
assert lib.theflash_call(store, b"GetStatus", null, 0, null) != 0
assert lib.theflash_call(store, b"\\xff", b"\\xff", -1, one(out)) != 0
assert lib.theflash_call(store, b"PlanScan", b'{"filter":' * 100000, 0, one(out)) != 0
assert lib.theflash_read(store, b"{}", null) != 0
assert lib.theflash_scan(store, b"@@@", 7, null) != 0
assert lib.theflash_write(store, b"{}", null, 5, 0, one(out)) != 0
assert lib.theflash_write(store, b"{}", null, 2**31 - 1, 0, one(out)) != 0
assert lib.theflash_close(store) == 0
for _ in range(3):
    assert lib.theflash_close(store) != 0
    assert lib.theflash_call(store, b"GetStatus", null, 0, one(out)) != 0
lib.theflash_free(null)
print("survived", lib.theflash_last_error())
"""


def _store(folder: Path) -> Path:
    path = folder / ("a" * 60) / ("b" * 60)
    path.mkdir(parents=True)
    return StoreBuilder(path / "store", SMALL).publish(200, {SMALL: [(1, 110, [1])]}).path


def _run(target: Target, store: Path, **environment: str) -> str:
    """Use a store through its engine process; return the output."""
    command = [sys.executable, "-c", EMBEDDED, str(store)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
    ran = run_command(command, 60, env=environment, cwd=target.folder)
    return ran.output.strip()


@attack("commands", over=["client"])
def links_in_place_of_a_folder(target: Target) -> str:
    """Put a link where the sockets of embedded engines are when a store's path is long."""
    temporary, elsewhere = target.folder / "tmp", target.folder / "elsewhere"
    temporary.mkdir()
    elsewhere.mkdir(mode=0o700)
    (temporary / f"theflash-{os.geteuid()}").symlink_to(elsewhere)
    output = _run(target, _store(target.folder), TMPDIR=str(temporary))
    breach_if(list(elsewhere.iterdir()), "the socket is where the link leads")
    return output[-80:]


@attack("commands", over=["client"])
def folders_of_another_user(target: Target) -> str:
    """Create that folder first, as another user, to deny embedded use."""
    if os.geteuid():
        return "not run: needs root"
    temporary = target.folder / "tmp"
    folder = temporary / f"theflash-{os.geteuid()}"
    folder.mkdir(parents=True)
    temporary.chmod(0o1777)
    os.chown(folder, NOBODY, NOBODY)
    output = _run(target, _store(target.folder), TMPDIR=str(temporary))
    breach_if(output != "rows 1", f"embedded use is denied: {output[-200:]}")
    breach_if(list(folder.iterdir()), "the socket is in another user's folder")
    return output


@attack("commands", over=["client"])
def modules_in_the_working_directory(target: Target) -> str:
    """Put modules of Python's library into the working directory."""
    store = StoreBuilder(target.folder / "store", SMALL).publish(200).path
    planted, marker = target.folder / "planted", target.folder / "marker"
    planted.mkdir()
    for name in ("argparse", "pickle", "pyarrow", "json"):
        (planted / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write({name!r})")
    script = target.folder / "script.py"
    script.write_text(EMBEDDED)
    ran = run_command([sys.executable, str(script), str(store)], 60, cwd=planted)
    breach_if(marker.exists(), "a module of the working directory is executed")
    return ran.output[-80:]


@attack("tcp", "learn", over=["frames"])
def process_list(target: Target) -> str:
    """Look for tokens in the process list and in logs, and for files that others can read."""
    secrets = [token.value for token in TOKENS.values()]
    for pid in target.server.pids:
        for name in ("cmdline", "environ"):
            shown = Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
            breach_if(any(secret in shown for secret in secrets), f"a token is in {name}")
    breach_if(any(secret in target.server.log for secret in secrets), "a token is in the log")
    paths = (path for path in target.server.store.rglob("*") if not path.is_symlink())
    wide = [path for path in paths if path.stat().st_mode & 0o077]
    breach_if(wide, f"others can use {wide[:3]}")
    return f"{len(target.server.pids)} processes"


@attack("commands", over=["library"], is_short=False)
def misuse_of_the_library(target: Target) -> str:
    """Pass NULL, closed stores, wrong sizes and wrong texts to the C functions."""
    from pyspark_theflash.base.errors import LibraryBuildError
    from pyspark_theflash.cli.capi.build import build

    try:
        build(target.folder)
    except LibraryBuildError as error:
        return f"not run: {error}"
    store = StoreBuilder(target.folder / "store", SMALL).publish(200).path
    library = target.folder / "libtheflash.so"
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY, str(library), str(store)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    breach_if(done.returncode, f"status {done.returncode}: {done.stderr[-300:]}")
    return done.stdout.strip()[:80]
