"""Generate the Python code of every `.proto` file beside this script.

    python protos/generate.py            write the files below
    python protos/generate.py --check    write nothing; exit 1 if a file differs

Files:
    pyspark_theflash/tidb/protocol/_generated      protoc's modules and type stubs
    pyspark_theflash/service/wire/message.py       the API's messages as dataclasses (messages.py),
                                                   which replace the stub of theflash.proto

protoc's modules require the protobuf runtime that they were generated for, or a newer one; each
names that version. They import each other as if `_generated` were on the path; this script replaces
those imports by absolute ones, and removes the constants of field numbers from the stubs.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc
from messages import message_module

PROTOS = Path(__file__).resolve().parent
PACKAGE = PROTOS.parent / "pyspark_theflash"
GENERATED = PACKAGE / "tidb" / "protocol" / "_generated"
MESSAGES = PACKAGE / "service" / "wire" / "message.py"

_UNUSED = Path("theflash", "v1", "theflash_pb2.pyi")
_IMPORT = re.compile(rb"^from (?=\w+ import \w+_pb2 as )", re.MULTILINE)
_FULL_IMPORT = b"from pyspark_theflash.tidb.protocol._generated."
_FIELD_NUMBER = re.compile(rb"^ +\w+_FIELD_NUMBER: _ClassVar\[int\]\n", re.MULTILINE)


def generate() -> dict[Path, bytes]:
    """Generate all files, by path. Raises `SystemExit` if protoc fails."""
    sources = sorted(str(path) for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = ["protoc", f"-I{PROTOS}", f"--python_out={scratch}", f"--pyi_out={scratch}"]
        if protoc.main([*arguments, *sources]):
            raise SystemExit("protoc failed")
        made = {
            GENERATED / path: _FIELD_NUMBER.sub(b"", _IMPORT.sub(_FULL_IMPORT, content))
            for path, content in stubs(Path(scratch)).items()
            if path != _UNUSED
        }
    folders = {
        folder for path in made for folder in path.parents if folder.is_relative_to(GENERATED)
    }
    packages = {folder / "__init__.py": b"" for folder in folders}
    return made | packages | {MESSAGES: message_module(PROTOS).encode()}


def existing() -> dict[Path, bytes]:
    """The generated files that exist, by path."""
    modules = {GENERATED / path: content for path, content in stubs(GENERATED).items()}
    return modules | ({MESSAGES: MESSAGES.read_bytes()} if MESSAGES.exists() else {})


def stubs(folder: Path) -> dict[Path, bytes]:
    """The Python files and type stubs below a folder, by relative path."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*.py*")
        if path.suffix in (".py", ".pyi")
    }


def main() -> int:
    """Write the files, or compare them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare instead of write")
    check = parser.parse_args().check
    wanted, current = generate(), existing()
    stale = sorted(p for p in wanted | current if wanted.get(p) != current.get(p))
    for path in stale:
        print(f"{'differs' if check else 'written'}: {path.relative_to(PACKAGE)}")
        if not check:
            _put(path, wanted.get(path))
    return 1 if check and stale else 0


def _put(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
