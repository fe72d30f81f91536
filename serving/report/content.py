"""What stands in a report: the dashboard's questions, as words, charts and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from serving import charts, formats
from serving.charts import Chart
from serving.questions import course, needs_help, overview, quiz, video
from serving.reader import Reader, Row
from serving.tables import Column

DAYS = 28
MOST_ROWS = 200
MOST_VIDEOS = 12


@dataclass(frozen=True)
class Table:
    """`columns` of `rows`; `empty` says what it means that there are none."""

    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Row]
    empty: str

    @property
    def shown(self) -> Sequence[Row]:
        return self.rows[:MOST_ROWS]

    @property
    def left_out(self) -> int:
        return len(self.rows) - len(self.shown)


@dataclass(frozen=True)
class Section:
    """`charts` are by the name that an image of theirs has."""

    title: str
    sentences: tuple[str, ...] = ()
    charts: tuple[tuple[str, Chart], ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Report:
    """Of one course, or of all (`course_id` is None)."""

    title: str
    course_id: str | None
    since: date
    load_id: int
    published_at: datetime
    sections: tuple[Section, ...]


def report(reader: Reader, course_id: str | None, since: date | None) -> Report:
    """`since` is the first day of what is new, by default 28 days ago. Learners are
    named if the reader's scope may see them."""
    scoped = reader.only(course_id)
    today = reader.today()
    since = since or today - timedelta(days=DAYS)
    if course_id is None:
        sections = _of_all(scoped, since, today)
        title = "All courses"
    else:
        sections = _of_course(scoped, course_id, since, today)
        title = course_id
    return Report(
        title, course_id, since, reader.load_id, reader.published_at, tuple(sections)
    )


def _of_all(reader: Reader, since: date, today: date) -> list[Section]:
    kpis = [
        {
            "label": kpi.label,
            "value": kpi.value,
            "level": kpi.level,
            "meaning": kpi.meaning,
        }
        for kpi in overview.kpis(reader)
    ]
    courses = [
        {"course_id": name, **course.new_since(reader.only(name), since)}
        for name in overview.courses(reader)
    ]
    return [
        _new(reader, since),
        Section(
            "Key figures",
            tables=(
                Table(
                    "Key figures",
                    (
                        Column("label", "figure"),
                        Column("value", "now"),
                        Column("level", "level"),
                        Column("meaning", "what it is"),
                    ),
                    kpis,
                    "Nothing has been landed yet.",
                ),
            ),
        ),
        _activity(reader, since, today),
        Section(
            "Courses",
            tables=(
                Table(
                    f"Each course since {since}",
                    (
                        Column("course_id", "course"),
                        Column("active_count", "active learners", formats.number),
                        Column("started_count", "started", formats.number),
                        Column("completed_count", "completed", formats.number),
                        Column("risk_count", "newly need help", formats.number),
                    ),
                    courses,
                    "The catalogue has no course.",
                ),
            ),
        ),
        _quizzes(reader),
        _help(reader),
    ]


def _of_course(
    reader: Reader, course_id: str, since: date, today: date
) -> list[Section]:
    sections = [
        _new(reader, since),
        _funnel(reader, course_id),
        _activity(reader, since, today),
        _progress(reader, course_id),
        *_videos(reader),
        _quizzes(reader),
        _help(reader),
    ]
    if reader.scope.sees_names:
        sections.append(_leaderboard(reader, course_id))
    return sections


def _new(reader: Reader, since: date) -> Section:
    new = course.new_since(reader, since)
    said = [
        f"{words}: {formats.number(new[name])}"
        for name, words in (
            ("active_count", "Active learners"),
            ("started_count", "courses started"),
            ("completed_count", "courses completed"),
            ("risk_count", "learners who newly need help"),
        )
    ]
    return Section(f"Since {since}", (f"{'; '.join(said)}.",))


def _activity(reader: Reader, since: date, today: date) -> Section:
    days = (today - since).days + 1
    shown = []
    daily = overview.daily(reader, days)
    events = _from(daily.events, "event_date", since)
    if any(row["event_count"] for row in events):
        chart = charts.daily(
            events,
            day="event_date",
            kind="event_type",
            count="event_count",
            noun="events",
        )
        shown.append(("events", chart))
    learners = _from(daily.learners, "active_on", since)
    if any(row["user_count"] for row in learners):
        shown.append(("learners", charts.active_learners(learners)))
    signals = _from(overview.daily_signals(reader, days), "signal_date", since)
    if any(row["signal_count"] for row in signals):
        chart = charts.daily(
            signals,
            day="signal_date",
            kind="signal_type",
            count="signal_count",
            noun="signals",
        )
        shown.append(("signals", chart))
    sentences = () if shown else (f"No event since {since}.",)
    return Section("Activity", sentences, tuple(shown))


def _from(rows: Sequence[Row], day: str, since: date) -> list[Row]:
    return [row for row in rows if row[day] >= since]


def _funnel(reader: Reader, course_id: str) -> Section:
    funnel = course.funnel(reader, course_id)
    has_numbers = any(step["reached_count"] is not None for step in funnel.steps)
    shown = charts.funnel(funnel.steps, funnel.started) if has_numbers else None
    return Section(
        "Where it loses its learners",
        (
            "Reached: completed this step or a later one. Lost: reached the step "
            "before (of the first: started the course), and not this one.",
        ),
        (("funnel", shown),) if shown else (),
        (
            Table(
                f"{formats.number(funnel.started)} learners started",
                (
                    Column("step", "step"),
                    Column("title", "class"),
                    Column("reached_count", "reached", formats.number),
                    Column("completed_count", "completed", formats.number),
                    Column("lost_count", "lost", formats.number),
                    Column("lost_share", "of those before", formats.share),
                ),
                funnel.steps,
                "No class of this course has a video or a quiz: nothing to complete.",
            ),
        ),
    )


def _progress(reader: Reader, course_id: str) -> Section:
    return Section(
        "Progress of its learners",
        tables=(
            Table(
                "Learners by status and level",
                (
                    Column("status", "status"),
                    Column("mastery_level", "level"),
                    Column("learner_count", "learners", formats.number),
                ),
                course.statuses(reader, course_id),
                "Nobody has started this course.",
            ),
        ),
    )


def _videos(reader: Reader) -> list[Section]:
    videos = video.videos(reader)
    table = Table(
        "Every video with a viewer",
        (
            Column("class_id", "video"),
            Column("title", "title"),
            Column("viewer_count", "viewers", formats.number),
            Column("mean_coverage", "mean coverage", formats.share),
            Column("completed_count", "completed", formats.number),
            Column("dropped_count", "dropped", formats.number),
            Column("skipped_count", "skipped to the end", formats.number),
        ),
        videos,
        "No video in this course was watched yet.",
    )
    said = (
        "Coverage: the share of the 10-second pieces that a learner watched. Dropped: "
        "seen less than half, not completed."
    )
    found = []
    for number, row in enumerate(videos[:MOST_VIDEOS], 1):
        bins = video.retention(reader, row["class_id"]).bins
        if any(each["viewer_share"] is not None for each in bins):
            title = f"Video: {row['title'] or row['class_id']}"
            chart = (f"video-{number}", charts.retention(bins))
            found.append(Section(title, charts=(chart,)))
    return [Section("Videos", (said,), tables=(table,)), *found]


def _quizzes(reader: Reader) -> Section:
    quizzes = quiz.difficulty(reader)
    known = [row for row in quizzes if row["pass_rate"] is not None]
    return Section(
        "Quizzes",
        charts=(("quizzes", charts.quiz_rates(known)),) if known else (),
        tables=(
            Table(
                "Hardest first; scores are of each learner's best submission",
                (
                    Column("class_id", "quiz"),
                    Column("title", "title"),
                    Column("learner_count", "learners", formats.number),
                    Column("submission_count", "submissions", formats.number),
                    Column("first_try_pass_rate", "pass first", formats.share),
                    Column("pass_rate", "pass in the end", formats.share),
                    Column(
                        *("median_attempts_to_pass", "attempts to pass"),
                        formats.number,
                    ),
                    Column("score_ratio_mean", "mean score", formats.share),
                ),
                quizzes,
                "No quiz, or nobody has sent one in yet.",
            ),
        ),
    )


def _help(reader: Reader) -> Section:
    title = "Who needs help"
    if not reader.scope.sees_names:
        return Section(title, ("Learners are not named in this report.",))
    rows = needs_help.at_risk(reader)
    return Section(
        title,
        (needs_help.summary(reader).in_words(),) if rows else (),
        tables=(
            Table(
                "Learners with most reasons first, then who has waited longest",
                (
                    Column("user_id", "learner"),
                    Column("course_id", "course"),
                    Column("reason", "reason", needs_help.meaning),
                    Column("detail", "what is seen"),
                    Column("since", "since (UTC)", formats.moment),
                ),
                rows,
                "Nobody needs help.",
            ),
        ),
    )


def _leaderboard(reader: Reader, course_id: str) -> Section:
    return Section(
        "Leaderboard",
        tables=(
            Table(
                "The first 20 by XP from this course",
                (
                    Column("rank", "rank", formats.number),
                    Column("user_id", "learner"),
                    Column("course_xp", "XP", formats.number),
                    Column("video_completed_count", "videos", formats.number),
                    Column("quiz_passed_count", "quizzes", formats.number),
                    Column("step_completed_count", "steps", formats.number),
                ),
                course.leaderboard(reader, course_id),
                "Nobody has earned XP in this course yet.",
            ),
        ),
    )
