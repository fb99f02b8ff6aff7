"""SQL that tries to leave its confinement, by the command `theflash sql`."""

import json
import os
import subprocess
import sys
from pathlib import Path

from pyspark_theflash.testing.stores import StoreBuilder
from tests.attack.harness import BreachError, Target, attack, breach_if, run_command
from tests.attack.servers import SMALL
from tests.support.serving import command

MARKER = "the-content-of-a-secret-file"
MEMORY_MIB, TIMEOUT_S = 256, 5
OWN_MIB = 320
"""The memory of a process of `theflash sql` besides the query's."""
_FUNCTIONS = (
    *("read_csv('{0}')", "read_csv_auto('{0}')", "read_text('{0}')", "read_blob('{0}')"),
    *("read_parquet('{0}')", "read_json('{0}')", "read_json_auto('{0}')", "read_ndjson('{0}')"),
    *("parquet_metadata('{0}')", "parquet_schema('{0}')", "parquet_scan('{0}')"),
    *("sniff_csv('{0}')", "glob('{1}/*')", "'{0}'", "'file://{0}'", "read_text(['{0}'])"),
    *("read_xlsx('{0}')", "st_read('{0}')", "iceberg_scan('{1}')", "delta_scan('{1}')"),
    *("sqlite_scan('{0}', 'x')", "postgres_scan('host=127.0.0.1', 'x', 'y')"),
    *("read_csv('http://127.0.0.1:1/x')", "read_parquet('s3://bucket/x')", "'https://127.0.0.1/x'"),
    *("query('SELECT * FROM read_text(''{0}'')')", "query_table('{0}')", "duckdb_secrets()"),
    *("duckdb_extensions()", "python_map_function()", "which_secret('{0}', 's3')"),
    *("arrow_scan(1, 2, 3)", "pandas_scan(1)", "seq_scan('x')", "read_duckdb('{0}')"),
)
_STATEMENTS = (
    *("ATTACH '{1}/x.db'", "ATTACH '{0}' AS x (TYPE sqlite)", "ATTACH ':memory:' AS y"),
    *("COPY (SELECT 1) TO '{1}/out.csv'", "COPY shop.small TO '{1}/out.parquet'"),
    *("COPY shop.small FROM '{0}'", "EXPORT DATABASE '{1}/out'", "IMPORT DATABASE '{1}'"),
    *("INSTALL httpfs", "LOAD httpfs", "LOAD '{1}/x.duckdb_extension'", "FORCE INSTALL spatial"),
    *("SET enable_external_access = true", "SET lock_configuration = false", "RESET memory_limit"),
    *("SET memory_limit = '100GB'", "SET threads = 64", "SET temp_directory = '{1}'"),
    *("PRAGMA enable_profiling", "PRAGMA database_list", "PRAGMA memory_limit='9GB'"),
    *("SET GLOBAL TimeZone = 'Asia/Tokyo'", "SET VARIABLE x = 1", "SET log_query_path = '{1}/log'"),
    *("CREATE TABLE t AS SELECT 1", "CREATE VIEW v AS SELECT 1", "CREATE MACRO m() AS 1"),
    *("CREATE SECRET s (TYPE s3)", "CREATE TEMP TABLE t (x INT)", "CREATE SCHEMA other"),
    *("DROP VIEW shop.small", "INSERT INTO shop.small VALUES (1, 2, 3, 4)"),
    *("ALTER TABLE shop.small RENAME TO x", "TRUNCATE shop.small"),
    *("CALL pragma_version()", "CHECKPOINT", "VACUUM", "BEGIN", "COMMIT", "ROLLBACK", "USE memory"),
    *("PREPARE p AS SELECT 1", "EXECUTE p", "DEALLOCATE p", "DETACH memory", "USE shop"),
    *("SELECT 1; SELECT 2", "SELECT 1; COPY (SELECT 1) TO '{1}/out.csv'", "", ";", "--"),
    *("SELECT getenv('HOME')", "SELECT current_setting('secret_directory') || getenv('PATH')"),
    *("SELECT * FROM shop.small, read_text('{0}')", "WITH x AS (FROM '{0}') SELECT * FROM x"),
    *("EXPLAIN ANALYZE SELECT * FROM read_text('{0}')", "SELECT (SELECT content FROM '{0}')"),
    *("FROM duckdb_settings() WHERE set_config('x', 'y')", "SELECT write_log('x')"),
)
_END_S, _LATE_MS = 120, 20_000
_ANSWERED = ("duckdb_secrets()", "which_secret(", "write_log(")
"""Parts of statements with empty answers: no secrets can be made, and the log is in memory."""
_NOTHING = ("", "[null]")
_SESSION = """
import json, sys
from pathlib import Path
from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.read.plan.snapshot import open_snapshot
with open_snapshot(Path(sys.argv[1])) as snapshot:
    for text in json.load(sys.stdin):
        try:
            with snapshot.sql(text) as rows:
                lists = [list(row.values()) for batch in rows for row in batch.to_pylist()]
            ended = text, 0, chr(10).join(json.dumps(each, default=str) for each in lists)
        except TheFlashError as error:
            ended = text, 1, str(error)
        print(json.dumps(ended))
"""
ENDLESS = "SELECT count(*) FROM range(10000000000) a, range(10000000000) b WHERE a.range < b.range"
FOLDED = "SELECT length(repeat('x', 2000000000)) + length(repeat('y', 2000000000))"
GROWING = "SELECT list(range) FROM range(1000000000)"


def statements(secret: Path, folder: Path) -> list[str]:
    """Return the statements, about a file and a folder."""
    functions = [f"SELECT * FROM {each}" for each in _FUNCTIONS]
    return [each.format(secret, folder) for each in (*functions, *_STATEMENTS)]


def _prepared(target: Target) -> tuple[Path, Path, Path]:
    """A store, a file with a marker, and an empty folder."""
    store = target.folder / "store"
    StoreBuilder(store, SMALL).publish(200, {SMALL: [(n, 110, [n]) for n in range(3)]})
    secret, empty = target.folder / "secret.txt", target.folder / "empty"
    secret.write_text(MARKER)
    empty.mkdir()
    return store, secret, empty


@attack("commands", over=["sql"])
def statements_that_leave(target: Target) -> str:
    """Read and write files, attach, install, and change settings."""
    store, secret, empty = _prepared(target)
    texts = statements(secret, empty)
    if target.is_short:  # a process for each takes minutes
        ended = _ended_in_one(store, empty, texts)
    else:
        ended = [_ended(store, empty, text) for text in texts]
    answered = 0
    breaches: list[str] = []
    for text, status, output in ended:
        if MARKER in output.replace(text, ""):
            breaches.append(f"{text} shows a secret")
        is_harmless = any(name in text for name in _ANSWERED) and output.strip() in _NOTHING
        answered += status == 0
        if status is None or (status == 0 and not is_harmless):
            breaches.append(f"{text} ends with {status}: {output[:100]}")
        if "Traceback" in output:
            breaches.append(f"{text} has a traceback")
    breaches += [f"{path.name} is written" for path in empty.iterdir()]
    breach_if(breaches, "; ".join(breaches))
    return f"{len(ended)} statements, {answered} answered with nothing"


def _ended(store: Path, folder: Path, text: str) -> tuple[str, int | None, str]:
    """Run a statement by the command; return it with the status and the output."""
    words = ("--memory", MEMORY_MIB, "--timeout", TIMEOUT_S, "--format", "jsonl")
    environment = {**os.environ, "HOME": MARKER}
    ran = run_command(command("sql", store, text, *words), 60, cwd=folder, env=environment)
    return text, ran.status, ran.output


def _ended_in_one(store: Path, folder: Path, texts: list[str]) -> list[tuple[str, int, str]]:
    """Run statements one after the other in one process."""
    done = subprocess.run(
        [sys.executable, "-c", _SESSION, str(store)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
        env={**os.environ, "HOME": MARKER},
    )
    ended = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    breach_if(len(ended) < len(texts), f"the process ended: {done.stderr[-300:]}")
    return ended


@attack("commands", over=["sql"])
def constants_without_limits(target: Target) -> str:
    """Compute a constant of 4 GB while the query is planned."""
    return _limited(target, FOLDED)


@attack("commands", over=["sql"], is_short=False)
def results_without_limits(target: Target) -> str:
    """Collect a list of 8 GB."""
    return _limited(target, GROWING)


@attack("commands", over=["sql"], is_short=False)
def queries_without_end(target: Target) -> str:
    """Join ten billion rows with as many."""
    return _limited(target, ENDLESS)


def _limited(target: Target, text: str) -> str:
    store, _, empty = _prepared(target)
    limits = ("--memory", MEMORY_MIB, "--timeout", TIMEOUT_S)
    ran = run_command(command("sql", store, text, *limits), _END_S, cwd=empty)
    if ran.status is None:
        raise BreachError(f"still running after {ran.took_ms} ms, {ran.memory_mib} MiB")
    late = not target.is_short and ran.took_ms > _LATE_MS
    breach_if(late, f"{ran.took_ms} ms with a limit of {TIMEOUT_S} s")
    breach_if(ran.memory_mib > MEMORY_MIB + OWN_MIB, f"{ran.memory_mib} MiB of {MEMORY_MIB}")
    return f"status {ran.status} after {ran.took_ms} ms, {ran.memory_mib} MiB"
