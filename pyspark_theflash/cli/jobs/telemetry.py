"""Start line, heartbeat lines and metrics of a long-running command.

The command calls `beat` often and sets `figures`, whose names are those of `metrics.METRICS`. On a
terminal, where commands show their progress, no heartbeat is logged.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.log import is_json, log_fields, start_log
from pyspark_theflash.base.memory import resident_bytes
from pyspark_theflash.version import __version__

if TYPE_CHECKING:
    from pyspark_theflash.cli.jobs.metrics import Figures

_NOT_LOGGED: Final = ("info", "resolved_timestamp_seconds", "stage_seconds_total")
_CREDENTIALS: Final = re.compile(r"://.*@")
_log = logging.getLogger(__name__)


class Telemetry:
    """Telemetry of one command. `figures` may be called by other threads, one at a time."""

    def __init__(
        self,
        command: str,
        arguments: argparse.Namespace,
        clock: Clock,
        undo: ExitStack,
    ) -> None:
        """Choose the log's format, and serve metrics until `undo` is closed.

        Args:
            command: The name of the command.
            arguments: Has those of `add_telemetry`.
            clock: The clock of heartbeats.
            undo: Stops the listener of metrics.

        Raises:
            OptionError: The address of `--metrics` cannot be used.
        """
        start_log(arguments.log)
        # The other loggers log warnings and errors.
        _log.setLevel(logging.INFO)
        self._command, self._clock, self._interval_ms = command, clock, arguments.heartbeat
        self._is_shown = is_json() or not sys.stderr.isatty()
        self._beat_ms = clock.boottime_ms()
        self._before: Figures = {}
        self.figures: Callable[[], Figures] = dict
        self._metrics: str | None = None
        if arguments.metrics:
            # Imported here because they need an HTTP server.
            from pyspark_theflash.cli.jobs.metrics import MetricsServer

            server = MetricsServer(arguments.metrics, lambda: self.figures(), command)
            undo.enter_context(closing(server))
            self._metrics = server.address

    def started(self, settings: Mapping[str, Any]) -> None:
        """Log the start with settings; URLs are logged without credentials and queries."""
        chosen = {name: _plain(value) for name, value in settings.items() if value is not None}
        fields = {"version": __version__, "pid": os.getpid(), **chosen}
        if self._metrics is not None:
            fields["metrics"] = self._metrics
        log_fields(_log, f"{self._command} started", fields)

    def ended(self) -> None:
        """Report no figures from now on: what they are of is being closed."""
        self.figures = dict

    def beat(self) -> None:
        """Log the figures if the last heartbeat, or the start, is one interval ago."""
        now_ms = self._clock.boottime_ms()
        elapsed_ms = now_ms - self._beat_ms
        if not (self._interval_ms and self._is_shown) or elapsed_ms < self._interval_ms:
            return
        figures = self.figures()
        log_fields(_log, "heartbeat", heartbeat_fields(figures, self._before, elapsed_ms))
        self._beat_ms, self._before = now_ms, figures


def heartbeat_fields(figures: "Figures", before: "Figures", elapsed_ms: int) -> dict[str, Any]:
    """Return figures as fields of a log line, and the rates of those that count rows."""
    fields: dict[str, Any] = {}
    for name, value in figures.items():
        if name in _NOT_LOGGED:
            continue
        fields[name.removesuffix("_total")] = value
        if name.endswith("rows_total") and isinstance(value, int | float):
            last = before.get(name, 0)
            done = value - last if isinstance(last, int | float) else value
            # A writer that continues after an error counts from 0 again.
            rate = (done if done >= 0 else value) * 1000 / max(elapsed_ms, 1)
            fields[f"{name.removesuffix('_total')}_per_second"] = round(rate, 1)
    if (memory := resident_bytes()) is not None:
        fields["resident_bytes"] = memory
    return fields


def _plain(value: object) -> object:
    """Return a setting for a log line: URLs without credentials and queries."""
    if isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple):
        return ",".join(str(_plain(each)) for each in value)
    text = str(value)
    return _CREDENTIALS.sub("://", text).partition("?")[0] if "://" in text else text
