"""Replay: the same again when no rule changed, a rebuild when one did, and the past.

A replay finds nothing in a sound state, whatever it is of and whenever it runs. It puts
a damaged one right, and what is refreshed afterwards cannot tell.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import dagster as dg
import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import WarehouseError
from ingest.store.database import open_for_reading, open_for_writing
from orchestration.cli import main
from orchestration.derive import dbt_project
from orchestration.derive.dbt_project import Relation
from orchestration.shadow import shadow
from orchestration.shadow.as_of import ANSWERS, as_of
from orchestration.shadow.replay import NothingMatches, Replay, Scope, replay
from orchestration.shadow.shadow import Shadow
from orchestration.shadow.swap import swap, undo
from tests.support.builders import (
    NOW,
    Class,
    Warehouse,
    assert_same_state,
    new_warehouse,
    ping,
)
from tests.support.kills import KILLS, instants, kill_again_until
from tests.support.logs import CLASSES, COURSES, USERS, Log, a_log, dense_log

VARIABLES = {"now": NOW}


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the dbt project, whose rules a test may change: parsing what one file
    changes takes 0.5 s, another project 5."""
    folder = tmp_path_factory.mktemp("project") / "dbt_project"
    shutil.copytree(
        dbt_project.DBT_PROJECT, folder, ignore=shutil.ignore_patterns("target", "logs")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dbt_project, "DBT_PROJECT", folder)
        patch.setenv("DBT_TARGET_PATH", str(folder / "target"))
        yield folder


@contextmanager
def edited(project: Path, file: str, old: str, new: str) -> Iterator[None]:
    path = project / file
    before = path.read_text()
    assert before.count(old) >= 1
    path.write_text(before.replace(old, new))
    try:
        yield
    finally:
        path.write_text(before)


def replayed(
    warehouse: Warehouse, scope: Scope | None = None, **options: Any
) -> Replay:
    return replay(warehouse.path, scope, variables=VARIABLES, **options)


Tables = dict[str, list[tuple[Any, ...]]]


def tables_of(warehouse: Warehouse) -> Tables:
    """Every row of every derived table, with `load_id` and the bookkeeping."""
    with open_for_reading(warehouse.path) as connection:
        names = connection.execute(
            """
            select schema_name || '.' || table_name
            from duckdb_tables()
            where schema_name in ('projections', 'signals', 'staging', 'bookkeeping')
            order by all
            """
        ).fetchall()
        tables = {
            name: connection.execute(f"from {name}").fetchall() for (name,) in names
        }
    consumed = tables["bookkeeping.watermark"]
    tables["bookkeeping.watermark"] = [row[:3] for row in consumed]  # not when
    return {name: sorted(rows, key=repr) for name, rows in tables.items()}


def of_user(tables: Tables, user: str) -> Tables:
    """The learner's rows."""
    return {name: [row for row in rows if user in row] for name, rows in tables.items()}


def copied(warehouse: Warehouse, folder: Path) -> Warehouse:
    folder.mkdir(parents=True)
    copy = Warehouse(folder)
    shutil.copy(warehouse.path, copy.path)
    return copy


def land(warehouse: Warehouse, log: Log, *, first: bool) -> None:
    """The first half of the log's events and the first two snapshots, or the rest."""
    half = len(log.events) // 2
    for effective_from, classes in log.snapshots[:2] if first else log.snapshots[2:]:
        warehouse.land_catalogue(*classes, effective_from=effective_from)
    events = log.events[:half] if first else log.events[half:]
    warehouse.land(events[::2])
    warehouse.land(events[1::2])


def changes(found: Replay) -> dict[str, tuple[int, int, int]]:
    """Rows added, gone and changed, of the tables that differ."""
    return {
        each.table: (each.added, each.gone, each.changed)
        for each in found.differences
        if not each.is_empty
    }


@pytest.fixture(scope="module")
def refreshed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    warehouse = Warehouse(tmp_path_factory.mktemp("refreshed"))
    land(warehouse, dense_log(), first=True)
    warehouse.refresh()
    return warehouse


@pytest.fixture(scope="module")
def landed_since(
    refreshed: Warehouse, tmp_path_factory: pytest.TempPathFactory
) -> Warehouse:
    """Events and a snapshot have landed that the state has not taken in."""
    warehouse = copied(refreshed, tmp_path_factory.mktemp("landed") / "since")
    land(warehouse, dense_log(), first=False)
    return warehouse


@pytest.fixture(scope="module")
def all_taken_in(
    landed_since: Warehouse, tmp_path_factory: pytest.TempPathFactory
) -> Warehouse:
    warehouse = copied(landed_since, tmp_path_factory.mktemp("all") / "taken_in")
    warehouse.rebuild()
    return warehouse


# --------------------------------------------------------------------------------------
# No rule changed
# --------------------------------------------------------------------------------------


def scopes() -> st.SearchStrategy[Scope]:
    moments = st.sampled_from(
        [None, datetime(2026, 3, 9), datetime(2026, 3, 11), datetime(2026, 3, 16)]
    )

    def some(values: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
        return st.lists(st.sampled_from(values), max_size=2).map(tuple)

    return st.builds(
        Scope,
        users=some(USERS),
        classes=some(CLASSES),
        courses=some([*COURSES, "k9"]),
        since=moments,
        until=moments,
    )


@settings(max_examples=3, deadline=None)
@given(data=st.data(), scope=scopes())
def test_a_replay_of_anything_at_any_moment_changes_nothing(
    refreshed: Warehouse, landed_since: Warehouse, data: st.DataObject, scope: Scope
) -> None:
    warehouse = data.draw(st.sampled_from([refreshed, landed_since]))
    before = warehouse.path.read_bytes()
    with contextlib.suppress(NothingMatches):
        found = replayed(warehouse, scope, apply=True)
        assert found.differences
        assert changes(found) == {}
        assert (found.changed_rules, found.changed_views) == ((), ())
        assert not found.applied
    assert warehouse.path.read_bytes() == before
    assert list(warehouse.folder.glob("*shadow*")) == []


DAMAGES = [
    "delete from {table} where user_id = $user",
    "insert into {table} select * from {table} where user_id = $user",
    "update {table} set load_id = 1 where user_id = $user",
    "insert into {table} select * replace ($ghost as user_id) from {table}",
]
GHOST = "a learner without events"


def damage(warehouse: Warehouse, random: Random, users: list[str]) -> None:
    tables = [
        name
        for name, rows in tables_of(warehouse).items()
        if any("u1" in row for row in rows)
    ]
    with open_for_writing(warehouse.path) as connection:
        for user in users:
            statement = random.choice(DAMAGES).format(table=random.choice(tables))
            name, value = ("user", user) if "$user" in statement else ("ghost", GHOST)
            connection.execute(statement, {name: value})


@pytest.mark.long
@settings(max_examples=2, deadline=None)
@given(random=st.randoms(use_true_random=True))
def test_a_replay_puts_damage_right_and_a_later_refresh_cannot_tell(
    refreshed: Warehouse,
    landed_since: Warehouse,
    all_taken_in: Warehouse,
    random: Random,
) -> None:
    with TemporaryDirectory() as folder:
        original = random.choice([refreshed, landed_since])
        warehouse = copied(original, Path(folder) / "copy")
        users = random.sample(USERS, 2)
        damage(warehouse, random, users)
        damaged = tables_of(warehouse)
        scope = random.choice([Scope(), Scope(users=(*users, GHOST))])

        found = replayed(warehouse, scope, apply=True)

        assert found.applied == (damaged != tables_of(refreshed))
        assert tables_of(warehouse) == tables_of(refreshed)
        if found.applied:
            undone = copied(warehouse, Path(folder) / "undone")
            undo(undone.path)
            assert tables_of(undone) == damaged
        if original is refreshed:
            land(warehouse, dense_log(), first=False)
        warehouse.refresh()
        assert_same_state(warehouse.state(), all_taken_in.state())
        assert tables_of(warehouse) == tables_of(all_taken_in)


@pytest.mark.long
def test_what_a_part_cannot_put_right_everything_does(
    refreshed: Warehouse, tmp_path: Path
) -> None:
    warehouse = copied(refreshed, tmp_path / "copy")
    user = Scope(users=("u1",))
    warehouse.execute("alter table projections.prj_class_activity drop event_count")
    with pytest.raises(
        WarehouseError, match=r"other columns now \(\+ event_count BIGINT\)"
    ):
        replayed(warehouse, user, apply=True)
    warehouse.execute(
        """
        delete from projections.prj_quiz_result where load_id > 3;
        update bookkeeping.watermark set load_id = 3 where model = 'prj_quiz_result';
        drop table projections.prj_user_signal_total
        """
    )
    with pytest.raises(WarehouseError, match="prj_quiz_result stand behind"):
        replayed(warehouse, user, apply=True)

    assert replayed(warehouse, apply=True).applied

    assert tables_of(warehouse) == tables_of(refreshed)
    undo(warehouse.path)
    assert tables_of(warehouse).keys() == tables_of(refreshed).keys() - {
        "projections.prj_user_signal_total"
    }


# --------------------------------------------------------------------------------------
# A rule changed
# --------------------------------------------------------------------------------------

STRICTER = (
    "models/projections/prj_video_progress.sql",
    "{{ is_completing() | indent(8) }}",
    "position_sec >= 0.95 * duration_sec",
)
UPSIDE_DOWN = (
    "models/monitoring/v_leaderboard.sql",
    "order by total_xp desc",
    "order by total_xp",
)
MORE_XP = (
    "seeds/signals/signal_type.csv",
    "VIDEO_COMPLETED,1,50",
    "VIDEO_COMPLETED,1,70",
)
TWICE = (
    "models/projections/prj_user_signal_total.sql",
    "select * from final",
    "select * from final union all select * from final",
)


@pytest.mark.long
def test_after_rules_changed_a_replay_equals_a_rebuild_and_can_be_put_back(
    refreshed: Warehouse, project: Path, tmp_path: Path
) -> None:
    part, everything, rebuilt = (
        copied(refreshed, tmp_path / name) for name in ("part", "everything", "rebuilt")
    )
    with (
        edited(project, *STRICTER),
        edited(project, *UPSIDE_DOWN),
        edited(project, *MORE_XP),
    ):
        rebuilt.rebuild()

        found = replayed(everything, apply=True)

        assert found.applied
        assert "prj_video_progress" in found.changed_rules
        assert found.changed_views == ("monitoring.v_leaderboard",)
        assert "progress.v_user_progress" in changes(found)
        assert_same_state(everything.state(), rebuilt.state())
        # With the same fingerprints: a refresh by these rules does not start over.
        assert tables_of(everything) == tables_of(rebuilt)

        old, new = tables_of(refreshed), tables_of(rebuilt)
        [user, *_] = (
            user for user in USERS if of_user(old, user) != of_user(new, user)
        )
        found = replayed(part, Scope(users=(user,)), apply=True)

        assert found.applied
        assert found.learners == 1
        assert "the next refresh" in found.notes[0]
        replayed_part = tables_of(part)
        for other in USERS:
            expected = of_user(new if other == user else old, other)
            assert of_user(replayed_part, other) == expected

        followed = copied(part, tmp_path / "followed")
        followed.refresh()
        assert_same_state(followed.state(), rebuilt.state())
        with pytest.raises(WarehouseError, match="refreshed since user"):
            undo(followed.path)

    # The rule is taken back instead: its fingerprint is the old one again.
    taken_back = copied(part, tmp_path / "taken_back")
    taken_back.refresh()
    assert tables_of(taken_back) == tables_of(refreshed)
    # A part can be put back until a refresh, everything whatever has become of it.
    later = copied(everything, tmp_path / "later")
    later.execute(
        """
        delete from projections.prj_video_progress;
        update bookkeeping.watermark set load_id = load_id + 1
        """
    )
    # A model may be called as a table of the swap's own is.
    kept = everything.rows(
        "select table_name from duckdb_tables() where schema_name = 'previous' except "
        "select unnest(['consumed_after', 'relation', 'replay', 'watermark'])"
    )
    assert {name for [name] in kept} >= {"projections.prj_quiz_result"}
    assert all("." in name for [name] in kept)
    older = copied(part, tmp_path / "older")  # whose names an earlier version gave
    older.execute(
        'alter table previous."projections.prj_quiz_result" rename to prj_quiz_result'
    )
    with pytest.raises(WarehouseError, match="an earlier version applied that"):
        undo(older.path)
    assert tables_of(older) == tables_of(part)
    for undone in (part, everything, later):
        undo(undone.path)
        assert tables_of(undone) == tables_of(refreshed)
    assert_same_state(everything.state(), refreshed.state())
    with pytest.raises(WarehouseError, match="nothing to undo"):
        undo(everything.path)


def test_what_fails_its_tests_is_not_swapped_in(
    refreshed: Warehouse, project: Path
) -> None:
    before = refreshed.path.read_bytes()
    with (
        edited(project, *TWICE),
        pytest.raises(WarehouseError, match="prj_user_signal_total_has_a_unique_key"),
    ):
        replayed(refreshed, apply=True)
    assert refreshed.path.read_bytes() == before


# --------------------------------------------------------------------------------------
# Others in the meantime
# --------------------------------------------------------------------------------------


@contextmanager
def after_deriving(does: Callable[[], object]) -> Iterator[None]:
    """Does it each time that a shadow was derived, before it is compared."""
    derive = shadow.derive

    def derive_and_more(*arguments: Any, **options: Any) -> Shadow:
        made = derive(*arguments, **options)
        does()
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shadow, "derive", derive_and_more)
        yield


@pytest.mark.long
def test_a_refresh_in_the_meantime_is_not_lost(
    refreshed: Warehouse, all_taken_in: Warehouse, tmp_path: Path
) -> None:
    broken = "delete from projections.prj_class_signal where user_id = 'u1'"
    warehouse = copied(refreshed, tmp_path / "copy")
    warehouse.execute(broken)
    later = copied(all_taken_in, tmp_path / "later")
    later.execute(broken)

    with after_deriving(lambda: shutil.copy(later.path, warehouse.path)):
        found = replayed(warehouse, Scope(users=("u1",)), apply=True)

    assert found.applied
    assert found.through_load == later.value("select max(load_id) from raw.load")
    assert tables_of(warehouse) == tables_of(all_taken_in)


@pytest.mark.long
def test_an_erasure_in_the_meantime_is_not_undone_by_the_swap(
    refreshed: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.shadow.replay.ATTEMPTS", 1)
    warehouse = copied(refreshed, tmp_path / "copy")
    warehouse.execute("delete from projections.prj_class_signal where user_id = 'u1'")
    before = tables_of(warehouse)

    with (
        after_deriving(
            lambda: warehouse.execute("delete from raw.lms_event where user_id = 'u2'")
        ),
        pytest.raises(WarehouseError, match="1 times in the meantime"),
    ):
        replayed(warehouse, Scope(users=("u1", "u2")), apply=True)
    assert tables_of(warehouse) == before


# --------------------------------------------------------------------------------------
# What was known when
# --------------------------------------------------------------------------------------

RECEIVED = [
    datetime(2026, 3, 11, 12),
    datetime.fromisoformat(NOW),
    datetime(2026, 3, 12, 0, 0, 0, 1),
    datetime(2026, 3, 20),
]


def land_by(warehouse: Warehouse, log: Log, random: Random, known_at: datetime) -> None:
    """Lands, at times drawn from `RECEIVED`, what was received by then."""
    steps: list[Any] = [
        *((classes, time) for time, classes in log.snapshots),
        *((log.events[start::4], None) for start in range(4)),
    ]
    for what, effective_from in steps:
        received_at = random.choice(RECEIVED)
        if received_at > known_at:
            continue
        if effective_from:
            warehouse.land_catalogue(
                *what, effective_from=effective_from, received_at=received_at
            )
        else:
            warehouse.land(what, received_at=received_at)


@pytest.mark.long
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_as_of_a_moment_is_a_warehouse_that_was_given_what_had_come_by_then(
    seed: int,
) -> None:
    log = a_log(Random(seed), 40)
    now = datetime.fromisoformat(NOW)
    with new_warehouse() as warehouse, new_warehouse() as earlier:
        land_by(warehouse, log, Random(seed), datetime.max)
        land_by(earlier, log, Random(seed), now)
        if not earlier.path.exists():
            with open_for_writing(earlier.path, make=True):
                pass
        earlier.refresh()
        if not warehouse.path.exists():
            return
        before = warehouse.path.read_bytes()

        known = as_of(warehouse.path, now, limit=None, variables=VARIABLES)

        for answer in known.answers:
            columns = [name for name in answer.columns if name != "load_id"]
            expected = earlier.rows(
                f"select {', '.join(columns)} from {answer.table} "
                f"order by {ANSWERS[answer.table]}"
            )
            rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
            assert [tuple(row[name] for name in columns) for row in rows] == expected
            assert answer.row_count == len(expected)
        assert warehouse.path.read_bytes() == before


@pytest.mark.long
def test_as_of_shows_what_is_chosen_and_writes_it_out(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    warehouse.land_catalogue(Class("c1"), Class("c2"))
    warehouse.land(
        [ping(f"e{user}", user=f"u{user}", position=95) for user in range(4)]
    )
    warehouse.land([ping("later", position=99)], received_at=datetime(2026, 3, 21))

    known = as_of(
        warehouse.path,
        datetime(2026, 3, 20, 12),
        users=["u1", "u2"],
        limit=1,
        output=tmp_path / "out",
        variables=VARIABLES,
    )

    assert (known.loads, known.events) == (2, 4)
    progress = known.answers[0]
    assert progress.rows == (("u1", "c1", "k1", 95, 1, 0, None),)
    assert progress.row_count == 2
    file = tmp_path / "out" / "v_user_progress.parquet"
    assert duckdb.execute(f"from '{file}'").fetchall() == [
        (user, "c1", "k1", 95, 1, 0, None) for user in ("u1", "u2")
    ]


# --------------------------------------------------------------------------------------
# Killed
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes(project: Path) -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(
        [
            *("test_replay", "dbt.cli.main", "dbt.adapters.duckdb"),
            *("dbt.task.build", "dbt.parser.manifest"),
        ]
    )
    seconds_of(context.Process(target=time.time))  # The server has started.
    return context


def seconds_of(process: BaseProcess) -> float:
    """Runs a process to its end; how long that takes."""
    started = time.perf_counter()
    process.start()
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - started


def kill_after(process: BaseProcess, seconds: float) -> bool:
    """Whether the process was still at work when it was killed."""
    process.start()
    time.sleep(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@dataclass(frozen=True)
class Damaged:
    """A warehouse with damage, a shadow to swap in, and what that makes of it."""

    warehouse: Warehouse
    made: Shadow
    old: Tables
    new: Tables


@pytest.fixture(scope="module")
def damaged(refreshed: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    """The swap alone is killed: it is a small part of a replay, and all that writes."""
    warehouse = copied(refreshed, tmp_path_factory.mktemp("damaged") / "warehouse")
    warehouse.execute(
        """
        delete from projections.prj_class_signal where user_id = 'u1';
        update projections.prj_video_progress set max_position_sec = 7
        """
    )
    # A warehouse by the same rules has all that a shadow has.
    relations = [
        Relation("", schema, name, "incremental", ())
        for schema, name in (table.split(".") for table in tables_of(refreshed))
        if schema != "bookkeeping"
    ]
    return Damaged(
        warehouse,
        Shadow(refreshed.path, tuple(relations)),
        tables_of(warehouse),
        tables_of(refreshed),
    )


def swap_in(warehouse_path: Path, made: Shadow) -> None:
    with open_for_writing(warehouse_path) as live:
        swap(live, made, "everything", is_part=False)


def swap_until_killed(warehouse_path: Path, made: Shadow) -> None:
    with open_for_writing(warehouse_path) as live:
        real = live.execute

        class Killed:
            """Stands for the connection, up to the commit."""

            def execute(self, statement: str, *arguments: Any) -> Any:
                if statement == "commit":
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(statement, *arguments)

        swap(Killed(), made, "everything", is_part=False)  # type: ignore[arg-type]


def test_a_swap_killed_before_its_commit_leaves_the_old_state(
    damaged: Damaged, tmp_path: Path, processes: ForkServerContext
) -> None:
    warehouse = copied(damaged.warehouse, tmp_path / "copy")
    process = processes.Process(
        target=swap_until_killed, args=(warehouse.path, damaged.made)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert tables_of(warehouse) == damaged.old


@pytest.mark.long
@pytest.mark.parametrize("kills", KILLS)
def test_a_killed_swap_leaves_the_old_state_or_the_new_one(
    damaged: Damaged, tmp_path: Path, processes: ForkServerContext, kills: int
) -> None:
    complete = copied(damaged.warehouse, tmp_path / "complete")
    seconds = seconds_of(
        processes.Process(target=swap_in, args=(complete.path, damaged.made))
    )
    assert tables_of(complete) == damaged.new

    def kill(attempt: int) -> bool:
        warehouse = copied(damaged.warehouse, tmp_path / str(attempt))
        process = processes.Process(target=swap_in, args=(warehouse.path, damaged.made))
        was_at_work = kill_after(process, instants.uniform(0, seconds))
        assert tables_of(warehouse) in (damaged.old, damaged.new)
        swap_in(warehouse.path, damaged.made)
        assert tables_of(warehouse) == damaged.new
        return was_at_work

    kill_again_until(kills, kill)


def replay_apply(warehouse_path: Path) -> None:
    replay(warehouse_path, apply=True, variables=VARIABLES)


@pytest.mark.long
@pytest.mark.parametrize("kills", KILLS)
def test_a_killed_replay_is_finished_by_the_next(
    damaged: Damaged, tmp_path: Path, processes: ForkServerContext, kills: int
) -> None:
    complete = copied(damaged.warehouse, tmp_path / "complete")
    seconds = seconds_of(processes.Process(target=replay_apply, args=(complete.path,)))

    def kill(attempt: int) -> bool:
        warehouse = copied(damaged.warehouse, tmp_path / str(attempt))
        process = processes.Process(target=replay_apply, args=(warehouse.path,))
        was_at_work = kill_after(process, instants.uniform(0, seconds))
        assert tables_of(warehouse) in (damaged.old, damaged.new)
        replay_apply(warehouse.path)
        assert tables_of(warehouse) == damaged.new
        # What the killed one left behind is gone.
        assert list(warehouse.folder.glob("*.shadow-*")) == []
        return was_at_work

    kill_again_until(kills, kill)


# --------------------------------------------------------------------------------------
# The command and the jobs
# --------------------------------------------------------------------------------------


def completed_class(warehouse: Warehouse) -> str:
    """One whose video u1 has completed."""
    return str(
        warehouse.value(
            """
            select min(class_id) from progress.v_user_progress
            where user_id = 'u1' and video_completed = 1
            """
        )
    )


@pytest.fixture
def at_hand(
    refreshed: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Warehouse:
    """A warehouse with some damage, where command and jobs look for it."""
    warehouse = copied(refreshed, tmp_path / "copy")
    class_id = completed_class(refreshed)
    warehouse.execute(
        f"""
        update projections.prj_video_progress set max_position_sec = 7.5
        where user_id = 'u1' and class_id = '{class_id}';
        delete from projections.prj_class_signal
        where
            user_id = 'u1' and class_id = '{class_id}' and type = 'VIDEO_COMPLETED';
        insert into projections.prj_course_signal by name
        select 'COURSE_COMPLETED' as type, 'u1' as user_id, 'k99' as course_id
        """
    )
    monkeypatch.setenv("LMS_WAREHOUSE", str(warehouse.path))
    for module in ("shadow.replay", "defs.replay"):
        monkeypatch.setattr(
            f"orchestration.{module}.replay", partial(replay, variables=VARIABLES)
        )
    for module in ("shadow.as_of", "defs.replay"):
        monkeypatch.setattr(
            f"orchestration.{module}.as_of", partial(as_of, variables=VARIABLES)
        )
    return warehouse


def command(
    capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0
) -> tuple[Any, str]:
    """What it prints as JSON, and on standard error."""
    with (
        mock.patch.object(sys, "argv", ["warehouse", "replay", *arguments, "--json"]),
        pytest.raises(SystemExit) as end,
    ):
        main()
    printed = capsys.readouterr()
    assert (end.value.code or 0) == code, printed.err
    return json.loads(printed.out or "null"), printed.err


@pytest.mark.long
def test_the_command_shows_each_difference_and_swaps_only_on_demand(
    at_hand: Warehouse, refreshed: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tables_of(at_hand)
    class_id = completed_class(refreshed)
    position = at_hand.value(
        f"""
        select max(position_sec)
        from staging.stg_video_ping
        where user_id = 'u1' and class_id = '{class_id}'
        """
    )

    found, _ = command(capsys, "--user", "u1", "--class", class_id)

    assert not found["applied"]
    assert tables_of(at_hand) == before
    assert {
        each["table"]: (each["added"], each["gone"], each["changed"])
        for each in found["differences"]
        if each["examples"]
    } == {
        "projections.prj_video_progress": (0, 0, 1),
        "projections.prj_class_signal": (1, 0, 0),
        "projections.prj_course_signal": (0, 1, 0),
        "progress.v_user_progress": (0, 0, 1),
        "signals.lms_signal": (1, 1, 0),
    }
    examples = {
        (each["table"].split(".")[1], example["change"]): example
        for each in found["differences"]
        for example in each["examples"]
    }
    changed = examples["prj_video_progress", "changed"]
    assert changed["key"] == {"user_id": "u1", "class_id": class_id}
    assert changed["columns"] == {"max_position_sec": [7.5, position]}
    gone = examples["prj_course_signal", "gone"]
    assert gone["key"] == {"user_id": "u1", "course_id": "k99"}
    assert gone["columns"] == {"type": ["COURSE_COMPLETED", None]}
    added = examples["lms_signal", "added"]
    assert added["columns"]["user_id"] == [None, "u1"]


def test_what_cannot_be_replayed_is_said_in_one_line(
    at_hand: Warehouse,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def error_of(*arguments: str) -> str:
        printed, error = command(capsys, *arguments, code=1)
        assert printed is None
        [line] = error.strip().splitlines()
        assert line.startswith("error: ")
        return line

    assert "matches user nobody, class c1" in error_of(
        "--user", "nobody", "--class", "c1"
    )
    assert "--from: 'monday'" in error_of("--from", "monday")
    assert "--as-of: '2026-03-10T10:00:00'" in error_of(
        "--as-of", "2026-03-10T10:00:00"
    )
    assert "nothing to undo" in error_of("--undo")
    at_hand.execute("drop table bookkeeping.watermark")
    assert "nothing is derived yet" in error_of()
    monkeypatch.setenv("LMS_WAREHOUSE", str(tmp_path / "nowhere.duckdb"))
    assert "no warehouse there" in error_of()
    assert "no warehouse there" in error_of("--as-of", "2026-03-10")
    for bad_usage in (
        ("--undo", "--apply"),
        ("--as-of", "2026-03-10", "--apply"),
        ("--from", "2026-03-10", "--to", "2026-03-10"),
        ("--out", "folder"),
    ):
        command(capsys, *bad_usage, code=2)


@pytest.mark.long
def test_the_jobs_answer_in_their_metadata(at_hand: Warehouse) -> None:
    from orchestration.definitions import defs

    def run(job: str, op: str, **config: Any) -> dict[str, Any]:
        result = defs.resolve_job_def(job).execute_in_process(
            instance=instance, run_config={"ops": {op: {"config": config}}}
        )
        [output] = [event for event in result.all_events if event.is_successful_output]
        return {
            name: value.value
            for name, value in output.step_output_data.metadata.items()
        }

    with dg.instance_for_test() as instance:
        found = run("replay", "replay_scope", user=["u1"], apply=True)
        assert found["applied"]
        assert (
            "| projections.prj_course_signal | 0 | 0 | 1 | 0 |" in found["difference"]
        )
        assert "max_position_sec: 7.5 -> " in found["examples"]
        undone = run("replay", "replay_scope", undo=True)
        assert undone["undone"] == "user u1"
        known = run("as_of", "as_of_moment", moment="2026-03-20", user=["u1"], rows=1)
        assert known["events"] == 0
        assert "| user_id | class_id |" in known["v_user_progress"]
    for job in ("replay", "as_of"):
        [op] = defs.resolve_job_def(job).graph.node_defs
        assert isinstance(op, dg.OpDefinition)
        assert op.pool == "duckdb"
