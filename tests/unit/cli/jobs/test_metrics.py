"""Figures for Prometheus, over real HTTP."""

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyspark_theflash.base.errors import OptionError, StoreNotFoundError
from pyspark_theflash.cli.jobs.metrics import METRICS, Figures, MetricsServer
from pyspark_theflash.net.address import split_host_port
from pyspark_theflash.service.api.limits import Limits
from pyspark_theflash.version import __version__

ROOT = Path(__file__).parents[4]


@pytest.fixture
def serving() -> Iterator[Callable[[Callable[[], Figures]], MetricsServer]]:
    servers: list[MetricsServer] = []

    def start(figures: Callable[[], Figures]) -> MetricsServer:
        servers.append(MetricsServer("127.0.0.1:0", figures, "writer"))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def scraped(server: MetricsServer) -> str:
    with urlopen(f"http://{server.address}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text: str = answer.read().decode()
    return text


Start = Callable[[Callable[[], Figures]], MetricsServer]


def test_figures_have_types_and_units(serving: Start) -> None:
    figures = {"rows_total": 12, "resolved_ts_lag_seconds": 0.5, "regions": {"a": 1, "b": 5}}
    text = scraped(serving(lambda: figures))
    ours = [line for line in text.splitlines() if "theflash_" in line and "# HELP" not in line]
    assert ours == [
        "# TYPE theflash_info gauge",
        f'theflash_info{{command="writer",version="{__version__}"}} 1.0',
        "# TYPE theflash_regions gauge",
        'theflash_regions{state="a"} 1.0',
        'theflash_regions{state="b"} 5.0',
        "# TYPE theflash_resolved_ts_lag_seconds gauge",
        "theflash_resolved_ts_lag_seconds 0.5",
        "# TYPE theflash_rows_total counter",
        "theflash_rows_total 12.0",
    ]
    names = {family.name for family in text_string_to_metric_families(text)}
    assert "process_resident_memory_bytes" in names


def test_a_scrape_has_the_figures_of_its_moment(serving: Start) -> None:
    figures = {"rows_total": 1.0}
    server = serving(lambda: figures)
    assert "theflash_rows_total 1.0\n" in scraped(server)
    figures["rows_total"] = 2.0
    assert "theflash_rows_total 2.0\n" in scraped(server)
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"http://{server.address}/", timeout=20)


def test_an_error_ends_one_scrape_only(serving: Start) -> None:
    errors = [StoreNotFoundError("/a")]

    def figures() -> Figures:
        if errors:
            raise errors.pop()
        return {"rows_total": 1}

    server = serving(figures)
    with pytest.raises(HTTPError, match="503"):
        scraped(server)
    assert "theflash_rows_total 1.0\n" in scraped(server)


def test_above_the_limit_the_oldest_silent_connection_is_closed(serving: Start) -> None:
    server = serving(dict)
    silent = [
        socket.create_connection(split_host_port(server.address), 20)
        for _ in range(Limits().pending)
    ]
    try:
        for sock in silent:
            sock.sendall(b"GET /met")
        assert "theflash_info" in scraped(server)
        silent[0].settimeout(20)
        assert silent[0].recv(1) == b""
    finally:
        for sock in silent:
            sock.close()


@pytest.mark.parametrize(
    "address", ["0.0.0.0:9000", "10.1.2.3:9000", "example.org:9000", "9000", "127.0.0.1:99999"]
)
def test_only_this_machine_is_served(address: str) -> None:
    with pytest.raises(OptionError, match="metrics"):
        MetricsServer(address, dict, "writer")


def test_names_follow_prometheus() -> None:
    for name, described in METRICS.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert described.text.endswith(".")
        assert not name.endswith(("_ms", "_milliseconds", "_mib", "_count"))


def test_the_page_lists_every_metric() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `theflash_(\w+)` \| (\w+) \| `?(\w*)`? ?\| (.*) \|$", page, re.M)
    assert rows == [
        (name, "counter" if name.endswith("_total") else "gauge", described.label, described.text)
        for name, described in METRICS.items()
    ]
