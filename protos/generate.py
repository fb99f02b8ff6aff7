"""Rebuild the Python stubs of every `.proto` file beside this script.

    python protos/generate.py            write them into pyspark_theflash/tidb/protocol/_generated
    python protos/generate.py --check    write nothing; exit 1 if what is there differs

Stubs run on the protobuf runtime they were generated for and newer ones; they name that version
themselves. protoc makes them import each other as if `_generated` were on the path; here they do so
by their full names.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
GENERATED = PROTOS.parent / "pyspark_theflash" / "tidb" / "protocol" / "_generated"

_IMPORT = re.compile(rb"^from (?=\w+ import \w+_pb2 as )", re.MULTILINE)
_FULL_IMPORT = b"from pyspark_theflash.tidb.protocol._generated."


def generate() -> dict[Path, bytes]:
    """What belongs into `_generated`, by relative path. Raises `SystemExit` if protoc refuses."""
    sources = sorted(str(path) for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = ["protoc", f"-I{PROTOS}", f"--python_out={scratch}", f"--pyi_out={scratch}"]
        if protoc.main([*arguments, *sources]):
            raise SystemExit("protoc failed")
        made = stubs(Path(scratch))
    folders = {folder for path in made for folder in path.parents}
    return made | {folder / "__init__.py": b"" for folder in folders}


def stubs(folder: Path) -> dict[Path, bytes]:
    """Every Python file and type stub below a folder, as protoc made them or as they stand."""
    return {
        path.relative_to(folder): _IMPORT.sub(_FULL_IMPORT, path.read_bytes())
        for path in folder.rglob("*.py*")
        if path.suffix in (".py", ".pyi")
    }


def main() -> int:
    """Write, or compare; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare instead of write")
    check = parser.parse_args().check
    wanted, found = generate(), stubs(GENERATED)
    stale = sorted(p for p in wanted | found if wanted.get(p) != found.get(p))
    for path in stale:
        print(f"{'differs' if check else 'written'}: {path}")
        if not check:
            _put(GENERATED / path, wanted.get(path))
    return 1 if check and stale else 0


def _put(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
