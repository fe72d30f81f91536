"""A landing zone to try the warehouse on: learners with habits, and dirty input.

    path/catalogue/catalogue.csv                   the first snapshot
    path/catalogue/effective_from=2026-10-16.csv   the same courses, edited later
    path/events/2026-10-02.ndjson[.gz|.zst]        what arrived on that UTC day
    path/events/late-2026-10-05.ndjson             what phones had kept while offline
    path/events/retry-2026-10-09.ndjson.gz         part of the day before, once more

All randomness comes from one generator and nothing reads the clock, so a seed names its
files byte for byte (for one version of Python, zlib and pyarrow). Every line is held in
memory until it is written, about 0.8 kB a line.
"""

import csv
import gzip
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

DEFAULT_UNTIL = datetime(2026, 10, 23, tzinfo=UTC)
PING_EVERY_SEC = 10.0
PASS_MARK = 0.8

Event = dict[str, Any]


@dataclass(frozen=True)
class DemoSummary:
    """What `write_demo_data` wrote, and what a loader must make of it.

    The four outcomes hold when every event file is landed once, in the order of the
    sorted paths, into an empty warehouse; they add up to `lines`.

    `files` counts the event files (the two catalogue snapshots not among them), `lines`
    their lines that are not blank, `learners` the users with an accepted event,
    `courses` and `classes` those that stand in any catalogue snapshot, `days` the
    length of the period.
    """

    files: int
    lines: int
    accepted: int
    duplicate: int
    conflict: int
    rejected: int
    learners: int
    days: int
    courses: int
    classes: int


def write_demo_data(
    path: Path,
    *,
    learners: int = 60,
    days: int = 21,
    seed: int = 7,
    until: datetime | None = None,
) -> DemoSummary:
    """Write a catalogue and the events of `days` days before `until` under `path`.

    Args:
        path: a directory that is absent or empty.
        learners: how many people take courses, 1 or more. Five more are planted, each
            with one habit.
        days: length of the period in days, 1 or more.
        seed: names the data: the same arguments write the same bytes.
        until: end of the period, with an offset; 2026-10-23T00:00:00Z by default, not
            the clock, so that the default data never change.

    Raises:
        FileExistsError: `path` is a file, or a directory with something in it.
        ValueError: `learners` or `days` is below 1, or `until` has no offset.
    """
    end = DEFAULT_UNTIL if until is None else until
    if end.utcoffset() is None:
        raise ValueError(f"until={end.isoformat()} has no offset: give one, such as Z")
    if learners < 1 or days < 1:
        raise ValueError(f"learners={learners}, days={days}: give 1 or more of each")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"{path} exists and is not an empty directory: "
            "remove it, or name another place for the demo data"
        )

    rng = Random(seed)
    period = _Period(end.astimezone(UTC) - timedelta(days=days), end.astimezone(UTC))
    catalogue = _catalogue(period)
    people = [_learner(rng, number, days) for number in range(learners)]
    lines = [
        line
        for learner in people
        for line in _learner_lines(rng, learner, catalogue, period)
    ]
    lines += _planted_lines(Random(f"planted {seed}"), catalogue, period)
    lines = _with_faults(rng, lines, period)
    files = _event_files(rng, lines)
    outcomes = _outcomes(line for name in sorted(files) for line in files[name])

    for name, classes in catalogue.snapshots.items():
        _write(path / "catalogue" / name, _catalogue_csv(classes))
    (path / "events").mkdir(exist_ok=True)
    for name, content in files.items():
        text = b"".join(line.text + b"\n" for line in content)
        _write(path / "events" / name, _packed(name, text))

    every_class = {step.class_id: step for step in catalogue.first + catalogue.second}
    return DemoSummary(
        files=len(files),
        lines=sum(bool(line.text) for content in files.values() for line in content),
        accepted=outcomes["accepted"],
        duplicate=outcomes["duplicate"],
        conflict=outcomes["conflict"],
        rejected=outcomes["rejected"],
        learners=len({line.user_id for line in lines if line.event_id}),
        days=days,
        courses=len({step.course_id for step in every_class.values()}),
        classes=len(every_class),
    )


# --- the catalogue ---


@dataclass(frozen=True)
class _Class:
    """One class: `video_sec` and `questions` are 0 where it has no video or no quiz."""

    class_id: str
    course_id: str
    title: str
    position: int
    video_sec: float
    questions: int


_COURSES: Mapping[str, tuple[tuple[str, str, float, int], ...]] = {
    "data-literacy": (
        ("welcome", "Welcome, and how this course works", 0, 0),
        ("questions", "Questions that data can answer", 402.5, 0),
        ("charts", "Reading a chart without being fooled", 611.2, 8),
        ("averages", "Averages, medians and outliers", 548.0, 10),
        ("correlation", "Correlation is not causation", 697.36, 10),
        ("check", "Final check", 0, 20),
    ),
    "sql-first-query": (
        ("tables", "Tables, rows and columns", 333.75, 0),
        ("select", "Your first SELECT", 587.4, 5),
        ("filters", "Filtering with WHERE", 521.92, 8),
        ("joins", "Joining two tables", 842.1, 10),
        ("groups", "Counting with GROUP BY", 655.0, 8),
        ("nulls", "What NULL means", 298.6, 0),
        ("exam", "Practice exam", 0, 20),
    ),
    "python-first-steps": (
        ("setup", "Install and say hello", 276.0, 0),
        ("variables", "Names and values", 455.15, 5),
        ("conditions", "Making decisions with if", 498.8, 5),
        ("loops", "Loops", 634.44, 8),
        ("functions", "Functions", 771.0, 10),
        ("files", "Reading files", 562.3, 0),
        ("errors", "When things go wrong", 489.9, 5),
        ("project", "Mini project quiz", 0, 10),
    ),
    "useful-feedback": (
        ("why", "Why feedback fails", 318.25, 0),
        ("situation", "Situation, behaviour, impact", 504.0, 5),
        ("listening", "Listening before answering", 437.7, 0),
        ("written", "Feedback in writing", 386.1, 5),
        ("practice", "Choose the better answer", 0, 10),
    ),
}

# A video that the app offers once to a newcomer; nobody put it into a catalogue.
_UNCATALOGUED = _Class("product-tour", "", "Product tour", 0, 94.0, 0)


@dataclass(frozen=True)
class _Period:
    """`[start, until)`, in UTC."""

    start: datetime
    until: datetime


@dataclass(frozen=True)
class _Catalogue:
    """Two snapshots; the second is in force from `changed_at` (a UTC midnight)."""

    first: tuple[_Class, ...]
    second: tuple[_Class, ...]
    changed_at: datetime

    @property
    def snapshots(self) -> dict[str, tuple[_Class, ...]]:
        """File name -> what it lists."""
        return {
            "catalogue.csv": self.first,
            f"effective_from={self.changed_at.date()}.csv": self.second,
        }

    def at(self, moment: datetime) -> tuple[_Class, ...]:
        """The classes in force at `moment`."""
        return self.second if moment >= self.changed_at else self.first


def _catalogue(period: _Period) -> _Catalogue:
    """One class retired, one renamed and one added at two thirds of the period."""
    first = tuple(
        _Class(f"{course_id}/{name}", course_id, title, position, video_sec, questions)
        for course_id, classes in _COURSES.items()
        for position, (name, title, video_sec, questions) in enumerate(classes, start=1)
    )
    added = _Class(
        "useful-feedback/receiving", "useful-feedback", "Taking feedback", 6, 361.5, 5
    )
    second = tuple(
        replace(step, title="Loops and ranges") if "loops" in step.class_id else step
        for step in first
        if step.class_id != "sql-first-query/nulls"
    )
    changed_at = period.start + (period.until - period.start) * 2 / 3
    midnight = changed_at.replace(hour=0, minute=0, second=0, microsecond=0)
    return _Catalogue(first, (*second, added), midnight)


def _catalogue_csv(classes: Iterable[_Class]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("class_id", "course_id", "title", "position", "has_video", "has_quiz")
    )
    for step in classes:
        has_video, has_quiz = int(step.video_sec > 0), int(step.questions > 0)
        writer.writerow(
            (
                step.class_id,
                step.course_id,
                step.title,
                step.position,
                has_video,
                has_quiz,
            )
        )
    return text.getvalue().encode()


# --- how people watch ---


class _Segment(NamedTuple):
    """Playback from one position to another, then a pause or a seek, all in seconds."""

    start: float
    end: float
    pause: float


_Viewing = tuple[_Segment, ...]


def _watch_through(rng: Random, duration: float) -> _Viewing:
    """To the end: in one go, with a pause, or seeking back or ahead on the way."""
    middle = duration * rng.uniform(0.2, 0.75)
    roll = rng.random()
    if roll < 0.55:
        return (_Segment(0, duration, 0),)
    if roll < 0.7:
        resume, pause = middle, rng.uniform(20, 400)
    elif roll < 0.85:
        resume, pause = max(0.0, middle - rng.uniform(10, 60)), 1.2
    else:
        resume, pause = middle + rng.uniform(0.03, 0.12) * duration, 0.8
    return (_Segment(0, middle, pause), _Segment(resume, duration, 0))


def _watch_twice(rng: Random, duration: float) -> _Viewing:
    """To the end, and then its difficult part again."""
    difficult = duration * rng.uniform(0.2, 0.5)
    again = _Segment(difficult, difficult + duration * 0.35, 0)
    return (_Segment(0, duration, rng.uniform(3, 30)), again)


def _skim(rng: Random, duration: float) -> _Viewing:
    """The opening, then a seek past 90 % of the duration: completed, hardly seen."""
    landing = duration * rng.uniform(0.92, 0.96)
    opening = _Segment(0, rng.uniform(5, 40), 1.5)
    return (opening, _Segment(landing, min(duration, landing + 15), 0))


def _watch_in_part(rng: Random, duration: float) -> _Viewing:
    return (_Segment(0, duration * rng.uniform(0.05, 0.7), 0),)


@dataclass(frozen=True)
class _Habit:
    """How one kind of learner goes through courses; ranges include both ends.

    `watch` is None for who never opens a video, `attempts` (at most, for one quiz) is 0
    for who never opens a quiz. `revisits` are finished videos seen again, a session.
    """

    watch: Callable[[Random, float], _Viewing] | None
    attempts: int
    courses: tuple[int, int]
    sessions: int
    days_between: tuple[int, int]
    classes: tuple[int, int]
    revisits: int = 0

    def opens(self, step: _Class) -> bool:
        """Whether this kind of learner has anything to do in the class."""
        return bool(
            (step.video_sec and self.watch) or (step.questions and self.attempts)
        )


_FINISHER = _Habit(_watch_through, 8, (2, 3), 99, (1, 2), (2, 4))
_BINGER = _Habit(_watch_through, 2, (2, 4), 2, (3, 9), (9, 16))
_SKIMMER = _Habit(_skim, 2, (1, 3), 5, (1, 4), (3, 8))
_DROPPER = _Habit(_watch_in_part, 0, (1, 1), 3, (1, 3), (1, 2))
_QUIZ_ONLY = _Habit(None, 4, (2, 4), 6, (1, 4), (2, 4))
_REWATCHER = _Habit(_watch_twice, 5, (1, 3), 999, (1, 3), (1, 3), revisits=1)

# Learners take these in turn, so that six of them are enough to see every kind.
_HABITS = (
    _FINISHER,
    _BINGER,
    _SKIMMER,
    _DROPPER,
    _QUIZ_ONLY,
    _REWATCHER,
    _FINISHER,
    _REWATCHER,
    _FINISHER,
    _BINGER,
    _DROPPER,
    _FINISHER,
)


@dataclass(frozen=True)
class _Learner:
    """A person: `local` is their time zone, `hour` (local) when they sit down to learn,
    `rate` their playback rate, `ability` the share of answers they get right at first,
    `first_day` the day of the period, from 0, on which they start.
    """

    user_id: str
    habit: _Habit
    courses: tuple[str, ...]
    has_old_app: bool
    local: timezone
    hour: int
    rate: float
    ability: float
    first_day: int


def _learner(rng: Random, number: int, days: int) -> _Learner:
    habit = _HABITS[number % len(_HABITS)]
    return _Learner(
        # One id that a careless quoting rule would break: ids are opaque text.
        user_id='zoë "z" o\'neil; 🎓' if number == 8 else f"learner-{number + 1:04}",
        habit=habit,
        courses=tuple(rng.sample(list(_COURSES), rng.randint(*habit.courses))),
        has_old_app=number % 7 == 3,
        local=timezone(timedelta(minutes=rng.choice((-420, -240, 0, 60, 120, 330)))),
        hour=rng.choice((7, 12, 17, 18, 19, 20, 20, 21)),
        rate=rng.choice((1.0, 1.0, 1.0, 1.25, 1.5, 2.0)),
        ability=rng.uniform(0.55, 0.9),
        first_day=int(rng.random() * 0.6 * days),
    )


# --- what they send ---


class _Line(NamedTuple):
    """One line of `file` (a name without suffix) that arrived at `arrived_at`.

    `event_id` is None for a line that no loader can accept; `text` has no newline.
    """

    file: str
    arrived_at: datetime
    event_id: str | None
    user_id: str
    text: bytes


_TO_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _event_id(rng: Random) -> str:
    """Text in the form of a random UUID; uuid.UUID takes four times as long."""
    digits = f"{rng.getrandbits(128):032x}"
    variant = "89ab"[rng.getrandbits(2)]
    return (
        f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-"
        f"{variant}{digits[17:20]}-{digits[20:]}"
    )


def _utc_text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ping(
    rng: Random,
    learner: _Learner,
    step: _Class,
    session_id: str,
    occurred_at: datetime,
    position: float,
) -> Event:
    """A VIDEO_PING of the web player (v2) or of the old mobile app (v1).

    The old app leaves out `schema_version` and `course_id`, and reports the duration in
    whole seconds: its last position may lie past it.
    """
    if learner.has_old_app:
        return {
            "event_id": _event_id(rng),
            "type": "VIDEO_PING",
            "user_id": learner.user_id,
            "class_id": step.class_id,
            "occurred_at": occurred_at.astimezone(learner.local).isoformat(
                timespec="seconds"
            ),
            "app_version": "2.8.1",
            "payload": {
                "video_id": f"video/{step.class_id}",
                "position": round(position, 1),
                "duration": int(step.video_sec),
            },
        }
    course = {"course_id": step.course_id} if step.course_id else {}
    return {
        "event_id": _event_id(rng),
        "type": "VIDEO_PING",
        "schema_version": 2,
        "user_id": learner.user_id,
        "class_id": step.class_id,
        **course,
        "occurred_at": _utc_text(occurred_at),
        "payload": {
            "video_id": f"video/{step.class_id}",
            "position_sec": round(position, 3),
            "duration_sec": step.video_sec,
            "playback_rate": learner.rate,
            "session_id": session_id,
        },
    }


def _submission(
    rng: Random, learner: _Learner, step: _Class, occurred_at: datetime, score: float
) -> Event:
    """A QUIZ_SUBMIT v1: one point a question."""
    return {
        "event_id": _event_id(rng),
        "type": "QUIZ_SUBMIT",
        "schema_version": 1,
        "user_id": learner.user_id,
        "class_id": step.class_id,
        "course_id": step.course_id,
        "occurred_at": _utc_text(occurred_at),
        "payload": {
            "quiz_id": f"quiz/{step.class_id}",
            "score": score,
            "max_score": step.questions,
            "passed": score >= PASS_MARK * step.questions,
            "response_id": f"{rng.getrandbits(24):06x}",
        },
    }


def _playback(
    rng: Random, viewing: _Viewing, rate: float
) -> Iterator[tuple[float, float]]:
    """The pings of a viewing, as (seconds since it began, position in seconds).

    One at each start and stop of the player, and one every 10 s by its timer, which
    runs up to 50 ms behind.
    """
    elapsed = 0.0
    for start, end, pause in viewing:
        position = start
        while position < end:
            yield elapsed, position
            wait = PING_EVERY_SEC + 0.05 * rng.random()
            elapsed += wait
            position += wait * rate
        elapsed -= (position - end) / rate
        yield elapsed, end
        elapsed += pause


def _scores(rng: Random, learner: _Learner, questions: int) -> Iterator[float]:
    """Attempts at one quiz, in points and half points, each a little better.

    They stop at a pass, or one after it: some hurry through it once more and fail.
    """
    for attempt in range(learner.habit.attempts):
        share = min(1.0, max(0.0, rng.gauss(learner.ability + 0.08 * attempt, 0.12)))
        score = round(2 * share * questions) / 2
        yield score
        if score >= PASS_MARK * questions:
            if rng.random() < 0.2:
                yield round(questions * rng.uniform(0.3, 0.7))
            return


def _session(
    rng: Random,
    learner: _Learner,
    classes: Sequence[_Class],
    revisited: Sequence[_Class],
    started_at: datetime,
) -> Iterator[tuple[datetime, Event]]:
    """One sitting: videos and quizzes of `classes`, then the videos of `revisited`."""
    now = started_at
    session_id = f"{rng.getrandbits(64):016x}"
    for number, step in enumerate([*classes, *revisited]):
        if step.video_sec and learner.habit.watch:
            viewing = learner.habit.watch(rng, step.video_sec)
            elapsed = 0.0
            for elapsed, position in _playback(rng, viewing, learner.rate):
                occurred_at = now + timedelta(seconds=elapsed)
                yield (
                    occurred_at,
                    _ping(rng, learner, step, session_id, occurred_at, position),
                )
            now += timedelta(seconds=elapsed)
        if step.questions and number < len(classes):
            for score in _scores(rng, learner, step.questions):
                now += timedelta(seconds=rng.uniform(12, 30) * step.questions)
                yield now, _submission(rng, learner, step, now, score)
        now += timedelta(seconds=rng.uniform(8, 150))


def _session_starts(
    rng: Random, learner: _Learner, period: _Period
) -> Iterator[datetime]:
    """When a learner sits down, in UTC: up to 70 minutes after their usual hour."""
    day = timedelta(days=1)
    usual = period.start.astimezone(learner.local).replace(
        hour=learner.hour, minute=0, second=0, microsecond=0
    )
    # The first such hour in the period: each of its days has one, whatever the offset.
    next_hour = period.start + (usual - period.start) % day + learner.first_day * day
    for _ in range(learner.habit.sessions):
        started_at = next_hour + timedelta(minutes=rng.uniform(0, 70))
        if started_at >= period.until:
            return
        yield started_at
        next_hour += rng.randint(*learner.habit.days_between) * day


def _learner_lines(
    rng: Random, learner: _Learner, catalogue: _Catalogue, period: _Period
) -> Iterator[_Line]:
    """All that one learner sends and that has arrived before the period ends."""
    done: dict[str, _Class] = {}
    for started_at in _session_starts(rng, learner, period):
        offered = catalogue.at(started_at)
        classes = [
            step
            for course_id in learner.courses
            for step in offered
            if step.course_id == course_id
            and step.class_id not in done
            and learner.habit.opens(step)
        ][: rng.randint(*learner.habit.classes)]
        seen = [step for step in offered if step.class_id in done and step.video_sec]
        revisited = rng.sample(seen, min(learner.habit.revisits, len(seen)))
        is_back = bool(done)
        if not is_back and learner.habit.watch and rng.random() < 0.15:
            revisited = [_UNCATALOGUED]
        done.update((step.class_id, step) for step in classes)

        # Nobody signs in for the first time while offline.
        kept_until = _back_online(rng, started_at) if is_back else None
        events = _session(rng, learner, classes, revisited, started_at)
        for occurred_at, event in events:
            line = _arrival(rng, event, occurred_at, kept_until)
            if line.arrived_at < period.until:
                yield line


class _Planted(NamedTuple):
    """A learner who does one thing, to be found again: the same sitting in `class_ids`
    so many times, day by day, the last one `ago` days before the period ends."""

    learner: _Learner
    class_ids: tuple[str, ...]
    ago: int
    times: int = 1


def _planted(
    user_id: str,
    class_ids: Sequence[str],
    *,
    ago: int,
    times: int = 1,
    watch: Callable[[Random, float], _Viewing] | None = None,
    attempts: int = 0,
    rate: float = 1.0,
) -> _Planted:
    habit = _Habit(watch, attempts, (1, 1), times, (1, 1), (1, 1))
    learner = _Learner(
        user_id=user_id,
        habit=habit,
        courses=(),
        has_old_app=False,
        local=timezone(timedelta()),
        hour=12,
        rate=rate,
        # Nobody passes a quiz with it.
        ability=0.1,
        first_day=0,
    )
    return _Planted(learner, tuple(class_ids), ago, times)


def _watch_all(_rng: Random, duration: float) -> _Viewing:
    return (_Segment(0, duration, 0),)


def _watch_a_fifth(_rng: Random, duration: float) -> _Viewing:
    return (_Segment(0, duration / 5, 0),)


# docs/analytics.md says in which view each of them is found.
_PLANTED = (
    _planted("skips-to-the-end", ["sql-first-query/joins"], ago=2, watch=_skim),
    _planted("fails-four-times", ["python-first-steps/project"], ago=1, attempts=4),
    _planted(
        "stopped",
        ["data-literacy/questions", "data-literacy/charts"],
        ago=10,
        watch=_watch_a_fifth,
    ),
    _planted(
        "seven-day-streak",
        ["useful-feedback/why"],
        ago=0,
        times=7,
        watch=_watch_a_fifth,
    ),
    _planted(
        "double-speed", ["python-first-steps/loops"], ago=3, watch=_watch_all, rate=2.0
    ),
)


def _planted_lines(
    rng: Random, catalogue: _Catalogue, period: _Period
) -> Iterator[_Line]:
    """What the planted learners send within the period, each event at once."""
    steps = {step.class_id: step for step in catalogue.second}
    for learner, class_ids, ago, times in _PLANTED:
        classes = [steps[class_id] for class_id in class_ids]
        for day in range(times):
            started_at = period.until - timedelta(days=ago + day, hours=12)
            if started_at < period.start:
                break
            for occurred_at, event in _session(rng, learner, classes, (), started_at):
                yield _arrival(rng, event, occurred_at, None)


def _back_online(rng: Random, started_at: datetime) -> datetime | None:
    """When a phone that was offline in a session sends its pings; mostly, it was not.

    The longest sitting, of 600 learners, was 3.6 h: all of it is over by then.
    """
    if rng.random() >= 0.06:
        return None
    hours = rng.uniform(8, 32) if rng.random() < 0.7 else rng.uniform(72, 240)
    return started_at + timedelta(hours=hours)


# Tally sends a submission again after 5 min, 30 min, 1 h, 6 h and 24 h, then gives up.
_TALLY_DELAYS_MIN = (5, 35, 95, 455, 1895)


def _arrival(
    rng: Random, event: Event, occurred_at: datetime, kept_until: datetime | None
) -> _Line:
    """The line of an event, in the file of the day on which it arrives."""
    delay = timedelta(seconds=0.1 + rng.expovariate(1.5))
    file = ""
    if event["type"] == "QUIZ_SUBMIT":
        if rng.random() < 0.05:
            delay += timedelta(minutes=rng.choice(_TALLY_DELAYS_MIN))
        arrived_at = occurred_at + delay
    elif kept_until:
        arrived_at = max(occurred_at, kept_until) + delay
        file = "late-" if arrived_at.date() > occurred_at.date() else ""
    else:
        arrived_at = occurred_at + delay
    return _Line(
        f"{file}{arrived_at.date()}",
        arrived_at,
        event["event_id"],
        event["user_id"],
        _TO_JSON(event).encode(),
    )


# --- what goes wrong on the way ---


def _with_faults(rng: Random, lines: Sequence[_Line], period: _Period) -> list[_Line]:
    """`lines` with what delivery at least once, and senders with bugs, add to them."""
    if not lines:
        return []
    repeats = [
        _again(rng, line, period) for line in rng.sample(lines, len(lines) // 50)
    ]
    few = min(len(lines), max(4, len(lines) // 6000))
    conflicts = [
        _again(rng, _altered(line, number), period)
        for number, line in enumerate(rng.sample(lines, few))
    ]
    # One conflict is sent twice: landed again, it is a conflict again.
    conflicts.append(_again(rng, conflicts[0], period))
    broken = [
        _broken(rng, kind, rng.choice(lines)) for kind in _BREAKS for _ in range(2)
    ]
    blank = [
        line._replace(event_id=None, text=b"") for line in rng.choices(lines, k=few)
    ]
    return [*lines, *repeats, *conflicts, *broken, *blank]


def _again(rng: Random, line: _Line, period: _Period) -> _Line:
    """The line sent again: seconds later into its own file, or hours later."""
    if rng.random() < 0.8:
        soon = timedelta(seconds=rng.uniform(1, 90))
        return line._replace(arrived_at=line.arrived_at + soon)
    arrived_at = line.arrived_at + timedelta(hours=rng.uniform(1, 32))
    arrived_at = min(arrived_at, period.until - timedelta(seconds=1))
    if arrived_at.date() <= line.arrived_at.date():
        return line._replace(arrived_at=arrived_at)
    return line._replace(file=str(arrived_at.date()), arrived_at=arrived_at)


def _altered(line: _Line, number: int) -> _Line:
    """Other content under the same event id: by turns its moment and its payload."""
    event = json.loads(line.text)
    if number % 2 == 0:
        moment = datetime.fromisoformat(event["occurred_at"]) + timedelta(seconds=2)
        event["occurred_at"] = moment.isoformat()
    else:
        event["payload"]["resent"] = True
    return line._replace(text=_TO_JSON(event).encode())


def _without_user(event: Event) -> bytes:
    return _TO_JSON({key: event[key] for key in event if key != "user_id"}).encode()


def _without_offset(event: Event) -> bytes:
    return _TO_JSON({**event, "occurred_at": event["occurred_at"][:19]}).encode()


def _unknown_type(event: Event) -> bytes:
    return _TO_JSON({**event, "type": "VIDEO_PLAY"}).encode()


def _cut_short(event: Event) -> bytes:
    text = _TO_JSON(event).encode()
    return text[: len(text) * 2 // 3]


def _not_utf8(event: Event) -> bytes:
    return _TO_JSON({**event, "user_id": "learner-?"}).encode().replace(b"?", b"\xff")


def _with_position(position: float | str) -> Callable[[Event], bytes]:
    payload = {"video_id": "video/1", "position_sec": position, "duration_sec": 300.0}
    ping = {"type": "VIDEO_PING", "schema_version": 2, "payload": payload}
    return lambda event: _TO_JSON({**event, **ping}).encode()


def _score_above_maximum(event: Event) -> bytes:
    payload = {"quiz_id": "quiz/1", "score": 11, "max_score": 10, "passed": True}
    quiz = {"type": "QUIZ_SUBMIT", "schema_version": 1, "payload": payload}
    return _TO_JSON({**event, **quiz}).encode()


_BREAKS: tuple[Callable[[Event], bytes], ...] = (
    _cut_short,
    _not_utf8,
    _without_user,
    _without_offset,
    _unknown_type,
    _with_position(float("nan")),
    _with_position("12"),
    _score_above_maximum,
)


def _broken(rng: Random, kind: Callable[[Event], bytes], line: _Line) -> _Line:
    """A line like `line` that breaks one rule, under an id that no other line has."""
    event = json.loads(line.text)
    event["event_id"] = _event_id(rng)
    return line._replace(event_id=None, text=kind(event))


# --- files ---


def _event_files(rng: Random, lines: Iterable[_Line]) -> dict[str, list[_Line]]:
    """File name -> its lines, in the order of their arrival."""
    by_file: defaultdict[str, list[_Line]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: line.arrived_at):
        by_file[line.file].append(line)
    day_files = sorted(file for file in by_file if not file.startswith("late-"))
    suffix = {
        file: (".ndjson", ".ndjson.gz", ".ndjson.zst")[number % 3]
        for number, file in enumerate(day_files)
    }
    files = {
        file + suffix.get(file, ".ndjson"): content for file, content in by_file.items()
    }
    if day_files:
        # The sender saw no answer for part of its busiest day and sends it once more.
        busiest = max(day_files, key=lambda file: len(by_file[file]))
        sent = [line for line in by_file[busiest] if line.event_id]
        first = rng.randrange(len(sent))
        next_day = datetime.fromisoformat(busiest).date() + timedelta(days=1)
        again = sent[first : first + max(1, len(sent) // 10)]
        files[f"retry-{next_day}.ndjson.gz"] = again
    return files


def _outcomes(lines: Iterable[_Line]) -> Counter[str]:
    """How many of the lines, landed in this order, end in each of the four places.

    A repeat here is always byte for byte, so unequal bytes are unequal content.
    """
    counts: Counter[str] = Counter()
    landed: dict[str, bytes] = {}
    for line in lines:
        if not line.text:
            continue
        if line.event_id is None:
            counts["rejected"] += 1
        elif line.event_id not in landed:
            landed[line.event_id] = line.text
            counts["accepted"] += 1
        elif landed[line.event_id] == line.text:
            counts["duplicate"] += 1
        else:
            counts["conflict"] += 1
    return counts


def _packed(name: str, text: bytes) -> bytes:
    """`text`, compressed as the suffix of `name` says."""
    if name.endswith(".gz"):
        return gzip.compress(text, compresslevel=6, mtime=0)
    if name.endswith(".zst"):
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(text)
        return bytes(sink.getvalue().to_pybytes())
    return text


def _write(file: Path, content: bytes) -> None:
    """Write under a hidden name and rename: a loader at work never sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    hidden = file.with_name(f".{file.name}.part")
    hidden.write_bytes(content)
    hidden.replace(file)
