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
    parser.add_argument("--only", default="", help="a part of the name `KIND: ATTACK`")
    parser.add_argument("--server", default="", help="only this configuration")
    parser.add_argument("--seconds", type=float, default=5, help="duration of attacks under load")
    parser.add_argument("--output", type=Path, default=Path("build/attack.md"))
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {ATTACKER_CPU})
    results: list[Result] = []
    chosen = [
        (name, protocol, each)
        for each in attacks()
        if arguments.only in f"{each.kind}: {each.name}"
        for name, protocol in each.cases
        if arguments.server in ("", name)
    ]
    for name, protocol, each in sorted(chosen, key=lambda case: case[0]):
        result = _attack(each, name, protocol, arguments.seconds)
        results.append(result)
        print(" | ".join(result.row()), flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(table(results))
    breached = sum(bool(each.breaches) for each in results)
    print(f"{len(results)} attacks, {breached} succeed; see {arguments.output}")
    return min(breached, 100)


def _attack(each: Attack, name: str, protocol: str, seconds: float) -> Result:
    """Run one attack on a server of its own."""
    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        (folder / "own").mkdir()
        at: Server | None = None
        if name != COMMANDS:
            at = undo.enter_context(started(name, folder, SERVER_CPU))
        return run(Target(name, at, protocol, folder / "own", False, seconds), each)


if __name__ == "__main__":
    sys.exit(main())
