"""The reference implementation at the edges of the domain's rules.

Everything else it says is compared with the warehouse by the laws, and its outcomes of
lines by the tests of landing. Times are hours and minutes of 2026-03-10, in UTC.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.reference import (
    CatalogueRow,
    Derived,
    Event,
    Snapshot,
    derive,
)

NOW = datetime(2026, 3, 11, tzinfo=UTC)
RECEIVED_AT = datetime(2026, 3, 10, 12, tzinfo=UTC)


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-10T{clock}+00:00")


def naive(clock: str) -> datetime:
    return at(clock).replace(tzinfo=None)


# --------------------------------------------------------------------------------------
# Rows to derive from
# --------------------------------------------------------------------------------------


def event(
    event_id: str,
    event_type: str,
    occurred_at: datetime | str,
    payload: Mapping[str, Any],
    *,
    schema_version: int = 1,
    user: str = "u1",
    in_class: str = "c1",
    course: str | None = None,
) -> Event:
    return Event(
        event_id=event_id,
        type=event_type,
        schema_version=schema_version,
        user_id=user,
        class_id=in_class,
        course_id=course,
        occurred_at=at(occurred_at) if isinstance(occurred_at, str) else occurred_at,
        payload=payload,
    )


def ping(
    event_id: str,
    occurred_at: datetime | str,
    position: float = 100,
    duration: float = 100,
    **where: Any,
) -> Event:
    payload = {"video_id": "v1", "position_sec": position, "duration_sec": duration}
    return event(
        event_id, "VIDEO_PING", occurred_at, payload, schema_version=2, **where
    )


def submit(
    event_id: str,
    occurred_at: datetime | str,
    score: float = 10,
    max_score: float = 10,
    passed: bool = True,
    **where: Any,
) -> Event:
    payload = {
        "quiz_id": "q1",
        "score": score,
        "max_score": max_score,
        "passed": passed,
    }
    return event(event_id, "QUIZ_SUBMIT", occurred_at, payload, **where)


def row(class_id: str, asks: str, course_id: str = "k1") -> CatalogueRow:
    return CatalogueRow(
        class_id=class_id,
        course_id=course_id,
        title="",
        position=1,
        has_video=int("video" in asks),
        has_quiz=int("quiz" in asks),
    )


def catalogue(
    *rows: CatalogueRow, landed: str = "00:00", effective: str | None = None
) -> Snapshot:
    return Snapshot(
        effective_from=None if effective is None else at(effective),
        landed_at=at(landed),
        rows=rows,
    )


def signals(
    events: Sequence[Event], *snapshots: Snapshot
) -> dict[tuple[str, ...], datetime]:
    """The moment of each signal, by its type and its class or course."""
    table = derive(events, snapshots, now=NOW).lms_signal
    return {
        (
            signal["signal_type"],
            signal["class_id"] or signal["course_id"],
        ): signal["occurred_at"].to_pydatetime()
        for signal in table.to_dict("records")
    }


def only(table: pd.DataFrame) -> dict[str, Any]:
    (record,) = table.to_dict("records")
    return {str(name): value for name, value in record.items()}


def progress(events: Sequence[Event], *snapshots: Snapshot) -> dict[str, Any]:
    return only(derive(events, snapshots, now=NOW).v_user_progress)


STEP = ("STEP_COMPLETED", "c1")
COURSE = ("COURSE_COMPLETED", "k1")

# --------------------------------------------------------------------------------------
# Projections
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "duration", "completed"),
    [
        (90, 100, 1),
        (89.999999, 100, 0),
        (0.72, 0.8, 1),  # 0.9 * 0.8 is above 0.72 in doubles
        (0.7199999999999999, 0.8, 0),
        (544.5, 605, 1),
        (544.4999, 605, 0),
        (1, 1.111111111111111, 1),
        (1, 1.1111111111111112, 0),  # 0.9 of it is 1.0 in doubles
        (120, 100, 1),
    ],
)
def test_a_video_completes_at_90_percent_before_any_rounding(
    position: float, duration: float, completed: int
) -> None:
    row_of_one_ping = progress([ping("p1", "10:00", position, duration)])
    assert row_of_one_ping["video_completed"] == completed


def test_a_ping_is_judged_by_its_own_duration() -> None:
    shortened = [ping("p1", "10:00", 50, 100), ping("p2", "10:01", 45, 50)]
    lengthened = [ping("p1", "10:00", 45, 50), ping("p2", "10:01", 50, 100)]
    assert signals(shortened) == {("VIDEO_COMPLETED", "c1"): naive("10:01")}
    assert signals(lengthened) == {("VIDEO_COMPLETED", "c1"): naive("10:00")}


def test_the_greatest_position_is_rounded_down_and_saturates() -> None:
    assert progress([ping("p1", "10:00", 12.99, 100)])["video_max_position_sec"] == 12
    farthest = progress([ping("p1", "10:00", 1e300, 100)])
    assert farthest["video_max_position_sec"] == 2147483647


def test_the_video_projection_names_the_earliest_completing_ping() -> None:
    pings = [
        ping("p3", "10:03", 95.5, 100),
        ping("p2", "10:02", 90, 100),
        ping("p1", "10:01", 10, 100),
    ]
    assert only(derive(pings, [], now=NOW).video) == {
        "user_id": "u1",
        "class_id": "c1",
        "ping_count": 3,
        "max_position_sec": 95.5,
        "completed": 1,
        "completed_at": naive("10:02"),
        "completed_event_id": "p2",
    }


def test_the_best_submission_has_the_greatest_ratio_and_not_the_greatest_score() -> (
    None
):
    attempts = [submit("s1", "10:00", 9, 10), submit("s2", "10:01", 15, 20)]
    assert progress(attempts)["quiz_score"] == 9


def test_among_equal_ratios_the_latest_submission_is_the_best() -> None:
    attempts = [submit("s2", "10:00", 8, 10), submit("s1", "10:01", 4, 5)]
    assert progress(attempts)["quiz_score"] == 4
    same_instant = [submit("s1", "10:00", 4, 5), submit("s2", "10:00", 8, 10)]
    assert progress(same_instant)["quiz_score"] == 8


def test_a_quiz_score_is_rounded_down_and_saturates() -> None:
    assert progress([submit("s1", "10:00", 7.99, 10)])["quiz_score"] == 7
    assert progress([submit("s1", "10:00", 3e9, 3e9)])["quiz_score"] == 2147483647


# --------------------------------------------------------------------------------------
# v_user_progress
# --------------------------------------------------------------------------------------


def test_a_snapshot_gives_the_course_from_its_effective_time_up_to_now() -> None:
    moved = [
        catalogue(row("c1", "video", "k1")),
        catalogue(row("c1", "video", "k2"), landed="08:00", effective="20:00"),
    ]
    events = [ping("p1", "07:00")]
    before = derive(events, moved, now=at("19:59:59"))
    after = derive(events, moved, now=at("20:00"))
    assert only(before.v_user_progress)["course_id"] == "k1"
    assert only(after.v_user_progress)["course_id"] == "k2"


# --------------------------------------------------------------------------------------
# Signals
# --------------------------------------------------------------------------------------


def test_a_late_earlier_event_moves_every_signal_earlier() -> None:
    asks_video = catalogue(row("c1", "video"))
    on_time = [ping("p2", "10:00")]
    late = [*on_time, ping("p1", "09:00")]
    for moment, events in (("10:00", on_time), ("09:00", late)):
        assert signals(events, asks_video) == {
            ("VIDEO_COMPLETED", "c1"): naive(moment),
            STEP: naive(moment),
            COURSE: naive(moment),
        }


def test_at_the_same_instant_the_lesser_event_id_is_the_source() -> None:
    table = derive([ping("p2", "10:00"), ping("p1", "10:00")], [], now=NOW).lms_signal
    assert only(table)["source_event_ids"] == ("p1",)


def test_a_step_added_later_never_takes_a_completed_course_away() -> None:
    first = catalogue(row("c1", "video"))
    added = catalogue(row("c1", "video"), row("c2", "video"), landed="12:00")
    assert signals([ping("p1", "11:59:59")], first, added)[COURSE] == naive("11:59:59")
    assert COURSE not in signals([ping("p1", "12:00")], first, added)


def test_a_removed_step_completes_the_course_at_the_moment_of_its_removal() -> None:
    first = catalogue(row("c1", "video"), row("c2", "video"))
    removed = catalogue(row("c1", "video"), landed="12:00")
    assert signals([ping("p1", "10:00")], first, removed)[COURSE] == naive("12:00")
    assert signals([ping("p1", "13:00")], first, removed)[COURSE] == naive("13:00")


def test_a_requirement_dropped_later_completes_the_step_at_that_moment() -> None:
    first = catalogue(row("c1", "video, quiz"))
    dropped = catalogue(row("c1", "video"), landed="12:00")
    table = derive(
        [ping("p1", "10:00"), submit("s1", "13:00")], [first, dropped], now=NOW
    )
    (step,) = (
        signal
        for signal in table.lms_signal.to_dict("records")
        if signal["signal_type"] == "STEP_COMPLETED"
    )
    assert step["occurred_at"] == naive("12:00")
    assert step["source_event_ids"] == ("p1",)


def test_the_version_that_made_a_step_names_its_course() -> None:
    moved = [
        catalogue(row("c1", "video", "k1")),
        catalogue(row("c1", "video", "k2"), landed="12:00"),
    ]
    for clock, course_id in (("11:00", "k1"), ("12:00", "k2")):
        table = derive([ping("p1", clock)], moved, now=NOW).lms_signal
        steps = table[table["signal_type"] == "STEP_COMPLETED"]
        assert list(steps["course_id"]) == [course_id]


def test_a_step_earned_under_another_course_counts_for_the_new_one() -> None:
    moved = [
        catalogue(row("c1", "video", "k9"), row("c2", "video", "k9")),
        catalogue(row("c1", "video", "k1"), row("c2", "video", "k9"), landed="12:00"),
    ]
    moments = signals([ping("p1", "10:00")], *moved)
    assert moments[STEP] == naive("10:00")
    assert moments[COURSE] == naive("12:00")


def test_the_first_snapshot_holds_from_the_beginning_of_time() -> None:
    asks_video = row("c1", "video")
    for first in (
        catalogue(asks_video, landed="20:00"),
        catalogue(asks_video, landed="20:00", effective="21:00"),
    ):
        assert signals([ping("p1", "01:00")], first)[STEP] == naive("01:00")


def test_a_later_snapshot_holds_from_its_effective_time_or_else_its_landing() -> None:
    first = catalogue()
    events = [ping("p1", "01:00")]
    landed = catalogue(row("c1", "video"), landed="12:00")
    backdated = catalogue(row("c1", "video"), landed="12:00", effective="06:00")
    assert signals(events, first, landed)[STEP] == naive("12:00")
    assert signals(events, first, backdated)[STEP] == naive("06:00")


def test_snapshots_hold_in_effective_order_and_not_in_landing_order() -> None:
    first = catalogue()
    second = catalogue(row("c1", "quiz"), landed="01:00", effective="12:00")
    third = catalogue(row("c1", "video"), landed="02:00", effective="08:00")
    moments = signals([ping("p1", "09:00")], first, second, third)
    assert moments[STEP] == naive("09:00")
    assert STEP not in signals([ping("p1", "13:00")], first, second, third)


def test_a_course_completed_before_it_was_retired_stays_completed() -> None:
    retired = [catalogue(row("c1", "video")), catalogue(landed="12:00")]
    assert signals([ping("p1", "10:00")], *retired)[COURSE] == naive("10:00")


def test_of_two_snapshots_with_one_effective_time_the_later_landed_wins() -> None:
    first = catalogue()
    wrong = catalogue(row("c1", "video"), landed="11:00", effective="12:00")
    right = catalogue(row("c1", "quiz"), landed="12:00")
    assert STEP not in signals([ping("p1", "13:00")], first, wrong, right)
    assert STEP in signals([submit("s1", "13:00")], first, wrong, right)


# --------------------------------------------------------------------------------------
# Monitoring views
# --------------------------------------------------------------------------------------


def days(time_zone: str, *moments: str) -> dict[str, int]:
    events = [
        ping(f"p{number}", datetime.fromisoformat(moment))
        for number, moment in enumerate(moments)
    ]
    table = derive(events, [], now=NOW, time_zone=time_zone).v_event_daily_stats
    return {
        f"{day['event_date']:%Y-%m-%d}": day["event_count"]
        for day in table.to_dict("records")
    }


def test_a_day_in_utc_is_cut_at_midnight() -> None:
    assert days("UTC", "2026-03-10T23:59:59.999999Z", "2026-03-11T00:00:00Z") == {
        "2026-03-10": 1,
        "2026-03-11": 1,
    }


def test_a_day_in_kathmandu_is_cut_at_18_15_utc() -> None:
    assert days("Asia/Kathmandu", "2026-03-10T18:14:59Z", "2026-03-10T18:15:00Z") == {
        "2026-03-10": 1,
        "2026-03-11": 1,
    }


def test_the_day_the_clocks_change_in_berlin_has_23_hours() -> None:
    assert days(
        "Europe/Berlin",
        "2026-03-28T22:59:59Z",
        "2026-03-28T23:00:00Z",
        "2026-03-29T21:59:59Z",
        "2026-03-29T22:00:00Z",
    ) == {"2026-03-28": 1, "2026-03-29": 2, "2026-03-30": 1}


def ranks(derived: Derived) -> dict[str, tuple[int, int]]:
    return {
        place["user_id"]: (place["rank"], place["total_xp"])
        for place in derived.v_leaderboard.to_dict("records")
    }


def test_equal_xp_has_an_equal_rank_and_the_next_rank_skips() -> None:
    events = [
        submit("s1", "10:00", user="ann"),
        submit("s2", "10:00", user="ben"),
        ping("p1", "10:00", user="cem"),
    ]
    assert ranks(derive(events, [], now=NOW)) == {
        "ann": (1, 100),
        "ben": (1, 100),
        "cem": (3, 50),
    }


def test_the_24_hours_leave_out_their_start_and_take_in_now() -> None:
    now = datetime(2026, 3, 11, 10, tzinfo=UTC)
    events = [
        ping("p1", now - timedelta(hours=24)),
        ping("p2", now - timedelta(hours=24) + timedelta(microseconds=1)),
        ping("p3", now),
        ping("p4", now + timedelta(microseconds=1)),
    ]
    assert only(derive(events, [], now=now).v_user_activity) == {
        "user_id": "u1",
        "last_event_at": datetime(2026, 3, 11, 10, 0, 0, 1),
        "events_24h": 2,
        "total_events": 4,
    }


# --------------------------------------------------------------------------------------
# Laws
# --------------------------------------------------------------------------------------

MIXED = [
    ping("p1", "10:00", 95, 100),
    ping("p2", "10:00", 91, 100, course="k8"),
    ping("p3", "09:00", 20, 100, course="k9"),
    submit("s1", "10:00", 4, 5),
    submit("s2", "10:00", 8, 10),
    submit("s3", "11:00", 1, 10, passed=False),
    ping("p4", "12:00", in_class="c2"),
    submit("s4", "12:00", user="u2", in_class="c2"),
]


@given(st.permutations(MIXED))
def test_the_order_of_the_events_changes_no_answer(shuffled: list[Event]) -> None:
    snapshots = [
        catalogue(row("c1", "video, quiz"), row("c2", "video")),
        catalogue(row("c1", "video"), row("c2", "quiz", "k2"), landed="11:30"),
    ]
    expected = derive(MIXED, snapshots, now=NOW)
    actual = derive(shuffled, snapshots, now=NOW)
    for name, table in vars(expected).items():
        pd.testing.assert_frame_equal(getattr(actual, name), table)


def test_a_snapshot_lists_a_class_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        derive([], [catalogue(row("c1", "", "k1"), row("c1", "", "k2"))], now=NOW)
