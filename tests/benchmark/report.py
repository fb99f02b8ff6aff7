"""Shared by benchmarks: repetition, and printing of aligned lines."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A figure with its name and its baseline."""

    name: str
    figure: str
    beside: str = ""

    def show(self) -> None:
        print(f"  {self.name:<44} {self.figure:>18}   {self.beside}")


def best_of(rounds: int, action: Callable[[], object]) -> float:
    """The shortest of several runs, in seconds: the one that was disturbed least."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - started)
    return best


def interval(ratios: Iterable[float]) -> str:
    """The median, and the order statistics that bound it with 95% confidence."""
    ordered = sorted(ratios)
    aside = max(int(len(ordered) / 2 - 0.98 * len(ordered) ** 0.5), 0)
    return f"{statistics.median(ordered):.2f} ({ordered[aside]:.2f}-{ordered[-1 - aside]:.2f})"
