"""The rules of learning analytics a second time, in plain Python over the events.

Written from the chapter "Learning analytics" of the domain page alone, as `reference`
is from the rest of it, and used in the same way: `derive` gives every view as a frame,
sorted by its key. Event time orders events, ties by `event_id`.

Where the page is silent, the decision is written down as "Decision:".
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from statistics import median
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from tests.support import reference
from tests.support.reference import (
    COURSE_COMPLETED,
    DOUBLE,
    EVENT_IDS,
    INTEGER,
    NULLABLE_INTEGER,
    QUIZ_PASSED,
    STEP_COMPLETED,
    TEXT,
    TIMESTAMP,
    VIDEO_COMPLETED,
    Event,
    Signal,
    Snapshot,
    frame,
)

BIN_SEC = 10
LONGEST_SEC = 24 * 60 * 60
FASTEST = 16
HALF = Fraction(1, 2)
DAY = timedelta(days=1)

MASTERY = MappingProxyType(
    {"none": 0, "bronze": 25, "silver": 50, "gold": 75, "master": 100}
)


@dataclass(frozen=True)
class Badge:
    """A row of the seed `badge`."""

    badge: str
    kind: str
    threshold: int
    points: int


@dataclass
class Watch:
    """What the pings of one (user, class) watched; `pings_of` is by bin."""

    events: list[Event]
    pings_of: Counter[int] = field(default_factory=Counter)
    duration: Fraction | None = None

    @property
    def bins(self) -> int | None:
        return None if self.duration is None else bin_count(self.duration)

    @property
    def watched(self) -> list[int]:
        """Distinct watched bins below n."""
        return sorted(k for k in self.pings_of if self.bins and k < self.bins)

    @property
    def coverage(self) -> Fraction | None:
        return None if self.bins is None else Fraction(len(self.watched), self.bins)

    @property
    def is_below_half(self) -> bool:
        return self.coverage is not None and self.coverage < HALF

    @property
    def watched_sec(self) -> int | None:
        if self.duration is None:
            return None
        ends = (min(self.duration, Fraction(10 * k + 10)) for k in self.watched)
        lengths = (end - 10 * k for end, k in zip(ends, self.watched, strict=True))
        return math.floor(sum(lengths, Fraction(0)))


def bin_count(duration: Fraction) -> int:
    """ "A video of d seconds has n = ceil(d / 10) bins"."""
    return math.ceil(duration / BIN_SEC)


def watch_of(events: Sequence[Event]) -> Watch:
    """Of the pings of one (user, class), in order."""
    watch = Watch(list(events))
    for event in events:
        ping = reference.as_ping(event)
        duration = Fraction(ping.duration_sec)
        if duration > LONGEST_SEC:
            continue
        watch.duration = duration
        last = min(
            math.floor(Fraction(ping.position_sec) / BIN_SEC), bin_count(duration) - 1
        )
        # Version 1 has no playback rate, whatever its payload has.
        rate = event.payload.get("playback_rate") if event.schema_version == 2 else None
        before = 0
        if rate is not None and rate > 1:
            before = math.ceil(min(Fraction(rate), Fraction(FASTEST))) - 1
        for k in range(max(last - before, 0), last + 1):
            watch.pings_of[k] += 1
    return watch


@dataclass(frozen=True)
class Analytics:
    """Every view of the chapter, with fixed column types, sorted by key."""

    v_video_engagement: pd.DataFrame
    v_video_retention: pd.DataFrame
    v_course_progress: pd.DataFrame
    v_course_funnel: pd.DataFrame
    v_quiz_difficulty: pd.DataFrame
    v_learner_streak: pd.DataFrame
    v_streak_history: pd.DataFrame
    v_learner_at_risk: pd.DataFrame
    v_badge_award: pd.DataFrame
    v_leaderboard_v2: pd.DataFrame
    v_skill_mastery: pd.DataFrame
    v_stale_user: pd.DataFrame
    v_abandoned_course: pd.DataFrame
    v_kpi: pd.DataFrame


def derive(
    events: Sequence[Event],
    snapshots: Sequence[Snapshot],
    *,
    now: datetime,
    badges: Sequence[Badge],
    levels: Mapping[int, int],
    skills: Iterable[tuple[str, str]] = (),
    time_zone: str = "UTC",
    completion_threshold: Decimal = Decimal("0.9"),
) -> Analytics:
    """`levels` are the least points by level, `skills` pairs of class and skill."""
    return _Derivation(
        sorted(events, key=lambda event: (event.occurred_at, event.event_id)),
        snapshots,
        reference.as_utc(now),
        badges,
        levels,
        list(skills),
        ZoneInfo(time_zone),
        completion_threshold,
    ).analytics()


def moment(event: Event) -> tuple[datetime, str]:
    return event.occurred_at, event.event_id


def ids(events: Iterable[Event]) -> tuple[str, ...]:
    return tuple(sorted(event.event_id for event in events))


class _Derivation:
    def __init__(
        self,
        events: Sequence[Event],
        snapshots: Sequence[Snapshot],
        now: datetime,
        badges: Sequence[Badge],
        levels: Mapping[int, int],
        skills: Sequence[tuple[str, str]],
        time_zone: ZoneInfo,
        completion_threshold: Decimal,
    ) -> None:
        self.events, self.now, self.badges = events, now, badges
        self.levels, self.skills, self.time_zone = levels, skills, time_zone
        self.derived = reference.derive(
            events, snapshots, now=now, completion_threshold=completion_threshold
        )
        self.signals = [
            Signal(*row)
            for row in self.derived.lms_signal.itertuples(index=False, name=None)
        ]
        today = [
            version
            for version in reference.catalogue_versions(snapshots)
            if version.start <= now < version.end
        ]
        self.catalogue = dict(today[-1].class_by_id) if today else {}
        self.steps: dict[str, list[str]] = defaultdict(list)
        for row in sorted(
            self.catalogue.values(), key=lambda row: (row.position, row.class_id)
        ):
            if row.is_tracked:
                self.steps[row.course_id].append(row.class_id)
        self.done = {
            (signal.user_id, signal.class_id)
            for signal in self.signals
            if signal.signal_type == STEP_COMPLETED
        }
        self.completed_at = {
            (signal.user_id, signal.course_id): reference.as_utc(signal.occurred_at)
            for signal in self.signals
            if signal.signal_type == COURSE_COMPLETED
        }
        self.of_user: dict[str, list[Event]] = defaultdict(list)
        self.of_course: dict[tuple[str, str], list[Event]] = defaultdict(list)
        pings: dict[tuple[str, str], list[Event]] = defaultdict(list)
        self.submissions: dict[tuple[str, str], list[Event]] = defaultdict(list)
        for event in events:
            self.of_user[event.user_id].append(event)
            if event.class_id in self.catalogue:
                course_id = self.catalogue[event.class_id].course_id
                self.of_course[event.user_id, course_id].append(event)
            of = pings if event.type == "VIDEO_PING" else self.submissions
            of[event.user_id, event.class_id].append(event)
        self.watches = {key: watch_of(own) for key, own in sorted(pings.items())}
        self.video_completed = {
            (signal.user_id, signal.class_id)
            for signal in self.signals
            if signal.signal_type == VIDEO_COMPLETED
        }

    def is_old(self, moment: datetime, days: int) -> bool:
        return moment <= self.now - days * DAY

    def analytics(self) -> Analytics:
        streaks, runs = self.streaks()
        progress = self.progress()
        awards = self.awards(runs)
        stale = [
            (user_id, own[-1].occurred_at)
            for user_id, own in sorted(self.of_user.items())
            if self.is_old(own[-1].occurred_at, 30)
        ]
        return Analytics(
            v_video_engagement=self.engagement(),
            v_video_retention=self.retention(),
            v_course_progress=frame(
                {
                    **dict.fromkeys(["user_id", "course_id"], TEXT),
                    **dict.fromkeys(["steps_completed", "steps_total"], INTEGER),
                    "progress_percent": DOUBLE,
                    "mastery_level": TEXT,
                    **dict.fromkeys(
                        ["started_at", "last_event_at", "completed_at"], TIMESTAMP
                    ),
                    "status": TEXT,
                },
                progress,
            ),
            v_course_funnel=self.funnel(),
            v_quiz_difficulty=self.difficulty(),
            v_learner_streak=frame(
                {
                    "user_id": TEXT,
                    "current_days": INTEGER,
                    "longest_days": INTEGER,
                    "last_active_on": TIMESTAMP,
                },
                streaks,
            ),
            v_streak_history=frame(
                {
                    "user_id": TEXT,
                    "started_on": TIMESTAMP,
                    "ended_on": TIMESTAMP,
                    "days": INTEGER,
                },
                [
                    (user_id, midnight(run[0]), midnight(run[-1]), len(run))
                    for user_id, own in runs.items()
                    for run in own
                ],
            ),
            v_learner_at_risk=self.at_risk(progress),
            v_badge_award=frame(
                {
                    "user_id": TEXT,
                    "badge": TEXT,
                    "awarded_at": TIMESTAMP,
                    "points": INTEGER,
                    "source_event_ids": EVENT_IDS,
                },
                awards,
            ),
            v_leaderboard_v2=self.leaderboard(awards),
            v_skill_mastery=self.mastery(),
            v_stale_user=frame({"user_id": TEXT, "last_event_at": TIMESTAMP}, stale),
            v_abandoned_course=frame(
                {
                    **dict.fromkeys(["user_id", "course_id"], TEXT),
                    **dict.fromkeys(["steps_completed", "steps_total"], INTEGER),
                    "progress_percent": DOUBLE,
                    **dict.fromkeys(["started_at", "last_event_at"], TIMESTAMP),
                },
                [(*r[:5], r[6], r[7]) for r in progress if r[9] == "abandoned"],
            ),
            v_kpi=self.kpi(progress, streaks, stale),
        )

    def engagement(self) -> pd.DataFrame:
        rows = []
        for (user_id, class_id), watch in self.watches.items():
            is_completed = (user_id, class_id) in self.video_completed
            pings = [reference.as_ping(event) for event in watch.events]
            coverage = watch.coverage
            rows.append(
                (
                    user_id,
                    class_id,
                    None if coverage is None else float(coverage),
                    watch.watched_sec,
                    None if watch.duration is None else float(watch.duration),
                    reference.whole(max(ping.position_sec for ping in pings)),
                    int(is_completed),
                    int(is_completed and watch.is_below_half),
                    len(pings),
                    pings[0].occurred_at,
                    pings[-1].occurred_at,
                )
            )
        return frame(
            {
                **dict.fromkeys(["user_id", "class_id"], TEXT),
                "coverage": DOUBLE,
                "watched_sec": NULLABLE_INTEGER,
                "duration_sec": DOUBLE,
                "video_max_position_sec": INTEGER,
                **dict.fromkeys(
                    ["video_completed", "skipped_to_end", "ping_count"], INTEGER
                ),
                **dict.fromkeys(["first_ping_at", "last_ping_at"], TIMESTAMP),
            },
            rows,
        )

    def retention(self) -> pd.DataFrame:
        by_class: dict[str, list[Watch]] = defaultdict(list)
        for (_, class_id), watch in self.watches.items():
            by_class[class_id].append(watch)
        rows: list[tuple[Any, ...]] = []
        for class_id, watches in sorted(by_class.items()):
            durations = Counter(
                math.floor(watch.duration + HALF)
                for watch in watches
                if watch.duration is not None
            )
            if not durations:
                continue
            duration = max(durations, key=lambda each: (durations[each], each))
            for k in range(bin_count(Fraction(duration))):
                pings = [w.pings_of[k] for w in watches if w.pings_of[k]]
                rows.append(
                    (
                        class_id,
                        k,
                        10 * k,
                        len(pings),
                        len(pings) / len(watches),
                        sum(pings),
                        sum(pings) / len(pings) - 1 if pings else None,
                    )
                )
        return frame(
            {
                "class_id": TEXT,
                **dict.fromkeys(["bin", "bin_start_sec", "viewer_count"], INTEGER),
                "viewer_share": DOUBLE,
                "ping_count": INTEGER,
                "replay_rate": DOUBLE,
            },
            rows,
        )

    def progress(self) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for (user_id, course_id), events in sorted(self.of_course.items()):
            steps = self.steps.get(course_id, [])
            done = sum((user_id, class_id) in self.done for class_id in steps)
            percent = Fraction(100 * done, len(steps)) if steps else None
            completed_at = self.completed_at.get((user_id, course_id))
            last = events[-1].occurred_at
            status = "abandoned" if self.is_old(last, 30) else "in_progress"
            rows.append(
                (
                    user_id,
                    course_id,
                    done,
                    len(steps),
                    None if percent is None else math.floor(percent * 10 + HALF) / 10,
                    # Decision: a course without steps is mastered to the least level.
                    [
                        each
                        for each, least in MASTERY.items()
                        if (percent or 0) >= least
                    ][-1],
                    events[0].occurred_at,
                    last,
                    completed_at,
                    status if completed_at is None else "completed",
                )
            )
        return rows

    def funnel(self) -> pd.DataFrame:
        rows = []
        for course_id, steps in sorted(self.steps.items()):
            users = [user for user, course in self.of_course if course == course_id]
            before = len(users)
            of_course: list[list[Any]] = []
            for number, class_id in enumerate(steps, start=1):
                reached = sum(
                    any((user, later) in self.done for later in steps[number - 1 :])
                    for user in self.of_user
                )
                completed = sum((user, class_id) in self.done for user in self.of_user)
                lost = before - reached
                share = lost / before if before else None
                of_course.append([course_id, class_id, number, reached, completed])
                of_course[-1] += [lost, share]
                before = reached
            steepest = max(row[5] for row in of_course)
            # Decision: where nobody was lost, no step is steep.
            first = next(n for n, row in enumerate(of_course) if row[5] == steepest)
            rows += [
                (*row, int(n == first and steepest > 0))
                for n, row in enumerate(of_course)
            ]
        return frame(
            {
                **dict.fromkeys(["course_id", "class_id"], TEXT),
                **dict.fromkeys(
                    ["step", "reached_count", "completed_count", "lost_count"], INTEGER
                ),
                "lost_share": DOUBLE,
                "is_steepest": INTEGER,
            },
            rows,
        )

    def difficulty(self) -> pd.DataFrame:
        by_class: dict[str, list[list[Event]]] = defaultdict(list)
        for (_, class_id), events in self.submissions.items():
            by_class[class_id].append(events)
        rows = []
        for class_id, learners in sorted(by_class.items()):
            passed = [
                [event.payload["passed"] for event in own].index(True) + 1
                for own in learners
                if any(event.payload["passed"] for event in own)
            ]
            best = sorted(
                max(e.payload["score"] / e.payload["max_score"] for e in own)
                for own in learners
            )
            rows.append(
                (
                    class_id,
                    len(learners),
                    sum(map(len, learners)),
                    passed.count(1) / len(learners),
                    len(passed) / len(learners),
                    float(median(passed)) if passed else None,
                    sum(best) / len(best),
                    *(quantile(best, share) for share in (0.25, 0.5, 0.75)),
                )
            )
        return frame(
            {
                "class_id": TEXT,
                **dict.fromkeys(["learner_count", "submission_count"], INTEGER),
                **dict.fromkeys(
                    [
                        *("first_try_pass_rate", "pass_rate"),
                        *("median_attempts_to_pass", "score_ratio_mean"),
                        *("score_ratio_q25", "score_ratio_q50", "score_ratio_q75"),
                    ],
                    DOUBLE,
                ),
            },
            rows,
        )

    def local_day(self, moment: datetime) -> date:
        return moment.astimezone(self.time_zone).date()

    def streaks(
        self,
    ) -> tuple[list[tuple[Any, ...]], dict[str, list[list[date]]]]:
        runs: dict[str, list[list[date]]] = {}
        for user_id, events in sorted(self.of_user.items()):
            runs[user_id] = []
            for day in sorted({self.local_day(event.occurred_at) for event in events}):
                if runs[user_id] and runs[user_id][-1][-1] == day - DAY:
                    runs[user_id][-1].append(day)
                else:
                    runs[user_id].append([day])
        today = self.local_day(self.now)
        rows: list[tuple[Any, ...]] = []
        for user_id, own in runs.items():
            # Decision: days after today, of a clock that runs ahead, do not count.
            current = [
                len([day for day in run if day <= today])
                for run in own
                if today in run or today - DAY in run
            ]
            rows.append(
                (
                    user_id,
                    max(current, default=0),
                    max(map(len, own)),
                    midnight(own[-1][-1]),
                )
            )
        return rows, runs

    def at_risk(self, progress: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
        found: list[tuple[Any, ...]] = []
        for user_id, course_id, *_, last, completed_at, _status in progress:
            if completed_at is None and self.is_old(last, 7):
                source = max(self.of_course[user_id, course_id], key=moment)
                since = last + 7 * DAY
                found.append((user_id, course_id, "inactive", since, ids([source])))
        for user_id, course_id in self.of_course:
            classes = [c for c, r in self.catalogue.items() if r.course_id == course_id]
            keys = [(user_id, class_id) for class_id in classes]
            failed = [
                self.submissions[key]
                for key in keys
                if len(self.submissions.get(key, [])) >= 3
                and not any(e.payload["passed"] for e in self.submissions[key])
            ]
            if failed:
                since = min(events[2].occurred_at for events in failed)
                sources = ids(event for events in failed for event in events)
                found.append((user_id, course_id, "failing_quiz", since, sources))
            stalled = [
                self.watches[key].events[-1]
                for key in keys
                if key in self.watches
                and self.watches[key].is_below_half
                and key not in self.video_completed
                and self.is_old(self.watches[key].events[-1].occurred_at, 3)
            ]
            if len(stalled) >= 2:
                second = sorted(event.occurred_at for event in stalled)[1]
                row = (user_id, course_id, "stalled_video", second + 3 * DAY)
                found.append((*row, ids(stalled)))
        return frame(
            {
                **dict.fromkeys(["user_id", "course_id", "reason"], TEXT),
                "since": TIMESTAMP,
                "source_event_ids": EVENT_IDS,
            },
            sorted(found, key=lambda row: row[:3]),
        )

    def awards(self, runs: Mapping[str, Sequence[Sequence[date]]]) -> list[Any]:
        kinds = {
            "video_count": VIDEO_COMPLETED,
            "quiz_passed": QUIZ_PASSED,
            "course_complete": COURSE_COMPLETED,
        }
        rows: list[tuple[Any, ...]] = []
        for user_id, events in sorted(self.of_user.items()):
            for badge in sorted(self.badges, key=lambda badge: badge.badge):
                deeds: list[tuple[datetime, tuple[str, ...]]]
                if badge.kind == "streak_days":
                    long = [r for r in runs[user_id] if len(r) >= badge.threshold]
                    day = long[0][badge.threshold - 1] if long else None
                    own = (e for e in events if self.local_day(e.occurred_at) == day)
                    deeds = [(e.occurred_at, ids([e])) for e in own][:1]
                else:
                    if badge.kind == "quiz_perfect":
                        deeds = [
                            (event.occurred_at, ids([event]))
                            for event in events
                            if event.type == "QUIZ_SUBMIT"
                            and event.payload["score"] == event.payload["max_score"]
                        ]
                    else:
                        deeds = [
                            (signal.occurred_at, signal.source_event_ids)
                            for signal in self.signals
                            if signal.user_id == user_id
                            and signal.signal_type == kinds[badge.kind]
                        ]
                    deeds = sorted(deeds)[badge.threshold - 1 :][:1]
                rows += [
                    (user_id, badge.badge, at, badge.points, sources)
                    for at, sources in deeds
                ]
        return rows

    def leaderboard(self, awards: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
        points: Counter[str] = Counter()
        for user_id, _, _, own, _ in awards:
            points[user_id] += own
        board = self.derived.v_leaderboard.copy()
        board["badge_points"] = [points[user_id] for user_id in board["user_id"]]
        board["badge_points"] = board["badge_points"].astype("int64")
        # Decision: a level is reached by XP and badge points together.
        total = board["total_xp"] + board["badge_points"]
        board["level"] = [
            max(level for level, least in self.levels.items() if each >= least)
            for each in total
        ]
        board["level"] = board["level"].astype("int64")
        return board

    def mastery(self) -> pd.DataFrame:
        tracked = {c for c, row in self.catalogue.items() if row.is_tracked}
        rows = []
        for user_id, events in sorted(self.of_user.items()):
            own = {event.class_id for event in events}
            for skill in sorted({skill for _, skill in self.skills}):
                taught = {c for c, s in self.skills if s == skill} & tracked
                if own & taught:
                    done = sum((user_id, class_id) in self.done for class_id in taught)
                    rows.append((user_id, skill, done, len(taught), done / len(taught)))
        return frame(
            {
                **dict.fromkeys(["user_id", "skill_id"], TEXT),
                **dict.fromkeys(["steps_completed", "steps_total"], INTEGER),
                "mastery_share": DOUBLE,
            },
            rows,
        )

    def kpi(
        self,
        progress: Sequence[tuple[Any, ...]],
        streaks: Sequence[tuple[Any, ...]],
        stale: Sequence[tuple[Any, ...]],
    ) -> pd.DataFrame:
        last = [own[-1].occurred_at for own in self.of_user.values()]
        active = [
            sum(not self.is_old(each, days) for each in last) for days in (1, 7, 30)
        ]
        status = Counter(row[9] for row in progress)
        dropped = [
            key
            for key, watch in self.watches.items()
            if watch.is_below_half and key not in self.video_completed
        ]
        best = [
            max(event.payload["score"] / event.payload["max_score"] for event in own)
            for own in self.submissions.values()
        ]
        values = {
            "completion_rate": share(status["completed"], len(progress)),
            "engagement_rate": share(active[1], len(last)),
            "drop_off_rate": share(len(dropped), len(self.watches)),
            "mean_quiz_score_ratio": share(sum(best), len(best)),
            "mean_current_streak": share(sum(row[1] for row in streaks), len(streaks)),
            "orphan_share": share(0, len(self.signals)),
            "stale_share": share(len(stale), len(last)),
            "abandoned_share": share(status["abandoned"], len(progress)),
        }
        return frame(
            {
                "learner_count": INTEGER,
                **{f"active_{each}_count": INTEGER for each in ("24h", "7d", "30d")},
                **dict.fromkeys(values, DOUBLE),
            },
            [(len(last), *active, *values.values())],
        )


def mastery_level(percent: Fraction | None) -> str:
    """The greatest one reached. Decision: without steps it is the least."""
    reached = [name for name, least in MASTERY.items() if (percent or 0) >= least]
    return reached[-1]


def share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values, interpolated between the two beside it."""
    place = (len(values) - 1) * share
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day)
