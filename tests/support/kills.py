"""Killing processes at work, and often enough."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from random import Random
from typing import Any

import pytest

# A few with every run of the tests; many with `make test-slow`.
KILLS = [
    2,
    pytest.param(int(os.environ.get("KILLS", "50")), marks=pytest.mark.slow, id="many"),
]

# When they are killed; the same instants again with the same `KILLS_SEED`.
instants = Random(os.environ.get("KILLS_SEED"))


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


def run_and_tell(
    began: Any, ended: Any, run: Callable[..., Any], *arguments: Any
) -> None:
    """Runs; says at which CPU time of its process that began, and ended."""
    began.value = time.process_time()
    run(*arguments)
    ended.value = time.process_time()


@dataclass(frozen=True)
class Processes:
    context: ForkServerContext

    def start(self, run: Callable[..., Any], *arguments: Any) -> BaseProcess:
        process = self.context.Process(target=run, args=arguments)
        process.start()
        return process

    def cpu_seconds(self, run: Callable[..., Any], *arguments: Any) -> float:
        """Runs to the end; what that takes."""
        began, ended = self.context.Value("d", 0), self.context.Value("d", 0)
        process = self.start(run_and_tell, began, ended, run, *arguments)
        process.join()
        assert process.exitcode == 0
        return float(ended.value - began.value)

    def killed(
        self, cpu_seconds: float, run: Callable[..., Any], *arguments: Any
    ) -> bool:
        """Whether the process was killed before its end, after so much of the work.

        CPU time hits the same places on a busy machine, too.
        """
        began, ended = self.context.Value("d", 0), self.context.Value("d", 0)
        process = self.start(run_and_tell, began, ended, run, *arguments)
        clock = cpu_clock(process)
        with contextlib.suppress(OSError):  # it has come to its end
            while not began.value or (
                time.clock_gettime(clock) < began.value + cpu_seconds
            ):
                time.sleep(0.001)
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0


def cpu_clock(process: BaseProcess) -> int:
    """That of another process: what clock_getcpuclockid(3) gives on Linux."""
    assert process.pid
    return ~process.pid << 3 | 2
