"""Log lines as text and as JSON."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyspark_theflash.base.log import JsonFormatter, TextFormatter, is_json, log_fields, start_log


def record(message: str, fields: dict[str, Any] | None = None, **more: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "a.b", "levelname": "INFO", "msg": message, **more})
    made.created = 1_706_933_045.1234
    if fields is not None:
        made.fields = fields
    return made


def test_text_has_the_fields_after_the_message() -> None:
    made = record("%d rows", {"lag": 0.25, "regions": {"a": 1, "b": 2}, "tables": "a b"}, args=(7,))
    line = "theflash: INFO: 7 rows: lag=0.25 regions=a:1,b:2 tables='a b'"
    assert TextFormatter().format(made) == line
    assert TextFormatter().format(record("without fields")) == "theflash: INFO: without fields"


def test_json_is_one_line_with_the_same_names() -> None:
    line = JsonFormatter().format(record('two\nlines "x"', {"lag": 0.25}))
    assert "\n" not in line
    assert json.loads(line) == {
        "ts": "2024-02-03T04:04:05.123Z",
        "level": "INFO",
        "logger": "a.b",
        "message": 'two\nlines "x"',
        "fields": {"lag": 0.25},
    }


def test_json_has_tracebacks() -> None:
    try:
        raise ValueError("here")
    except ValueError:
        made = record("failed", exc_info=sys.exc_info())
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: here")


@contextmanager
def without_handlers() -> Iterator[logging.Logger]:
    """The root logger, as in a process of its own."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        yield root
    finally:
        root.handlers = handlers
        root.setLevel(level)


def test_a_process_logs_in_the_chosen_format(capsys: pytest.CaptureFixture[str]) -> None:
    with without_handlers():
        start_log()
        logging.getLogger("x").warning("a")
        assert not is_json()
        start_log("json")
        assert is_json()
        log_fields(logging.getLogger("x"), "b", {"n": 1}, logging.WARNING)
        logging.getLogger("x").info("below the level")
    text, line = capsys.readouterr().err.splitlines()
    assert text == "theflash: WARNING: a"
    assert json.loads(line)["fields"] == {"n": 1}


def test_the_log_of_an_embedding_program_is_left_alone() -> None:
    handler = logging.NullHandler()
    with without_handlers() as root:
        root.addHandler(handler)
        start_log("json")
        assert root.handlers == [handler]
    assert handler.formatter is None
