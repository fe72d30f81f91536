"""Everything of one learner. Each function raises `NamesHidden` where it must."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ingest.landing.quiz_register import NO_QUIZZES, QuizRegister
from serving.questions.why import Why, why_each
from serving.reader import Reader, Row


def found(reader: Reader, text: str, *, limit: int = 20) -> list[str]:
    """Learners whose id contains the text, whatever its case."""
    reader.needs_names()
    rows = reader.rows(
        f"""
        select distinct user_id from projections.prj_class_activity
        where
            contains(lower(user_id), lower($text))
            and {reader.classes("class_id")}
        order by user_id
        limit {limit}
        """,
        text=text,
    )
    return [row["user_id"] for row in rows]


def courses(reader: Reader, user_id: str) -> list[Row]:
    reader.needs_names()
    return reader.rows(
        f"""
        select * exclude (user_id) from analytics.v_course_progress
        where user_id = $user_id and {reader.courses("course_id")}
        order by started_at, course_id
        """,
        user_id=user_id,
    )


def steps(reader: Reader, user_id: str) -> list[Row]:
    """The tracked classes of the courses that the learner started, and other classes
    with an event of the learner: what is done of each."""
    reader.needs_names()
    return reader.rows(
        f"""
        with

        progress as (

            select * from progress.v_user_progress where user_id = $user_id

        ),

        started as (

            select course_id from progress.course_activity where user_id = $user_id

        )

        select
            coalesce(classes.class_id, progress.class_id) as class_id,
            coalesce(classes.course_id, progress.course_id) as course_id,
            classes.title,
            classes.position,
            classes.has_video,
            classes.has_quiz,
            progress.video_max_position_sec,
            progress.video_completed,
            progress.quiz_passed,
            progress.quiz_score,
            steps.occurred_at as completed_at
        from catalogue.catalogue_class as classes
        full join progress on classes.class_id = progress.class_id
        left join (
            select class_id, occurred_at from projections.prj_class_signal
            where user_id = $user_id and type = 'STEP_COMPLETED'
        ) as steps on coalesce(classes.class_id, progress.class_id) = steps.class_id
        where
            (
                progress.class_id is not null
                or (
                    classes.is_retired = 0
                    and (classes.has_video = 1 or classes.has_quiz = 1)
                    and classes.course_id in (select course_id from started)
                )
            )
            and {reader.classes("coalesce(classes.class_id, progress.class_id)")}
        order by course_id nulls last, classes.position, class_id
        """,
        user_id=user_id,
    )


def not_done(
    reader: Reader,
    user_id: str,
    learner_steps: Sequence[Row],
    register: QuizRegister = NO_QUIZZES,
) -> list[Why]:
    """Why each of the learner's `steps` that is tracked and not done is not."""
    missing = [
        step["class_id"]
        for step in learner_steps
        if step["completed_at"] is None and (step["has_video"] or step["has_quiz"])
    ]
    return why_each(reader, user_id, missing, register)


def videos(reader: Reader, user_id: str) -> list[Row]:
    """Coverage of each video; `bins` are those watched, `bin_count` how many it has."""
    reader.needs_names()
    return reader.rows(
        f"""
        select
            engagement.* exclude (user_id),
            classes.title,
            list_transform(watch.watched_bins, lambda watched: watched.bin) as bins,
            cast(ceil(watch.duration_sec / 10) as integer) as bin_count
        from analytics.v_video_engagement as engagement
        left join projections.prj_video_watch as watch
            on
                engagement.user_id = watch.user_id
                and engagement.class_id = watch.class_id
        left join catalogue.catalogue_class as classes
            on engagement.class_id = classes.class_id
        where
            engagement.user_id = $user_id
            and {reader.classes("engagement.class_id")}
        order by engagement.first_ping_at, engagement.class_id
        """,
        user_id=user_id,
    )


def quizzes(reader: Reader, user_id: str) -> list[Row]:
    reader.needs_names()
    return reader.rows(
        f"""
        select
            results.class_id, classes.title, results.submission_count,
            results.passed_at, results.best_score, results.best_score_ratio,
            results.first_score, results.latest_score, results.latest_at
        from projections.prj_quiz_result as results
        left join catalogue.catalogue_class as classes
            on results.class_id = classes.class_id
        where results.user_id = $user_id and {reader.classes("results.class_id")}
        order by results.first_at, results.class_id
        """,
        user_id=user_id,
    )


def signals(reader: Reader, user_id: str) -> list[Row]:
    reader.needs_names()
    return reader.rows(
        f"""
        select * exclude (user_id, load_id) from signals.lms_signal
        where
            user_id = $user_id
            and ({reader.courses("course_id")} or {reader.classes("class_id")})
        order by occurred_at, type, signal_id
        """,
        user_id=user_id,
    )


def risks(reader: Reader, user_id: str) -> list[Row]:
    reader.needs_names()
    return reader.rows(
        f"""
        select * exclude (user_id) from analytics.v_learner_at_risk
        where user_id = $user_id and {reader.courses("course_id")}
        order by since, course_id, reason
        """,
        user_id=user_id,
    )


def streak(reader: Reader, user_id: str) -> Row | None:
    """None where there is none, or where it would tell of courses out of scope."""
    reader.needs_names()
    if reader.scope.courses is not None:
        return None
    rows = reader.rows(
        "select * exclude (user_id) from analytics.v_learner_streak "
        "where user_id = $user_id",
        user_id=user_id,
    )
    return rows[0] if rows else None


def badges(reader: Reader, user_id: str) -> list[Row]:
    """None where they would tell of courses out of scope."""
    reader.needs_names()
    if reader.scope.courses is not None:
        return []
    return reader.rows(
        """
        select awards.* exclude (user_id), badges.title
        from analytics.v_badge_award as awards
        inner join signals.badge as badges on awards.badge = badges.badge
        where awards.user_id = $user_id
        order by awards.awarded_at, awards.badge
        """,
        user_id=user_id,
    )


def daily(reader: Reader, user_id: str) -> list[Row]:
    """Day, class, type, events: the learner's timeline."""
    reader.needs_names()
    return reader.rows(
        f"""
        select
            {reader.day("occurred_at")} as event_date,
            class_id,
            type as event_type,
            count(*) as event_count
        from raw.lms_event
        where user_id = $user_id and {reader.classes("class_id")}
        group by event_date, class_id, event_type
        order by event_date, class_id, event_type
        """,
        user_id=user_id,
    )


def events(reader: Reader, user_id: str) -> list[Row]:
    """Every event, with its payload as it was sent."""
    reader.needs_names()
    return reader.rows(
        f"""
        select
            event_id, type, schema_version, class_id, course_id, occurred_at,
            received_at, cast(payload as varchar) as payload, load_id, file, line_number
        from raw.lms_event
        where user_id = $user_id and {reader.classes("class_id")}
        order by occurred_at, event_id
        """,
        user_id=user_id,
    )


def record(reader: Reader, user_id: str) -> dict[str, Any]:
    """All that the warehouse says of the learner, for one JSON document."""
    return {
        "user_id": user_id,
        "load_id": reader.load_id,
        "published_at": reader.published_at,
        "courses": courses(reader, user_id),
        "steps": steps(reader, user_id),
        "videos": videos(reader, user_id),
        "quizzes": quizzes(reader, user_id),
        "signals": signals(reader, user_id),
        "needs_help": risks(reader, user_id),
        "streak": streak(reader, user_id),
        "badges": badges(reader, user_id),
        "events": events(reader, user_id),
    }


def record_rows(record: Mapping[str, Any]) -> list[Row]:
    """The same as one table: part, class, when, and the rest as name=value."""
    rows = []
    for part, content in record.items():
        entries = content if isinstance(content, list) else [content]
        for entry in entries:
            if not isinstance(entry, Mapping):
                continue
            moment = next(
                (value for value in entry.values() if isinstance(value, datetime)),
                None,
            )
            rows.append(
                {
                    "part": part,
                    "course_id": entry.get("course_id"),
                    "class_id": entry.get("class_id"),
                    "at": moment,
                    "values": "; ".join(
                        f"{name}={value}"
                        for name, value in entry.items()
                        if value is not None and name not in ("course_id", "class_id")
                    ),
                }
            )
    return rows
