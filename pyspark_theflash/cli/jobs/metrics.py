"""Prometheus metrics of a running writer or learner: `--metrics 127.0.0.1:PORT`.

Text exposition format 0.0.4 over HTTP, on loopback addresses only.
"""

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.net.address import is_host_port, split_host_port
from pyspark_theflash.net.bind import is_loopback

_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Figures = Mapping[str, float | Mapping[str, float]]
"""Values by name; a mapping has a value for each `state`, which becomes a label."""


def exposition(figures: Figures, command: str) -> str:
    """Format a command's figures in Prometheus's text format.

    Names that end in `_total` are counters.
    """
    lines = []
    for name, value in sorted(figures.items()):
        full_name = f"theflash_{command}_{name}"
        kind = "counter" if name.endswith("_total") else "gauge"
        lines.append(f"# TYPE {full_name} {kind}")
        if isinstance(value, Mapping):
            states = sorted(value.items())
            lines += [f'{full_name}{{state="{state}"}} {each:.17g}' for state, each in states]
        else:
            lines.append(f"{full_name} {value:.17g}")
    return "\n".join(lines) + "\n"


class MetricsServer:
    """Serves `GET /metrics` until it is closed. `figures` is called in other threads."""

    def __init__(
        self, address: str, figures: Callable[[], Figures], command: str = "writer"
    ) -> None:
        """Start listening. Raises `OptionError`: The address is not a loopback address."""

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                is_metrics = self.path == "/metrics"
                body = exposition(figures(), command).encode() if is_metrics else b"see /metrics\n"
                self.send_response(200 if is_metrics else 404)
                self.send_header("Content-Type", _TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Do not log requests."""

        host, port = _loopback(address)
        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise OptionError("metrics", f"cannot listen on {address}: {error.strerror}") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Listening port, for a requested port of 0."""
        return int(self._server.server_address[1])

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
