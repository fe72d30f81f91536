"""Why a step is done or not: what the catalogue asks, and what the learner did."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest.errors import WarehouseError
from ingest.landing import quiz_register
from ingest.landing.quiz_register import NO_QUIZZES, QuizRegister
from serving.formats import plain
from serving.reader import Reader, Row

_ASKED = "(select unnest(cast($class_ids as varchar[])))"


@dataclass(frozen=True)
class Part:
    """One thing that a class asks, `video` or `quiz`, in a sentence."""

    part: str
    is_done: bool
    because: str


@dataclass(frozen=True)
class Why:
    """`is_done` is whether the learner has the STEP_COMPLETED of the class."""

    user_id: str
    class_id: str
    title: str | None
    is_done: bool
    parts: tuple[Part, ...]
    because: str


def register_at(path: Path) -> QuizRegister:
    """The pass marks of forms; none where the register cannot be read, since landing
    says what is wrong with it."""
    with contextlib.suppress(WarehouseError):
        return quiz_register.read(path)
    return NO_QUIZZES


def why(
    reader: Reader, user_id: str, class_id: str, register: QuizRegister = NO_QUIZZES
) -> Why:
    """Raises `WarehouseError` for a class or a learner that is not known, or out of
    scope."""
    answers = why_each(reader, user_id, [class_id], register)
    if not answers:
        raise WarehouseError(
            f"{class_id}: no such class in the catalogue, and no event of it; "
            '`warehouse query "from catalogue.catalogue_class"` lists the classes'
        )
    known = reader.rows(
        f"""
        select 1 from projections.prj_class_activity
        where user_id = $user_id and {reader.classes("class_id")}
        limit 1
        """,
        user_id=user_id,
    )
    if not known:
        raise WarehouseError(
            f"{user_id}: no event of this learner has arrived; `warehouse query "
            '"select user_id from monitoring.v_user_activity"` lists the learners'
        )
    return answers[0]


def why_each(
    reader: Reader,
    user_id: str,
    class_ids: Sequence[str],
    register: QuizRegister = NO_QUIZZES,
) -> list[Why]:
    """For each class, in their order, without those that are not known or out of scope.

    As many queries for many classes as for one.
    """
    reader.needs_names()
    if not class_ids:
        return []
    asked = reader.rows(
        f"""
        select
            classes.class_id as catalogued, classes.title, classes.has_video,
            classes.has_quiz, classes.is_retired, asked.class_id, done.occurred_at
        from (
            select
                unnest(cast($class_ids as varchar[])) as class_id,
                generate_subscripts(cast($class_ids as varchar[]), 1) as place
        ) as asked
        left join catalogue.catalogue_class as classes
            on asked.class_id = classes.class_id
        left join (
            select class_id, occurred_at from projections.prj_class_signal
            where type = 'STEP_COMPLETED' and user_id = $user_id
        ) as done on asked.class_id = done.class_id
        where
            {reader.classes("asked.class_id")}
            and (
                classes.class_id is not null
                or asked.class_id in (
                    select class_id from projections.prj_class_activity
                    where class_id in {_ASKED}
                )
            )
        order by asked.place
        """,
        user_id=user_id,
        class_ids=list(class_ids),
    )
    videos = _videos(
        reader, user_id, [row["class_id"] for row in asked if row["has_video"]]
    )
    quizzes = _quizzes(
        reader, user_id, [row["class_id"] for row in asked if row["has_quiz"]], register
    )
    answers = []
    for row in asked:
        class_id = row["class_id"]
        found = (videos.get(class_id), quizzes.get(class_id))
        parts = tuple(part for part in found if part)
        answers.append(
            Why(
                user_id,
                class_id,
                row["title"],
                row["occurred_at"] is not None,
                parts,
                _because(row, parts),
            )
        )
    return answers


def _because(asked: Row, parts: Sequence[Part]) -> str:
    if asked["occurred_at"] is not None:
        return f"done since {asked['occurred_at']:%Y-%m-%d %H:%M:%S} (UTC)"
    if not asked["catalogued"]:
        return "the class is not in the catalogue: nothing can complete it"
    if not parts:
        return "the class asks for nothing: it has neither a video nor a quiz"
    missing = [part.part for part in parts if not part.is_done]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        return f"the {' and the '.join(missing)} {verb} missing"
    if asked["is_retired"]:
        return "everything was done only after the class had left the catalogue"
    return "everything is done, but not yet under the catalogue in force"


def _videos(reader: Reader, user_id: str, class_ids: list[str]) -> dict[str, Part]:
    pings = reader.rows(
        f"""
        select
            progress.class_id, progress.max_position_sec, progress.completed_at,
            watch.duration_sec,
            (
                select completion_threshold from signals.signal_rule
                where type = 'VIDEO_COMPLETED'
            ) as threshold
        from projections.prj_video_progress as progress
        left join projections.prj_video_watch as watch
            on progress.user_id = watch.user_id and progress.class_id = watch.class_id
        where progress.user_id = $user_id and progress.class_id in {_ASKED}
        """,
        user_id=user_id,
        class_ids=class_ids,
    )
    # Pings that say different durations: the one that came nearest counts.
    unclear = [
        seen["class_id"]
        for seen in pings
        if seen["completed_at"] is None
        and (
            seen["duration_sec"] is None
            or seen["max_position_sec"] >= seen["threshold"] * seen["duration_sec"]
        )
    ]
    nearest = _nearest_pings(reader, user_id, unclear) if unclear else {}
    parts = dict.fromkeys(
        class_ids, Part("video", False, "no ping of the video has arrived")
    )
    for seen in pings:
        parts[seen["class_id"]] = _video(seen, nearest.get(seen["class_id"], seen))
    return parts


def _nearest_pings(
    reader: Reader, user_id: str, class_ids: list[str]
) -> dict[str, Row]:
    rows = reader.rows(
        f"""
        select class_id, position_sec as max_position_sec, duration_sec
        from staging.stg_video_ping
        where user_id = $user_id and class_id in {_ASKED}
        qualify row_number() over (
            partition by class_id
            order by position_sec / duration_sec desc, occurred_at, event_id
        ) = 1
        """,
        user_id=user_id,
        class_ids=class_ids,
    )
    return {row["class_id"]: row for row in rows}


def _video(seen: Row, furthest: Row) -> Part:
    if seen["completed_at"] is not None:
        at = f"{seen['completed_at']:%Y-%m-%d %H:%M:%S}"
        return Part("video", True, f"completed at {at} (UTC)")
    duration = furthest["duration_sec"]
    return Part(
        "video",
        False,
        f"the furthest ping is {plain(furthest['max_position_sec'])} of "
        f"{plain(duration)} s; {plain(seen['threshold'] * duration)} are needed",
    )


def _quizzes(
    reader: Reader, user_id: str, class_ids: list[str], register: QuizRegister
) -> dict[str, Part]:
    results = reader.rows(
        f"""
        select class_id, submission_count, best_score_ratio, passed_at
        from projections.prj_quiz_result
        where user_id = $user_id and class_id in {_ASKED}
        """,
        user_id=user_id,
        class_ids=class_ids,
    )
    failed = [row["class_id"] for row in results if row["passed_at"] is None]
    marks = _marks(reader, user_id, failed, register)
    unmarked = [class_id for class_id in failed if class_id not in marks]
    lowest = _lowest_that_passed(reader, unmarked) if unmarked else {}
    parts = dict.fromkeys(
        class_ids, Part("quiz", False, "no submission of the quiz has arrived")
    )
    for row in results:
        parts[row["class_id"]] = _quiz(row, {**lowest, **marks})
    return parts


def _marks(
    reader: Reader, user_id: str, class_ids: list[str], register: QuizRegister
) -> dict[str, str]:
    """What the register says of the forms that the learner submitted, by class."""
    if not (class_ids and register.quizzes):
        return {}
    forms = reader.rows(
        f"""
        select class_id, arg_max(quiz_id, (occurred_at, event_id)) as form_id
        from staging.stg_quiz_submission
        where user_id = $user_id and class_id in {_ASKED}
        group by class_id
        """,
        user_id=user_id,
        class_ids=class_ids,
    )
    known = {
        row["class_id"]: register.quiz(row["form_id"], row["class_id"]) for row in forms
    }
    return {
        class_id: f"the form passes at {plain(float(quiz.pass_mark))} %"
        for class_id, quiz in known.items()
        if quiz
    }


def _lowest_that_passed(reader: Reader, class_ids: list[str]) -> dict[str, str]:
    """A form's pass mark is in no event: what passed is all that is known of it."""
    rows = reader.rows(
        f"""
        select class_id, min(lowest_passed_ratio) as ratio
        from projections.prj_quiz_attempt
        where class_id in {_ASKED} and lowest_passed_ratio is not null
        group by class_id
        """,
        class_ids=class_ids,
    )
    return {
        row["class_id"]: f"the lowest that passed has {plain(row['ratio'] * 100)} %"
        for row in rows
    }


def _quiz(result: Row, needed: Mapping[str, str]) -> Part:
    if result["passed_at"] is not None:
        at = f"{result['passed_at']:%Y-%m-%d %H:%M:%S}"
        return Part("quiz", True, f"passed at {at} (UTC)")
    count = result["submission_count"]
    said = f"{count} submission{'s' if count > 1 else ''}, best "
    said += f"{plain(result['best_score_ratio'] * 100)} %"
    known = needed.get(result["class_id"], "nobody has passed it yet")
    return Part("quiz", False, f"{said}; {known}")
