"""Values, expressions and settings in text form."""

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import pyarrow as pa

from pyspark_theflash.base.read_options import ScanOptions
from pyspark_theflash.cli.jobs import streams, writer
from pyspark_theflash.cli.jobs.arguments import ArgumentParser, split_scheme
from pyspark_theflash.cli.main import COMMANDS, command
from pyspark_theflash.read.plan.condition import Condition
from pyspark_theflash.replication.pump.wire import PullRequest
from pyspark_theflash.storage.mvcc.version import column_name
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.convert import convert_column
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.json_text import parse_json
from pyspark_theflash.tidb.codec.jsonl import parse_jsonl
from pyspark_theflash.tidb.codec.row import RowBuffer
from pyspark_theflash.tidb.codec.row_v1 import decode_rows_v1
from pyspark_theflash.tidb.codec.text import format_column, parse_column
from pyspark_theflash.tidb.expression.evaluate import evaluate, parse
from pyspark_theflash.tidb.partitioning.row_partition import assign_partitions, partition_columns
from pyspark_theflash.tidb.schema.default import origin_value
from pyspark_theflash.tidb.schema.model import parse_table_info
from tests.fuzz.mutate import JSON_WORDS, TEXT_WORDS, bytes_like, sql_like
from tests.fuzz.run import Target
from tests.fuzz.targets.captured import every_type, every_type_rows, specs_of
from tests.support.conversions import conversion_pairs
from tests.support.golden_vectors import (
    generated_columns,
    partitioned_tables,
    stored_columns,
    value_vectors,
)
from tests.support.json_oracle import encode_json

_JSON = FieldType(MySQLType.JSON)
_EXPRESSION_WORDS = (
    *TEXT_WORDS,
    b"(" * 100,
    b"(",
    b")",
    b"not ",
    b"- ",
    b" + 1" * 300,
    b"`",
    b"x'4'",
    b"0xfff",
    b"b'2'",
    b"_binary'",
    b"_gbk x'ff'",
    b" collate utf8mb4_bin",
    b"case ",
    b" when 1 then 2 end",
    b"cast(",
    b" as decimal(99,99))",
    b" as char(-1))",
    b" as binary(9999999999))",
    b" as datetime(9))",
    b"interval ",
    b" between 1 and ",
    b" in (",
    b" like '%' escape ''",
    b"substring(",
    b"extract(year_month from ",
    b"date_format(",
    b"repeat('x', 999999999)",
    b"lpad('x', 999999999, 'y')",
    b"space(999999999)",
    b"pow(10, 9999)",
    b" << 99",
    b" / 0",
    b" div 0",
    b" ^ 18446744073709551615",
    b"-9223372036854775808",
    b"'1e999999999'",
    b"'1e9223372036854775807'",
    b"'-1e-999999999'",
    b"'" + b"7" * 5000 + b"'",
    b"'2024-02-29 12:00:00.5'",
    b"'-838:59:59'",
    b"'0." + b"7" * 5000 + b"'",
    b"'" + b"7" * 5000 + b".5e-4990'",
    b"'" + b"x" * 30_000 + b"'",
    b"''",
)


def json_value(_: Path) -> Target:
    """Binary JSON, checked and printed."""
    seeds = [bytes.fromhex(v["hex"]) for v in value_vectors("json_print")][:150]
    deep: list[object] = []
    for _n in range(90):
        deep = [deep, 1]
    seeds += [encode_json(deep), encode_json({"a": [1, {"b": "é" * 200}], "c": 2.5})]

    def parse_value(data: bytes) -> None:
        format_column(pa.array([data], pa.binary()), _JSON)

    return Target(seeds, bytes_like(seeds), parse_value)


def json_text(_: Path) -> Target:
    seeds = [bytes.fromhex(v["text_hex"]) for v in value_vectors("json_parse") if v["hex"]]
    seeds += [b'{"a": [1, -2.5e3, "x\\u00e9", null, true], "b": {}}', b"18446744073709551615"]

    def parse_text(data: bytes) -> None:
        value = parse_json(data.decode("utf-8", "replace"))
        format_column(pa.array([value], pa.binary()), _JSON)

    return Target(seeds, bytes_like(seeds, JSON_WORDS), parse_text)


def jsonl(_: Path) -> Target:
    seeds = [b'["1","a",null]', b'["1",{"x":"00ff"}]\n[null,{"x":""}]', b"[]"]
    return Target(
        seeds,
        bytes_like(seeds, JSON_WORDS),
        lambda data: parse_jsonl(data.decode("utf-8", "replace").split("\n")),
    )


def text_form(_: Path) -> Target:
    """Text forms of every type, of which the first byte chooses one."""
    types = [c.type for c in every_type().columns] + [FieldType(MySQLType.VECTOR)]
    texts = {
        MySQLType.FLOAT: ["0.1", "-1e15", "1e-7"],
        MySQLType.DOUBLE: ["1.7976931348623157e308", "5e-324"],
        MySQLType.NEWDECIMAL: ["0"],
        MySQLType.DATE: ["2024-02-29", "0000-00-00", "2020-02-31"],
        MySQLType.DATETIME: ["2024-02-29 12:00:00.500000", "0000-00-00 00:00:00"],
        MySQLType.TIMESTAMP: ["2024-02-29 12:00:00", "1970-01-01 00:00:01.5"],
        MySQLType.TIME: ["-838:59:59.000000", "00:00:00"],
        MySQLType.YEAR: ["2024", "0000"],
        MySQLType.ENUM: [""],
        MySQLType.SET: [""],
        MySQLType.JSON: ['{"a": [1, null]}'],
        MySQLType.VECTOR: ["[1,0.5]", "[]"],
    }
    right = [
        bytes([n]) + text.encode()
        for n, field_type in enumerate(types)
        for text in texts.get(field_type.tp, [])
    ]
    odd = [
        bytes([n]) + text for n in range(len(types)) for text in (b"1", b"-1.5", b"a,b", b"\x01")
    ]
    is_bytes = [t.is_binary_string or t.tp == MySQLType.BIT for t in types]

    def parse_form(data: bytes) -> None:
        which = data[0] % len(types) if data else 0
        if is_bytes[which]:
            value: object = data[1:]
        else:
            value = data[1:].decode("utf-8", "replace")
        texts = pa.array([value, None], pa.binary() if is_bytes[which] else pa.string())
        column = parse_column(texts, types[which], "c")
        format_column(column, types[which])

    return Target(right, bytes_like(right + odd, TEXT_WORDS), parse_form)


def origin_default(_: Path) -> Target:
    """Texts beside the types of columns, of which the first byte chooses one."""
    columns = [entry["column"] for entry in value_vectors("origin_defaults")]
    infos = [_one_column(column) for column in columns]
    seeds = [
        bytes([n]) + str(column["origin_default"]).encode()
        for n, column in enumerate(columns)
        if column.get("origin_default") is not None
    ]

    def parse_default(data: bytes) -> None:
        which = data[0] % len(infos) if data else 0
        info = parse_table_info("d", infos[which](data[1:].decode("utf-8", "replace"))).columns[0]
        value = origin_value(info)
        format_column(pa.array([value], value.type), info.type)

    return Target(seeds, bytes_like(seeds, TEXT_WORDS), parse_default)


def _one_column(column: dict[str, object]) -> Callable[[str], dict[str, object]]:
    def with_default(text: str) -> dict[str, object]:
        numbered = {"id": 1, "offset": 0, **column, "origin_default": text}
        return {"id": 1, "name": {"O": "t"}, "cols": [numbered], "pk_is_handle": False}

    return with_default


def conversion(_: Path) -> Target:
    """Old values that are strings, as MODIFY COLUMN makes them into another type."""
    pairs = [p for p in conversion_pairs("reorg") if p.old.tp == MySQLType.VARCHAR]
    pairs = [p for p in pairs if not p.old.is_binary_string and p.cases]
    seeds = [
        bytes([n]) + case[0].encode()
        for n, pair in enumerate(pairs)
        for case in pair.cases[:40]
        if isinstance(case[0], str)
    ]

    def convert(data: bytes) -> None:
        pair = pairs[data[0] % len(pairs) if data else 0]
        values = pa.array([data[1:].decode("utf-8", "replace"), None], arrow_type(pair.old))
        format_column(convert_column(values, pair.old, pair.new, "c"), pair.new)

    return Target([], bytes_like(seeds, TEXT_WORDS), convert)


def expression(_: Path) -> Target:
    seeds = _expressions()
    return Target(
        seeds[:3],
        sql_like(seeds, _EXPRESSION_WORDS),
        lambda data: parse(data.decode("utf-8", "replace")),
    )


def evaluated_expression(_: Path) -> Target:
    """Over some rows, as the type that the first byte chooses."""
    captured = generated_columns()
    table = parse_table_info("x", captured["table_info"])
    stored = stored_columns(table, captured["columns"], captured["rows"][:4])
    columns = {c.name.lower(): (stored[c.id], c.type) for c in table.columns if c.id in stored}
    types = [
        FieldType(MySQLType.LONGLONG),
        FieldType(MySQLType.VARCHAR, 0, 60, -1, "utf8mb4", "utf8mb4_bin"),
        FieldType(MySQLType.NEWDECIMAL, 0, 20, 5),
        FieldType(MySQLType.DATETIME, decimal=3),
        FieldType(MySQLType.DOUBLE),
        FieldType(MySQLType.TIME),
        FieldType(MySQLType.STRING, 0, 9, -1, "binary", "binary"),
        FieldType(MySQLType.YEAR),
    ]
    seeds = [bytes([n % len(types)]) + text for n, text in enumerate(_expressions())]

    def parse_and_evaluate(data: bytes) -> None:
        field_type = types[data[0] % len(types) if data else 0]
        tree = parse(data[1:].decode("utf-8", "replace"))
        evaluate(tree, columns, field_type, "fuzz", 4)

    return Target([b"\x00`i` + 1"], sql_like(seeds, _EXPRESSION_WORDS), parse_and_evaluate)


def condition(_: Path) -> Target:
    """The `where` of a read: over rows of every type."""
    table = every_type()
    specs = specs_of(table)
    rows = decode_rows_v1(RowBuffer.from_list(every_type_rows("deleted")[:4]), specs)
    batch = pa.RecordBatch.from_arrays(
        [column.values for column in rows.columns], [column_name(spec.id) for spec in specs]
    )
    names = [f"`{c.name}`".encode() for c in table.public_columns]
    forms = (
        b"%s > 7",
        b"%s = '2024-02-29'",
        b"%s like 'a%%' or %s is null",
        b"%s in (1, 'a', NULL)",
    )
    seeds = [form.replace(b"%s", name).replace(b"%%", b"%") for form in forms for name in names]

    def filter_rows(data: bytes) -> None:
        Condition.parse(data.decode("utf-8", "replace"), table).rows(batch)

    return Target([names[0] + b" is not null"], sql_like(seeds, _EXPRESSION_WORDS), filter_rows)


def _expressions() -> Sequence[bytes]:
    captured = generated_columns()["table_info"]["cols"]
    texts = [c["generated_expr_string"] for c in captured if c["generated_expr_string"]]
    return [b"`a` + 1", *(text.encode() for text in texts)]


def partition_bounds(_: Path) -> Target:
    """The texts by which a table is partitioned: u8 table | expression | bounds, by lines."""
    captured = [c for c in partitioned_tables() if c["columns"]]
    infos = [c["table_info"] for c in captured]
    tables = [parse_table_info("x", info) for info in infos]
    columns = [
        stored_columns(
            table, c["columns"], [row for rows in c["rows"].values() for row in rows][:4]
        )
        for table, c in zip(tables, captured, strict=True)
    ]
    seeds = [
        bytes([n]) + "\n".join(_partition_texts(info)).encode() for n, info in enumerate(infos)
    ]

    def place(data: bytes) -> None:
        which = data[0] % len(tables) if data else 0
        lines = data[1:].decode("utf-8", "replace").split("\n")
        table = parse_table_info("x", _with_partition_texts(infos[which], lines))
        needed = {c.id: columns[which][c.id] for c in partition_columns(table)}
        assign_partitions(table, needed, 4)

    return Target([], sql_like(seeds, _EXPRESSION_WORDS), place)


def _partition_texts(info: dict[str, object]) -> list[str]:
    partition = json.loads(json.dumps(info["partition"]))
    texts = [partition["expr"]]
    for definition in partition["definitions"]:
        texts += definition.get("less_than") or ()
        texts += [text for values in definition.get("in_values") or () for text in values]
    return texts


def _with_partition_texts(info: dict[str, object], texts: list[str]) -> dict[str, object]:
    partition = json.loads(json.dumps(info["partition"]))
    left = iter(texts)
    partition["expr"] = next(left, partition["expr"])
    for definition in partition["definitions"]:
        bounds = definition.get("less_than") or ()
        definition["less_than"] = [next(left, bound) for bound in bounds]
        lists = definition.get("in_values") or ()
        definition["in_values"] = [[next(left, v) for v in values] for values in lists]
    return {**info, "partition": partition}


def options(_: Path) -> Target:
    """Names and texts by lines."""
    seeds = [
        b"store=/x\ntable=a.b\nsnapshot_ts=5",
        b"store=file:/x\npath=a.b\ntimestampAsOf=2024-01-02 03:04:05.678+05:30",
        b"store=/x\ntable=a.b\nversionAsOf=470619616527253505\nwait_for_ts=1.5\ncolumns=a,b",
        b"store=/x\ntable=a.b\nmax_staleness=7\nzero_dates=string\nall_as_text=true\nwhere=a > 1",
    ]

    def parse_options(data: bytes) -> None:
        lines = data.decode("utf-8", "replace").split("\n")
        ScanOptions.parse(dict(line.partition("=")[::2] for line in lines))

    return Target(seeds, bytes_like(seeds, TEXT_WORDS), parse_options)


def command_line(_: Path) -> Target:
    """Arguments by lines."""
    seeds = [
        b"digest\nstore\na.b\n--at\n470619616527253505",
        b"scan\nstore\na.b\n--columns\na,b\n--wait=1.5\n--format\njsonl",
        b"pin\nstore\n--ttl\n60",
        b"interval\nstore\n0.5\n--timeout\n1e3",
        b"writer\nstore\n--source\npump:h:1\n--source\npump:h:2\n--schema\ntidb:http://h:1\n--cluster-id\n7",
        b"writer\nstore\n--source=file:/a\n--schema=file:/b\n--include\na.*\n--exclude\n*.b?"
        b"\n--interval\n0.1\n--until-ts\n5\n--pd\nh:1,h:2\n--ca\nx",
    ]

    parser = ArgumentParser(prog="theflash")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command(name).add_arguments(commands.add_parser(name))

    def parse_arguments(data: bytes) -> None:
        # argparse takes quadratic time for unknown arguments.
        lines = data.decode("utf-8", "surrogateescape").split("\n")[:100]
        # --help prints and exits.
        with redirect_stdout(StringIO()), suppress(SystemExit):
            arguments = parser.parse_args(lines)
            if arguments.command == "writer":
                use(arguments)

    def use(arguments: Namespace) -> None:
        writer._check_arguments(arguments)
        writer._network(arguments)
        PullRequest(arguments.cluster_id or 0, 0, 0).to_bytes()
        scope = streams.table_scope(arguments)
        if scope is not None:
            scope.contains("a.b")
        for source in arguments.source:
            split_scheme("source", source, ("file", "pump"))

    return Target(seeds, bytes_like(seeds, TEXT_WORDS), parse_arguments)
