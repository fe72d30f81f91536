"""A finding: where one looked, what is so, and what to do."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

# `problem` needs a hand; `note` is for who wants to know.
Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """`to_do` is empty where nothing is to be done."""

    area: str
    level: Level
    found: str
    to_do: str = ""


def ok(area: str, found: str) -> Finding:
    return Finding(area, "ok", found)


def note(area: str, found: str, to_do: str = "") -> Finding:
    return Finding(area, "note", found, to_do)


def problem(area: str, found: str, to_do: str) -> Finding:
    return Finding(area, "problem", found, to_do)


def shown(age: timedelta) -> str:
    """3 d, 2 h, 5 min or 10 s."""
    seconds = max(age.total_seconds(), 0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
