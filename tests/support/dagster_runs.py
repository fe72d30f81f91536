"""Dagster as it is installed: an instance of its own, its daemon's runs, and runs that
are launched from a shell."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from unittest import mock

import dagster as dg

PROJECT = Path(__file__).parents[2]
Found = TypeVar("Found")


def make_home(home: Path) -> Path:
    """The folder of an instance, as `make dev` has it."""
    home.mkdir()
    shutil.copy(PROJECT / "orchestration" / "dagster.yaml", home)
    with (
        mock.patch.dict(os.environ, DAGSTER_HOME=str(home)),
        dg.DagsterInstance.from_config(str(home)),
    ):
        pass  # two processes that make a fresh instance at once would race
    return home


def launch(
    job: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A run as from a shell; it needs no daemon. `environment` is added to ours."""
    return subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("dg")), "launch"),
            *("-m", "orchestration.definitions", "--job", job),
        ],
        env={**os.environ, **(environment or {})},
        cwd=PROJECT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for(condition: Callable[[], Found | None], seconds: float) -> Found:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"did not happen within {seconds} s")


def run_process(
    instance: dg.DagsterInstance, run_id: str, *, at_step: str | None = None
) -> int | None:
    """The process of a run; with `at_step` once that step has begun."""
    process = None
    for record in instance.all_logs(run_id):
        event = record.dagster_event
        if not event:
            continue
        if event.is_engine_event and "pid" in event.engine_event_data.metadata:
            process = int(str(event.engine_event_data.metadata["pid"].value))
        if at_step and event.is_step_start and event.step_key == at_step:
            return process
    return None if at_step else process
