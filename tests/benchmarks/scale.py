"""How much work a run does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """``work`` multiplies how often something is done, ``size`` how large the largest things are.

    ``settle`` and ``patience`` are the workers' (seconds, see Receivers), ``rotation`` is how many
    seconds the rotation's load lasts, ``rows_kept`` how many seconds a layer on PostgreSQL is to
    keep its rows (None: as it does by itself), ``limit`` how many one request to a worker may take,
    ``share`` after how many a workload is repeated no more, if a run is to end in time.
    """

    name: str
    repetitions: int
    work: float
    size: float
    growth: bool
    settle: float
    patience: float
    rotation: float
    rows_kept: float | None
    limit: float
    share: float | None

    def times(self, number: int) -> int:
        """Return how often to do something; at least twice, for a median."""
        return max(2, round(number * self.work))

    def large(self, number: int, least: int = 1) -> int:
        """Return how large to make something."""
        return max(least, round(number * self.size))

    def note(self, number: int) -> str | None:
        """Return what to say of something that was made smaller than its name says."""
        made = self.large(number)
        return None if made == number else f"{made:,} instead of {number:,}, for --{self.name}"


FULL = Scale("full", 5, 1.0, 1.0, True, 1.0, 10.0, 6.5, None, 240.0, None)
QUICK = Scale("quick", 3, 0.15, 0.1, False, 0.2, 5.0, 3.0, 3.0, 20.0, 3.0)
#: For trying the machinery; says nothing about a layer.
TINY = Scale("tiny", 2, 0.01, 0.01, False, 0.05, 2.0, 1.0, 2.0, 20.0, None)
