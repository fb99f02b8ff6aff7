import io

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.cli.jobs import ticker
from pyspark_theflash.cli.jobs.ticker import WIDTH, Ticker, ticking
from tests.support.manual_clock import ManualClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_that_goes_away() -> None:
    clock, stream = ManualClock(), Terminal()
    shown = Ticker("reading", stream, clock)
    shown.clear()
    assert stream.getvalue() == ""
    clock.now_ms += 2_500
    shown.tick()
    assert stream.getvalue() == f"\r{'reading (2 s)':{WIDTH}}"
    shown.note("x" * 100)
    shown.tick()
    assert stream.getvalue().split("\r")[-1] == "x" * WIDTH
    shown.clear()
    assert stream.getvalue().endswith(f"\r{'':{WIDTH}}\r")


def test_other_lines_come_between(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    shown = Ticker("reading", stream, ManualClock())
    shown.tick()
    shown.print("found")
    assert stream.getvalue().endswith(f"\r{'':{WIDTH}}\r")
    assert capsys.readouterr().out == "found\n"


def test_a_terminal_is_told_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "EVERY_S", 0.01)
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        with ticking("at it", SystemClock(), stream) as shown:
            SystemClock().sleep_ms(60)
            shown.note("more")
            SystemClock().sleep_ms(60)
    assert {"at it (0 s)", "more (0 s)", ""} == {t.strip() for t in terminal.getvalue().split("\r")}
    assert file.getvalue() == ""
