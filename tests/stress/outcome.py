"""The outcome of one part of the stress test."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """The number of trials of one part, and the failures."""

    name: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """How often each event occurred, for the table."""

    def expect(self, condition: object, failure: str) -> None:
        """Record `failure` unless `condition` holds."""
        if not condition:
            self.failures.append(failure)
