"""Starts runs as forks of a process that has imported what they need."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from dagster import DagsterInstance, DagsterRun
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value

from orchestration.derive import dbt_project
from orchestration.runs import alive

_PROJECT = Path(__file__).parents[2]
_COMMAND = ("-m", "orchestration.runs.fork_server", "orchestration.definitions")


class ForkServer:
    """A process of `orchestration.runs.fork_server`, and the edition of the project
    that it has imported."""

    def __init__(self) -> None:
        self.edition = _edition()
        self._process = subprocess.Popen(
            [sys.executable, *_COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._arguments = cast(IO[str], self._process.stdin)
        self._answers = cast(IO[str], self._process.stdout)

    @property
    def is_current(self) -> bool:
        return self._process.poll() is None and self.edition == _edition()

    def fork(self, arguments: str) -> int:
        """The process of a run that was started. Raises `DagsterLaunchFailedError`."""
        with contextlib.suppress(BrokenPipeError):  # it has said why
            self._arguments.write(f"{arguments}\n")
            self._arguments.flush()
        answer = self._answers.readline()
        if not answer.strip().isdecimal():
            reason = answer.strip() or f"it ended with {self._process.wait()}"
            raise DagsterLaunchFailedError(  # type: ignore[no-untyped-call]
                f"no run can be forked: {reason}; the log of dagster-daemon has more"
            )
        return int(answer)

    def close(self) -> None:
        """Ends it; the runs go on."""
        with contextlib.suppress(BrokenPipeError):
            self._arguments.close()
        self._answers.close()
        self._process.wait()


class ForkingRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Dagster's own starts a Python for each run, and imports Dagster, dbt and the
    project in it: most of what a refresh of few events costs. After an edit of the
    project the process that is forked is another one."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._lock = threading.Lock()
        self._server: ForkServer | None = None
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls,
        inst_data: ConfigurableClassData | None,
        config_value: Mapping[str, Any],  # noqa: ARG003
    ) -> "ForkingRunLauncher":
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        assert context.job_code_origin
        arguments = ExecuteRunArgs(
            context.job_code_origin,
            context.dagster_run.run_id,
            self._instance.get_ref(),
        )
        with self._lock:
            if self._server is None or not self._server.is_current:
                self._close()
                self._server = ForkServer()
            self._server.fork(serialize_value(arguments))

    def terminate(self, run_id: str) -> bool:
        """False if the run had ended."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        process = alive.process_of(self._instance, run_id)
        if process is None:  # it has not begun, and will not; or it was killed
            self._instance.report_run_canceled(run)
        else:
            os.kill(process, signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        if alive.is_dead(self._instance, run.run_id):
            return CheckRunHealthResult(WorkerStatus.FAILED, "its process is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def dispose(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


def _edition() -> frozenset[tuple[Path, int, int]]:
    """Each file that a run may have imported, or the manifest was made of."""
    code = (
        file
        for name in ("ingest", "orchestration", "serving")
        for file in (_PROJECT / name).rglob("*.py")
    )
    found = set()
    for file in (*code, *dbt_project.files()):
        with contextlib.suppress(FileNotFoundError):  # an editor's, gone by now
            stat = file.stat()
            found.add((file, stat.st_mtime_ns, stat.st_size))
    return frozenset(found)
