"""How the LMS makes its `v_user_progress`, beside how ours is made, one rule at a time.

The LMS folds each event into the row of its learner and class when it arrives:

    VIDEO_PING   position: the greatest one; duration: this one's; completed: whether
                 that position is 90 % of that duration
    QUIZ_SUBMIT  score and passed: this attempt's; passed is 80 %, whatever the class
                 asks. An attempt that failed by the class's mark sets position and
                 completed back to 0

Events that are deleted later stay folded in, and a row can be changed without any.
`value` gives a column by our rules with some of theirs in their place: so it can be
computed which of them a difference comes from.
"""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from typing import Any, NamedTuple

COLUMNS = (
    *("course_id", "video_max_position_sec", "video_completed"),
    *("quiz_passed", "quiz_score"),
)
VIDEO, QUIZ = COLUMNS[1:3], COLUMNS[3:5]


class Cause(StrEnum):
    """Why a column differs."""

    LATEST_ATTEMPT = "latest_attempt"
    VIDEO_RESET = "video_reset"
    LATEST_DURATION = "latest_duration"
    PASS_MARK_80 = "pass_mark_80"
    THRESHOLD_90 = "threshold_90"
    FIRST_COURSE = "first_course"
    FRACTION = "fraction"
    NO_ATTEMPT_IS_ZERO = "no_attempt_is_zero"
    BINARY_EDGE = "binary_edge"
    DELETED_EVENTS = "deleted_events"
    CHANGED_EVENTS = "changed_events"
    REJECTED_EVENTS = "rejected_events"
    NOT_IMPORTED = "not_imported"
    OTHER_DOOR = "other_door"
    ERASED = "erased"
    CHANGED_WITHOUT_EVENT = "changed_without_event"
    UNEXPLAINED = "unexplained"


MEANINGS = {
    Cause.LATEST_ATTEMPT: "their quiz result follows the latest attempt; ours the best",
    Cause.VIDEO_RESET: "a failed quiz set their video progress back to 0",
    Cause.LATEST_DURATION: "their duration is the latest ping's; ours each ping's own",
    Cause.PASS_MARK_80: "they pass at 80 %, whatever mark the class asks",
    Cause.THRESHOLD_90: "they complete at 90 %, whatever our threshold is",
    Cause.FIRST_COURSE: "their course is the first event's; ours the catalogue's",
    Cause.FRACTION: "they keep fractions; we round down to whole ones",
    Cause.NO_ATTEMPT_IS_ZERO: "without an attempt their score is 0; ours is none",
    Cause.BINARY_EDGE: "they compare with 90 % in binary; we as decimals",
    Cause.DELETED_EVENTS: "they deleted events that we have",
    Cause.CHANGED_EVENTS: "they changed events that we have as they were first",
    Cause.REJECTED_EVENTS: "we rejected events that they counted (dead letters)",
    Cause.NOT_IMPORTED: "events of the file are not in the warehouse; import it",
    Cause.OTHER_DOOR: "we have events that never were in the LMS",
    Cause.ERASED: "we have erased the learner",
    Cause.CHANGED_WITHOUT_EVENT: "their row was changed without any event",
    Cause.UNEXPLAINED: "nothing explains it",
}

# Which of their rules a column can differ by, the likeliest first.
RULES = {
    "course_id": (Cause.FIRST_COURSE,),
    "video_max_position_sec": (Cause.FRACTION, Cause.VIDEO_RESET),
    "video_completed": (
        *(Cause.VIDEO_RESET, Cause.LATEST_DURATION, Cause.BINARY_EDGE),
        Cause.THRESHOLD_90,
    ),
    "quiz_passed": (Cause.LATEST_ATTEMPT, Cause.PASS_MARK_80),
    "quiz_score": (Cause.NO_ATTEMPT_IS_ZERO, Cause.FRACTION, Cause.LATEST_ATTEMPT),
}

# The LMS's own; ours is the variable `completion_threshold`.
THEIR_THRESHOLD = 0.9

_LARGEST_INTEGER = 2**31 - 1


class Unreadable(Exception):
    """A payload of which their rule makes something that no rule says."""


class Fact(NamedTuple):
    """A ping or an attempt, from the export or from the warehouse.

    `created_at` is as it stands there; `passed` is by the class's mark. `landed` says
    by its load and line when it was, if it was.
    """

    event_id: str
    is_attempt: bool
    course_id: str | None
    occurred_at: datetime | None
    created_at: Any
    position: Any = None
    duration: Any = None
    score: Any = None
    max_score: Any = None
    passed: bool | None = None
    landed: tuple[int, int] | None = None

    def says_the_same(self, other: "Fact") -> bool:
        return (self[1:3], self[5:10]) == (other[1:3], other[5:10])


class State(NamedTuple):
    """The columns of a row, of theirs or of ours."""

    course_id: Any
    video_max_position_sec: Any
    video_completed: Any
    quiz_passed: Any
    quiz_score: Any


def number(value: Any, otherwise: float = 0) -> float:
    """As the LMS reads it: nothing, null, false and 0 are `otherwise`."""
    if value is None or value is False:
        return otherwise
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable
    return value or otherwise


def percentage_passes(fact: Fact) -> bool:
    """Their 80 %, computed as JavaScript does: in doubles, half rounded up."""
    try:
        ratio = number(fact.score) / number(fact.max_score, 1)
        return math.floor(ratio * 100 + 0.5) >= 80
    except (OverflowError, ValueError):
        raise Unreadable from None


def their_state(facts: Sequence[Fact], *, at_80: bool) -> State | None:
    """What the LMS has after these events, in this order; None before any.

    `at_80`: quizzes are passed at 80 %, else as the event says.
    """
    position: float = 0
    duration: float = 0
    score: float = 0
    completed = passed = 0
    for fact in facts:
        if fact.is_attempt:
            score = number(fact.score)
            passed = int(percentage_passes(fact) if at_80 else _passed(fact))
            if not _passed(fact):
                position, completed = 0, 0
        else:
            duration = number(fact.duration, duration)
            position = max(position, number(fact.position))
            completed = int(duration > 0 and position >= THEIR_THRESHOLD * duration)
    if not facts:
        return None
    return State(facts[0].course_id, position, completed, passed, score)


def _passed(fact: Fact) -> bool:
    if fact.passed is None:
        raise Unreadable
    return fact.passed


def value(
    column: str,
    facts: Sequence[Fact],
    causes: Iterable[Cause],
    ours: State,
    threshold: float,
) -> Any:
    """The column by our rules over these events, with their rules for `causes`.

    `threshold` is the share of a video from which on we take it as completed.

    `ours` has the course as it is in the warehouse: which one it is by our rule is the
    catalogue's matter.
    """
    causes = frozenset(causes)
    if column == "course_id":
        if Cause.FIRST_COURSE in causes:
            return facts[0].course_id if facts else None
        return ours.course_id
    if column in VIDEO:
        share = THEIR_THRESHOLD if Cause.THRESHOLD_90 in causes else threshold
        return _video(column, facts, causes, share)
    return _quiz(column, facts, causes)


def _video(
    column: str, facts: Sequence[Fact], causes: frozenset[Cause], share: float
) -> float:
    if Cause.VIDEO_RESET in causes:
        failed = [
            index
            for index, fact in enumerate(facts)
            if fact.is_attempt and not _passed(fact)
        ]
        facts = facts[failed[-1] + 1 :] if failed else facts
    pings = [fact for fact in facts if not fact.is_attempt]
    furthest = max((number(ping.position) for ping in pings), default=0)
    if column == "video_max_position_sec":
        return furthest if Cause.FRACTION in causes else _whole(furthest)
    is_binary = Cause.BINARY_EDGE in causes
    if Cause.LATEST_DURATION in causes:
        durations = (number(ping.duration) for ping in reversed(pings))
        latest = next(filter(None, durations), 0)
        return int(_completes(furthest, latest, share, is_binary))
    return int(
        any(
            _completes(number(ping.position), number(ping.duration), share, is_binary)
            for ping in pings
        )
    )


def _completes(position: float, duration: float, share: float, is_binary: bool) -> bool:
    if duration <= 0:
        return False
    if is_binary or abs(position / duration - share) > 0.001:
        return position >= share * duration
    # As the decimals that were sent.
    needed = Fraction(repr(share)) * Fraction(repr(duration))
    return Fraction(repr(position)) >= needed


def _quiz(column: str, facts: Sequence[Fact], causes: frozenset[Cause]) -> float | None:
    attempts = [fact for fact in facts if fact.is_attempt]
    if column == "quiz_passed":
        passes = percentage_passes if Cause.PASS_MARK_80 in causes else _passed
        if Cause.LATEST_ATTEMPT in causes:
            attempts = attempts[-1:]
        return int(any(passes(attempt) for attempt in attempts))
    if not attempts:
        return 0 if Cause.NO_ATTEMPT_IS_ZERO in causes else None
    chosen = attempts[-1]
    if Cause.LATEST_ATTEMPT not in causes:
        chosen = max(
            attempts,
            key=lambda each: (
                number(each.score) / number(each.max_score, 1),
                each.occurred_at or datetime.min,
                each.event_id,
            ),
        )
    score = number(chosen.score)
    return score if Cause.FRACTION in causes else _whole(score)


def _whole(seconds_or_points: float) -> int:
    return min(math.floor(seconds_or_points), _LARGEST_INTEGER)


# --- what no event can have made -----------------------------------------------------


def no_event_says(column: str, theirs: State, facts: Sequence[Fact]) -> str | None:
    """How the row itself proves that no known event made it so; None if it does not.

    An event leaves behind a position that a ping has, or 0, completed just where it is
    90 % of some ping's duration; the score of an attempt, passed if that one passed;
    and a course that it names.
    """
    if column == "course_id":
        if theirs.course_id in {fact.course_id for fact in facts}:
            return None
        return "no event names the course"
    if column in VIDEO:
        return _no_ping_says(theirs, [fact for fact in facts if not fact.is_attempt])
    return _no_attempt_says(theirs, [fact for fact in facts if fact.is_attempt])


def _no_ping_says(theirs: State, pings: list[Fact]) -> str | None:
    position = theirs.video_max_position_sec
    if position not in {0, *(number(ping.position) for ping in pings)}:
        return f"no ping has the position {position}"
    needed = (THEIR_THRESHOLD * number(ping.duration) for ping in pings)
    possible = {0 < each <= position for each in needed}
    if position == 0:
        possible.add(False)  # set back, or before any ping
    if bool(theirs.video_completed) in possible:
        return None
    return f"{position} s completes the video by no ping's duration, or by every one"


def _no_attempt_says(theirs: State, attempts: list[Fact]) -> str | None:
    results = {(number(each.score), _passed(each)) for each in attempts}
    results |= {(number(each.score), percentage_passes(each)) for each in attempts}
    result = (theirs.quiz_score or 0, bool(theirs.quiz_passed))
    if result in results | {(0, False)}:
        return None
    passed = "passed" if theirs.quiz_passed else "not passed"
    return f"no attempt has the score {theirs.quiz_score}, {passed}"


def starts_anew(columns: Sequence[str], theirs: State, facts: Sequence[Fact]) -> int:
    """After how many events the row must have been set back, for their rule to make of
    the rest what it has in `columns`; 0 if no such number is there."""
    for index in range(1, len(facts) + 1):
        rest = their_state(facts[index:], at_80=True) or State(None, 0, 0, 0, 0)
        other = their_state(facts[index:], at_80=False) or rest
        for state in (rest, other):
            if all(
                getattr(state, name) == (getattr(theirs, name) or 0) for name in columns
            ):
                return index
    return 0
