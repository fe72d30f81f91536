"""A service of the warehouse's command, running for as long as it is measured."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

WAREHOUSE = Path(sys.executable).with_name("warehouse")


@contextmanager
def running(
    command: str, environment: Mapping[str, str], log: Path, *rights: str
) -> Iterator[tuple[int, str]]:
    """The port on which `warehouse collect` or `serve` listens, and a token with these
    rights. Raises `SystemExit` when it does not come up within two minutes."""
    token = subprocess.run(
        [WAREHOUSE, "tokens", "create", "load", *rights, "--rate", "1e6"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with log.open("w") as errors:
        process = subprocess.Popen(
            [WAREHOUSE, command, "--port", "0"], env=environment, stderr=errors
        )
    try:
        deadline = time.monotonic() + 120
        while "listening" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"error: {command} is not up: {log.read_text()}")
            time.sleep(0.05)
        yield json.loads(log.read_text().splitlines()[0])["port"], token
    finally:
        process.terminate()
        process.wait(30)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    return _memory_mb(pid, "VmHWM:")


def resident_mb(pid: int) -> float:
    return _memory_mb(pid, "VmRSS:")


def _memory_mb(pid: int, field: str) -> float:
    [line] = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith(field)
    ]
    return int(line.split()[1]) / 1024
