"""What a part of the torture comes to."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random


@dataclass
class Tally:
    """How often something was tried, and each time that a promise did not hold.

    `refused` is how often what was tried ended with an error, as it should.
    """

    tried: int = 0
    refused: int = 0
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.broken.append(what)
            print(f"broken: {what}", file=sys.stderr, flush=True)

    def note(self, what: str) -> None:
        """Something about how it was done, for the table."""
        self.notes.append(what)
        print(f"  {what}", file=sys.stderr, flush=True)

    def add(self, other: "Tally") -> None:
        self.tried += other.tried
        self.refused += other.refused
        self.broken += other.broken
        self.notes += other.notes


def chosen(total: int, count: int, random: Random) -> list[int]:
    """So many of 1 to `total`, spread over it; all of them if that is fewer."""
    if count >= total:
        return list(range(1, total + 1))
    return sorted(random.sample(range(1, total + 1), count))


def rounds(count: int, seed: int) -> Iterator[tuple[int, Random]]:
    """So many rounds, each with chances of its own: any can be repeated alone."""
    for number in range(count):
        yield number, Random(f"{seed} {number}")
