"""Results of a soak."""

import sys
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Counts of actions; `different` has a text for each difference, with its seed."""

    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """Number of typed errors in place of answers, by message."""
    different: list[str] = field(default_factory=list)

    def differs(self, text: str) -> None:
        """Add a difference, and print it immediately: a soak may be stopped before its end."""
        self.different.append(text)
        sys.stdout.write(f"DIFFERENT: {text[:4000]}\n")
        sys.stdout.flush()

    def summary(self) -> str:
        """One line."""
        counts = ", ".join(f"{name} {n:,}" for name, n in sorted(self.counts.items()))
        return f"{counts}; refused {self.refused.total():,}; {len(self.different)} different"
