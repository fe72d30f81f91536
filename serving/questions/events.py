"""The events behind a number.

A `Selection` names the events that a number was made from; it can be written as the
query of an address, so that a link can lead there.
"""

import dataclasses
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode

from ingest.errors import WarehouseError
from serving.reader import HALF, NOW, Reader, Row


def _completed_from(step: str) -> str:
    """Those who completed this step of the course or a later one."""
    return f"""
        from signals.lms_signal as made
        inner join analytics.v_course_funnel as funnel
            on made.class_id = funnel.class_id
        where
            made.type = 'STEP_COMPLETED'
            and funnel.course_id = $course
            and funnel.step >= {step}
    """


# Which events of the learners, classes and courses that are given: an SQL condition.
# The signals, hints and badges name their source events themselves.
_KINDS = {
    "events": "true",
    # The same rule as for watched bins: see "Learning analytics" in docs/analytics.md.
    "bin": """
        event_id in (
            select event_id from (
                select
                    event_id,
                    least(floor(position_sec / 10), ceil(duration_sec / 10) - 1)
                        as last_bin,
                    ceil(greatest(least(coalesce(playback_rate, 1), 16), 1)) - 1
                        as bins_before
                from staging.stg_video_ping
                where class_id = $class_id and duration_sec <= 86400
            )
            where $bin between last_bin - bins_before and last_bin
        )
    """,
    "signals": """
        event_id in (
            select unnest(source_event_ids) from signals.lms_signal as made
            where
                ($signal is null or made.type = $signal)
                and ($user is null or made.user_id = $user)
                and ($day is null or {signal_day} = cast($day as date))
                and ($class_id is null or made.class_id = $class_id)
                and (
                    $course is null
                    or made.course_id = $course
                    or made.class_id in (
                        select class_id from catalogue.catalogue_class
                        where course_id = $course
                    )
                )
        )
    """,
    # A learner reached a step who completed it or a later one.
    "reached": f"""
        event_id in (select unnest(made.source_event_ids) {_completed_from("$step")})
    """,
    # Of those who reached the step before (of the first: who started), and not this.
    "lost": f"""
        user_id in (
            select user_id from analytics.v_course_progress
            where
                course_id = $course
                and (
                    $step = 1
                    or user_id in (
                        select made.user_id {_completed_from("$step - 1")}
                    )
                )
            except
            select made.user_id {_completed_from("$step")}
        )
    """,
    "risk": """
        event_id in (
            select unnest(source_event_ids) from analytics.v_learner_at_risk
            where
                user_id = $user and reason = $reason
                and ($course is null or course_id = $course)
        )
    """,
    "badge": """
        event_id in (
            select unnest(source_event_ids) from analytics.v_badge_award
            where user_id = $user and badge = $badge
        )
    """,
    "active": f"occurred_at > {NOW} - to_hours($hours) and occurred_at <= {NOW}",
    "stale": "user_id in (select user_id from analytics.v_stale_user)",
    "abandoned": """
        (user_id, class_id) in (
            select progress.user_id, classes.class_id
            from analytics.v_course_progress as progress
            inner join catalogue.catalogue_class as classes
                on progress.course_id = classes.course_id
            where progress.status = 'abandoned'
        )
    """,
    "in_streak": """
        user_id in (
            select user_id from analytics.v_learner_streak where current_days > 0
        )
    """,
    "dropped": f"""
        (user_id, class_id) in (
            select user_id, class_id from analytics.v_video_engagement
            where video_completed = 0 and coverage < {HALF}
        )
    """,
    "skipped": """
        (user_id, class_id) in (
            select user_id, class_id from analytics.v_video_engagement
            where skipped_to_end = 1
        )
    """,
}

# Conditions that hold for every kind; those of `signals` and `reached` are on the
# signals instead, whose events may be of a class that has moved to another course.
_FILTERS = {
    "user": "user_id = $user",
    "class_id": "class_id = $class_id",
    "course": """class_id in (
        select class_id from catalogue.catalogue_class where course_id = $course
    )""",
    "type": "type = $type",
    "load": "load_id = $load",
    "event": "event_id = $event",
    "day": "{day} = cast($day as date)",
}
_ON_SIGNALS = ("course", "class_id", "day")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Events by what they are of; `kind` is one of the words that a link may use."""

    kind: str = "events"
    user: str | None = None
    class_id: str | None = None
    course: str | None = None
    type: str | None = None
    signal: str | None = None
    day: str | None = None
    bin: int | None = None
    step: int | None = None
    load: int | None = None
    hours: int | None = None
    reason: str | None = None
    badge: str | None = None
    event: str | None = None

    def address(self) -> str:
        """The page of these events, relative to any other page."""
        given = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value is not None
        }
        return f"events?{urlencode(given)}"

    @classmethod
    def of_address(cls, query: dict[str, str]) -> Self:
        """Raises `WarehouseError` for a query that no link of ours has."""
        numbers = ("bin", "step", "load", "hours")
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            given = {
                name: int(value) if name in numbers else value
                for name, value in query.items()
                if name in names
            }
            selection = cls(**given)  # type: ignore[arg-type]
            needed = {
                "bin": ("class_id", "bin"),
                "reached": ("course", "step"),
                "lost": ("course", "step"),
                "risk": ("user", "reason"),
                "badge": ("user", "badge"),
                "active": ("hours",),
            }
            if selection.kind not in _KINDS or any(
                getattr(selection, name) is None
                for name in needed.get(selection.kind, ())
            ):
                raise ValueError
        except ValueError as error:
            raise WarehouseError(
                "this address names no events; follow a link from another page"
            ) from error
        return selection

    def words(self) -> str:
        """What is selected, for the head of the page."""
        names = {"class_id": "class"}
        parts = [
            f"{names.get(name, name)} {value}"
            for name, value in dataclasses.asdict(self).items()
            if value is not None and (name, value) != ("kind", "events")
        ]
        return ", ".join(parts) or "all"


@dataclass(frozen=True)
class Events:
    """The newest events, and how many there are in all."""

    rows: list[Row]
    total: int


def events(reader: Reader, selection: Selection, *, limit: int = 50) -> Events:
    """Raises `NamesHidden`: events are of single learners."""
    reader.needs_names()
    on_signals = _ON_SIGNALS if selection.kind in ("signals", "reached") else ()
    conditions = [
        _KINDS[selection.kind].format(signal_day=reader.day("made.occurred_at"))
        if selection.kind == "signals"
        else _KINDS[selection.kind],
        reader.classes("class_id"),
        *(
            condition.format(day=reader.day("occurred_at"))
            for name, condition in _FILTERS.items()
            if getattr(selection, name) is not None and name not in on_signals
        ),
    ]
    source = f"from raw.lms_event where {' and '.join(conditions)}"
    values = dataclasses.asdict(selection)
    # How far back the page goes is asked first: of all events only narrow columns are
    # read, and of those before it nothing.
    found = reader.row(
        f"""
        select
            count(*) as total,
            list_last(max(occurred_at, {int(limit)})) as since
        {source}
        """,
        **values,
    )
    rows = reader.rows(
        f"""
        select
            event_id, type, user_id, class_id, occurred_at, received_at, load_id, file,
            line_number,
            json_extract(payload, '$.position_sec') as position_2,
            json_extract(payload, '$.position') as position_1,
            json_extract(payload, '$.duration_sec') as duration_2,
            json_extract(payload, '$.duration') as duration_1,
            json_extract(payload, '$.score') as score,
            json_extract(payload, '$.max_score') as max_score,
            json_extract(payload, '$.passed') as passed
        {source} and occurred_at >= $since
        order by occurred_at desc, event_id desc
        limit {int(limit)}
        """,
        since=found["since"],
        **values,
    )
    return Events([_with_what(row) for row in rows], found["total"])


def _with_what(row: Row) -> Row:
    """The payload in words: "at 512.4 of 600 s", "7 of 10 points, passed"."""
    fields = {name: row.pop(name) for name in list(row)[9:]}
    if row["type"] == "VIDEO_PING":
        position = fields["position_2"] or fields["position_1"]
        duration = fields["duration_2"] or fields["duration_1"]
        what = f"at {position} of {duration} s"
    else:
        passed = "passed" if fields["passed"] == "true" else "not passed"
        what = f"{fields['score']} of {fields['max_score']} points, {passed}"
    return {**row, "what": what}
