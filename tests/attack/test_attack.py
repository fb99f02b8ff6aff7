"""The short form of the campaign: each attack on each protocol once, without measured times."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.attack.harness import COMMANDS, Attack, Target, attacks, run
from tests.attack.servers import Server, started

SECONDS = 0.3


def _cases() -> Iterator[object]:
    for each in attacks():
        marks = [pytest.mark.xfail(reason=each.open, strict=True)] if each.open else []
        for configuration, protocol in each.short_cases:
            name = f"{each.kind}-{each.run.__name__}-{configuration}-{protocol}"
            yield pytest.param(each, configuration, protocol, id=name, marks=marks)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Starts configurations, each once."""
    running: dict[str, Server] = {}
    with ExitStack() as undo:

        def server(name: str) -> Server:
            if name not in running or not running[name].is_alive:
                running[name] = undo.enter_context(started(name, tmp_path_factory.mktemp(name)))
            return running[name]

        yield server


@pytest.mark.xdist_group("attack")
@pytest.mark.parametrize(("declared", "configuration", "protocol"), list(_cases()))
def test_attack(
    declared: Attack,
    configuration: str,
    protocol: str,
    server: Callable[[str], Server],
    tmp_path: Path,
) -> None:
    at = None if configuration == COMMANDS else server(configuration)
    result = run(Target(configuration, at, protocol, tmp_path, True, SECONDS), declared)
    assert result.breaches == []
