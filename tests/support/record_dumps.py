"""Record folders of Dumpling: `python -m tests.support.record_dumps DUMPLING FOLDER`.

DUMPLING is the command, FOLDER gets dumps.tar.gz, schema.json.gz and truth.json.gz: the same rows
in several forms, and TiDB's own answers at their timestamp. See tests/fixtures/dumpling/README.md.
"""

import gzip
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from tests.support.peer import HOST, Peer
from tests.support.sql_base import answers, fill

FORMS: Final = {
    "sql": (),
    "sql-small": ("--complete-insert", "--statement-size=300"),
    "sql-raw": ("--escape-backslash=false",),
    "sql-files": ("--rows=100", "--filesize=4KiB"),
    "sql-gzip": ("--compress=gzip", "--filesize=16KiB", "--no-views=false"),
    "sql-zone": ("--params=time_zone=+08:00",),
    "csv": ("--filetype=csv",),
    "csv-raw": ("--filetype=csv", "--escape-backslash=false"),
    "csv-plain": ("--filetype=csv", "--csv-delimiter=", "--csv-separator=|+|"),
    "csv-zstd": ("--filetype=csv", "--compress=zstd", "--no-header", "--csv-null-value=nil"),
}
"""Options of Dumpling by the name of the folder."""
_SPECIAL: Final = 'a.b/c-Schema %"é'
_MORE: Final = (
    # Values of these cannot be in the tables that are compared.
    "ALTER TABLE shop.types DROP COLUMN vs",
    "UPDATE shop.types SET f = 1.2345678 WHERE id = 2",
    "UPDATE shop.types SET f = 123456789 WHERE id = 4",
    "UPDATE shop.types SET f = -0.00015 WHERE id = 5",
    "CREATE TABLE shop.stored (id INT PRIMARY KEY, s INT AS (id * 2) STORED)",
    "INSERT INTO shop.stored (id) VALUES (1)",
    "CREATE TABLE shop.floats (id INT PRIMARY KEY, f FLOAT)",
    "INSERT INTO shop.floats VALUES (1, 1.5), (2, 1.2345678e20)",
    "CREATE TABLE shop.elements (id INT PRIMARY KEY, e ENUM('', 'a'), s SET('', 'b'))",
    "INSERT INTO shop.elements VALUES (1, 'a', 'b'), (2, 1, 'b')",
    f'CREATE TABLE shop.`{_SPECIAL}` (`i d` BIGINT PRIMARY KEY, `v``,"` VARCHAR(20))',
    f"INSERT INTO shop.`{_SPECIAL}` VALUES (-1, 'x'), (9223372036854775807, NULL)",
    "CREATE TABLE shop.texts (t VARCHAR(300) PRIMARY KEY CLUSTERED, b BLOB, n BIGINT UNSIGNED)",
)
_TEXTS: Final = (
    *("", "\\N", "NULL", "nil", "\\\\N", "'", "''", '"', '""', ",", "|+|", "\r\n", "(1,'a'),\n(2"),
    *("a\\", "\\'", "');\n", "\t\x1a\0", "é一\U0001f600", "".join(map(chr, range(128)))),
)


def main(dumpling: Path, folder: Path) -> None:
    """Start a TiDB, and record its dumps."""
    with tempfile.TemporaryDirectory() as work, Peer(Path(work) / "peer") as peer:
        fill(peer)
        peer.sql("SET sql_mode = ''", *_MORE)
        for number, text in enumerate(_TEXTS):
            everything = bytes(range(256)) if number % 2 else text.encode()
            values = f"CONVERT(x'{text.encode().hex()}' USING utf8mb4), x'{everything.hex()}'"
            peer.sql(f"INSERT INTO shop.texts VALUES ({values}, {number})")
        ts = peer.tso()
        for name, options in FORMS.items():
            command = [str(dumpling), f"--host={HOST}", f"--port={peer.ports.sql}", "--user=root"]
            command += [f"--output={work}/{name}", "--status-addr=127.0.0.1:0", "--database=shop"]
            command += ["--consistency=snapshot", f"--snapshot={ts}"]
            if not any("time_zone" in option for option in options):
                command.append("--params=time_zone=+00:00")
            subprocess.run([*command, *options], check=True, capture_output=True)
        with tarfile.open(folder / "dumps.tar.gz", "w:gz") as archive:
            for name in FORMS:
                archive.add(f"{work}/{name}", name)
        tables = [{"ts": ts, "db": "shop", "table": each} for each in peer.status("/schema/shop")]
        schema = {"start_ts": ts, "end_ts": ts, "initial": tables, "changes": []}
        _write(folder / "schema.json.gz", schema)
        _write(folder / "truth.json.gz", {"ts": ts, "tables": answers(peer, ts)})


def _write(path: Path, document: object) -> None:
    with gzip.open(path, "wt") as file:
        json.dump(document, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
