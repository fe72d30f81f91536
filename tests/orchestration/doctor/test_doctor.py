"""What is wrong is found, with what to do; what is right is no problem."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

import duckdb
import pytest

from ingest.settings import Settings, unknown_variables
from ingest.store import database, files, formats, journal, last_runs, tombstones
from ingest.store.database import open_for_writing
from orchestration.backup.backup import backup
from orchestration.doctor.doctor import look
from orchestration.doctor.finding import Finding
from tests.support.builders import Warehouse, ping, write_lines
from tests.support.dagster_runs import make_home
from tests.support.snapshot import publish_without_dbt


class Site:
    """An installation with nothing wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warehouse = Warehouse(folder)
        self.path = self.warehouse.path
        self.settings = replace(
            Settings.from_environment({}),
            warehouse=self.path,
            landing=folder / "landing",
            published=folder / "published",
            outbox=folder / "outbox",
            reports=folder / "reports",
            collector=folder / "collector",
            spools=(folder / "spool",),
            backup=folder / "backups",
        )
        self.unknown: list[str] = []
        for name in ("landing", "spool", "collector"):
            (folder / name).mkdir()
        self.warehouse.land(
            [ping(f"e{n}") for n in range(3000)], received_at=database.utc_now()
        )
        publish_without_dbt(self.warehouse)
        backup(self.path, folder / "backups", keep=1)

    def look(self, *, read_all: bool = True) -> list[Finding]:
        return look(self.settings, unknown=self.unknown, read_all=read_all)

    def problems(self) -> list[Finding]:
        return [each for each in self.look() if each.level == "problem"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_where_nothing_is_wrong_there_is_no_problem(site: Site) -> None:
    found = site.look()
    assert site.problems() == []
    assert {each.area for each in found if each.level == "ok"} >= {
        *("versions", "configuration", "warehouse", "clock", "snapshot"),
        *("permissions", "disk", "locks", "spool", "landing", "backup"),
    }
    before = site.path.read_bytes()
    site.look()
    assert site.path.read_bytes() == before


def mistype(site: Site) -> None:
    site.unknown = unknown_variables({"LMS_WAREHOSE": "x", "LMS_LANDING": "y"})


def lose_the_warehouse(site: Site) -> None:
    site.path.unlink()


def flip_a_bit(site: Site) -> None:
    content = bytearray(site.path.read_bytes())
    at = content.find(b"VIDEO_PING")
    content[at] ^= 1
    site.path.write_bytes(content)


def make_it_newer(site: Site) -> None:
    with open_for_writing(site.path) as connection:
        formats.note(connection, "outbox", formats.FORMATS["outbox"] + 1)


def lose_the_key(site: Site) -> None:
    with open_for_writing(site.path) as connection:
        tombstones.put(connection, ["u9"], reason="r", erased_at=datetime(2026, 1, 1))
    tombstones.key_file(site.path).unlink()


def show_the_key(site: Site) -> None:
    key = tombstones.key_file(site.path)
    key.write_text("k" * 64)
    key.chmod(0o644)


def show_the_tokens(site: Site) -> None:
    site.settings.tokens.write_text("{}")
    site.settings.tokens.chmod(0o644)


def open_the_folder(site: Site) -> None:
    site.folder.chmod(0o755)
    site.path.chmod(0o644)


def leave_a_spool_file(site: Site) -> None:
    file = write_lines(site.settings.spools[0] / "a.ndjson.part", [ping("e1")])
    os.utime(file, (time.time() - 7200,) * 2)


def take_the_backups_away(site: Site) -> None:
    (site.folder / "backups").rename(site.folder / "elsewhere")


def let_the_backup_grow_old(site: Site) -> None:
    old = database.utc_now() - timedelta(days=9)
    journal.note_backup(
        site.path,
        journal.Backup(
            folder=str(site.folder / "backups"), number=1, load_id=1, made_at=old
        ),
    )


def fail_a_reconcile(site: Site) -> None:
    run = last_runs.Run(database.utc_now(), succeeded=False, failures=("a.table",))
    last_runs.note(site.path, "reconcile", run)


def turn_the_clock_back(site: Site) -> None:
    late = database.utc_now() + timedelta(hours=3)
    site.warehouse.land([ping("to come")], received_at=late)


def publish_nothing_since(site: Site) -> None:
    early = database.utc_now() - timedelta(hours=3)
    site.warehouse.land([ping("unread")], received_at=early)


@pytest.mark.parametrize(
    ("go_wrong", "area", "found", "to_do"),
    [
        (mistype, "configuration", "LMS_WAREHOSE is set", "LMS_WAREHOUSE?"),
        (lose_the_warehouse, "warehouse", "no warehouse there", "restore"),
        (flip_a_bit, "warehouse", "damaged", "restore.md"),
        (make_it_newer, "warehouse", "'outbox'", "use the version"),
        (lose_the_key, "secrets", "key of their tombstones", "put back"),
        (show_the_key, "secrets", "others can read it", "chmod go="),
        (show_the_tokens, "secrets", "tokens.json", "chmod go="),
        (open_the_folder, "permissions", "anybody can read it", "chmod -R o="),
        (leave_a_spool_file, "spool", "a.ndjson.part", "start its writer"),
        (take_the_backups_away, "backup", "no such backup", "reachable"),
        (let_the_backup_grow_old, "backup", "9 d old", "warehouse backup"),
        (fail_a_reconcile, "reconcile", "failed: a.table", "warehouse reconcile"),
        (turn_the_clock_back, "clock", "which is to come", "set the clock"),
        (publish_nothing_since, "snapshot", "waits for 3 h", "warehouse refresh"),
    ],
)
def test_what_is_wrong_is_found_with_what_to_do(
    site: Site, go_wrong: Callable[[Site], None], area: str, found: str, to_do: str
) -> None:
    go_wrong(site)
    problems = site.problems()
    assert any(
        each.area == area and found in each.found and to_do in each.to_do
        for each in problems
    ), problems


def test_who_replaces_the_file_is_named(site: Site) -> None:
    with files.lock(database.replacing_lock(site.path)):
        [held] = [each for each in site.look() if each.area == "locks"]
    assert held.level == "note"
    assert f"process {os.getpid()}" in held.found
    [free] = [each for each in site.look() if each.area == "locks"]
    assert free.level == "ok"


def test_a_spool_file_that_its_writer_has_open_is_no_problem(site: Site) -> None:
    leave_a_spool_file(site)
    with (site.settings.spools[0] / "a.ndjson.part").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert site.problems() == []
    assert [each.area for each in site.problems()] == ["spool"]


def test_a_full_disk_is_said_before_an_erasure_needs_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert [each.area for each in site.problems()] == ["disk"]


def test_who_holds_the_warehouse_is_named_and_not_waited_for(site: Site) -> None:
    code = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(1, flush=True); "
        "sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(site.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    holder.stdout.readline()
    try:
        [held] = [each for each in site.look() if each.area == "warehouse"]
    finally:
        holder.communicate()
    assert held.level == "note"
    assert f"PID {holder.pid}" in held.found


@pytest.fixture
def dagster_home(site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = make_home(site.folder / "dagster")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    site.settings = replace(site.settings, dagster_home=home)
    return home


@pytest.mark.long
def test_a_daemon_that_never_ran_is_a_problem(site: Site, dagster_home: Path) -> None:
    [finding] = site.problems()
    assert (finding.area, "never ran" in finding.found) == ("dagster", True)


@pytest.mark.long
def test_a_silent_daemon_a_switch_that_is_off_and_a_run_that_hangs_are_problems(
    site: Site, dagster_home: Path
) -> None:
    import dagster as dg
    from dagster._core.remote_origin import (
        InProcessCodeLocationOrigin,
        RemoteInstigatorOrigin,
        RemoteRepositoryOrigin,
    )
    from dagster._core.scheduler.instigation import (
        InstigatorState,
        InstigatorStatus,
        InstigatorType,
        ScheduleInstigatorData,
    )
    from dagster._core.test_utils import create_run_for_test
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
    from dagster._daemon.types import DaemonHeartbeat

    def beat(moment: float) -> DaemonHeartbeat:
        return DaemonHeartbeat(moment, "SENSOR", "an id", [])

    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        instance.add_daemon_heartbeat(beat(time.time()))
        assert site.problems() == []

        location = InProcessCodeLocationOrigin(
            LoadableTargetOrigin(executable_path=sys.executable)
        )
        repository = RemoteRepositoryOrigin(
            code_location_origin=location, repository_name="__repository__"
        )
        origin = RemoteInstigatorOrigin(
            repository_origin=repository, instigator_name="checks"
        )
        off = InstigatorState(
            origin,
            InstigatorType.SCHEDULE,
            InstigatorStatus.STOPPED,
            ScheduleInstigatorData("30 3 * * *"),
        )
        instance.add_instigator_state(off)
        [finding] = site.problems()
        assert finding.found == "schedule checks is switched off"

        run = create_run_for_test(instance, "refresh")
        instance.report_engine_event("begins", run)
        began = time.time() - 3 * 3600
        with mock.patch("time.time", return_value=began):
            instance.report_dagster_event(
                dg.DagsterEvent("PIPELINE_START", "refresh"), run.run_id
            )
        found = [each.found for each in site.problems()]
        assert f"run {run.run_id[:8]} of refresh has lasted 3 h" in found

        instance.add_daemon_heartbeat(beat(time.time() - 600))
        found = [each.found for each in site.problems()]
        assert "the daemon is silent for 10 min" in found


def test_with_quick_not_every_block_is_read(site: Site) -> None:
    every_block = "every block of"
    assert any(every_block in each.found for each in site.look())
    assert not any(every_block in each.found for each in site.look(read_all=False))


def test_a_warehouse_of_an_earlier_format_is_looked_at_and_not_changed(
    site: Site,
) -> None:
    with duckdb.connect(str(site.path)) as connection:
        connection.execute("update raw.format set number = 2 where part = 'raw'")
    before = site.path.read_bytes()
    notes = [each.found for each in site.look() if each.level == "note"]
    assert any("format 2" in each for each in notes)
    assert site.path.read_bytes() == before
