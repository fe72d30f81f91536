"""Runs as forks of one process, seen from outside: alive, dead, stopped, logged."""

import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.launcher.base import LaunchRunContext, WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.storage.event_log import SqliteEventLogStorage

from ingest.store import database
from orchestration.runs import alive
from orchestration.runs.event_log import OpenEventLog
from orchestration.runs.launcher import ForkServer
from tests.support.builders import ping, write_lines
from tests.support.dagster_runs import PROJECT, make_home, run_process, wait_for

pytestmark = pytest.mark.long

BEGINS_WITHIN_SEC = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty warehouse, and one event that has arrived; a run waits a minute for
    whoever has the warehouse open."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "landing" / "events").mkdir(parents=True)
    write_lines(folder / "landing" / "events" / "a.ndjson", [ping("e1", position=95)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMS_LANDING", str(folder / "landing"))
        patch.setenv("LMS_WAREHOUSE", str(folder / "warehouse.duckdb"))
        patch.setenv("LMS_LOCK_WAIT_SEC", "60")
        patch.setenv("DAGSTER_HOME", str(folder / "dagster"))
        make_home(folder / "dagster")
        with database.open_for_writing(folder / "warehouse.duckdb", make=True):
            pass
        yield folder


@pytest.fixture(scope="module")
def instance(folder: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(folder / "dagster")) as instance:
        yield instance


def start(instance: dg.DagsterInstance, job: str = "refresh") -> dg.DagsterRun:
    """A run, as the daemon launches it."""
    from orchestration.definitions import defs

    code = ModuleCodePointer("orchestration.definitions", "defs", str(PROJECT))
    origin = JobPythonOrigin(job, RepositoryPythonOrigin("", code, entry_point=[]))
    run = instance.create_run_for_job(
        defs.resolve_job_def(job),
        job_code_origin=origin,
        status=dg.DagsterRunStatus.STARTING,
    )
    instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
    return run


def ended(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    def found() -> dg.DagsterRun | None:
        now = instance.get_run_by_id(run.run_id)
        return now if now and now.is_finished else None

    return wait_for(found, BEGINS_WITHIN_SEC)


def begun(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int:
    """The process of a run that is in its step `land`."""
    return wait_for(
        lambda: run_process(instance, run.run_id, at_step="land"), BEGINS_WITHIN_SEC
    )


def server() -> int:
    """The process that is forked: a child of this one."""
    [found] = (
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if b"fork_server" in (folder / "cmdline").read_bytes()
        and parent_of(int(folder.name)) == os.getpid()
    )
    return found


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_runs_are_forked_from_one_process_that_has_one_thread(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    first = ended(instance, start(instance))
    forked = server()
    threads = os.listdir(f"/proc/{forked}/task")
    with database.open_for_writing(folder / "warehouse.duckdb"):
        second = start(instance)
        parent = parent_of(begun(instance, second))

    assert first.status == dg.DagsterRunStatus.SUCCESS
    assert ended(instance, second).status == dg.DagsterRunStatus.SUCCESS
    assert server() == forked == parent
    assert threads == [str(forked)]


def test_after_an_edit_of_the_project_another_process_is_forked(
    instance: dg.DagsterInstance,
) -> None:
    ended(instance, start(instance))
    before = server()
    edited = PROJECT / "orchestration" / "definitions.py"
    stat = edited.stat()
    try:
        os.utime(edited, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        run = start(instance)
    finally:
        os.utime(edited, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    assert server() != before
    assert ended(instance, run).status == dg.DagsterRunStatus.SUCCESS


def test_what_keeps_runs_from_being_forked_is_said_where_one_is_launched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMS_LOCK_WAIT_SEC", "soon")
    forked = ForkServer()
    with pytest.raises(
        DagsterLaunchFailedError, match=r"error: LMS_LOCK_WAIT_SEC.*soon"
    ):
        forked.fork("{}")
    forked.close()


def test_a_run_that_is_stopped_is_canceled_and_lets_the_warehouse_go(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    with database.open_for_writing(folder / "warehouse.duckdb"):
        run = start(instance)
        begun(instance, run)
        stopped = instance.run_launcher.terminate(run.run_id)
        canceled = ended(instance, run)

    assert stopped
    assert canceled.status == dg.DagsterRunStatus.CANCELED
    assert instance.run_launcher.terminate(run.run_id) is False
    assert ended(instance, start(instance)).status == dg.DagsterRunStatus.SUCCESS


def test_a_run_whose_process_is_gone_is_said_to_have_failed(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    def health() -> WorkerStatus:
        return instance.run_launcher.check_run_worker_health(run).status

    with database.open_for_writing(folder / "warehouse.duckdb"):
        run = start(instance)
        process = begun(instance, run)
        while_alive = health()
        os.kill(process, signal.SIGKILL)
        wait_for(lambda: alive.is_dead(instance, run.run_id), 10)

    assert while_alive == WorkerStatus.RUNNING
    assert health() == WorkerStatus.FAILED
    instance.report_run_failed(run)


def test_the_log_is_the_one_that_dagster_itself_would_read(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    run = ended(instance, start(instance))
    events = instance.all_logs(run.run_id)
    its_own = SqliteEventLogStorage(str(folder / "dagster" / "history" / "runs"))

    assert len(events) > 100
    assert its_own.get_logs_for_run(run.run_id) == events


def test_the_log_keeps_a_few_files_open(tmp_path: Path) -> None:
    log = OpenEventLog(str(tmp_path))
    for number in range(20):
        assert log.get_logs_for_run(f"run-{number}") == []
    opened = {
        os.readlink(f"/proc/self/fd/{name}")
        for name in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{name}")
    }
    log.dispose()

    ours = [path for path in opened if path.startswith(str(tmp_path))]
    assert 1 <= sum(path.endswith(".db") for path in ours) <= 9
    with sqlite3.connect(tmp_path / "run-0.db") as found:
        assert found.execute("select count(*) from event_logs").fetchall() == [(0,)]
