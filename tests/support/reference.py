"""The rules of the event warehouse a second time, in plain Python: a test oracle.

Written from the domain page (`domain.md`) alone, to be checked against it by reading;
speed does not matter. Each docstring names the section of the page that it restates.
`classify` says what happens to the lines of a load; `derive` says what every table and
view must hold for a set of accepted events and catalogue snapshots.

Where the page is silent, the decision is written down as "Decision:".
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Literal, NoReturn
from zoneinfo import ZoneInfo

import pandas as pd

# --------------------------------------------------------------------------------------
# Events: what happens to a line
# --------------------------------------------------------------------------------------

MAX_LINE_BYTES = 1024 * 1024
MAX_ID_CHARACTERS = 256
EARLIEST_OCCURRED_AT = datetime(2000, 1, 1, tzinfo=UTC)
MAX_AHEAD_OF_RECEIPT = timedelta(hours=24)
JSON_WHITESPACE = b" \t\r\n"

VIDEO_PING_1 = ("VIDEO_PING", 1)
VIDEO_PING_2 = ("VIDEO_PING", 2)
QUIZ_SUBMIT_1 = ("QUIZ_SUBMIT", 1)
CONTRACTS = frozenset({VIDEO_PING_1, VIDEO_PING_2, QUIZ_SUBMIT_1})

Kind = Literal["accepted", "duplicate", "conflict", "rejected"]


@dataclass(frozen=True)
class Event:
    """An accepted event: the envelope of section "Events" and its payload as it came.

    `occurred_at` is in UTC; a naive datetime is read as UTC.
    """

    event_id: str
    type: str
    schema_version: int
    user_id: str
    class_id: str
    course_id: str | None
    occurred_at: datetime
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Accepted:
    """The first landed event of an `event_id`, and its `occurred_at` as it was sent."""

    event: Event
    occurred_at_text: str


@dataclass(frozen=True)
class Outcome:
    """What happened to one line; `reason` and `field` for a conflict or a rejection."""

    kind: Kind
    reason: str | None = None
    field: str | None = None


class RejectedLineError(Exception):
    """A rule that a line breaks: the reason and, where there is one, the field."""

    def __init__(self, reason: str, field: str | None = None) -> None:
        super().__init__(reason, field)
        self.reason = reason
        self.field = field


class JsonObject(dict[str, Any]):
    """A JSON object that remembers whether a key was repeated in it."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.has_repeated_key = len(self) < len(pairs)


def classify(
    lines: Iterable[bytes], received_at: datetime, known: dict[str, Accepted]
) -> list[Outcome]:
    """Section "What happens to a line": one outcome a non-blank line, in order.

    `known` holds the first landed event of each id and is updated, so that a next load
    can go on from it. A line may still carry its newline.

    Decision: a line is judged against its contract first and looked up among the known
    ids after that, so a known id with broken content is rejected, not a conflict.
    """
    received_at = as_utc(received_at)
    outcomes: list[Outcome] = []
    for line in lines:
        if not line.strip(JSON_WHITESPACE):
            continue  # "A blank line is no line."
        try:
            accepted = read_line(line.removesuffix(b"\n"), received_at)
        except RejectedLineError as error:
            outcomes.append(Outcome("rejected", error.reason, error.field))
            continue
        event_id = accepted.event.event_id
        if event_id not in known:
            known[event_id] = accepted
            outcomes.append(Outcome("accepted"))
        elif has_same_content(known[event_id], accepted):
            outcomes.append(Outcome("duplicate"))
        else:
            outcomes.append(Outcome("conflict", "event_id_conflict", "event_id"))
    return outcomes


def has_same_content(first: Accepted, again: Accepted) -> bool:
    """Section "What happens to a line", row "duplicate".

    Decision: the envelope fields are those of the table of section "Events"; unknown
    ones do not count. An absent schema_version is 1 and an absent course_id is null.
    The text of occurred_at counts, not the instant.
    """
    return (
        first.event.type == again.event.type
        and first.event.schema_version == again.event.schema_version
        and first.event.user_id == again.event.user_id
        and first.event.class_id == again.event.class_id
        and first.event.course_id == again.event.course_id
        and first.occurred_at_text == again.occurred_at_text
        and is_equal_json(first.event.payload, again.event.payload)
    )


def is_equal_json(left: Any, right: Any) -> bool:
    """Equal as JSON values, key order aside: 1 equals 1.0, true does not equal 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(
            is_equal_json(left[key], right[key]) for key in left
        )
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(is_equal_json, left, right))
    return type(left) is type(right) and bool(left == right)


def read_line(line: bytes, received_at: datetime) -> Accepted:
    """Section "Events": the event on a line, or a RejectedLineError.

    The order of the checks decides only which of several reasons is given.
    """
    if len(line) > MAX_LINE_BYTES:
        raise RejectedLineError("line_too_long")
    envelope = parse_json(line)
    if not isinstance(envelope, JsonObject):
        raise RejectedLineError("not_an_object")
    if envelope.has_repeated_key:
        raise RejectedLineError("duplicate_key")

    event_id = required_id(envelope, "event_id")
    event_type = required_text(envelope, "type")
    schema_version = optional_version(envelope, "schema_version")
    if (event_type, schema_version) not in CONTRACTS:
        raise RejectedLineError("unknown_contract", "type")
    user_id = required_id(envelope, "user_id")
    class_id = required_id(envelope, "class_id")
    course_id = optional_text(envelope, "course_id")
    occurred_at_text = required_text(envelope, "occurred_at")
    occurred_at = parse_timestamp(occurred_at_text, "occurred_at")
    if not EARLIEST_OCCURRED_AT <= occurred_at <= received_at + MAX_AHEAD_OF_RECEIPT:
        raise RejectedLineError("out_of_range", "occurred_at")

    payload = required(envelope, "payload")
    if not isinstance(payload, JsonObject):
        raise RejectedLineError("wrong_type", "payload")
    if payload.has_repeated_key:
        raise RejectedLineError("duplicate_key", "payload")
    check_payload((event_type, schema_version), payload)

    return Accepted(
        event=Event(
            event_id=event_id,
            type=event_type,
            schema_version=schema_version,
            user_id=user_id,
            class_id=class_id,
            course_id=course_id,
            occurred_at=occurred_at,
            payload=payload,
        ),
        occurred_at_text=occurred_at_text,
    )


def check_payload(contract: tuple[str, int], payload: JsonObject) -> None:
    """Section "Events", the table of contracts."""
    if contract == VIDEO_PING_1:
        required_text(payload, "video_id")
        number_at_least_zero(payload, "position")
        number_above_zero(payload, "duration")
    elif contract == VIDEO_PING_2:
        required_text(payload, "video_id")
        number_at_least_zero(payload, "position_sec")
        number_above_zero(payload, "duration_sec")
        if payload.get("playback_rate") is not None:
            number_above_zero(payload, "playback_rate")
        optional_text(payload, "session_id")
    elif contract == QUIZ_SUBMIT_1:
        required_text(payload, "quiz_id")
        score = number_at_least_zero(payload, "score")
        max_score = number_above_zero(payload, "max_score")
        if score > max_score:
            raise RejectedLineError("out_of_range", "score")
        if not isinstance(required(payload, "passed"), bool):
            raise RejectedLineError("wrong_type", "passed")


def parse_json(line: bytes) -> Any:
    """Strict RFC 8259 in strict UTF-8 (section "Events": "Text is UTF-8").

    Decision: an escaped lone surrogate, which UTF-8 cannot hold, is invalid_utf8
    wherever it stands. So is nesting too deep for the decoder broken_json.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise RejectedLineError("invalid_utf8") from None
    try:
        value = decode_json(text, JsonObject)
        # Every key and text of the line, those under repeated keys too.
        every_text = json.dumps(decode_json(text, list), ensure_ascii=False)
    except (json.JSONDecodeError, RecursionError):
        raise RejectedLineError("broken_json") from None
    try:
        every_text.encode("utf-8")
    except UnicodeEncodeError:
        raise RejectedLineError("invalid_utf8") from None
    return value


def decode_json(text: str, make_object: type) -> Any:
    """The value of a JSON text; objects are made by `make_object` from their pairs."""
    return json.loads(
        text,
        object_pairs_hook=make_object,
        parse_constant=reject_constant,
        parse_int=parse_integer,
        parse_float=SentNumber,
    )


class SentNumber(float):
    """A double that keeps the digits that it was read from."""

    digits: str

    def __new__(cls, digits: str) -> "SentNumber":
        number = super().__new__(cls, digits)
        number.digits = digits
        return number


def sent_decimal(number: float) -> Fraction:
    """The decimal that was sent. Decision: with more than 9 digits before the point or
    27 after it, or with an exponent, it is the one that the double prints as."""
    digits = number.digits if isinstance(number, SentNumber) else str(number)
    if re.fullmatch(r"-?[0-9]{1,9}([.][0-9]{1,27})?", digits):
        return Fraction(digits)
    return Fraction(repr(float(number)))


def reject_constant(name: str) -> NoReturn:
    """Section "Events": `NaN` and `Infinity` are not JSON numbers."""
    raise RejectedLineError("broken_json")


def parse_integer(digits: str) -> int | float:
    """An exact integer; infinity past the greatest double, as for 1e999."""
    return int(digits) if math.isfinite(float(digits)) else float(digits)


def required(fields: JsonObject, name: str) -> Any:
    """The value of a field that must be there. Decision: null is absent."""
    if fields.get(name) is None:
        raise RejectedLineError("missing_field", name)
    return fields[name]


def required_text(fields: JsonObject, name: str) -> str:
    """A text of any length. Decision: the empty text is one, except in an id."""
    value = required(fields, name)
    if not isinstance(value, str):
        raise RejectedLineError("wrong_type", name)
    return value


def required_id(fields: JsonObject, name: str) -> str:
    """Section "Events": "text, 1 to 256 characters, not blank"."""
    value = required_text(fields, name)
    if is_blank(value) or len(value) > MAX_ID_CHARACTERS:
        raise RejectedLineError("out_of_range", name)
    return value


def optional_text(fields: JsonObject, name: str) -> str | None:
    """A text or absent. Decision: null is absent."""
    return None if fields.get(name) is None else required_text(fields, name)


def optional_version(fields: JsonObject, name: str) -> int:
    """Section "Events": "integer, 1 if absent". Decision: null is absent, 1.0 is 1."""
    if fields.get(name) is None:
        return 1
    value = required_number(fields, name)
    if not value.is_integer():
        raise RejectedLineError("wrong_type", name)
    return int(value)


def required_number(fields: JsonObject, name: str) -> float:
    """Section "Events": a finite JSON number, as a double; `true`, "12" are none."""
    value = required(fields, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RejectedLineError("wrong_type", name)
    if not math.isfinite(value):
        raise RejectedLineError("out_of_range", name)
    return float(value)


def number_at_least_zero(fields: JsonObject, name: str) -> float:
    """Section "Events", the rule `>= 0` of the table of contracts."""
    value = required_number(fields, name)
    if value < 0:
        raise RejectedLineError("out_of_range", name)
    return value


def number_above_zero(fields: JsonObject, name: str) -> float:
    """Section "Events", the rule `> 0` of the table of contracts."""
    value = required_number(fields, name)
    if value <= 0:
        raise RejectedLineError("out_of_range", name)
    return value


def is_blank(text: str) -> bool:
    """Decision: blank is empty or Unicode white space only."""
    return not text.strip()


RFC_3339 = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})[Tt ]"
    r"(?P<hour>\d{2}):(?P<minute>\d{2}):(?P<second>\d{2})(?:\.(?P<fraction>\d+))?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<offset_hour>\d{2}):(?P<offset_minute>\d{2}))",
    re.ASCII,
)


def parse_timestamp(text: str, field: str) -> datetime:
    """Section "Events": RFC 3339 with an offset, to UTC and microseconds.

    Decision: digits past the microsecond are cut off. A leap second, whatever its
    fraction and whichever minute it ends, is the first instant of the next minute.
    """
    match = RFC_3339.fullmatch(text)
    if match is None:
        raise RejectedLineError("bad_timestamp", field)
    hour, minute, second = (int(match[name]) for name in ("hour", "minute", "second"))
    offset_hour = int(match["offset_hour"] or 0)
    offset_minute = int(match["offset_minute"] or 0)
    if (
        hour > 23
        or minute > 59
        or second > 60
        or offset_hour > 23
        or offset_minute > 59
    ):
        raise RejectedLineError("bad_timestamp", field)
    try:
        midnight = datetime.strptime(match["date"], "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise RejectedLineError("bad_timestamp", field) from None

    is_leap_second = second == 60
    microsecond = int((match["fraction"] or "")[:6].ljust(6, "0"))
    time_of_day = timedelta(
        hours=hour,
        minutes=minute,
        seconds=second,
        microseconds=0 if is_leap_second else microsecond,
    )
    offset = timedelta(hours=offset_hour, minutes=offset_minute)
    if match["sign"] == "-":
        offset = -offset
    try:
        return midnight + (time_of_day - offset)
    except OverflowError:  # before the year 1 or after the year 9999
        raise RejectedLineError("out_of_range", field) from None


def as_utc(moment: datetime) -> datetime:
    """The same instant in UTC; a naive datetime is read as UTC."""
    return (
        moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    )


# --------------------------------------------------------------------------------------
# Catalogue
# --------------------------------------------------------------------------------------

BEGINNING_OF_TIME = datetime.min.replace(tzinfo=UTC)
END_OF_TIME = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class CatalogueRow:
    """Section "Catalogue": one class of one snapshot."""

    class_id: str
    course_id: str
    title: str
    position: int
    has_video: int
    has_quiz: int

    @property
    def is_tracked(self) -> bool:
        """Section "Catalogue": tracked "if it has a video or a quiz"."""
        return bool(self.has_video or self.has_quiz)


@dataclass(frozen=True)
class Snapshot:
    """Section "Catalogue": one full snapshot; `effective_from` where it was given."""

    effective_from: datetime | None
    landed_at: datetime
    rows: Sequence[CatalogueRow]


@dataclass(frozen=True)
class Version:
    """A snapshot and the interval [start, end) in which it is in force."""

    start: datetime
    end: datetime
    class_by_id: Mapping[str, CatalogueRow]


def catalogue_versions(snapshots: Sequence[Snapshot]) -> list[Version]:
    """Section "Catalogue": the versions in effective order, from the landing order.

    The first landed snapshot holds from the beginning of time, a later one from its
    effective time or else its landing. Decision: of two with the same effective time
    the later landed wins; the other one's interval is empty.
    """
    starts_and_snapshots = [
        (
            BEGINNING_OF_TIME
            if landing_number == 0
            else as_utc(snapshot.effective_from or snapshot.landed_at),
            snapshot,
        )
        for landing_number, snapshot in enumerate(snapshots)
    ]
    # Python's sort is stable: with equal starts the landing order stays.
    starts_and_snapshots.sort(key=lambda pair: pair[0])
    starts = [start for start, _ in starts_and_snapshots]
    ends = [*starts, END_OF_TIME][1:]
    return [
        Version(start=start, end=end, class_by_id=class_by_id(snapshot))
        for (start, snapshot), end in zip(starts_and_snapshots, ends, strict=True)
    ]


def class_by_id(snapshot: Snapshot) -> dict[str, CatalogueRow]:
    """The rows of a snapshot by class. Raises ValueError for a class listed twice."""
    rows = {row.class_id: row for row in snapshot.rows}
    if len(rows) < len(snapshot.rows):
        raise ValueError("a snapshot lists a class twice; give each class one row")
    return rows


# --------------------------------------------------------------------------------------
# Projections, for one (user, class)
# --------------------------------------------------------------------------------------

MAX_INTEGER = 2147483647


@dataclass(frozen=True)
class Ping:
    """A VIDEO_PING in the shape of its newest version."""

    event_id: str
    occurred_at: datetime
    position_sec: float
    duration_sec: float
    sent_position_sec: Fraction
    sent_duration_sec: Fraction


@dataclass(frozen=True)
class Submission:
    """A QUIZ_SUBMIT in the shape of its newest version."""

    event_id: str
    occurred_at: datetime
    score: float
    max_score: float
    passed: bool


@dataclass(frozen=True)
class VideoProgress:
    """Section "Projections": what the pings of one (user, class) add up to."""

    ping_count: int
    max_position_sec: float
    completing_ping: Ping | None


@dataclass(frozen=True)
class QuizResult:
    """Section "Projections": what the submissions of one (user, class) add up to."""

    submission_count: int
    passing_submission: Submission | None
    best: Submission
    first: Submission
    latest: Submission


def as_ping(event: Event) -> Ping:
    """Section "Events": "older shapes are upcast to the newest when they are read"."""
    names = {1: ("position", "duration"), 2: ("position_sec", "duration_sec")}
    position_name, duration_name = names[event.schema_version]
    return Ping(
        event_id=event.event_id,
        occurred_at=event.occurred_at,
        position_sec=float(event.payload[position_name]),
        duration_sec=float(event.payload[duration_name]),
        sent_position_sec=sent_decimal(event.payload[position_name]),
        sent_duration_sec=sent_decimal(event.payload[duration_name]),
    )


def as_submission(event: Event) -> Submission:
    """A QUIZ_SUBMIT v1, which is the newest."""
    return Submission(
        event_id=event.event_id,
        occurred_at=event.occurred_at,
        score=float(event.payload["score"]),
        max_score=float(event.payload["max_score"]),
        passed=event.payload["passed"],
    )


def is_completing(ping: Ping, completion_threshold: Decimal) -> bool:
    """Section "Projections": `position >= 90 % of its own duration`, before rounding.

    The numbers are the decimals that were sent.
    """
    edge = Fraction(completion_threshold) * ping.sent_duration_sec
    return ping.sent_position_sec >= edge


def video_progress(
    pings: Sequence[Ping], completion_threshold: Decimal
) -> VideoProgress:
    """Section "Projections". `pings`: at least one, by (occurred_at, event_id)."""
    completing = [ping for ping in pings if is_completing(ping, completion_threshold)]
    return VideoProgress(
        ping_count=len(pings),
        max_position_sec=max(ping.position_sec for ping in pings),
        completing_ping=completing[0] if completing else None,
    )


def quiz_result(submissions: Sequence[Submission]) -> QuizResult:
    """Section "Projections". At least one submission, by (occurred_at, event_id)."""
    passing = [submission for submission in submissions if submission.passed]
    best = max(
        submissions,
        key=lambda submission: (
            submission.score / submission.max_score,
            submission.occurred_at,
            submission.event_id,
        ),
    )
    return QuizResult(
        submission_count=len(submissions),
        passing_submission=passing[0] if passing else None,
        best=best,
        first=submissions[0],
        latest=submissions[-1],
    )


def whole(number: float) -> int:
    """Rounded down. Decision: saturates at the greatest 32-bit integer."""
    return min(math.floor(number), MAX_INTEGER)


# --------------------------------------------------------------------------------------
# Signals
# --------------------------------------------------------------------------------------

VIDEO_COMPLETED = "VIDEO_COMPLETED"
QUIZ_PASSED = "QUIZ_PASSED"
STEP_COMPLETED = "STEP_COMPLETED"
COURSE_COMPLETED = "COURSE_COMPLETED"

DEFAULT_XP: Mapping[str, int] = MappingProxyType(
    {VIDEO_COMPLETED: 50, QUIZ_PASSED: 100, STEP_COMPLETED: 0, COURSE_COMPLETED: 200}
)


@dataclass(frozen=True)
class Signal:
    """Section "Signals": one row of `lms_signal`, without its id and rule version.

    `course_id` is the course in the catalogue version that made a STEP_COMPLETED and
    the course of a COURSE_COMPLETED; the other two signals have none.
    """

    signal_type: str
    user_id: str
    class_id: str | None
    course_id: str | None
    occurred_at: datetime
    source_event_ids: tuple[str, ...]


def part_signal(
    signal_type: str, user_id: str, class_id: str, source: Ping | Submission
) -> Signal:
    """Section "Signals": a VIDEO_COMPLETED or QUIZ_PASSED, from the event it holds."""
    return Signal(
        signal_type=signal_type,
        user_id=user_id,
        class_id=class_id,
        course_id=None,
        occurred_at=source.occurred_at,
        source_event_ids=(source.event_id,),
    )


def moment_within(version: Version, parts: Sequence[Signal | None]) -> datetime | None:
    """Section "Signals": `t = max(from, moments of its parts)` where `t < to`.

    None where a part is not there, where there is no part, and where t is past the
    version's end.
    """
    moments = [part.occurred_at for part in parts if part is not None]
    if not parts or len(moments) < len(parts):
        return None
    moment = max([version.start, *moments])
    return moment if moment < version.end else None


def source_ids(parts: Sequence[Signal | None]) -> tuple[str, ...]:
    """Section "Signals": the "source event ids" of a signal, each once, sorted."""
    ids = {
        event_id
        for part in parts
        if part is not None
        for event_id in part.source_event_ids
    }
    return tuple(sorted(ids))


def earliest(candidates: Sequence[Signal]) -> Signal | None:
    """Section "Signals": "the earliest t [...] over all versions"."""
    return min(candidates, key=lambda signal: signal.occurred_at, default=None)


def step_completed(
    user_id: str,
    class_id: str,
    video_completed: Signal | None,
    quiz_passed: Signal | None,
    versions: Sequence[Version],
) -> Signal | None:
    """Section "Signals", STEP_COMPLETED: every part that the catalogue asks is done."""
    candidates: list[Signal] = []
    for version in versions:
        row = version.class_by_id.get(class_id)
        if row is None:
            continue  # "Needs the class in the catalogue"
        parts: list[Signal | None] = []
        if row.has_video:
            parts.append(video_completed)
        if row.has_quiz:
            parts.append(quiz_passed)
        moment = moment_within(version, parts)
        if moment is not None:
            candidates.append(
                Signal(
                    signal_type=STEP_COMPLETED,
                    user_id=user_id,
                    class_id=class_id,
                    course_id=row.course_id,
                    occurred_at=moment,
                    source_event_ids=source_ids(parts),
                )
            )
    return earliest(candidates)


def course_completed(
    user_id: str,
    course_id: str,
    step_by_class: Mapping[str, Signal],
    versions: Sequence[Version],
) -> Signal | None:
    """Section "Signals", COURSE_COMPLETED: every tracked class has its step.

    A step counts by its class, under whichever course or version it was earned.
    `step_by_class` holds the STEP_COMPLETED signals of this user.
    """
    candidates: list[Signal] = []
    for version in versions:
        tracked_classes = [
            row.class_id
            for row in version.class_by_id.values()
            if row.course_id == course_id and row.is_tracked
        ]
        steps = [step_by_class.get(class_id) for class_id in tracked_classes]
        moment = moment_within(version, steps)
        if moment is not None:
            candidates.append(
                Signal(
                    signal_type=COURSE_COMPLETED,
                    user_id=user_id,
                    class_id=None,
                    course_id=course_id,
                    occurred_at=moment,
                    source_event_ids=source_ids(steps),
                )
            )
    return earliest(candidates)


UserClass = tuple[str, str]


def derive_signals(
    videos: Mapping[UserClass, VideoProgress],
    quizzes: Mapping[UserClass, QuizResult],
    versions: Sequence[Version],
) -> list[Signal]:
    """Section "Signals": all of them, by type, user, class and course."""
    video_signals = {
        (user_id, class_id): part_signal(
            VIDEO_COMPLETED, user_id, class_id, video.completing_ping
        )
        for (user_id, class_id), video in videos.items()
        if video.completing_ping is not None
    }
    quiz_signals = {
        (user_id, class_id): part_signal(
            QUIZ_PASSED, user_id, class_id, quiz.passing_submission
        )
        for (user_id, class_id), quiz in quizzes.items()
        if quiz.passing_submission is not None
    }

    steps_by_user: dict[str, dict[str, Signal]] = defaultdict(dict)
    for user_id, class_id in video_signals.keys() | quiz_signals.keys():
        step = step_completed(
            user_id,
            class_id,
            video_signals.get((user_id, class_id)),
            quiz_signals.get((user_id, class_id)),
            versions,
        )
        if step is not None:
            steps_by_user[user_id][class_id] = step

    course_ids = {
        row.course_id for version in versions for row in version.class_by_id.values()
    }
    courses = [
        course_completed(user_id, course_id, step_by_class, versions)
        for user_id, step_by_class in steps_by_user.items()
        for course_id in course_ids
    ]

    signals = [
        *video_signals.values(),
        *quiz_signals.values(),
        *(step for steps in steps_by_user.values() for step in steps.values()),
        *(course for course in courses if course is not None),
    ]
    return sorted(
        signals,
        key=lambda signal: (
            signal.signal_type,
            signal.user_id,
            signal.class_id or "",
            signal.course_id or "",
        ),
    )


# --------------------------------------------------------------------------------------
# Tables and views
# --------------------------------------------------------------------------------------

ACTIVITY_WINDOW = timedelta(hours=24)

# Column types. Text is object: str, or None where there is none.
TEXT = "object"
INTEGER = "int64"
NULLABLE_INTEGER = "Int64"
DOUBLE = "float64"
TIMESTAMP = "datetime64[us]"  # naive, in UTC; a date is its midnight
EVENT_IDS = "object"  # a tuple of text


@dataclass(frozen=True)
class Derived:
    """Every table and view, with fixed column types, sorted by key."""

    lms_signal: pd.DataFrame
    v_user_progress: pd.DataFrame
    v_event_daily_stats: pd.DataFrame
    v_signal_summary: pd.DataFrame
    v_leaderboard: pd.DataFrame
    v_user_activity: pd.DataFrame
    video: pd.DataFrame
    quiz: pd.DataFrame


def derive(
    events: Sequence[Event],
    snapshots: Sequence[Snapshot],
    *,
    now: datetime,
    time_zone: str = "UTC",
    completion_threshold: Decimal = Decimal("0.9"),
    xp: Mapping[str, int] = DEFAULT_XP,
) -> Derived:
    """Sections "Projections" to "Monitoring views": the answer to all that is asked.

    `events`: accepted ones in any order, each id once (else ValueError).
    `snapshots`: in landing order. `now` bounds the 24 hours of v_user_activity and
    the snapshots that give v_user_progress its course; no event and no signal is left
    out for being after it.
    """
    if len({event.event_id for event in events}) < len(events):
        raise ValueError("an event_id is there twice; derive takes accepted events")
    now = as_utc(now)
    # The one order of the page: "event time, ties by event_id".
    in_order = sorted(
        (replace(event, occurred_at=as_utc(event.occurred_at)) for event in events),
        key=lambda event: (event.occurred_at, event.event_id),
    )
    versions = catalogue_versions(snapshots)

    events_of: dict[UserClass, list[Event]] = defaultdict(list)
    pings_of: dict[UserClass, list[Ping]] = defaultdict(list)
    submissions_of: dict[UserClass, list[Submission]] = defaultdict(list)
    for event in in_order:
        user_class = (event.user_id, event.class_id)
        events_of[user_class].append(event)
        if event.type == "VIDEO_PING":
            pings_of[user_class].append(as_ping(event))
        elif event.type == "QUIZ_SUBMIT":
            submissions_of[user_class].append(as_submission(event))

    videos = {
        user_class: video_progress(pings, completion_threshold)
        for user_class, pings in sorted(pings_of.items())
    }
    quizzes = {
        user_class: quiz_result(submissions)
        for user_class, submissions in sorted(submissions_of.items())
    }
    signals = derive_signals(videos, quizzes, versions)
    return Derived(
        lms_signal=lms_signal(signals),
        v_user_progress=v_user_progress(events_of, videos, quizzes, versions, now),
        v_event_daily_stats=v_event_daily_stats(in_order, ZoneInfo(time_zone)),
        v_signal_summary=v_signal_summary(signals),
        v_leaderboard=v_leaderboard(signals, xp),
        v_user_activity=v_user_activity(in_order, now),
        video=video_table(videos),
        quiz=quiz_table(quizzes),
    )


def lms_signal(signals: Sequence[Signal]) -> pd.DataFrame:
    """Section "Signals"."""
    return frame(
        {
            "signal_type": TEXT,
            "user_id": TEXT,
            "class_id": TEXT,
            "course_id": TEXT,
            "occurred_at": TIMESTAMP,
            "source_event_ids": EVENT_IDS,
        },
        [
            (
                signal.signal_type,
                signal.user_id,
                signal.class_id,
                signal.course_id,
                signal.occurred_at,
                signal.source_event_ids,
            )
            for signal in signals
        ],
    )


def v_user_progress(
    events_of: Mapping[UserClass, Sequence[Event]],
    videos: Mapping[UserClass, VideoProgress],
    quizzes: Mapping[UserClass, QuizResult],
    versions: Sequence[Version],
    now: datetime,
) -> pd.DataFrame:
    """Section "v_user_progress": a row per (user, class) with an accepted event."""
    rows: list[tuple[Any, ...]] = []
    for (user_id, class_id), events in sorted(events_of.items()):
        video = videos.get((user_id, class_id))
        quiz = quizzes.get((user_id, class_id))
        is_completed = video is not None and video.completing_ping is not None
        is_passed = quiz is not None and quiz.passing_submission is not None
        course_id = catalogue_course(class_id, versions, now)
        if course_id is None:
            course_id = named_course(events)
        rows.append(
            (
                user_id,
                class_id,
                course_id,
                0 if video is None else whole(video.max_position_sec),
                int(is_completed),
                int(is_passed),
                None if quiz is None else whole(quiz.best.score),
            )
        )
    return frame(
        {
            "user_id": TEXT,
            "class_id": TEXT,
            "course_id": TEXT,
            "video_max_position_sec": INTEGER,
            "video_completed": INTEGER,
            "quiz_passed": INTEGER,
            "quiz_score": NULLABLE_INTEGER,
        },
        rows,
    )


def catalogue_course(
    class_id: str, versions: Sequence[Version], now: datetime
) -> str | None:
    """Section "v_user_progress": the catalogue's course of a class.

    Decision: that of the last snapshot, in effective order up to now, that lists the
    class. So a retired class keeps its last known course. A snapshot that a later
    landed one with the same effective time replaced held for no moment: it says
    nothing.
    """
    course_ids = [
        version.class_by_id[class_id].course_id
        for version in versions
        if version.start <= now
        and version.start < version.end
        and class_id in version.class_by_id
    ]
    return course_ids[-1] if course_ids else None


def named_course(events: Sequence[Event]) -> str | None:
    """Section "v_user_progress": "else that of the latest event that names one".

    `events`: of one (user, class), by (occurred_at, event_id). Decision: a blank
    course_id names none.
    """
    course_ids = [
        event.course_id
        for event in events
        if event.course_id is not None and not is_blank(event.course_id)
    ]
    return course_ids[-1] if course_ids else None


def v_event_daily_stats(events: Sequence[Event], time_zone: ZoneInfo) -> pd.DataFrame:
    """Section "Monitoring views": by the day in `time_zone` and the event type."""
    users_of: dict[tuple[datetime, str], list[str]] = defaultdict(list)
    for event in events:
        local_date = event.occurred_at.astimezone(time_zone).date()
        midnight = datetime(local_date.year, local_date.month, local_date.day)
        users_of[midnight, event.type].append(event.user_id)
    return frame(
        {
            "event_date": TIMESTAMP,
            "event_type": TEXT,
            "event_count": INTEGER,
            "user_count": INTEGER,
        },
        [
            (event_date, event_type, len(user_ids), len(set(user_ids)))
            for (event_date, event_type), user_ids in sorted(users_of.items())
        ],
    )


SIGNAL_COUNTS = {
    "video_completed_count": VIDEO_COMPLETED,
    "quiz_passed_count": QUIZ_PASSED,
    "step_completed_count": STEP_COMPLETED,
    "course_completed_count": COURSE_COMPLETED,
}


def signals_by_user(signals: Sequence[Signal]) -> dict[str, list[Signal]]:
    """The signals of each user that has one, by user."""
    by_user: dict[str, list[Signal]] = defaultdict(list)
    for signal in signals:
        by_user[signal.user_id].append(signal)
    return dict(sorted(by_user.items()))


def signal_counts(signals: Sequence[Signal]) -> list[int]:
    """Section "Monitoring views": "the four counts"."""
    signal_types = [signal.signal_type for signal in signals]
    return [signal_types.count(counted) for counted in SIGNAL_COUNTS.values()]


def v_signal_summary(signals: Sequence[Signal]) -> pd.DataFrame:
    """Section "Monitoring views". Decision: only users with at least one signal."""
    return frame(
        {
            "user_id": TEXT,
            **dict.fromkeys(SIGNAL_COUNTS, INTEGER),
            "last_signal_at": TIMESTAMP,
        },
        [
            (user_id, *signal_counts(own), max(signal.occurred_at for signal in own))
            for user_id, own in signals_by_user(signals).items()
        ],
    )


def v_leaderboard(signals: Sequence[Signal], xp: Mapping[str, int]) -> pd.DataFrame:
    """Section "Monitoring views": "equal XP, equal rank; the next rank skips".

    Decision: only users with at least one signal; a type that `xp` lacks gives 0.
    """
    by_user = signals_by_user(signals)
    total_xp = {
        user_id: sum(xp.get(signal.signal_type, 0) for signal in own)
        for user_id, own in by_user.items()
    }
    rank = {
        user_id: 1 + sum(other > own_xp for other in total_xp.values())
        for user_id, own_xp in total_xp.items()
    }
    return frame(
        {
            "rank": INTEGER,
            "user_id": TEXT,
            "total_xp": INTEGER,
            **dict.fromkeys(SIGNAL_COUNTS, INTEGER),
        },
        [
            (rank[user_id], user_id, total_xp[user_id], *signal_counts(own))
            for user_id, own in by_user.items()
        ],
    )


def v_user_activity(events: Sequence[Event], now: datetime) -> pd.DataFrame:
    """Section "Monitoring views": `events_24h` are after now - 24 h and up to now.

    Decision: an event after now still counts in last_event_at and total_events.
    """
    moments_of: dict[str, list[datetime]] = defaultdict(list)
    for event in events:
        moments_of[event.user_id].append(event.occurred_at)
    return frame(
        {
            "user_id": TEXT,
            "last_event_at": TIMESTAMP,
            "events_24h": INTEGER,
            "total_events": INTEGER,
        },
        [
            (
                user_id,
                max(moments),
                sum(now - ACTIVITY_WINDOW < moment <= now for moment in moments),
                len(moments),
            )
            for user_id, moments in sorted(moments_of.items())
        ],
    )


def video_table(videos: Mapping[UserClass, VideoProgress]) -> pd.DataFrame:
    """Section "Projections": a row per (user, class) with a ping."""
    return frame(
        {
            "user_id": TEXT,
            "class_id": TEXT,
            "ping_count": INTEGER,
            "max_position_sec": DOUBLE,
            "completed": INTEGER,
            "completed_at": TIMESTAMP,
            "completed_event_id": TEXT,
        },
        [
            (
                user_id,
                class_id,
                video.ping_count,
                video.max_position_sec,
                *made_by(video.completing_ping),
            )
            for (user_id, class_id), video in videos.items()
        ],
    )


def quiz_table(quizzes: Mapping[UserClass, QuizResult]) -> pd.DataFrame:
    """Section "Projections": a row per (user, class) with a submission."""
    return frame(
        {
            "user_id": TEXT,
            "class_id": TEXT,
            "submission_count": INTEGER,
            "passed": INTEGER,
            "passed_at": TIMESTAMP,
            "passed_event_id": TEXT,
            "best_score": DOUBLE,
            "best_max_score": DOUBLE,
            "first_score": DOUBLE,
            "latest_score": DOUBLE,
        },
        [
            (
                user_id,
                class_id,
                quiz.submission_count,
                *made_by(quiz.passing_submission),
                quiz.best.score,
                quiz.best.max_score,
                quiz.first.score,
                quiz.latest.score,
            )
            for (user_id, class_id), quiz in quizzes.items()
        ],
    )


def made_by(
    source: Ping | Submission | None,
) -> tuple[int, datetime | None, str | None]:
    """Whether there is such an event (0/1), its moment and its id."""
    if source is None:
        return 0, None, None
    return 1, source.occurred_at, source.event_id


def frame(
    type_by_column: Mapping[str, str], rows: Sequence[tuple[Any, ...]]
) -> pd.DataFrame:
    """A frame with fixed column types, with no rows too; datetimes become naive UTC."""
    columns: dict[str, pd.Series[Any]] = {}
    for index, (name, column_type) in enumerate(type_by_column.items()):
        values = [row[index] for row in rows]
        if column_type == TIMESTAMP:
            values = [naive_utc(value) for value in values]
        columns[name] = pd.Series(values, dtype=column_type)
    return pd.DataFrame(columns)


def naive_utc(moment: datetime | None) -> datetime | None:
    """The instant in UTC without its zone, as a TIMESTAMP column holds it."""
    return None if moment is None else as_utc(moment).replace(tzinfo=None)
