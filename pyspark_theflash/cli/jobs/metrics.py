"""Prometheus metrics of a running command: `--metrics 127.0.0.1:PORT`.

    command ── figures, by the names of `METRICS` ──► registry ── HTTP GET /metrics ──► Prometheus

Figures are read at each scrape, so a scrape has the state of its moment. No metric has a label
whose values depend on the data: regions, tables and callers are counted and not named. The
registry also has prometheus_client's metrics of the process (`process_*`).

prometheus_client's own server has no limits on its connections and their time. This one listens on
loopback addresses only, and has as many connections as other listeners may have from peers that
have not authenticated (`Limits.pending`): above it, the oldest that has sent no request is closed.
"""

import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import OptionError, TheFlashError
from pyspark_theflash.net.address import is_host_port, split_host_port
from pyspark_theflash.net.bind import is_loopback
from pyspark_theflash.service.api.limits import Limits
from pyspark_theflash.service.server.admission import Admission
from pyspark_theflash.version import __version__

_REQUEST_S: Final = 5
"""The time for a peer to send the next part of its request, or to receive the response."""
_log = logging.getLogger(__name__)

Figures = Mapping[str, float | Mapping[str, float]]
"""Values by the names of `METRICS`; those of a metric with a label are by the label's value."""


class Described(NamedTuple):
    """The meaning of a metric, and its label if it has one."""

    text: str
    label: str = ""


METRICS: Final[Mapping[str, Described]] = {
    "info": Described("1; the command and its version are labels."),
    "resolved_timestamp_seconds": Described("Newest readable timestamp, as Unix time."),
    "resolved_ts_lag_seconds": Described("Its age, by this machine's clock."),
    "set_aside_tables": Described("Physical tables whose rows are unknown, so not readable."),
    "latches": Described("Active latches on the store.", "kind"),
    "transactions_total": Described("Applied transactions."),
    "rows_total": Described("Applied row changes."),
    "row_bytes_total": Described("Bytes of their encoded rows."),
    "publications_total": Described("Commits to the store."),
    "stage_seconds_total": Described("Time of each stage of applying.", "stage"),
    "retries_total": Described("Errors after which the writer has started again."),
    "compactions_discarded_total": Described("Compactions that a change overtook."),
    "pending_transactions": Described("Transactions received but not applied yet."),
    "spool_bytes": Described("Binlog received by a pump-server, not applied yet."),
    "load_ratio": Described("Loaded part of all keys, from 0 to 1."),
    "load_rows_total": Described("Rows that this process has loaded."),
    "load_remaining_seconds": Described("Estimated time until the load ends."),
    "regions": Described("Regions.", "state"),
    "buffered_bytes": Described("Memory of changes that are not applied yet.", "state"),
    "spilled_bytes": Described("Temporary files of changes that do not fit in memory."),
    "compared_rows_total": Described("Rows compared with TiKV, against physical imports."),
    "compared_timestamp_seconds": Described("End of the last comparison of all tables, Unix time."),
    "cache_bytes": Described("Memory of data that is not in files yet."),
    "unpublished_bytes": Described("Size of the rows that are written next."),
    "connections": Described("Connections with frames.", "state"),
    "scans": Described("Scans that have not ended."),
    "request_bytes": Described("Memory of requests, and of responses not received yet."),
    "workers": Described("Processes that answer calls, other than this one."),
    "workers_resident_bytes": Described("Resident memory of these processes."),
}
"""Metrics by name, without the prefix `theflash_`. Those that end in `_total` are counters."""


class FiguresCollector(Collector):
    """The metrics of a command's figures. `figures` is called by one thread at a time."""

    def __init__(self, figures: Callable[[], Figures], command: str) -> None:
        self._figures, self._command = figures, command
        self._mutex = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of one scrape."""
        info = GaugeMetricFamily(
            "theflash_info", METRICS["info"].text, labels=["command", "version"]
        )
        info.add_metric([self._command, __version__], 1)
        yield info
        with self._mutex:
            figures = self._figures()
        for name, value in sorted(figures.items()):
            described = METRICS[name]
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            labels = [described.label] if described.label else []
            family = kind(f"theflash_{name}", described.text, labels=labels)
            values = value.items() if isinstance(value, Mapping) else [("", value)]
            for label, each in sorted(values):
                family.add_metric([label] if labels else [], each)
            yield family


class _BoundedServer(ThreadingHTTPServer):
    """An HTTP server with a bounded number of connections."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._admission: Admission[socket.socket] = Admission(
            Limits(), f"{address[0]}", SystemClock()
        )
        self.with_request: set[socket.socket] = set()
        """Connections that have sent a request."""
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        surplus = self._admission.add(request, lambda each: each not in self.with_request)
        if surplus is not None:
            # Its thread, which waits for a request, ends and closes it.
            self._end(surplus)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        self._admission.remove(request)
        self.with_request.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        if not isinstance(sys.exc_info()[1], OSError):  # the peer has ended
            _log.warning("a request for metrics has failed", exc_info=True)

    @staticmethod
    def _end(sock: socket.socket) -> None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended


class MetricsServer:
    """Serves `GET /metrics` until it is closed. `figures` is called in other threads."""

    def __init__(self, address: str, figures: Callable[[], Figures], command: str) -> None:
        """Start listening. Raises `OptionError`: The address is not a loopback address."""
        registry = CollectorRegistry()
        registry.register(FiguresCollector(figures, command))
        ProcessCollector(registry=registry)

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_S

            def do_GET(self) -> None:
                if isinstance(self.server, _BoundedServer):
                    self.server.with_request.add(self.connection)
                status, body, kind = 404, b"see /metrics\n", "text/plain"
                if self.path == "/metrics":
                    try:
                        encode, kind = choose_encoder(self.headers.get("Accept", ""))
                        status, body = 200, encode(registry)
                    except TheFlashError as error:
                        # Reported with the next scrape, as when the store is being replaced.
                        _log.warning("no metrics: %s", error)
                        status, body, kind = 503, b"not available\n", "text/plain"
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Do not log requests."""

        host, port = _loopback(address)
        try:
            self._server = _BoundedServer((host, port), Handler)
        except OSError as error:
            raise OptionError("metrics", f"cannot listen on {address}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Listening address, with the chosen port for a requested port of 0."""
        host, port = self._server.socket.getsockname()[:2]
        return f"{host}:{port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _loopback(address: str) -> tuple[str, int]:
    if is_host_port(address):
        host, port = split_host_port(address)
        if is_loopback(host):
            return host, port
    raise OptionError("metrics", f"{address!r} is not a loopback address and port")
