"""A restored warehouse has what the backed up one had, and nobody who was erased.

From each source: every table of `raw` and, from a backup, of the outbox; what is
derived follows from them (tests/laws). The victims of kills are real processes.
"""

import shutil
from dataclasses import replace
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from ingest.demo import write_demo_data
from ingest.errors import WarehouseError
from ingest.landing import dead_letters, zone
from ingest.settings import Settings
from ingest.store import journal
from ingest.store.database import open_for_reading
from orchestration.backup import folder as folders
from orchestration.backup.backup import BackedUp, backup
from orchestration.backup.restore import Plan, Restored, Source, plan, restore
from orchestration.erasure.erase import Places, erase
from orchestration.outbox import outbox
from orchestration.snapshot import snapshot
from tests.support.builders import (
    RECEIVED_AT,
    Class,
    Warehouse,
    assert_same_state,
    ping,
    quiz,
    write_lines,
)
from tests.support.kills import KILLS, Processes, instants, kill_again_until
from tests.support.snapshot import publish_without_dbt

CANARY = "canary-7f3a"
LATER = datetime(2026, 4, 1)


Rows = dict[str, list[tuple[Any, ...]]]


class Site:
    """A warehouse, the files that were landed, and the folder of its backups."""

    def __init__(self, folder: Path) -> None:
        self.warehouse = Warehouse(folder)
        self.path = self.warehouse.path
        self.folder = folder
        self.backups = folder / "backups"
        self.settings = replace(
            Settings.from_environment({}),
            warehouse=self.path,
            landing=folder / "landing",
            published=folder / "published",
        )

    def back_up(self, *, keep: int = 7) -> BackedUp:
        return backup(self.path, self.backups, keep=keep)

    def lose(self) -> None:
        self.path.unlink()

    def plan(self, source: Source = "backup", **how: Any) -> Plan:
        folder = self.backups if source == "backup" else None
        return plan(self.settings, source, **{"folder": folder, **how})

    def restore(self, source: Source = "backup", **how: Any) -> Restored:
        restored = restore(self.settings, self.plan(source, **how))
        assert restored.broken_loads == ()
        return restored

    def rows(self) -> Rows:
        """Every row of what is not derived; how long a load took may differ."""
        with open_for_reading(self.path) as connection:
            names = connection.execute(
                "select schema_name, table_name from duckdb_tables() "
                "where schema_name in ('raw', 'outbox') order by all"
            ).fetchall()
            return {
                f"{schema}.{name}": connection.execute(
                    "select columns(lambda c: c != 'seconds') "
                    f"from {schema}.{name} order by all"
                ).fetchall()
                for schema, name in names
            }

    def erase(self, user: str) -> None:
        erase(self.path, [user], Places(self.folder / "outbox"), reason="asked for it")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Landed were two catalogues, of which no name says a time, events, a duplicate, a
    conflict and lines that are no event; a letter was retried, one discarded."""
    site = Site(tmp_path)
    warehouse = site.warehouse
    warehouse.land_catalogue(Class("c1"), received_at=datetime(2026, 3, 1))
    warehouse.land([ping("e1", position=95), ping("e1", position=95), quiz("q1"), b"{"])
    warehouse.land_catalogue(Class("c1"), Class("c2"), received_at=RECEIVED_AT)
    warehouse.land([ping("e1", position=7), ping("e2", user="u2"), ping("\xe9 ")])
    warehouse.land([quiz("late")], received_at=datetime(2026, 3, 1))
    with outbox.opened(site.path) as connection:
        connection.execute(
            "insert into outbox.integration_event values "
            "(1, 's1', 'VIDEO_COMPLETED', 1, 'u1', 'c1', 'k1', '2026-03-10')"
        )
        outbox.move_watermark(connection, "somewhere", 1)
    return site


# --- backing up ----------------------------------------------------------------------


def test_what_is_restored_from_a_backup_is_what_was_there(site: Site) -> None:
    site.warehouse.execute("update raw.dead_letter set first_seen = '2026-03-20'")
    dead_letters.retry(site.path, now=RECEIVED_AT)
    dead_letters.discard(site.path, by="ana", why="junk", now=RECEIVED_AT)
    before = site.rows()
    site.back_up()
    site.lose()

    site.restore()

    assert site.rows() == before
    assert len(before["raw.discarded_letter"]) == 2
    assert len(before["raw.retried_letter"]) == 3
    assert len(before["outbox.integration_event"]) == 1


def test_a_backup_writes_what_is_new_since_the_one_before(site: Site) -> None:
    first = site.back_up()
    again = site.back_up()
    site.warehouse.land([ping("e9")])
    third = site.back_up()

    assert (first.whole, again.whole, third.whole) == (True, False, False)
    assert again.new_bytes == 0
    manifest = folders.read(site.backups, 3)
    new = {file.name for file in manifest.files if "-00000003" in file.name}
    assert {name.split("/")[0] for name in new} == {"raw.lms_event", "raw.load"}
    assert [
        (name, file.rows)
        for table in manifest.tables
        for name, file in ((table.name, file) for file in table.files)
        if name == "raw.lms_event"
    ] == [("raw.lms_event", 4), ("raw.lms_event", 1)]
    before = site.rows()
    site.lose()
    site.restore()
    assert site.rows() == before


def test_so_many_backups_are_kept_and_each_of_them_is_whole(site: Site) -> None:
    states = {}
    for number in range(1, 6):
        site.warehouse.land([ping(f"n{number}")])
        states[number] = site.rows()
        made = site.back_up(keep=2)

    assert made.kept == (4, 5)
    assert folders.numbers(site.backups) == [4, 5]
    named = {
        site.backups / file.name
        for number in (4, 5)
        for file in folders.read(site.backups, number).files
    }
    assert set(site.backups.rglob("*.parquet")) == named
    for number in (4, 5):
        journal.file_of(site.path).unlink()  # else what came later is landed again
        site.lose()
        site.restore(number=number)
        assert site.rows() == states[number]


def test_a_new_warehouse_does_not_push_out_the_backups_of_a_lost_one(
    site: Site,
) -> None:
    site.back_up()
    site.lose()
    site.warehouse.land([ping("other")])

    with pytest.raises(WarehouseError, match=r"has loads that .* has not; restore it"):
        site.back_up(keep=1)

    assert folders.numbers(site.backups) == [1]


def test_a_backup_is_not_put_where_files_are_landed_from(site: Site) -> None:
    with pytest.raises(WarehouseError, match="keeps for its own files"):
        backup(site.path, site.path.parent / "published" / "backups", keep=1)


# --- restoring -----------------------------------------------------------------------


def test_what_was_landed_after_the_backup_is_landed_again_as_it_was_then(
    site: Site,
) -> None:
    site.back_up()
    site.warehouse.land_catalogue(Class("c9"), received_at=LATER)
    site.warehouse.land([ping("e1", position=1), ping("new")], received_at=LATER)
    before = site.rows()
    site.lose()

    restored = site.restore()

    assert len(restored.plan.files) == 2
    assert site.rows() == before


def without_outbox(rows: Rows) -> Rows:
    """What is left where the outbox is not restored, and not even empty."""
    raw = {name: found for name, found in rows.items() if "raw." in name}
    format_rows = [row for row in raw["raw.format"] if "outbox" not in row]
    return {**raw, "raw.format": format_rows}


def test_landing_again_gives_what_was_there_with_its_times_and_in_its_order(
    site: Site,
) -> None:
    before = without_outbox(site.rows())
    times = site.warehouse.rows("select distinct effective_from from raw.catalogue")
    assert len(times) == 2
    site.lose()

    restored = site.restore("landing")

    assert site.rows() == before
    assert any("LMS_OUTBOX" in line for line in restored.plan.lost)


def test_a_file_that_was_moved_in_the_landing_zone_is_found_by_its_content(
    site: Site,
) -> None:
    events = site.settings.landing / "events"
    events.mkdir(parents=True)
    moved = site.folder / "events-2.ndjson"
    before = site.warehouse.rows("select event_id, load_id from raw.lms_event")
    moved.rename(events / "renamed.ndjson")
    site.lose()

    planned = site.plan("landing")
    site.restore("landing")

    assert not any("not there any more" in line for line in planned.lost)
    assert site.warehouse.rows("select event_id, load_id from raw.lms_event") == before


def test_what_cannot_be_restored_is_named_before_anything_is_done(site: Site) -> None:
    (site.folder / "events-2.ndjson").unlink()
    dead_letters.retry(site.path, now=RECEIVED_AT)
    site.lose()

    planned = site.plan("landing")

    lost = "\n".join(planned.lost)
    assert "events-2.ndjson (4 lines" in lost
    assert "retries and discards of dead letters" in lost
    assert not site.path.exists()
    assert list(site.folder.glob(".*.restoring")) == []


def test_without_a_journal_every_file_of_the_landing_zone_is_landed(
    site: Site,
) -> None:
    for kind in ("events", "catalogue"):
        (site.settings.landing / kind).mkdir(parents=True)
    write_lines(site.settings.landing / "events" / "a.ndjson", [ping("a")])
    shutil.copy(site.folder / "catalogue-1.csv", site.settings.landing / "catalogue")
    journal.file_of(site.path).unlink()
    site.lose()

    planned = site.plan("landing")
    site.restore("landing")

    assert "in which order files were landed" in "\n".join(planned.lost)
    assert site.warehouse.rows(
        "select kind, lines_read, accepted from raw.load order by load_id"
    ) == [("catalogue", 0, 0), ("events", 1, 1)]


def test_a_warehouse_is_replaced_only_when_that_is_said_and_loses_nothing(
    site: Site,
) -> None:
    site.back_up()
    site.warehouse.land([ping("new")])
    before = site.rows()
    with pytest.raises(WarehouseError, match="give --replace"):
        site.plan()
    site.warehouse.execute("delete from raw.lms_event")

    site.restore(replace=True)

    assert site.rows() == before


def test_what_is_written_while_it_is_restored_is_not_lost(site: Site) -> None:
    site.back_up()
    planned = site.plan(replace=True)

    def write_meanwhile(_: Path) -> int:
        site.warehouse.land([ping("meanwhile")])
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "orchestration.backup.restore._delete_the_erased", write_meanwhile
        )
        with pytest.raises(WarehouseError, match="was written to meanwhile"):
            restore(site.settings, planned)

    assert ("meanwhile",) in site.warehouse.rows("select event_id from raw.lms_event")


def test_a_damaged_warehouse_is_not_written_over(site: Site) -> None:
    site.back_up()
    content = bytearray(site.path.read_bytes())
    content[: 3 * 4096] = bytes(3 * 4096)
    site.path.write_bytes(content)

    with pytest.raises(WarehouseError, match="cannot be opened, so it is not replaced"):
        site.plan(replace=True)

    assert site.path.read_bytes() == content


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_backup_that_is_damaged_is_not_restored_and_another_one_is(
    site: Site, how: str
) -> None:
    site.back_up()
    site.warehouse.land([ping("new")])
    site.back_up()
    before = site.rows()
    [file] = site.backups.rglob("raw.lms_event/*-00000002.parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o600)
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(content if how == "flipped" else content[:-9])
    site.lose()

    with pytest.raises(WarehouseError, match=r"-00000002\.parquet: .*--number 1"):
        site.plan()
    site.restore(number=1)

    assert site.rows() == before


def test_a_damaged_manifest_and_a_newer_one_are_refused(site: Site) -> None:
    site.back_up()
    path = folders.path_of(site.backups, 1)
    content = path.read_text()
    path.write_text(content.replace('"load_id":5', '"load_id":4'))
    with pytest.raises(WarehouseError, match="damaged"):
        site.plan(replace=True)
    path.write_text(content.replace('"format":1', '"format":2'))
    with pytest.raises(WarehouseError, match="a newer version made it"):
        site.plan(replace=True)


# --- and erasures --------------------------------------------------------------------


@pytest.fixture
def with_canary(site: Site) -> Site:
    site.warehouse.land(
        [
            *(ping(f"{CANARY}-{n}", user=CANARY) for n in range(50)),
            f'{{"user_id": "{CANARY}", '.encode(),
        ]
    )
    site.back_up()
    return site


def holding(folder: Path) -> list[str]:
    """The files in which the canary stands, packed or not: Parquet is read as rows."""
    import duckdb

    found = []
    for file in folder.rglob("*"):
        if file.suffix == ".parquet":
            rows = duckdb.execute(
                "select count(*) from read_parquet($1) as row "
                "where contains(row::varchar, $2)",
                [str(file), CANARY],
            ).fetchall()
            if rows != [(0,)]:
                found.append(file.name)
        elif file.is_file() and CANARY.encode() in file.read_bytes():
            found.append(file.name)
    return found


def test_an_erasure_reaches_the_backups_and_leaves_none_of_before(
    with_canary: Site,
) -> None:
    site = with_canary
    site.warehouse.land([ping("more", user=CANARY)])
    site.back_up()
    assert holding(site.backups)

    site.erase(CANARY)

    assert holding(site.backups) == []
    assert folders.numbers(site.backups) == [3]
    before = site.rows()
    site.lose()
    site.restore()
    assert site.rows() == before


@pytest.mark.parametrize("source", ["backup", "landing"])
def test_an_older_copy_is_restored_without_who_was_erased_since(
    with_canary: Site, source: Source
) -> None:
    site = with_canary
    copy = site.folder / "elsewhere"
    shutil.copytree(site.backups, copy)
    site.erase(CANARY)
    shutil.rmtree(site.backups)
    site.lose()

    restored = site.restore(source, **({"folder": copy} if source == "backup" else {}))

    assert restored.erased_again == (1 if source == "backup" else 0)
    assert CANARY.encode() not in site.path.read_bytes()
    again = site.warehouse.land([ping("again", user=CANARY)])
    assert (again.erased, again.accepted) == (1, 0)


def test_without_the_key_nobody_who_was_erased_comes_back(with_canary: Site) -> None:
    site = with_canary
    site.erase(CANARY)
    site.lose()
    site.path.with_name(f"{site.path.name}.erasure-key").unlink()

    with pytest.raises(WarehouseError, match="the key of their tombstones is missing"):
        restore(site.settings, site.plan())

    assert not site.path.exists()


def test_a_folder_of_backups_that_is_not_there_is_named_by_an_erasure(
    with_canary: Site,
) -> None:
    site = with_canary
    site.backups.rename(site.folder / "taken-away")

    erased = erase(
        site.path, [CANARY], Places(site.folder / "outbox"), reason="asked for it"
    )

    assert erased.backups_missing == (str(site.backups),)
    # Back again, the next backup knows that somebody was erased since.
    (site.folder / "taken-away").rename(site.backups)
    assert holding(site.backups)
    assert site.back_up(keep=7).kept == (2,)
    assert holding(site.backups) == []


# --- from what was published, and the demonstration from all three -------------------


def test_what_was_published_and_what_came_since_give_what_was_there(
    site: Site,
) -> None:
    dead_letters.discard(site.path, by="ana", why="junk", now=RECEIVED_AT)
    publish_without_dbt(site.warehouse)
    site.warehouse.land([ping("since"), b"{{"], received_at=LATER)
    before = without_outbox(site.rows())
    site.lose()

    restored = site.restore("published")

    assert [each.load.load_id for each in restored.plan.files] == [6]
    assert site.rows() == before
    assert len(before["raw.discarded_letter"]) == 3


@pytest.mark.long
def test_the_demonstration_is_restored_from_each_source_row_by_row(
    dbt: None, derived_folder: Path
) -> None:
    shutil.rmtree(derived_folder)
    site = Site(derived_folder)
    write_demo_data(site.settings.landing, learners=6)
    landed = zone.land_zone(site.settings.landing, site.path)
    assert landed.failures == ()
    site.warehouse.refresh(now="2026-10-23 00:00:00")
    snapshot.publish(site.path)
    raw, derived = site.rows(), site.warehouse.state()
    site.back_up()
    sources: tuple[Source, ...] = ("backup", "published", "landing")
    for source in sources:
        site.lose()
        site.restore(source)
        site.warehouse.refresh(now="2026-10-23 00:00:00")
        assert site.rows() == raw, source
        assert_same_state(site.warehouse.state(), derived)
    assert len(derived["signals.lms_signal"]) > 100


# --- killed --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> Processes:
    context = get_context("forkserver")
    context.set_forkserver_preload(["orchestration.backup.restore"])
    return Processes(context)


def back_up(site: Site) -> None:
    site.back_up(keep=1)


def restore_over(site: Site) -> None:
    site.restore(replace=True)


def large(folder: Path) -> Site:
    folder.mkdir()
    site = Site(folder)
    site.warehouse.land([ping(f"e{n}") for n in range(3000)])
    site.back_up()
    site.warehouse.land([ping(f"f{n}") for n in range(3000)])
    return site


@pytest.mark.long
@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("run", [back_up, restore_over])
def test_killed_at_any_instant_the_backup_before_and_the_warehouse_are_whole(
    tmp_path: Path, processes: Processes, run: Any, kills: int
) -> None:
    cpu_seconds = processes.cpu_seconds(run, large(tmp_path / "unbroken"))

    def kill(attempt: int) -> bool:
        site = large(tmp_path / str(attempt))
        before = site.rows()
        was_at_work = processes.killed(instants.uniform(0, cpu_seconds), run, site)
        assert site.rows() == before
        newest = folders.numbers(site.backups)[-1]
        assert (
            folders.problems(
                site.backups, folders.read(site.backups, newest), read_all=True
            )
            == []
        )
        site.lose()
        site.restore()
        assert site.rows() == before
        site.back_up(keep=1)
        files = {file.name for file in folders.read(site.backups, newest + 1).files}
        there = {
            str(path.relative_to(site.backups))
            for path in site.backups.rglob("*")
            if path.is_file() and path.parent != site.backups
        }
        assert there == files
        return was_at_work

    kill_again_until(kills, kill)
