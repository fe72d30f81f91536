"""The LMS's own progress beside ours: every difference has its cause, the right one.

The causes are checked against `replay`, another reading of the LMS's rules and ours: a
fold event by event in which each peculiarity of the LMS can be switched on by itself.
"""

import csv
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ingest.errors import WarehouseError
from orchestration import cli
from orchestration.lms.compare import (
    ROW,
    LmsComparison,
    LmsDifference,
    compare_lms,
    write_csv,
)
from tests.support.builders import Warehouse, ping, warehouse_again
from tests.support.lms import Lms, move_in

MARKS = {"c1": 80, "c2": 60}
COLUMNS = (
    *("course_id", "video_max_position_sec", "video_completed"),
    *("quiz_passed", "quiz_score"),
)


def new_lms(path: Path) -> Lms:
    lms = Lms(path)
    lms.course()
    for order, (class_id, mark) in enumerate(MARKS.items()):
        media = [{"type": "VIDEO"}, {"type": "QUIZ", "pass_threshold": mark}]
        lms.add_class(class_id, media=media, order=order)
    return lms


# --- another reading of both rules ---------------------------------------------------


@dataclass
class Happened:
    """An event as the test made it; `is_rejected` by our contracts."""

    event_id: str
    course_id: str
    occurred_at: str
    position: float | None = None
    duration: float = 0
    score: float = 0
    max_score: float = 1
    mark: float = 80
    is_rejected: bool = False
    is_deleted: bool = False


def percent(event: Happened) -> int:
    return int(event.score / event.max_score * 100 + 0.5)


def replay(events: Sequence[Happened], quirks: frozenset[str]) -> dict[str, Any]:
    """The row after these events: ours, and with each quirk a little more theirs."""
    state: dict[str, Any] = {
        "course_id": "k1",
        "video_max_position_sec": 0,
        "video_completed": 0,
        "quiz_passed": 0,
        "quiz_score": 0 if "no_attempt_is_zero" in quirks else None,
    }
    best: tuple[Any, ...] = ()
    is_first = True
    for event in events:
        if event.is_rejected and "rejected_events" not in quirks:
            continue
        if event.is_deleted and "deleted_events" in quirks:
            continue
        if is_first and "first_course" in quirks:
            state["course_id"] = event.course_id
        is_first = False
        if event.position is not None:
            furthest = max(state["video_max_position_sec"], event.position)
            state["video_max_position_sec"] = furthest
            if "latest_duration" in quirks:
                completed = reaches(furthest, event.duration, quirks)
            else:
                completed = bool(state["video_completed"]) or reaches(
                    event.position, event.duration, quirks
                )
            state["video_completed"] = int(completed)
            continue
        passed = percent(event) >= event.mark
        if not passed and "video_reset" in quirks:
            state["video_max_position_sec"] = state["video_completed"] = 0
        counts = percent(event) >= 80 if "pass_mark_80" in quirks else passed
        if "latest_attempt" in quirks:
            state["quiz_passed"], state["quiz_score"] = int(counts), event.score
            continue
        state["quiz_passed"] = max(state["quiz_passed"], int(counts))
        ratio = event.score / event.max_score
        best = max(best, (ratio, event.occurred_at, event.event_id, event.score))
        state["quiz_score"] = best[-1]
    if "fraction" not in quirks:
        for name in ("video_max_position_sec", "quiz_score"):
            state[name] = None if state[name] is None else int(state[name])
    return state


def reaches(position: float, duration: float, quirks: frozenset[str]) -> bool:
    if "binary_edge" in quirks:
        return position >= 0.9 * duration
    return Fraction(str(position)) * 10 >= Fraction(str(duration)) * 9


QUIRKS = (
    *("latest_attempt", "video_reset", "latest_duration", "pass_mark_80"),
    *("first_course", "fraction", "no_attempt_is_zero", "binary_edge"),
    *("rejected_events", "deleted_events"),
)


def fewest_quirks(
    column: str,
    events: Sequence[Happened],
    theirs: Any,
    without: str = "",
    has: str = "",
) -> set[frozenset[str]]:
    """All sets of quirks, as small as can be, that turn our value into theirs."""
    for count in range(len(QUIRKS) + 1):
        found = {
            frozenset(quirks)
            for quirks in itertools.combinations(QUIRKS, count)
            if without not in quirks
            and (not has or has in quirks)
            and replay(events, frozenset(quirks))[column] == theirs
        }
        if found:
            return found
    return set()


def explanations(learner: "Learner", column: str, theirs: Any) -> set[frozenset[str]]:
    """The smallest for the column alone; and the smallest for what the row was folded
    from, which its other columns can tell: with events that were deleted, or not."""
    deleted = "deleted_events"
    if learner.then in ("fold_again", "clean_slate"):
        truly = fewest_quirks(column, learner.happened, theirs, has=deleted)
    else:
        truly = fewest_quirks(column, learner.happened, theirs, without=deleted)
    return truly | fewest_quirks(column, learner.happened, theirs)


# --- random histories ----------------------------------------------------------------


@dataclass
class Learner:
    """What one learner does in one class, and what the LMS then does to the row."""

    class_id: str
    before: list[tuple[Any, ...]]
    deleted: list[int]
    then: str
    after: list[tuple[Any, ...]]
    change: dict[str, Any] = field(default_factory=dict)
    user_id: str = ""
    happened: list[Happened] = field(default_factory=list)


_POSITIONS = st.sampled_from([0, 5, 9.5, 0.945, 89.5, 90, 95.25, 180])
_DURATIONS = st.sampled_from([10, 1.05, 100, 200])
_COURSES = st.sampled_from(["k1", "k1", "k2"])
_STEPS = st.one_of(
    st.tuples(st.just("ping"), _POSITIONS, _DURATIONS, _COURSES, st.booleans()),
    st.tuples(
        st.just("submit"),
        st.sampled_from([0, 3, 5.5, 6, 7, 7.95, 8, 9, 10, 11]),
        st.sampled_from([10, 10, 12]),
        _COURSES,
        st.booleans(),
    ),
)
_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "video_max_position_sec": st.sampled_from([0, 1, 90, 95.25]),
        "video_completed": st.sampled_from([0, 1]),
        "quiz_passed": st.sampled_from([0, 1]),
        "quiz_score": st.sampled_from([0, 2, 8]),
    },
).filter(bool)
_LEARNERS = st.builds(
    Learner,
    class_id=st.sampled_from(list(MARKS)),
    before=st.lists(_STEPS, min_size=1, max_size=6),
    deleted=st.lists(st.integers(0, 5), max_size=3, unique=True),
    then=st.sampled_from(
        ["nothing", "nothing", "fold_again", "clean_slate", "change", "delete_row"]
    ),
    after=st.lists(_STEPS, max_size=3),
    change=_CHANGES,
)


def happen(lms: Lms, learner: Learner, step: tuple[Any, ...]) -> None:
    kind, one, other, course, is_late = step
    where: dict[str, Any] = {
        "user_id": learner.user_id,
        "class_id": learner.class_id,
        "course_id": course,
    }
    if is_late:
        where["occurred_at"] = f"2026-03-09T{len(learner.happened):02d}:00:00.000Z"
    mark = MARKS[learner.class_id]
    if kind == "ping":
        event_id = lms.ping(one, other, **where)
        event = Happened(event_id, course, "", position=one, duration=other)
    else:
        event_id = lms.submit(one, other, mark=mark, **where)
        event = Happened(event_id, course, "", score=one, max_score=other, mark=mark)
        event.is_rejected = one > other
    [(event.occurred_at,)] = lms.db.execute(
        "select occurred_at from lms_event where id = ?", [event_id]
    )
    learner.happened.append(event)


def live(lms: Lms, learners: Sequence[Learner], warehouse: Warehouse) -> None:
    """Everything of `before`, an import, and everything of `after`."""
    for number, learner in enumerate(learners):
        learner.user_id = f"u{number:03d}"
        learner.happened = []
        for step in learner.before:
            happen(lms, learner, step)
    move_in(warehouse, lms.path)
    for learner in learners:
        key = (learner.user_id, learner.class_id)
        deleted = [
            event
            for index, event in enumerate(learner.happened)
            if index in learner.deleted or learner.then == "clean_slate"
        ]
        lms.delete_events(event.event_id for event in deleted)
        for event in deleted:
            event.is_deleted = True
        if learner.then == "clean_slate":
            lms.delete_row(*key)
        if learner.then == "fold_again":
            lms.fold_again(*key)
        for step in learner.after:
            happen(lms, learner, step)
        if learner.then == "change":
            lms.wait()
            lms.change(*key, **learner.change)
        if learner.then == "delete_row":
            lms.delete_row(*key)


def by_key(comparison: LmsComparison) -> dict[tuple[str, str], list[LmsDifference]]:
    found: dict[tuple[str, str], list[LmsDifference]] = {}
    for each in comparison.differences:
        found.setdefault((each.user_id, each.class_id), []).append(each)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare") / "warehouse"


def check_every_difference(place: Path, learners: list[Learner]) -> None:
    place.mkdir(exist_ok=True)
    warehouse = warehouse_again(place)
    lms = new_lms(place / "lms.sqlite")
    live(lms, learners, warehouse)
    move_in(warehouse, lms.path)
    warehouse.refresh(now="2026-03-21 00:00:00")
    found = by_key(compare_lms(lms.path, warehouse.path))
    rows = {(row["user_id"], row["class_id"]): row for row in lms.progress()}
    for learner in learners:
        key = (learner.user_id, learner.class_id)
        differences = found.pop(key, [])
        try:
            check_learner(learner, rows.get(key), differences)
        except AssertionError as error:
            raise AssertionError(f"{learner}\n{rows.get(key)}\n{error}") from error
    assert not found


def check_learner(
    learner: Learner, row: dict[str, Any] | None, differences: list[LmsDifference]
) -> None:
    events = learner.happened
    ours = [event for event in events if not event.is_rejected]
    kept = [event for event in events if not event.is_deleted]
    if row is None or not ours:
        causes = [(each.column, each.cause) for each in differences]
        if row is None and not ours:
            assert causes == []
        elif row is not None:
            assert causes == [(ROW, "rejected_events")]
        else:
            reason = "changed_without_event" if kept else "deleted_events"
            assert causes == [(ROW, reason)]
        return
    by_column = {each.column: each for each in differences}
    expected = replay(ours, frozenset())
    for column in COLUMNS:
        theirs = row[column]
        if theirs == expected[column]:
            assert column not in by_column
            continue
        cause = by_column[column].cause
        everything = frozenset(QUIRKS)
        possible = [
            replay(events, everything - {"deleted_events"})[column],
            replay(events, everything)[column],
            replay(events, everything - {"deleted_events", "pass_mark_80"})[column],
            replay(events, everything - {"pass_mark_80"})[column],
        ]
        if learner.then == "change" and theirs not in possible:
            assert cause == "changed_without_event"
        elif learner.then != "change" or cause != "changed_without_event":
            possible_causes = explanations(learner, column, theirs)
            assert frozenset(by_column[column].causes) in possible_causes, (
                column,
                possible_causes,
            )


# An example is dozens of learners that know nothing of each other, and takes seconds:
# the failing one is named, not shrunk to.
in_one_go = settings(
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.long
@settings(in_one_go, max_examples=3)
@given(st.lists(_LEARNERS, min_size=30, max_size=60))
def test_every_difference_is_explained_by_its_cause(
    place: Path, learners: list[Learner]
) -> None:
    check_every_difference(place, learners)


@pytest.mark.slow
@settings(in_one_go, max_examples=60)
@given(st.lists(_LEARNERS, min_size=50, max_size=100))
def test_every_difference_is_explained_by_its_cause_in_long(
    place: Path, learners: list[Learner]
) -> None:
    check_every_difference(place, learners)


# --- one rule at a time --------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Lms, Warehouse, LmsComparison]:
    """Learners who are each in a case of their own, compared once."""
    from orchestration.erasure.erase import Places, erase

    folder = tmp_path_factory.mktemp("cases")
    warehouse = Warehouse(folder)
    lms = new_lms(folder / "lms.sqlite")
    lms.ping(10, user_id="same")
    lms.submit(9, user_id="same")
    lms.submit(9, user_id="lost again")
    lms.submit(4, user_id="lost again")
    lms.ping(95, user_id="set back")
    lms.submit(4, user_id="set back")
    lms.ping(95, 100, user_id="other video")
    lms.ping(5, 200, user_id="other video")
    lms.submit(7, mark=60, class_id="c2", user_id="mark of 60")
    lms.submit(9, course_id="k2", user_id="other course")
    lms.submit(8.5, user_id="fraction")
    lms.submit(11, user_id="rejected")
    lms.ping(0.945, 1.05, user_id="edge")
    first_of = {name: lms.ping(50, user_id=name) for name in ("edited", "emptied")}
    for name in ("folded anew", "gone"):
        first_of[name] = lms.ping(50, user_id=name)
        lms.ping(20, user_id=name)
    lms.ping(30, user_id="erased")
    lms.ping(30, user_id="row removed")
    lms.ping(30, user_id="number changed")
    lms.ping(30, user_id="cannot be told")
    lms.ping(40, user_id="cannot be told")
    move_in(warehouse, lms.path)
    warehouse.land([ping("e1", user="only here")])
    lms.delete_events([first_of["folded anew"], first_of["emptied"]])
    lms.fold_again("folded anew")
    lms.db.execute("delete from lms_event where user_id = 'gone'")
    lms.delete_row("gone")
    lms.delete_row("row removed")
    lms.change("number changed", video_max_position_sec=77)
    # Back to its first ping, at the moment of its last: nothing tells by whom.
    lms.change("cannot be told", video_max_position_sec=30)
    lms.db.execute(
        "update v_user_progress set updated_at = '2026-03-10' where user_id like 'c%'"
    )
    lms.db.execute(
        "update lms_event set payload_json = ? where id = ?",
        ['{"position_sec": 60, "duration_sec": 100}', first_of["edited"]],
    )
    lms.fold_again("edited")
    lms.db.execute(
        "insert into v_user_progress (user_id, class_id, course_id) "
        "values ('no events', 'c1', 'k1')"
    )
    move_in(warehouse, lms.path)
    lms.ping(user_id="too new")
    places = Places(folder / "outbox")
    erase(warehouse.path, ["erased"], places, reason="asked for it")
    warehouse.refresh(now="2026-03-21 00:00:00")
    return lms, warehouse, compare_lms(lms.path, warehouse.path)


@pytest.mark.parametrize(
    ("user_id", "causes"),
    [
        ("same", {}),
        (
            "lost again",
            {"quiz_passed": "latest_attempt", "quiz_score": "latest_attempt"},
        ),
        (
            "set back",
            {
                "video_max_position_sec": "video_reset",
                "video_completed": "video_reset",
            },
        ),
        (
            "other video",
            {"video_completed": "latest_duration", "quiz_score": "no_attempt_is_zero"},
        ),
        ("mark of 60", {"quiz_passed": "pass_mark_80"}),
        ("other course", {"course_id": "first_course"}),
        ("fraction", {"quiz_score": "fraction"}),
        ("rejected", {ROW: "rejected_events"}),
        (
            "edge",
            {
                "video_max_position_sec": "fraction",
                "video_completed": "binary_edge",
                "quiz_score": "no_attempt_is_zero",
            },
        ),
        (
            "folded anew",
            {
                "video_max_position_sec": "deleted_events",
                "quiz_score": "no_attempt_is_zero",
            },
        ),
        ("emptied", {"quiz_score": "no_attempt_is_zero"}),
        ("gone", {ROW: "deleted_events"}),
        (
            "edited",
            {
                "video_max_position_sec": "changed_events",
                "quiz_score": "no_attempt_is_zero",
            },
        ),
        ("erased", {ROW: "erased"}),
        ("row removed", {ROW: "changed_without_event"}),
        (
            "number changed",
            {
                "video_max_position_sec": "changed_without_event",
                "quiz_score": "no_attempt_is_zero",
            },
        ),
        (
            "cannot be told",
            {
                "video_max_position_sec": "unexplained",
                "quiz_score": "no_attempt_is_zero",
            },
        ),
        ("no events", {ROW: "changed_without_event"}),
        ("only here", {ROW: "other_door"}),
        ("too new", {ROW: "not_imported"}),
    ],
)
def test_a_difference_has_its_cause(
    compared: tuple[Lms, Warehouse, LmsComparison],
    user_id: str,
    causes: dict[str, str],
) -> None:
    _lms, _warehouse, comparison = compared
    found = {
        each.column: each.cause
        for each in comparison.differences
        if each.user_id == user_id
    }
    assert found == causes


def test_rows_add_up_and_a_dump_is_compared_as_its_database(
    compared: tuple[Lms, Warehouse, LmsComparison], tmp_path: Path
) -> None:
    lms, warehouse, comparison = compared
    assert comparison.their_rows == len(lms.progress())
    assert comparison.our_rows == warehouse.value(
        "select count(*) from progress.v_user_progress"
    )
    assert comparison.same_rows == 1
    assert comparison.unexplained == 1
    counted = comparison.by_cause()
    assert sum(cause["differences"] for cause in counted) == len(comparison.differences)
    from_dump = compare_lms(lms.dump(), warehouse.path)
    assert from_dump.differences == comparison.differences
    write_csv(from_dump, tmp_path / "differences.csv", tmp_path / "w.duckdb")
    with (tmp_path / "differences.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(comparison.differences)
    [gone] = [row for row in rows if row["user_id"] == "gone"]
    assert (gone["cause"], gone["theirs"]) == ("deleted_events", "")
    assert gone["evidence"].startswith("deleted: evt_")


def test_a_view_is_computed_by_sqlite(
    compared: tuple[Lms, Warehouse, LmsComparison], tmp_path: Path
) -> None:
    """With the contract's own columns and no more."""
    lms, warehouse, comparison = compared
    again = Lms(tmp_path / "lms.sqlite")
    again.db.execute("drop table v_user_progress")
    again.db.execute("attach ? as old", [str(lms.path)])
    for table in ("lms_course", "lms_class", "lms_event"):
        again.db.execute(f"insert into {table} select * from old.{table}")
    again.db.execute("create table state as select * from old.v_user_progress")
    again.db.execute("detach old")
    again.db.execute(
        "create view v_user_progress as select user_id, class_id, course_id, "
        "video_max_position_sec, video_completed, quiz_passed, quiz_score from state"
    )
    for path in (again.path, again.dump()):
        found = compare_lms(path, warehouse.path)
        assert found.their_rows == comparison.their_rows
        assert [each.cause for each in found.differences] == [
            each.cause for each in comparison.differences
        ]


def test_the_command_prints_causes_and_fails_where_one_is_missing(
    compared: tuple[Lms, Warehouse, LmsComparison],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lms, warehouse, _comparison = compared
    monkeypatch.setenv("LMS_WAREHOUSE", str(warehouse.path))

    def run(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["warehouse", "compare-lms", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return (exit_.value.code, *capsys.readouterr())

    file = tmp_path / "differences.csv"
    code, printed, error = run(str(lms.path), "--csv", str(file))
    assert code == 1
    assert "latest_attempt" in printed
    assert error == f"error: 1 differences are unexplained; see them in {file}\n"
    assert file.exists()
    code, printed, _ = run(str(lms.path), "--json")
    assert code == 1
    assert json.loads(printed)["unexplained"] == 1


def test_an_export_without_progress_says_so(
    compared: tuple[Lms, Warehouse, LmsComparison], tmp_path: Path
) -> None:
    _lms, warehouse, _comparison = compared
    lms = new_lms(tmp_path / "lms.sqlite")
    lms.db.execute("drop table v_user_progress")
    with pytest.raises(WarehouseError, match="no table or view v_user_progress"):
        compare_lms(lms.dump(), warehouse.path)


def test_what_was_landed_and_not_derived_is_asked_for_first(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    lms = new_lms(tmp_path / "lms.sqlite")
    lms.ping()
    move_in(warehouse, lms.path)
    with pytest.raises(WarehouseError, match="run `warehouse refresh` first"):
        compare_lms(lms.path, warehouse.path)


@pytest.mark.long
def test_another_threshold_of_ours_is_a_cause(tmp_path: Path) -> None:
    lms = new_lms(tmp_path / "lms.sqlite")
    lms.ping(position=92, user_id="between")
    lms.ping(position=96, user_id="done")
    warehouse = Warehouse(tmp_path)
    move_in(warehouse, lms.path)
    warehouse.refresh(now="2026-03-21 00:00:00", completion_threshold=0.95)

    [found] = [
        each
        for each in compare_lms(lms.path, warehouse.path).differences
        if each.column == "video_completed"
    ]
    assert found.user_id == "between"
    assert (found.theirs, found.ours, found.cause) == (1, 0, "threshold_90")
