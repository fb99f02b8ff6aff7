"""The command line where the packages of extras are not installed."""

import os
import subprocess
import sys
from pathlib import Path

from pyspark_theflash.cli.main import COMMANDS, EXTRAS

WITHOUT_EXTRAS = """
import sys
from contextlib import redirect_stdout
from io import StringIO
from pyspark_theflash.cli.main import COMMANDS, main

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("grpc", "duckdb", "pymysql", "pyspark", "cffi"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
RUN = """
for name in COMMANDS:
    with redirect_stdout(StringIO()) as out:
        try:
            main([name, "--help"])
        except SystemExit as end:
            assert end.code == 0, name
    print(name, " ".join(out.getvalue().split()), sep=":")
for argv in sys.argv[1:]:
    print(main(argv.split()), argv, sep=":", file=sys.stderr)
"""
PD = "--pd 127.0.0.1:1"
COMMANDS_OF_A_CLUSTER = [
    f"doctor {PD}",
    f"follow STORE {PD} --tables db.*",
    f"learn STORE {PD} --listen unix:x",
    f"capture x {PD} --tables db.t",
    f"verify STORE {PD}",
]


def test_help_and_errors_name_the_extra_that_a_command_needs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS + RUN, *COMMANDS_OF_A_CLUSTER],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "1000"},
    )
    assert done.returncode == 0, done.stderr
    texts = dict(line.split(":", 1) for line in done.stdout.splitlines()[: len(COMMANDS)])
    for name, text in texts.items():
        assert text.startswith(f"usage: theflash {name}")
        assert EXTRAS.get(name, "") in text
        assert ("extra `" in text) == (name in EXTRAS)
    error = (
        "theflash: MissingExtraError: grpcio is not installed; install it with: "
        "pip install 'pyspark-theflash[server]'"
    )
    lines = [line for line in done.stderr.splitlines() if "INFO" not in line]
    assert lines == [text for command in COMMANDS_OF_A_CLUSTER for text in (error, f"7:{command}")]
