"""What a part of the harness tried, and what went wrong."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What a part of the harness tried and what went wrong."""

    what: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    """How often what happened, for the table."""

    def expect(self, right: object, failure: str) -> None:
        """Note `failure` unless `right`."""
        if not right:
            self.failures.append(failure)
