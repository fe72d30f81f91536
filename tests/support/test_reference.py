"""The reference implementation against the domain page, rule by rule.

Each test is one sentence of the page (or one decision where it is silent), on rows that
a reader can work out by hand. Times are hours and minutes of 2026-03-10, in UTC.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.reference import (
    MAX_LINE_BYTES,
    Accepted,
    CatalogueRow,
    Derived,
    Event,
    Outcome,
    Snapshot,
    classify,
    derive,
)

NOW = datetime(2026, 3, 11, tzinfo=UTC)
RECEIVED_AT = datetime(2026, 3, 10, 12, tzinfo=UTC)


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-10T{clock}+00:00")


def naive(clock: str) -> datetime:
    return at(clock).replace(tzinfo=None)


# --------------------------------------------------------------------------------------
# What happens to a line
# --------------------------------------------------------------------------------------

PING: Mapping[str, Any] = {
    "event_id": "e1",
    "type": "VIDEO_PING",
    "schema_version": 2,
    "user_id": "u1",
    "class_id": "c1",
    "course_id": "k1",
    "occurred_at": "2026-03-10T10:00:00Z",
    "payload": {"video_id": "v1", "position_sec": 10, "duration_sec": 100},
}
PING_1: Mapping[str, Any] = {
    **PING,
    "schema_version": 1,
    "payload": {"video_id": "v1", "position": 10, "duration": 100},
}
QUIZ: Mapping[str, Any] = {
    **PING,
    "type": "QUIZ_SUBMIT",
    "schema_version": 1,
    "payload": {"quiz_id": "q1", "score": 7, "max_score": 10, "passed": True},
}


def line(envelope: Mapping[str, Any], **changes: Any) -> bytes:
    return json.dumps({**envelope, **changes}).encode()


def payload_line(envelope: Mapping[str, Any], **changes: Any) -> bytes:
    return line(envelope, payload={**envelope["payload"], **changes})


def without(envelope: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in envelope.items() if name not in names}


def kinds(*lines: bytes) -> list[str]:
    return [outcome.kind for outcome in classify(lines, RECEIVED_AT, {})]


def outcome_of(a_line: bytes) -> Outcome:
    (outcome,) = classify([a_line], RECEIVED_AT, {})
    return outcome


def rejection(a_line: bytes) -> tuple[str | None, str | None]:
    outcome = outcome_of(a_line)
    assert outcome.kind == "rejected"
    return outcome.reason, outcome.field


def accepted_at(occurred_at: str) -> datetime:
    known: dict[str, Accepted] = {}
    (outcome,) = classify([line(PING, occurred_at=occurred_at)], RECEIVED_AT, known)
    assert outcome.kind == "accepted", outcome
    return known["e1"].event.occurred_at


@pytest.mark.parametrize("envelope", [PING, PING_1, QUIZ])
def test_a_line_that_satisfies_its_contract_is_accepted(
    envelope: Mapping[str, Any],
) -> None:
    assert outcome_of(line(envelope)) == Outcome("accepted")


def test_an_accepted_line_becomes_the_known_event() -> None:
    known: dict[str, Accepted] = {}
    classify([line(PING)], RECEIVED_AT, known)
    assert known == {
        "e1": Accepted(
            event=Event(
                event_id="e1",
                type="VIDEO_PING",
                schema_version=2,
                user_id="u1",
                class_id="c1",
                course_id="k1",
                occurred_at=at("10:00"),
                payload={"video_id": "v1", "position_sec": 10, "duration_sec": 100},
            ),
            occurred_at_text="2026-03-10T10:00:00Z",
        )
    }


def test_the_same_line_again_is_a_duplicate_in_the_same_load_and_in_a_later_one() -> (
    None
):
    known: dict[str, Accepted] = {}
    first = classify([line(PING), line(PING)], RECEIVED_AT, known)
    second = classify([line(PING)], RECEIVED_AT + timedelta(days=9), known)
    assert [outcome.kind for outcome in first] == ["accepted", "duplicate"]
    assert [outcome.kind for outcome in second] == ["duplicate"]


@pytest.mark.parametrize(
    "again",
    [
        line(dict(reversed(list(PING.items())))),
        line(PING, schema_version=2.0),
        payload_line(PING, position_sec=10.0),
        line(PING, sent_by="retry"),
    ],
    ids=["key order", "version 2.0", "number 10.0", "unknown envelope field"],
)
def test_a_known_id_with_equal_content_is_a_duplicate(again: bytes) -> None:
    assert kinds(line(PING), again) == ["accepted", "duplicate"]


def test_an_absent_version_equals_1_and_an_absent_course_equals_null() -> None:
    bare = without(PING_1, "schema_version", "course_id")
    assert kinds(
        line(bare),
        line(bare, schema_version=1, course_id=None),
        line(bare, schema_version=None),
    ) == ["accepted", "duplicate", "duplicate"]


@pytest.mark.parametrize(
    "other",
    [
        line(QUIZ),
        line(PING, user_id="u2"),
        line(PING, class_id="c2"),
        line(PING, course_id="k2"),
        line(PING, course_id=None),
        line(PING, occurred_at="2026-03-10T10:00:00+00:00"),
        payload_line(PING, position_sec=11),
        payload_line(PING, unknown=1),
        payload_line(PING, session_id=None),
    ],
)
def test_a_known_id_with_other_content_is_a_conflict(other: bytes) -> None:
    first, second = classify([line(PING), other], RECEIVED_AT, {})
    assert first.kind == "accepted"
    assert (second.kind, second.reason) == ("conflict", "event_id_conflict")


def test_after_a_conflict_the_first_landed_stays() -> None:
    other = line(PING, user_id="u2")
    assert kinds(line(PING), other, line(PING), other) == [
        "accepted",
        "conflict",
        "duplicate",
        "conflict",
    ]


def test_true_and_1_differ_in_the_payload_also_when_nested() -> None:
    first = payload_line(PING, unknown=[{"a": 1}])
    assert kinds(
        first,
        payload_line(PING, unknown=[{"a": 1.0}]),
        payload_line(PING, unknown=[{"a": True}]),
        payload_line(PING, unknown=[{"a": 1}, None]),
    ) == ["accepted", "duplicate", "conflict", "conflict"]


def test_a_known_id_with_broken_content_is_rejected() -> None:
    assert kinds(line(PING), line(PING, payload=[])) == ["accepted", "rejected"]


def test_a_rejected_line_does_not_make_its_id_known() -> None:
    assert kinds(line(PING, payload=[]), line(PING)) == ["rejected", "accepted"]


def test_a_blank_line_is_no_line_and_a_bad_line_never_stops_a_batch() -> None:
    assert kinds(b"", b" \t\r\n", b"\n", b"{", line(PING) + b"\r\n") == [
        "rejected",
        "accepted",
    ]


@pytest.mark.parametrize(
    "broken",
    [
        b"{",
        b"{'event_id': 'e1'}",
        line(PING)[:-1] + b",}",
        line(PING) + line(PING),
        b"\xef\xbb\xbf" + line(PING),
        b"\xef\xbb\xbf",
        line(PING)[:-1] + b', "other": NaN}',
        line(PING)[:-1] + b', "other": [-Infinity]}',
        line(PING)[:-1] + b', "other": 01}',
        line(PING)[:-1] + b', "other": "\t"}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_not_strict_json_is_rejected(broken: bytes) -> None:
    assert rejection(broken) == ("broken_json", None)


@pytest.mark.parametrize("value", [b"1", b"null", b'"text"', b"[]", b"[{}]"])
def test_a_line_that_is_no_object_is_rejected(value: bytes) -> None:
    assert rejection(value) == ("not_an_object", None)


@pytest.mark.parametrize(
    "broken",
    [
        line(PING).replace(b"u1", b"\xff"),
        line(PING).replace(b"u1", b"\xed\xa0\x80"),
        line(PING).replace(b"u1", rb"\ud800"),
        line(PING).replace(b"u1", rb"\ude00\ud83d"),
        line(PING)[:-1] + rb', "\udfff": 1}',
        line(PING)[:-1] + rb', "other": {"a": "\ud800", "a": 1}}',
    ],
)
def test_text_that_utf_8_cannot_hold_is_rejected(broken: bytes) -> None:
    assert rejection(broken) == ("invalid_utf8", None)


def test_a_surrogate_pair_is_a_character() -> None:
    assert outcome_of(line(PING).replace(b"u1", rb"\ud83d\ude00")).kind == "accepted"


def test_a_line_holds_at_most_1_mib_without_its_newline() -> None:
    longest = line(PING).ljust(MAX_LINE_BYTES)
    assert outcome_of(longest + b"\n").kind == "accepted"
    assert rejection(longest + b" \n") == ("line_too_long", None)


def test_a_key_repeated_in_the_envelope_or_the_payload_is_rejected() -> None:
    in_envelope = line(PING)[:-1] + rb', "\u0075ser_id": "u1"}'
    in_payload = line(PING).replace(
        b'{"video_id"', b'{"other": 1, "other": 1, "video_id"'
    )
    deeper = line(PING)[:-1] + b', "other": {"a": 1, "a": 2}}'
    assert rejection(in_envelope) == ("duplicate_key", None)
    assert rejection(in_payload) == ("duplicate_key", "payload")
    assert outcome_of(deeper).kind == "accepted"


@pytest.mark.parametrize(
    "name", ["event_id", "type", "user_id", "class_id", "occurred_at", "payload"]
)
def test_every_envelope_field_but_version_and_course_must_be_there(name: str) -> None:
    assert rejection(line(without(PING, name))) == ("missing_field", name)
    assert rejection(line(PING, **{name: None})) == ("missing_field", name)


@pytest.mark.parametrize("value", [1, True, ["x"], {}])
@pytest.mark.parametrize(
    "name", ["event_id", "type", "user_id", "class_id", "course_id", "occurred_at"]
)
def test_a_text_field_takes_only_text(name: str, value: object) -> None:
    assert rejection(line(PING, **{name: value})) == ("wrong_type", name)


@pytest.mark.parametrize("name", ["event_id", "user_id", "class_id"])
def test_an_id_has_1_to_256_characters_and_is_not_blank(name: str) -> None:
    for good in ("x" * 256, "\N{GRINNING FACE}" * 256, " x ", "';drop table--"):
        assert outcome_of(line(PING, **{name: good})).kind == "accepted"
    for bad in ("", " ", "\t\n", "\N{NO-BREAK SPACE}", "x" * 257):
        assert rejection(line(PING, **{name: bad})) == ("out_of_range", name)


def test_a_course_id_may_be_blank_or_long() -> None:
    for course_id in ("", " ", "x" * 1000):
        assert outcome_of(line(PING, course_id=course_id)).kind == "accepted"


@pytest.mark.parametrize("version", [True, "1", 1.5, [], {}])
def test_a_schema_version_is_an_integer(version: object) -> None:
    assert rejection(line(PING, schema_version=version)) == (
        "wrong_type",
        "schema_version",
    )


@pytest.mark.parametrize(
    ("event_type", "version"),
    [
        ("VIDEO_PING", 0),
        ("VIDEO_PING", 3),
        ("QUIZ_SUBMIT", 2),
        ("video_ping", 1),
        ("LOGIN", 1),
        ("", 1),
    ],
)
def test_a_type_and_version_without_a_contract_is_rejected(
    event_type: str, version: int
) -> None:
    unknown = line(PING, type=event_type, schema_version=version)
    assert rejection(unknown) == ("unknown_contract", "type")


def test_an_unknown_field_is_kept_and_ignored() -> None:
    known: dict[str, Accepted] = {}
    classify([payload_line(PING, position="far")], RECEIVED_AT, known)
    assert known["e1"].event.payload["position"] == "far"


@pytest.mark.parametrize("value", ["12", True, None, [1]])
@pytest.mark.parametrize(
    ("envelope", "name"),
    [
        (PING_1, "position"),
        (PING_1, "duration"),
        (PING, "position_sec"),
        (PING, "duration_sec"),
        (QUIZ, "score"),
        (QUIZ, "max_score"),
    ],
)
def test_a_number_is_a_json_number(
    envelope: Mapping[str, Any], name: str, value: object
) -> None:
    reason = "missing_field" if value is None else "wrong_type"
    assert rejection(payload_line(envelope, **{name: value})) == (reason, name)


@pytest.mark.parametrize(
    ("envelope", "name", "value"),
    [
        (PING_1, "position", -0.001),
        (PING_1, "duration", 0),
        (PING_1, "duration", -1),
        (PING, "position_sec", -1),
        (PING, "duration_sec", 0.0),
        (PING, "playback_rate", 0),
        (PING, "playback_rate", -1),
        (QUIZ, "score", -1),
        (QUIZ, "score", 10.1),
        (QUIZ, "max_score", 0),
    ],
)
def test_a_number_out_of_its_range_is_rejected(
    envelope: Mapping[str, Any], name: str, value: float
) -> None:
    changed = payload_line(envelope, **{name: value})
    assert rejection(changed) == ("out_of_range", name)


@pytest.mark.parametrize("number", [b"1e400", b"9" * 400, b"9" * 5000])
def test_a_number_past_the_doubles_is_out_of_range_in_a_known_field_only(
    number: bytes,
) -> None:
    in_known = line(PING).replace(b'"duration_sec": 100', b'"duration_sec": ' + number)
    in_unknown = line(PING)[:-1] + b', "other": ' + number + b"}"
    assert rejection(in_known) == ("out_of_range", "duration_sec")
    assert outcome_of(in_unknown).kind == "accepted"


@pytest.mark.parametrize(
    "good",
    [
        payload_line(PING, position_sec=0),
        payload_line(PING, position_sec=1000),
        payload_line(PING, playback_rate=1.5, session_id="s1"),
        payload_line(PING, playback_rate=None, session_id=None),
        payload_line(QUIZ, score=0),
        payload_line(QUIZ, score=10),
        payload_line(QUIZ, score=10, passed=False),
    ],
)
def test_a_payload_at_the_edge_of_its_rules_is_accepted(good: bytes) -> None:
    assert outcome_of(good).kind == "accepted"


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (line(PING, payload=[]), "payload"),
        (line(PING, payload="{}"), "payload"),
        (payload_line(PING, video_id=1), "video_id"),
        (payload_line(PING, session_id=1), "session_id"),
        (payload_line(PING, playback_rate="1"), "playback_rate"),
        (payload_line(QUIZ, quiz_id=1), "quiz_id"),
        (payload_line(QUIZ, passed=1), "passed"),
        (payload_line(QUIZ, passed="true"), "passed"),
    ],
)
def test_a_payload_field_of_another_type_is_rejected(broken: bytes, field: str) -> None:
    assert rejection(broken) == ("wrong_type", field)


@pytest.mark.parametrize(
    ("text", "clock"),
    [
        ("2026-03-10T10:00:00Z", "10:00"),
        ("2026-03-10t10:00:00z", "10:00"),
        ("2026-03-10 10:00:00+00:00", "10:00"),
        ("2026-03-10T10:00:00-00:00", "10:00"),
        ("2026-03-10T15:45:00+05:45", "10:00"),
        ("2026-03-09T22:00:00-12:00", "10:00"),
        ("2026-03-10T10:00:00.5Z", "10:00:00.500000"),
        ("2026-03-10T10:00:00.1234569Z", "10:00:00.123456"),
        ("2026-03-10T09:59:60Z", "10:00"),
        ("2026-03-10T09:59:60.7Z", "10:00"),
    ],
)
def test_occurred_at_is_an_rfc_3339_instant_in_utc_microseconds(
    text: str, clock: str
) -> None:
    assert accepted_at(text) == at(clock)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-03-10",
        "2026-03-10T10:00:00",
        "2026-03-10T10:00Z",
        "2026-03-10T10:00:00.Z",
        "2026-03-10T10:00:00,5Z",
        "2026-03-10T10:00:00+0100",
        "2026-03-10T10:00:00+01",
        " 2026-03-10T10:00:00Z",
        "2026-03-10T10:00:00Z\n",
        "20260310T100000Z",
        "2026-02-29T10:00:00Z",
        "2026-13-01T10:00:00Z",
        "2026-03-10T24:00:00Z",
        "2026-03-10T10:60:00Z",
        "2026-03-10T10:00:61Z",
        "2026-03-10T10:00:00+24:00",
        "2026-03-10T10:00:00+01:60",
        "٢٠٢٦-03-10T10:00:00Z",
    ],
)
def test_any_other_timestamp_is_rejected(text: str) -> None:
    assert rejection(line(PING, occurred_at=text)) == ("bad_timestamp", "occurred_at")


def test_occurred_at_lies_between_2000_and_24_hours_after_receipt_inclusive() -> None:
    for good in ("2000-01-01T00:00:00Z", "2026-03-11T12:00:00Z"):
        assert outcome_of(line(PING, occurred_at=good)).kind == "accepted"
    for bad in (
        "1999-12-31T23:59:59.999999Z",
        "2000-01-01T00:00:00+00:01",
        "2026-03-11T12:00:00.000001Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:60Z",
    ):
        assert rejection(line(PING, occurred_at=bad)) == ("out_of_range", "occurred_at")


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20).filter(lambda drawn: b"\n" not in drawn),
            st.sampled_from([line(PING), line(PING, user_id="u2"), line(QUIZ)]),
        )
    )
)
def test_every_line_that_is_not_blank_has_exactly_one_outcome(
    lines: list[bytes],
) -> None:
    not_blank = [drawn for drawn in lines if drawn.strip(b" \t\r\n")]
    known: dict[str, Accepted] = {}
    outcomes = classify(lines, RECEIVED_AT, known)
    assert len(outcomes) == len(not_blank)
    assert sum(outcome.kind == "accepted" for outcome in outcomes) == len(known)


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


def test_the_completion_threshold_is_a_parameter() -> None:
    half_way = [ping("p1", "10:00", 50, 100)]
    derived = derive(half_way, [], now=NOW, completion_threshold=Decimal("0.5"))
    assert only(derived.v_user_progress)["video_completed"] == 1


def test_a_ping_is_judged_by_its_own_duration() -> None:
    shortened = [ping("p1", "10:00", 50, 100), ping("p2", "10:01", 45, 50)]
    lengthened = [ping("p1", "10:00", 45, 50), ping("p2", "10:01", 50, 100)]
    assert signals(shortened) == {("VIDEO_COMPLETED", "c1"): naive("10:01")}
    assert signals(lengthened) == {("VIDEO_COMPLETED", "c1"): naive("10:00")}


def test_a_video_stays_completed_after_a_rewind() -> None:
    rewound = progress([ping("p1", "10:00", 95, 100), ping("p2", "10:01", 3, 100)])
    assert (rewound["video_completed"], rewound["video_max_position_sec"]) == (1, 95)


def test_the_greatest_position_is_rounded_down_and_saturates() -> None:
    assert progress([ping("p1", "10:00", 12.99, 100)])["video_max_position_sec"] == 12
    farthest = progress([ping("p1", "10:00", 1e300, 100)])
    assert farthest["video_max_position_sec"] == 2147483647


def test_the_two_versions_of_a_ping_mean_the_same() -> None:
    old = event(
        "p1",
        "VIDEO_PING",
        "10:00",
        {"video_id": "v1", "position": 91.5, "duration": 100, "position_sec": 0},
    )
    assert progress([old]) == progress([ping("p1", "10:00", 91.5, 100)])


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


def test_a_quiz_once_passed_stays_passed_since_its_earliest_passed_submission() -> None:
    attempts = [
        submit("s1", "10:00", 3, passed=False),
        submit("s2", "10:01", 8),
        submit("s3", "10:02", 5, passed=False),
        submit("s4", "10:03", 6),
    ]
    assert only(derive(attempts, [], now=NOW).quiz) == {
        "user_id": "u1",
        "class_id": "c1",
        "submission_count": 4,
        "passed": 1,
        "passed_at": naive("10:01"),
        "passed_event_id": "s2",
        "best_score": 8.0,
        "best_max_score": 10.0,
        "first_score": 3.0,
        "latest_score": 6.0,
    }


def test_the_passed_flag_decides_and_not_the_score() -> None:
    failed_with_full_score = progress([submit("s1", "10:00", 10, 10, passed=False)])
    assert failed_with_full_score["quiz_passed"] == 0
    assert failed_with_full_score["quiz_score"] == 10


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


def test_progress_without_a_submission_has_no_score_and_without_a_ping_0_seconds() -> (
    None
):
    only_video = progress([ping("p1", "10:00", 5, 100)])
    only_quiz = progress([submit("s1", "10:00", 5, 10, passed=False)])
    assert pd.isna(only_video["quiz_score"])
    assert only_quiz["video_max_position_sec"] == 0


def test_progress_has_exactly_the_columns_of_the_contract_with_no_rows_too() -> None:
    table = derive([], [], now=NOW).v_user_progress
    assert {str(name): str(kind) for name, kind in table.dtypes.items()} == {
        "user_id": "object",
        "class_id": "object",
        "course_id": "object",
        "video_max_position_sec": "int64",
        "video_completed": "int64",
        "quiz_passed": "int64",
        "quiz_score": "Int64",
    }


def test_the_catalogue_course_wins_over_the_one_that_the_events_name() -> None:
    named = [ping("p1", "10:00", course="k9")]
    assert progress(named, catalogue(row("c1", "")))["course_id"] == "k1"
    assert progress(named, catalogue(row("c2", "")))["course_id"] == "k9"


def test_without_the_catalogue_the_latest_event_that_names_a_course_gives_it() -> None:
    named = [
        ping("p1", "10:00", course="k1"),
        ping("p3", "10:01", course="k3"),
        ping("p2", "10:01", course="k2"),
        ping("p4", "10:02", course=" "),
        ping("p5", "10:03", course=None),
    ]
    assert progress(named)["course_id"] == "k3"
    assert progress(named[3:])["course_id"] is None


def test_a_retired_class_keeps_its_last_known_course() -> None:
    events = [ping("p1", "10:00", course="k9")]
    retired = [catalogue(row("c1", "video")), catalogue(landed="09:00")]
    assert progress(events, *retired)["course_id"] == "k1"


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


def test_a_class_outside_the_catalogue_has_no_step() -> None:
    assert signals([ping("p1", "10:00")]) == {("VIDEO_COMPLETED", "c1"): naive("10:00")}


@pytest.mark.parametrize(
    ("asks", "step_at"),
    [("video", "10:00"), ("quiz", "11:00"), ("video, quiz", "11:00"), ("", None)],
)
def test_a_step_completes_when_every_part_that_the_class_asks_for_is_done(
    asks: str, step_at: str | None
) -> None:
    both = [ping("p1", "10:00"), submit("s1", "11:00")]
    moment = signals(both, catalogue(row("c1", asks))).get(STEP)
    assert moment == (None if step_at is None else naive(step_at))


def test_half_of_a_class_with_both_parts_is_no_step() -> None:
    asks_both = catalogue(row("c1", "video, quiz"))
    assert STEP not in signals([ping("p1", "10:00")], asks_both)
    assert STEP not in signals([submit("s1", "10:00")], asks_both)


def test_a_signal_names_its_source_events_and_its_course() -> None:
    events = [
        ping("p1", "10:00"),
        submit("s1", "11:00"),
        ping("p2", "12:00", in_class="c2"),
        ping("p0", "09:00", position=1),
    ]
    snapshot = catalogue(row("c1", "video, quiz"), row("c2", "video"))
    table = derive(events, [snapshot], now=NOW).lms_signal
    assert [tuple(values) for values in table.itertuples(index=False)] == [
        (
            "COURSE_COMPLETED",
            "u1",
            None,
            "k1",
            naive("12:00"),
            ("p1", "p2", "s1"),
        ),
        ("QUIZ_PASSED", "u1", "c1", None, naive("11:00"), ("s1",)),
        ("STEP_COMPLETED", "u1", "c1", "k1", naive("11:00"), ("p1", "s1")),
        ("STEP_COMPLETED", "u1", "c2", "k1", naive("12:00"), ("p2",)),
        ("VIDEO_COMPLETED", "u1", "c1", None, naive("10:00"), ("p1",)),
        ("VIDEO_COMPLETED", "u1", "c2", None, naive("12:00"), ("p2",)),
    ]


def test_a_course_completes_with_the_last_of_its_tracked_classes() -> None:
    snapshot = catalogue(row("c1", "video"), row("c2", "quiz"), row("c3", ""))
    one = [ping("p1", "10:00")]
    both = [*one, submit("s1", "11:00", in_class="c2")]
    assert COURSE not in signals(one, snapshot)
    assert signals(both, snapshot)[COURSE] == naive("11:00")


def test_a_course_with_no_tracked_class_never_completes() -> None:
    events = [ping("p1", "10:00"), ping("p2", "10:00", in_class="c2")]
    snapshot = catalogue(row("c1", ""), row("c2", "video", "k2"))
    assert COURSE not in signals(events, snapshot)


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


def test_a_retired_class_completes_no_step() -> None:
    retired = [catalogue(row("c1", "video")), catalogue(landed="12:00")]
    assert STEP in signals([ping("p1", "11:59:59")], *retired)
    assert STEP not in signals([ping("p1", "12:00")], *retired)


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


def test_daily_stats_count_events_and_users_by_day_and_type() -> None:
    events = [
        ping("p1", "10:00"),
        ping("p2", "10:01"),
        ping("p3", "10:02", user="u2"),
        submit("s1", "10:03"),
    ]
    table = derive(events, [], now=NOW).v_event_daily_stats
    midnight = datetime(2026, 3, 10)
    assert [tuple(values) for values in table.itertuples(index=False)] == [
        (midnight, "QUIZ_SUBMIT", 1, 1),
        (midnight, "VIDEO_PING", 3, 2),
    ]


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


def test_the_signal_summary_counts_each_type_and_leaves_out_who_has_none() -> None:
    events = [
        ping("p1", "10:00"),
        submit("s1", "11:00"),
        ping("p2", "12:00", user="u2", position=1),
    ]
    derived = derive(events, [catalogue(row("c1", "video, quiz"))], now=NOW)
    assert only(derived.v_signal_summary) == {
        "user_id": "u1",
        "video_completed_count": 1,
        "quiz_passed_count": 1,
        "step_completed_count": 1,
        "course_completed_count": 1,
        "last_signal_at": naive("11:00"),
    }
    assert only(derived.v_leaderboard) == {
        "rank": 1,
        "user_id": "u1",
        "total_xp": 50 + 100 + 0 + 200,
        "video_completed_count": 1,
        "quiz_passed_count": 1,
        "step_completed_count": 1,
        "course_completed_count": 1,
    }


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


def test_xp_is_data_that_an_analyst_edits() -> None:
    events = [ping("p1", "10:00", user="ann"), submit("s1", "10:00", user="ben")]
    edited = {"VIDEO_COMPLETED": 7, "QUIZ_PASSED": 0}
    assert ranks(derive(events, [], now=NOW, xp=edited)) == {
        "ann": (1, 7),
        "ben": (2, 0),
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


def test_derive_takes_each_event_once_and_says_so() -> None:
    with pytest.raises(ValueError, match="twice"):
        derive([ping("p1", "10:00"), ping("p1", "10:01")], [], now=NOW)


def test_a_snapshot_lists_a_class_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        derive([], [catalogue(row("c1", "", "k1"), row("c1", "", "k2"))], now=NOW)
