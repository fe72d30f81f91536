"""Killing often enough: how many SIGKILLs each test of interruptions is about."""

import os
from collections.abc import Callable

import pytest

# A few with every run of the tests; many with `make test-slow`.
KILLS = [
    2,
    pytest.param(int(os.environ.get("KILLS", "50")), marks=pytest.mark.slow, id="many"),
]


def kill_again_until(kills: int, kill: Callable[[int], bool]) -> None:
    """Calls it with 0, 1, ... until so many of its victims were killed at work.

    It says whether its victim was: at a random instant, some are done already.
    """
    killed = 0
    for attempt in range(10 * kills):
        killed += kill(attempt)
        if killed == kills:
            return
    raise AssertionError(f"only {killed} killed at work: the instants are too late")
