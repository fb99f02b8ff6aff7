"""Figures for Prometheus, over real HTTP."""

from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.cli.jobs.metrics import MetricsServer, exposition


def test_counters_and_gauges_are_told_apart() -> None:
    assert exposition({"rows_total": 12, "lag_seconds": 0.5}, "writer").splitlines() == [
        "# TYPE theflash_writer_lag_seconds gauge",
        "theflash_writer_lag_seconds 0.5",
        "# TYPE theflash_writer_rows_total counter",
        "theflash_writer_rows_total 12",
    ]


def test_a_figure_by_state() -> None:
    assert exposition({"regions": {"stopped": 1, "followed": 5}}, "learn").splitlines() == [
        "# TYPE theflash_learn_regions gauge",
        'theflash_learn_regions{state="followed"} 5',
        'theflash_learn_regions{state="stopped"} 1',
    ]


def test_a_scrape_sees_the_figures_of_its_moment() -> None:
    figures = {"rows_total": 1.0}
    server = MetricsServer("127.0.0.1:0", lambda: figures)
    try:
        url = f"http://127.0.0.1:{server.port}/metrics"
        assert b"rows_total 1\n" in urlopen(url, timeout=5).read()
        figures["rows_total"] = 2.0
        assert b"rows_total 2\n" in urlopen(url, timeout=5).read()
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://127.0.0.1:{server.port}/", timeout=5)
    finally:
        server.close()


@pytest.mark.parametrize(
    "address", ["0.0.0.0:9000", "10.1.2.3:9000", "example.org:9000", "9000", "127.0.0.1:99999"]
)
def test_only_this_machine_is_served(address: str) -> None:
    with pytest.raises(OptionError, match="metrics"):
        MetricsServer(address, dict)
