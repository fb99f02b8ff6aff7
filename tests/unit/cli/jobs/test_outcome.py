"""Errors of commands: a line on stderr, an exit status, and the traceback of a bug."""

import pytest

from pyspark_theflash.base.errors import TableNotFoundError
from pyspark_theflash.cli.jobs.outcome import OTHER_FAILURE, exit_status, run_command


def test_a_bug_is_logged_with_its_traceback(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def command() -> int:
        return len({}["missing"])

    assert run_command(command) == OTHER_FAILURE
    assert capsys.readouterr().err == "theflash: InternalError: KeyError: 'missing'\n"
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_an_error_is_one_line(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    error = TableNotFoundError("shop.a\nb", 7)

    def command() -> int:
        raise error

    assert run_command(command) == exit_status(error) != OTHER_FAILURE
    assert capsys.readouterr().err.count("\n") == 1
    assert not caplog.records
