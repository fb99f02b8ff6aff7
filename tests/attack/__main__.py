"""Run the whole campaign with measurements; print a table and write it to a file."""

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.attack.harness import (
    ATTACKER_CPU,
    COMMANDS,
    SERVER_CPU,
    Attack,
    Result,
    Target,
    attacks,
    run,
    table,
)
from tests.attack.servers import Server, started


def main() -> int:
    """Run the attacks; the exit status is the number of those that succeed, 100 at most."""
    parser = argparse.ArgumentParser(prog="tests.attack", description=__doc__)
    part = "a part of the name `KIND: ATTACK`; may be repeated"
    parser.add_argument("--only", action="append", default=[], help=part)
    parser.add_argument("--server", default="", help="only this configuration")
    parser.add_argument("--seconds", type=float, default=5, help="duration of attacks under load")
    parser.add_argument("--output", type=Path, default=Path("build/attack.md"))
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {ATTACKER_CPU})
    results: list[Result] = []
    chosen = [
        (name, protocol, each)
        for each in attacks()
        if any(part in f"{each.kind}: {each.name}" for part in arguments.only or [""])
        for name, protocol in each.cases
        if arguments.server in ("", name)
    ]
    cases = sorted(chosen, key=lambda case: case[0])
    with ExitStack() as last:
        for at, (name, protocol, each) in enumerate(cases):
            if not at or name != cases[at - 1][0] or results[-1].breaches:
                last.close()
                server = _start(name, last)
            result = _attack(each, name, server, protocol, arguments.seconds)
            results.append(result)
            print(" | ".join(result.row()), flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(table(results))
    breached = sum(bool(each.breaches) for each in results)
    print(f"{len(results)} attacks, {breached} succeed; see {arguments.output}")
    return min(breached, 100)


def _start(name: str, last: ExitStack) -> Server | None:
    """Start a server for attacks on a configuration, up to the first that succeeds."""
    if name == COMMANDS:
        return None
    folder = Path(last.enter_context(tempfile.TemporaryDirectory()))
    return last.enter_context(started(name, folder, SERVER_CPU))


def _attack(
    each: Attack, name: str, server: Server | None, protocol: str, seconds: float
) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return run(Target(name, server, protocol, Path(folder), False, seconds), each)


if __name__ == "__main__":
    sys.exit(main())
