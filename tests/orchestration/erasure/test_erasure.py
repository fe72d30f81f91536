"""Erased: in no row, in no file, in no byte, and not to come back.

And everybody else's rows are as they were, conservation holds, and a killed erasure is
finished by the same again.
"""

import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ingest.contracts.events import VideoPingV2
from ingest.errors import WarehouseError
from ingest.landing import dead_letters
from ingest.settings import Settings
from ingest.spool.writer import SpoolWriter, new_event
from ingest.store import conservation, tombstones
from ingest.store.database import open_for_reading
from orchestration.erasure.erase import ERASED_SCOPE, Erasure, Places, erase
from orchestration.erasure.logs import Names, erase_logs
from orchestration.outbox import delivery
from orchestration.outbox.integration_events import FORMATS
from orchestration.outbox.settings import PublishSettings
from orchestration.shadow import sandbox, swap
from orchestration.shadow.replay import Scope, replay
from orchestration.snapshot import snapshot
from serving import access, published, query
from serving.reader import Follower
from tests.support.builders import (
    NOW,
    RECEIVED_AT,
    Class,
    Json,
    Line,
    Warehouse,
    as_line,
    assert_same_state,
    ping,
    quiz,
    write_lines,
)
from tests.support.kills import KILLS, instants, kill_again_until

CANARY = "canary-7f3a"
# Its ids begin with it, too: of another learner, who stays.
NEIGHBOUR = f"{CANARY}0"
ERASED_AT = datetime(2026, 3, 21)
LATER = datetime(2026, 3, 22)


def event_of(user: str, number: int) -> list[Json]:
    """A learner's events of one class: a completing ping and a passed quiz."""
    where: Json = {"user": user, "in_class": f"c{number}"}
    return [
        ping(f"{user}-p{number}", position=95, **where),
        quiz(f"{user}-q{number}", **where),
    ]


CANARY_LINES: list[Line] = [
    *event_of(CANARY, 1),
    *event_of(CANARY, 2),
    # A duplicate, a conflict, and lines that are no event in several ways.
    *event_of(CANARY, 1)[:1],
    ping(f"{CANARY}-p1", position=7, user=CANARY),
    ping(f"{CANARY}-bad", position=-1, user=CANARY),
    f'{{"event_id": "torn", "user_id": "{CANARY}'.encode(),
    f"plain text of {CANARY}; no JSON".encode(),
    f'{{"who": "\\u0063{CANARY[1:]}"}}'.encode(),
    f'{{"user_id": "{CANARY}", "at": "'.encode() + b'\xff"}',
]
OTHER_LINES: list[Line] = [
    *event_of("u1", 1),
    *event_of("u2", 1),
    *event_of("u2", 2),
    *event_of(NEIGHBOUR, 1),
    ping("u1-p1", position=8, user="u1"),
    ping("u1-bad", position=-1, user="u1"),
    f'{{"user_id": "{NEIGHBOUR}", '.encode(),
    b"no JSON of anybody",
]


class Site:
    """A warehouse with all that it may have, and the folders around it."""

    def __init__(self, folder: Path) -> None:
        self.warehouse = Warehouse(folder / "data")
        self.places = Places(
            outbox=folder / "outbox",
            spools=(folder / "spool",),
            logs=folder / "dagster",
            reports=folder / "reports",
            of_others=(folder / "landing",),
        )
        self.folder = folder

    @property
    def path(self) -> Path:
        return self.warehouse.path

    def erase(self, *users: str, dry_run: bool = False) -> Erasure:
        return erase(
            self.path,
            users or [CANARY],
            self.places,
            reason="asked for it",
            dry_run=dry_run,
            now=ERASED_AT,
        )

    def publish(self) -> None:
        settings = Settings.from_environment({})
        how = replace(
            PublishSettings.of(settings), folder=self.places.outbox, batch_events=3
        )
        result = delivery.publish(self.path, how, FORMATS)
        assert not result.failures

    def own_files(self) -> dict[str, bytes]:
        """The content of every file of the warehouse; landed files are not its own."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for name in ("data", "outbox", "spool", "dagster")
            for path in sorted((self.folder / name).rglob("*"))
            if path.is_file()
            and (name == "outbox" or path.suffix not in (".ndjson", ".lock"))
        }

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table and view, as text."""
        with open_for_reading(self.path) as connection:
            names = connection.execute(
                """
                select schema_name, table_name from duckdb_tables()
                union all
                select schema_name, view_name from duckdb_views()
                where not internal and view_name != 'v_user_activity'
                order by all
                """
            ).fetchall()
            return {
                f"{schema}.{name}": connection.execute(
                    f'select t::varchar from "{schema}"."{name}" as t order by all'
                ).fetchall()
                for schema, name in names
            }


def holding(site: Site, text: str) -> list[str]:
    """The files in which the text stands, where no longer id goes on from it."""
    return [
        name
        for name, content in site.own_files().items()
        if text.encode() in content.replace(NEIGHBOUR.encode(), b"")
    ]


def assert_conserved(site: Site) -> None:
    with open_for_reading(site.path) as connection:
        assert conservation.broken_loads(connection) == []
        assert conservation.totals(connection).unaccounted == 0


def run_in_dagster(home: Path, user: str) -> str:
    """A run as replays and refreshes leave them: ids in its configuration, its log, a
    sample, a check and its standard error."""
    import dagster as dg

    @dg.asset(
        config_schema={"user": str},
        check_specs=[dg.AssetCheckSpec("is_sound", asset="progress")],
    )
    def progress(context: dg.AssetExecutionContext) -> Iterator[Any]:
        user = context.op_execution_context.op_config["user"]
        context.log.info(f"of {user!r}")
        print(f"{user} is at work", file=sys.stderr)
        yield dg.MaterializeResult(
            metadata={"sample": dg.MetadataValue.md(f"| {user} |")}
        )
        yield dg.AssetCheckResult(passed=False, metadata={"problems": [user]})

    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        result = dg.materialize(
            [progress],
            instance=instance,
            run_config={"ops": {"progress": {"config": {"user": user}}}},
        )
        return result.run_id


def make_site(folder: Path) -> Site:
    site = Site(folder)
    for name in ("data", "spool", "landing", "outbox"):
        (folder / name).mkdir()
    warehouse = site.warehouse
    warehouse.land_catalogue(Class("c1", has_quiz=1), Class("c2", has_quiz=1))
    # Lines that a clock to come makes wrong, and a retry accepts.
    early = datetime(2026, 3, 1)
    late = [
        quiz(f"{user}-late", user=user, in_class="c3") for user in (CANARY, "u1", "u2")
    ]
    warehouse.land([*late, b"{"], received_at=early)
    warehouse.execute("update raw.dead_letter set first_seen = '2026-03-20'")
    dead_letters.retry(warehouse.path, now=RECEIVED_AT)
    warehouse.land([*OTHER_LINES[:4], *CANARY_LINES, *OTHER_LINES[4:]])
    warehouse.refresh()
    site.publish()
    snapshot.publish(warehouse.path)
    sandbox.make(warehouse.path, "trial")
    # What a swap replaced is kept, and says of whom it was.
    warehouse.execute("update projections.prj_video_progress set ping_count = 99")
    replay(
        warehouse.path, Scope(users=(CANARY, "u2")), apply=True, variables={"now": NOW}
    )
    warehouse.execute(
        "update projections.prj_video_progress set ping_count = 1 where ping_count = 99"
    )
    letters = {
        letter.text: letter.id
        for letter in dead_letters.list_letters(warehouse.path).letters
    }
    for part in ("plain text", "no JSON of anybody"):
        [chosen] = [each for text, each in letters.items() if part in text]
        dead_letters.discard(
            warehouse.path,
            dead_letters.Selection((chosen,)),
            by="ana",
            why="junk",
            now=RECEIVED_AT,
        )
    spooled = [*event_of("u1", 5), *event_of(CANARY, 5)]
    write_lines(folder / "spool" / "a.ndjson.part", spooled)
    write_lines(folder / "spool" / "b.ndjson.part", event_of(CANARY, 6))
    write_lines(folder / "landing" / "a.ndjson", event_of(CANARY, 1))
    write_lines(folder / "landing" / "b.ndjson", event_of(NEIGHBOUR, 1))
    (folder / "outbox" / "cloudevents" / ".x.ndjson.unfinished").write_text(CANARY)
    run_in_dagster(folder / "dagster", CANARY)
    return site


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("original"))


def copy_of(site: Site, folder: Path) -> Site:
    """With its folder moved: targets of the outbox are known by their path."""
    shutil.copytree(site.folder, folder)
    copy = Site(folder)
    copy.warehouse.execute(
        "update outbox.watermark "
        f"set target = replace(target, '{site.folder}', '{folder}')"
    )
    return copy


@pytest.fixture
def site(original: Site, tmp_path: Path) -> Site:
    return copy_of(original, tmp_path / "site")


@pytest.fixture(scope="module")
def erased(original: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """After an unbroken erasure; for tests that only read."""
    copy = copy_of(original, tmp_path_factory.mktemp("erased") / "site")
    copy.erase()
    return copy


def test_no_byte_of_the_learner_is_left_in_any_file(
    original: Site, erased: Site
) -> None:
    assert len(holding(original, CANARY)) > 4
    assert holding(erased, CANARY) == []
    assert not list(erased.folder.rglob("*.wal"))


def test_readers_and_sandboxes_have_nothing_of_the_learner_either(
    original: Site, erased: Site
) -> None:
    before = [name for name in holding(original, CANARY) if "published" in name]
    assert any(name.endswith(".parquet") for name in before)
    assert any(name.endswith(".duckdb") for name in before)
    assert [made.name for made in sandbox.sandboxes(original.path)] == ["trial"]
    assert sandbox.sandboxes(erased.path) == []
    query = "select user_id, count(*) from raw.lms_event group by all order by all"
    with published.opened(erased.path) as connection:
        seen = connection.execute(query).fetchall()
    assert seen == erased.warehouse.rows(query)
    assert NEIGHBOUR in dict(seen)


def published_here(site: Site) -> Follower:
    """A snapshot of this copy of a site: the one it came with names files there."""
    site.warehouse.land([ping("later", user="u1")])
    site.warehouse.refresh()
    assert snapshot.publish(site.path).is_new
    return Follower(published.snapshot_path(site.path))


@pytest.mark.long
@pytest.mark.parametrize("reads", ["a question", "a page"])
def test_who_reads_a_snapshot_of_before_an_erasure_is_told_to_ask_again(
    site: Site, reads: str
) -> None:
    follower = published_here(site)
    sql = "from raw.lms_event"

    def ask_before_and_after() -> None:
        if reads == "a question":
            with published.opened(site.path) as connection:
                assert query.ask(connection, sql).rows
                site.erase()
                query.ask(connection, sql)
        else:
            with follower.reader(access.Scope()) as reader:
                assert reader.rows(sql)
                site.erase()
                reader.rows(sql)

    with pytest.raises(WarehouseError, match="because a learner was erased; ask again"):
        ask_before_and_after()


@pytest.mark.long
def test_who_was_told_of_a_snapshot_just_before_an_erasure_gets_the_next(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = published_here(site)
    before = follower.newest()
    site.erase()
    after = follower.newest()
    assert not before.exists()
    told = iter([before, after])
    monkeypatch.setattr(follower, "newest", lambda: next(told))
    assert follower.snapshot().file == after


def test_no_weekly_report_of_before_is_left(site: Site) -> None:
    """It is written again; in HTML an id may be spelled in many ways."""
    images = site.folder / "reports" / "images"
    images.mkdir(parents=True)
    image = images / "all-courses-events.png"
    image.write_bytes(b"")
    page = site.folder / "reports" / "all-courses.html"
    page.write_text("of many")
    site.erase(dry_run=True)
    assert page.exists()
    site.erase()
    assert not page.exists()
    assert not image.exists()


def test_files_in_an_outbox_that_only_the_publisher_was_told_of_are_erased_too(
    site: Site,
) -> None:
    elsewhere = site.folder / "elsewhere"
    site.places.outbox.rename(elsewhere)
    site.warehouse.execute(
        "update outbox.watermark "
        f"set target = replace(target, '{site.places.outbox}', '{elsewhere}')"
    )
    site.erase()
    contents = [file.read_text() for file in elsewhere.rglob("*") if file.is_file()]
    assert NEIGHBOUR in "".join(contents)
    assert CANARY not in "".join(contents).replace(NEIGHBOUR, "")


@pytest.mark.long
def test_dagster_s_logs_of_the_learner_are_erased_and_those_of_others_stay(
    original: Site, tmp_path: Path
) -> None:
    import dagster as dg

    users = [CANARY, 'ann "the" canary', NEIGHBOUR]
    site = copy_of(original, tmp_path / "site")
    home = site.folder / "dagster"
    shutil.rmtree(home)
    runs = [run_in_dagster(home, user) for user in users]
    (home / "dagster.yaml").write_text(f"telemetry: {{enabled: false}} # {CANARY}\n")

    def naming(user: str) -> set[str]:
        texts = {user, json.dumps(user)[1:-1], json.dumps(json.dumps(user))[3:-3]}
        return {
            file.name
            for file in home.rglob("*")
            if file.is_file() and file.name != "dagster.yaml"
            for content in [file.read_bytes().replace(NEIGHBOUR.encode(), b"")]
            if any(text.encode() in content for text in texts)
        }

    assert len(naming(users[0])) >= 4
    assert len(naming(users[1])) >= 4
    foretold = site.erase(*users[:2], dry_run=True).lines

    erased = site.erase(*users[:2])

    assert naming(users[0]) == naming(users[1]) == set()
    assert {name: n for name, n in erased.lines.items() if str(home) in name} == {
        name: n for name, n in foretold.items() if str(home) in name
    }
    # What is no log is nobody's to cut lines from.
    assert [name for name in erased.left if str(home) in name] == [
        str(home / "dagster.yaml")
    ]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert [run.run_id for run in instance.get_runs()] == [runs[2]]
        log = [entry.user_message for entry in instance.all_logs(runs[2])]
        assert f"of {NEIGHBOUR!r}" in log
    assert site.erase(*users[:2]).lines == {}
    run_in_dagster(home, NEIGHBOUR)


def test_lines_of_a_log_that_name_nobody_stay_byte_for_byte(tmp_path: Path) -> None:
    learner = 'ann "the" canary'
    said = json.dumps({"text": f"of {learner}"})
    stay = [b"of another\r\n", b"\n", b"of canary alone\n", b"cut off"]
    lines = [
        *(stay[0], f"of {learner}\n".encode(), stay[1], f"{said}\n".encode()),
        *(stay[2], f"{json.dumps(said)}\n".encode(), stay[3]),
    ]
    log = tmp_path / "1.out"
    log.write_bytes(b"".join(lines))
    assert erase_logs(tmp_path, Names.of([learner]), dry_run=True) == {str(log): 3}
    assert log.read_bytes() == b"".join(lines)
    assert erase_logs(tmp_path, Names.of([learner]), dry_run=False) == {str(log): 3}
    assert log.read_bytes() == b"".join(stay)


def test_everybody_else_s_rows_are_as_they_were(original: Site, erased: Site) -> None:
    before, after = original.tables(), erased.tables()
    del before["raw.tombstone"], after["raw.tombstone"]
    aggregates = {
        *("raw.load", "raw.retried_letter", "staging.stg_load"),
        *("monitoring.v_event_daily_stats", "monitoring.v_load_outcome"),
        *("monitoring.v_dead_letter_summary", "previous.replay"),
        *("monitoring.v_leaderboard", "outbox.batch", "outbox.watermark"),
        *("monitoring.v_unknown_class", "staging.stg_dead_letter"),
        *("analytics.v_video_retention", "analytics.v_quiz_difficulty"),
        *("analytics.v_course_funnel", "analytics.v_kpi"),
        "analytics.v_leaderboard_v2",
    }
    assert before.keys() == after.keys()
    for name in before.keys() - aggregates:
        others = [row for row in before[name] if not is_about_canary(row[0])]
        assert after[name] == others, name


def is_about_canary(row: str) -> bool:
    text = row.replace(NEIGHBOUR, "")
    return CANARY in text or f"u0063{CANARY[1:]}" in text


@pytest.mark.long
def test_the_aggregates_are_those_of_a_rebuild_and_the_next_refresh_changes_nothing(
    site: Site,
) -> None:
    site.erase()
    erased = site.warehouse.state()
    site.warehouse.refresh()
    assert_same_state(site.warehouse.state(), erased)
    site.warehouse.rebuild()
    assert_same_state(site.warehouse.state(), erased)
    assert site.warehouse.rows(
        "select distinct user_id from progress.v_user_progress order by all"
    ) == [(NEIGHBOUR,), ("u1",), ("u2",)]


def test_every_line_is_accounted_for_and_the_loads_say_how_many_are_erased(
    original: Site, erased: Site
) -> None:
    assert_conserved(original)
    assert_conserved(erased)
    # 4 events and 6 letters of the file, one event of the retry.
    assert erased.warehouse.rows(
        "select load_id, erased from raw.load where erased > 0 order by all"
    ) == [(3, 1), (4, 10)]
    [[outcomes]] = erased.warehouse.rows(
        "select list(outcome order by outcome) from raw.retried_letter"
    )
    assert outcomes == ["accepted", "accepted", "erased", "rejected"]


@pytest.mark.long
def test_the_data_tests_of_dbt_hold(site: Site) -> None:
    from orchestration.derive import dbt_runner

    site.erase()
    # With the variables of the other runs, dbt need not parse again.
    result = dbt_runner.check(site.path, variables={"now": NOW})
    assert [(node.name, node.message) for node in result.failures] == []


def test_the_tables_keep_their_definition_and_their_compression(
    original: Site, erased: Site
) -> None:
    tables = "select schema_name, table_name, sql from duckdb_tables() order by all"
    assert erased.warehouse.rows(tables) == original.warehouse.rows(tables)
    assert erased.path.stat().st_mode == original.path.stat().st_mode
    assert erased.warehouse.rows(
        "select count(*) from raw.lms_event where payload is null"
    ) == [(0,)]


COMING_AGAIN: list[Line] = [
    *CANARY_LINES,
    ping("new", user=CANARY),
    ping("u1-p1", position=9, user=CANARY),
]


def test_the_same_events_coming_again_are_refused_and_counted(site: Site) -> None:
    site.erase()
    load = site.warehouse.land([*COMING_AGAIN, ping("u3", user="u3"), b"{"])
    assert (load.lines_read, load.accepted, load.rejected, load.erased) == (
        *(len(COMING_AGAIN) + 2, 1, 1),
        len(COMING_AGAIN),
    )
    assert_conserved(site)
    assert holding(site, CANARY) == []


def test_a_dead_letter_that_a_retry_finds_to_be_of_an_erased_learner_is_gone(
    site: Site,
) -> None:
    site.erase()
    line = as_line(ping("again", user=CANARY))
    site.warehouse.execute(
        f"""
        update raw.dead_letter
        set line = encode('{line.decode()}'), line_bytes = {len(line)}
        where reason = 'out_of_range'
        """
    )
    result = dead_letters.retry(site.path, now=LATER)
    assert (result.accepted, result.erased) == (0, 1)
    assert (
        site.warehouse.value(
            "select count(*) from raw.dead_letter where reason = 'out_of_range'"
        )
        == 0
    )
    assert_conserved(site)


def test_a_published_event_of_another_stays_and_nothing_is_published_twice(
    original: Site, site: Site
) -> None:
    def published(site: Site) -> list[bytes]:
        return [
            line
            for path in sorted(site.places.outbox.rglob("*.ndjson"))
            for line in path.read_bytes().splitlines()
        ]

    site.erase()
    site.publish()
    others = [line for line in published(original) if not is_about_canary(str(line))]
    assert published(site) == others


def test_a_replay_can_still_be_undone_and_brings_nobody_back(site: Site) -> None:
    site.erase()
    undone = swap.undo(site.path)
    assert undone.scope == ERASED_SCOPE
    assert not any(
        is_about_canary(row) for rows in site.tables().values() for (row,) in rows
    )


def test_a_dry_run_counts_the_same_and_changes_no_byte(
    original: Site, erased: Site, site: Site
) -> None:
    before = site.own_files()
    would_be = site.erase(dry_run=True)
    assert site.own_files() == before
    was = site.erase()
    assert (would_be.rows, would_be.lines) == (was.rows, was.lines)
    assert would_be.mentions == was.mentions == {}
    assert was.rows["raw.lms_event"] == 5
    assert was.rows["raw.dead_letter"] == 5
    assert was.rows["raw.discarded_letter"] == 1
    assert {"outbox.integration_event", "previous.learner"} < was.rows.keys()
    assert was.new_tombstones == 1


def test_files_of_others_that_name_the_learner_are_listed(site: Site) -> None:
    site.warehouse.land([ping("once more", user=CANARY)])
    [landed] = site.folder.glob("data/events-1.ndjson")
    result = site.erase()
    listed = {Path(file) for file in result.left}
    # In the landing zone, and wherever else a load says that it took a file from.
    assert {site.folder / "landing" / "a.ndjson", landed} < listed
    assert site.folder / "landing" / "b.ndjson" not in listed
    assert all(file.exists() for file in listed)


def test_rows_of_others_that_mention_the_learner_stay_and_are_counted(
    site: Site,
) -> None:
    site.warehouse.land([ping("peer", user="u1", note=f"with {CANARY}")])
    assert site.erase(dry_run=True).mentions == {"raw.lms_event": 1}
    result = site.erase()
    assert result.mentions == {"raw.lms_event": 1}
    assert site.warehouse.value(
        "select count(*) from raw.lms_event where event_id = 'peer'"
    )


def test_a_spool_file_that_a_writer_has_open_is_named_and_left(
    site: Site, tmp_path: Path
) -> None:
    with SpoolWriter(site.folder / "spool", site.folder / "landing") as writer:
        writer.put(
            new_event(
                VideoPingV2(video_id="v1", position_sec=1, duration_sec=9),
                user_id=CANARY,
                class_id="c1",
                occurred_at=datetime.now(UTC),
            )
        )
        writer.flush()
        result = site.erase()
        assert len(result.in_use) == 1
        assert not set(result.in_use) & set(result.left)
    assert site.erase().in_use == ()


@pytest.mark.long
def test_erasing_twice_and_several(site: Site) -> None:
    first = site.erase()
    once = site.tables()
    again = site.erase()
    assert (first.new_tombstones, again.new_tombstones, again.rows) == (1, 0, {})
    assert site.tables() == once
    both = site.erase(CANARY, "u2", "never-seen")
    assert both.new_tombstones == 2
    assert holding(site, "u2-p1") == []
    assert_conserved(site)


def test_without_the_key_or_with_another_nobody_lands_anything(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.erase()
    key = tombstones.key_file(site.path)
    assert key.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("LMS_ERASURE_KEY", "another key of at least 32 characters")
    with pytest.raises(WarehouseError, match="not the key that the tombstones"):
        site.warehouse.land(COMING_AGAIN)
    monkeypatch.delenv("LMS_ERASURE_KEY")
    content = key.read_text()
    key.unlink()
    with pytest.raises(WarehouseError, match="put back"):
        site.warehouse.land(COMING_AGAIN)
    monkeypatch.setenv("LMS_ERASURE_KEY", content.strip())
    assert site.warehouse.land(COMING_AGAIN).erased == len(COMING_AGAIN)


@pytest.mark.parametrize("reason", [" ", f"mail of {CANARY}, May 3"])
def test_a_reason_is_asked_for_and_names_nobody(site: Site, reason: str) -> None:
    before = site.own_files()
    with pytest.raises(WarehouseError, match="--reason"):
        erase(site.path, [CANARY], site.places, reason=reason)
    assert site.own_files() == before


def test_an_older_warehouse_gets_what_it_lacks_when_it_is_opened(
    warehouse: Warehouse,
) -> None:
    warehouse.land([ping("e1")])
    with duckdb.connect(str(warehouse.path)) as connection:
        connection.execute("drop table raw.tombstone")
        connection.execute("drop table raw.format")
        connection.execute("alter table raw.load drop column erased")
    with open_for_reading(warehouse.path) as connection:
        assert conservation.broken_loads(connection) == []
    warehouse.land([ping("e2")])
    assert warehouse.rows("select erased from raw.load") == [(0,), (0,)]


def test_the_line_of_a_learner_is_told_from_that_of_another() -> None:
    assert tombstones.learners_of(b'{"user_id": "a", "x": "b"') == {"a"}
    assert tombstones.learners_of(b'{"user_id": "a", "user_id": "b"}') == {"a", "b"}
    assert {"a b", "a", "1.5", "x@y.z"} < tombstones.learners_of(b'["a b", 1.5 x@y.z')


# --------------------------------------------------------------------------------------
# Killed
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(["test_erase", "pytest"])
    return context


def whole_state(site: Site) -> tuple[Any, ...]:
    """Rows and files, by content; a key is drawn anew in each warehouse."""
    tables = site.tables()
    tables["raw.tombstone"] = [(len(tables["raw.tombstone"]),)]
    places = tables.pop("outbox.watermark")
    files = {
        name: content
        for name, content in site.own_files().items()
        if not name.startswith(("data", "dagster"))  # SQLite's bytes hang on the way
    }
    # Snapshots are numbered, and a killed erasure may have published one more.
    names = sorted(
        name
        for name in site.own_files()
        if name.startswith("data") and "published" not in name
    )
    return tables, len(places), files, names


def erase_in_process(folder: Path) -> None:
    Site(folder).erase()


@pytest.mark.long
@pytest.mark.parametrize("kills", KILLS)
def test_an_erasure_after_a_killed_one_ends_as_an_unbroken_one(
    original: Site,
    erased: Site,
    tmp_path: Path,
    processes: ForkServerContext,
    kills: int,
) -> None:
    expected = whole_state(erased)
    warm = copy_of(original, tmp_path / "warm")
    process = processes.Process(target=erase_in_process, args=(warm.folder,))
    process.start()
    process.join()
    measured = copy_of(original, tmp_path / "measured")
    started = time.perf_counter()
    process = processes.Process(target=erase_in_process, args=(measured.folder,))
    process.start()
    process.join()
    seconds = time.perf_counter() - started
    assert process.exitcode == 0

    def kill(attempt: int) -> bool:
        copy = copy_of(original, tmp_path / str(attempt))
        process = processes.Process(target=erase_in_process, args=(copy.folder,))
        process.start()
        time.sleep(instants.uniform(seconds / 10, seconds))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        copy.erase()
        assert whole_state(copy) == expected
        assert holding(copy, CANARY) == []
        shutil.rmtree(copy.folder)
        return process.exitcode != 0

    kill_again_until(kills, kill)


def test_the_command_says_what_it_did(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from orchestration.cli import app

    monkeypatch.setenv("LMS_WAREHOUSE", str(site.path))
    monkeypatch.setenv("LMS_OUTBOX", str(site.places.outbox))
    monkeypatch.setenv("LMS_LANDING", str(site.folder / "landing"))
    users = tmp_path / "users.txt"
    users.write_text(f"{CANARY}\r\n\nu2\n")
    ran = CliRunner().invoke(
        app,
        [
            *("erase", "--users-file", str(users), "--reason", "ticket 12"),
            *("--spool", str(site.folder / "spool"), "--json"),
        ],
    )
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert (said["learners"], said["new_tombstones"]) == (2, 2)
    assert said["rows"]["raw.lms_event"] == 10
    assert CliRunner().invoke(app, ["erase", "--reason", "x"]).exit_code == 2
