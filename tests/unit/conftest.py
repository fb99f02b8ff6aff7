"""Unit tests start no servers and no processes, unless tests/processes.txt lists them."""

import socket
import subprocess
from collections.abc import Iterator
from unittest.mock import patch

import pytest

NOT_OF_MAKE_UNIT = ("long", "peer", "processes", "slow", "spark")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Refuse processes and listeners to the tests that `make unit` runs."""
    if any(map(item.get_closest_marker, NOT_OF_MAKE_UNIT)):
        return (yield)
    with (
        patch.object(subprocess.Popen, "__init__", _refuse),
        patch.object(socket.socket, "listen", _refuse),
    ):
        return (yield)


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("starts a server or a process: list its file in tests/processes.txt")
