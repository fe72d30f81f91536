"""Why a step is done or not: what the catalogue asks, and what the learner did."""

from dataclasses import dataclass

from ingest.errors import WarehouseError
from serving.formats import plain
from serving.reader import Reader, Row


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


def why(reader: Reader, user_id: str, class_id: str) -> Why:
    """Raises `WarehouseError` for a class that is not known, or out of scope."""
    reader.needs_names()
    known = reader.rows(
        f"""
        select
            classes.class_id as catalogued, classes.title, classes.has_video,
            classes.has_quiz, classes.is_retired, asked.class_id
        from (select $class_id as class_id) as asked
        left join catalogue.catalogue_class as classes
            on asked.class_id = classes.class_id
        where
            {reader.classes("asked.class_id")}
            and (
                classes.class_id is not null
                or asked.class_id in (
                    select class_id from projections.prj_class_activity
                    where class_id = $class_id
                )
            )
        """,
        class_id=class_id,
    )
    if not known:
        raise WarehouseError(
            f"{class_id}: no such class in the catalogue, and no event of it; "
            '`warehouse query "from catalogue.catalogue_class"` lists the classes'
        )
    [asked] = known
    done = reader.rows(
        """
        select occurred_at from signals.lms_signal
        where
            type = 'STEP_COMPLETED' and user_id = $user_id and class_id = $class_id
        """,
        user_id=user_id,
        class_id=class_id,
    )
    parts = []
    if asked["has_video"]:
        parts.append(_video(reader, user_id, class_id))
    if asked["has_quiz"]:
        parts.append(_quiz(reader, user_id, class_id))
    return Why(
        user_id,
        class_id,
        asked["title"],
        bool(done),
        tuple(parts),
        _because(asked, done, parts),
    )


def _because(asked: Row, done: list[Row], parts: list[Part]) -> str:
    if done:
        return f"done since {done[0]['occurred_at']:%Y-%m-%d %H:%M:%S} (UTC)"
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


def _video(reader: Reader, user_id: str, class_id: str) -> Part:
    pings = reader.rows(
        """
        select
            progress.max_position_sec, progress.completed_at, watch.duration_sec,
            progress.ping_count,
            (
                select completion_threshold from signals.signal_rule
                where type = 'VIDEO_COMPLETED'
            ) as threshold
        from projections.prj_video_progress as progress
        left join projections.prj_video_watch as watch
            on progress.user_id = watch.user_id and progress.class_id = watch.class_id
        where progress.user_id = $user_id and progress.class_id = $class_id
        """,
        user_id=user_id,
        class_id=class_id,
    )
    if not pings:
        return Part("video", False, "no ping of the video has arrived")
    [seen] = pings
    if seen["completed_at"] is not None:
        at = f"{seen['completed_at']:%Y-%m-%d %H:%M:%S}"
        return Part("video", True, f"completed at {at} (UTC)")
    position, duration = seen["max_position_sec"], seen["duration_sec"]
    threshold = seen["threshold"]
    if duration is None or position >= threshold * duration:
        # Pings say different durations: the one that came nearest counts.
        [nearest] = reader.rows(
            """
            select position_sec, duration_sec from staging.stg_video_ping
            where user_id = $user_id and class_id = $class_id
            order by position_sec / duration_sec desc, occurred_at
            limit 1
            """,
            user_id=user_id,
            class_id=class_id,
        )
        position, duration = nearest["position_sec"], nearest["duration_sec"]
    return Part(
        "video",
        False,
        f"the furthest ping is {plain(position)} of {plain(duration)} s; "
        f"{plain(threshold * duration)} are needed",
    )


def _quiz(reader: Reader, user_id: str, class_id: str) -> Part:
    found = reader.rows(
        """
        select submission_count, best_score_ratio, passed_at
        from projections.prj_quiz_result
        where user_id = $user_id and class_id = $class_id
        """,
        user_id=user_id,
        class_id=class_id,
    )
    if not found:
        return Part("quiz", False, "no submission of the quiz has arrived")
    [best] = found
    if best["passed_at"] is not None:
        at = f"{best['passed_at']:%Y-%m-%d %H:%M:%S}"
        return Part("quiz", True, f"passed at {at} (UTC)")
    count = best["submission_count"]
    said = f"{count} submission{'s' if count > 1 else ''}, best "
    said += f"{plain(best['best_score_ratio'] * 100)} %"
    [lowest] = reader.rows(
        """
        select min(score / max_score) as ratio from staging.stg_quiz_submission
        where class_id = $class_id and passed
        """,
        class_id=class_id,
    )
    if lowest["ratio"] is None:
        return Part("quiz", False, f"{said}; nobody has passed it yet")
    return Part(
        "quiz",
        False,
        f"{said}; the lowest score that passed is {plain(lowest['ratio'] * 100)} %",
    )
