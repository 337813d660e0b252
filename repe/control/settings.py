"""Settings of a control experiment, and the conditions that it compares (Section 5)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from repe.constants import DEFAULT_BASELINES, STRENGTHS
from repe.control.generation import Decoding


class Condition(NamedTuple):
    """One way to steer, applied to all prompts."""

    baseline: str
    """`none`, `concept` (the source language's vector), `random`, `shuffled` (a vector of shuffled labels),
    `target_vector` (the target language's vector), or `prompt` (a system instruction instead of a vector)."""
    strength: float
    """For `prompt`: 1 for the instruction of the positive side, -1 for that of the negative side."""
    draw: int | None = None
    """Number of the random direction, from 1; None for other baselines."""


@dataclass(frozen=True)
class ControlSettings:
    """How to steer and how to decode. The paper does not publish its settings; these are the project's own."""

    layers: Sequence[int]
    """Layer numbers, see `repe.control.steering.parse_layers`."""
    strengths: Sequence[float] = STRENGTHS
    strength_unit: str = "class"
    """Length of a strength of 1: `class`, `hidden` or `raw`, see `repe.control.steering.step_lengths`."""
    operator: str = "linear_comb"
    scope: str = "all"
    """Operator and scope are those of `repe.control.steering.steered`."""
    baselines: Sequence[str] = DEFAULT_BASELINES
    random_draws: int = 3
    decoding: Decoding = field(default_factory=Decoding)

    def conditions(self) -> list[Condition]:
        """All conditions, by baseline, draw, and increasing strength."""
        return [
            Condition(baseline, strength, draw)
            for baseline in self.baselines
            for draw in (range(1, self.random_draws + 1) if baseline == "random" else (None,))
            for strength in {"none": [0.0], "prompt": [-1.0, 1.0]}.get(baseline, sorted({*self.strengths}))
        ]

    def record(self) -> dict[str, Any]:
        """The settings that must be equal for all replies in a file.

        Conditions are not among them: further conditions can be added to a file.
        """
        steering = {name: getattr(self, name) for name in ("operator", "scope", "strength_unit")}
        return {"layers": [*self.layers], **steering, **asdict(self.decoding)}
