"""Build `libtheflash.so` and its header.

    python -m pyspark_theflash.cli.capi.build DIR

It needs a C compiler (CC, or cc), Python's headers and shared library, and cffi (the extra `lib`).
The library runs this interpreter with its packages.
"""

import argparse
import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

from pyspark_theflash.base.errors import LibraryBuildError, MissingExtraError
from pyspark_theflash.cli.jobs.outcome import run_command

HEADER: Final = "theflash.h"
LIBRARY: Final = "libtheflash.so"
_HERE: Final = Path(__file__).parent
_DECLARATIONS: Final = """
typedef uint64_t theflash_store;
struct ArrowArrayStream { ...; };
char *theflash_copy(const char *text);
void theflash_fail(const char *text);
extern "Python" {
  void py_open(const char *where, const char *options, theflash_store *store, int *status);
  void py_call(theflash_store store, const char *method, const char *request, uint32_t timeout_ms,
               char **answer, int *status);
  void py_scan(theflash_store store, const char *ticket, int dictionaries,
               struct ArrowArrayStream *rows, int *status);
  void py_read(theflash_store store, const char *request, struct ArrowArrayStream *rows,
               int *status);
  void py_write(theflash_store store, const char *request, struct ArrowArrayStream *rows,
                uint32_t count, uint32_t timeout_ms, char **written, int *status);
  void py_close(theflash_store store, int *status);
}
"""
# Packages of the build environment, which an embedded interpreter does not find by itself.
_START: Final = """
import os, site
site.addsitedir(os.environ.get("THEFLASH_SITE_PACKAGES") or {packages})
from pyspark_theflash.cli.capi import embed
"""


def build(folder: Path) -> Path:
    """Build the library and its header into `folder`; return the library's path.

    Raises:
        MissingExtraError: cffi is not installed.
        LibraryBuildError: Compiler, headers or library of Python are missing, or compiling fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "theflash.c"
        _write_source(source)
        made = Path(scratch) / LIBRARY
        _compile(source, made)
        shutil.copyfile(_HERE / HEADER, folder / HEADER)
        os.replace(shutil.copyfile(made, folder / f".{LIBRARY}"), folder / LIBRARY)
    return folder / LIBRARY


def _write_source(source: Path) -> None:
    try:
        import cffi
    except ImportError as error:
        raise MissingExtraError("cffi", "lib") from error
    builder = cffi.FFI()
    builder.embedding_api("")
    builder.cdef(_DECLARATIONS)
    packages = json.dumps(sysconfig.get_path("purelib"))
    builder.embedding_init_code(_START.format(packages=packages))
    builder.set_source("_theflash", (_HERE / "library.c").read_text())
    with contextlib.redirect_stdout(io.StringIO()):  # cffi prints progress
        builder.emit_c_code(str(source))


def _compile(source: Path, library: Path) -> None:
    config = sysconfig.get_config_vars()
    if not config.get("Py_ENABLE_SHARED"):
        raise LibraryBuildError(f"{sys.executable} has no shared library of Python")
    headers = Path(config["INCLUDEPY"])
    if not (headers / "Python.h").exists():
        raise LibraryBuildError(f"Python's headers are not in {headers}")
    name = Path(config["LDLIBRARY"]).name.removeprefix("lib").partition(".so")[0]
    command = [
        *shlex.split(os.environ.get("CC", "cc")),
        *("-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread", "-std=c11"),
        *("-D_GNU_SOURCE", f"-I{headers}", f"-I{_HERE}", str(source), "-o", str(library)),
        *(f"-L{config['LIBDIR']}", f"-Wl,-rpath,{config['LIBDIR']}", f"-l{name}"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        raise LibraryBuildError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise LibraryBuildError(f"{command[0]} failed: {done.stderr[:2000]}")


def main() -> int:
    """Build into the folder that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description="Build libtheflash.so and theflash.h.")
    parser.add_argument("folder", type=Path, help="output folder")
    folder: Path = parser.parse_args().folder

    def command() -> int:
        print(build(folder))
        return 0

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
