"""Runs a process to its end and says what it cost."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One run: CPU seconds (user and system, all threads), seconds, MB at most."""

    cpu: float
    wall: float
    peak_mb: float


@dataclass(frozen=True)
class Ended:
    """A process that ended: its cost, children included, and what it said."""

    sample: Sample
    exit_code: int
    printed: str


def run(
    command: Sequence[str], place: Path, environment: Mapping[str, str], log: Path
) -> Ended:
    """Runs it in the folder `place`; what it writes to standard error is in `log`."""
    with log.open("wb") as output:
        started = time.perf_counter()
        child = subprocess.Popen(
            command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=output
        )
        assert child.stdout is not None
        try:
            printed = child.stdout.read().decode()
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            child.wait()
            raise
        wall = time.perf_counter() - started
        child.stdout.close()
        child.returncode = os.waitstatus_to_exitcode(status)
    sample = Sample(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024)
    return Ended(sample, child.returncode, printed)
