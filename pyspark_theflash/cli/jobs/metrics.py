"""Figures of a running writer for Prometheus, on request: `--metrics 127.0.0.1:PORT`.

Text exposition format 0.0.4 over HTTP, on a loopback address only: there is nothing secret in the
figures, but nothing that others need either.
"""

import ipaddress
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from pyspark_theflash.base.errors import OptionError

_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "theflash_writer_"
Figures = Mapping[str, float]


def exposition(figures: Figures) -> str:
    """Figures by name as Prometheus reads them; names that end in `_total` are counters."""
    lines = []
    for name, value in sorted(figures.items()):
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# TYPE {_PREFIX}{name} {kind}", f"{_PREFIX}{name} {value:.17g}"]
    return "\n".join(lines) + "\n"


class MetricsServer:
    """Answers `GET /metrics` until it is closed. `figures` is called from other threads."""

    def __init__(self, address: str, figures: Callable[[], Figures]) -> None:
        """Raises `OptionError` for an address that is none, or not this machine's own."""

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                found = self.path == "/metrics"
                body = exposition(figures()).encode() if found else b"see /metrics\n"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", _TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: requests are not news."""

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
        """Where it listens; useful if it was asked for port 0."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _loopback(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    try:
        is_ours = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
        number = int(port)
    except ValueError:
        raise OptionError("metrics", f"{address!r} is not of the form 127.0.0.1:PORT") from None
    if not is_ours or not 0 <= number < 1 << 16:
        raise OptionError("metrics", f"{address!r} is not a loopback address and port")
    return host.strip("[]"), number
