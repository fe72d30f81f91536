"""Logs of snapshots and events, drawn at random from few learners, classes and moments:
what must be told apart meets."""

from dataclasses import dataclass
from decimal import Decimal
from math import inf, nextafter
from random import Random

from tests.support.builders import Class, Json, ping, ping_v1, quiz

USERS = [
    *(f"u{number}" for number in range(10)),
    "'; drop table raw.lms_event; --",
    "\N{GRINNING FACE}",
]
CLASSES = ["c1", "c2", "c3", "c4", "{{ this }}"]
COURSES = ["k1", "k2"]

# When snapshots take effect: before all events, among them, at the last, after "now".
EFFECTIVE = [
    "2026-03-01T00:00:00Z",
    "2026-03-10T10:00:00Z",
    "2026-03-11T00:00:00Z",
    "2026-03-11T18:00:00Z",
    "2026-03-12T00:00:00Z",
    "2026-03-15T00:00:00Z",
]
# Around those, around a midnight, and around "now" and 24 hours before it.
MOMENTS = [
    "2026-03-08T23:59:59.999999Z",
    "2026-03-09T00:00:00Z",
    "2026-03-10T09:59:59.999999Z",
    "2026-03-10T10:00:00Z",
    "2026-03-10T15:45:00.000001+05:45",
    "2026-03-10T23:59:59.999999Z",
    "2026-03-11T00:00:00Z",
    "2026-03-10T19:00:00.000001-05:00",
    "2026-03-11T18:00:00Z",
    "2026-03-12T00:00:00Z",
    "2026-03-12T00:00:00.000001Z",
    "2026-03-16T00:00:00Z",
]


@dataclass(frozen=True)
class Log:
    """Snapshots in landing order, each with its time, and events with different ids."""

    snapshots: list[tuple[str, list[Class]]]
    events: list[Json]


def a_log(random: Random, size: int) -> Log:
    contents = [a_snapshot(random) for _ in range(3)]
    times = random.sample(EFFECTIVE, random.choice([0, 1, 3, 4, 5]))
    return Log(
        [(time, random.choice(contents)) for time in times],
        # The order of ids is not that of the list: ties are broken by id.
        [an_event(random, f"{index * 7919 % 1000:03}") for index in range(size)],
    )


def a_snapshot(random: Random) -> list[Class]:
    classes = [
        Class(
            class_id,
            random.choice(COURSES),
            title=random.choice(["One, and a comma", 'A "title"']),
            position=random.randint(1, 2),
            has_video=random.choice([0, 1, 1]),
            has_quiz=random.choice([0, 0, 1]),
        )
        for class_id in CLASSES
        if random.randint(1, 3) > 1
    ]
    return classes or [Class("c1")]


def an_event(random: Random, event_id: str) -> Json:
    where: Json = {
        "user": random.choice(USERS),
        "in_class": random.choice(CLASSES),
        "at": random.choice(MOMENTS),
        "course": random.choice([None, None, "", " \t", "k1", "k9"]),
    }
    if random.randint(1, 3) == 1:
        return quiz(event_id, **a_score(random), **where)
    make = random.choice([ping, ping_v1])
    # The other version's fields mean nothing, whatever is in them.
    payload: Json = random.choice(
        [
            {},
            {"position": "far", "position_sec": "far"},
            {"POSITION": 1, "Duration_Sec": {}, "passed": 7, "score": [1]},
            *({"playback_rate": rate} for rate in (1, 1.5, 2, 16, 17)),
        ]
    )
    known = make(event_id)["payload"]
    unknown = {name: value for name, value in payload.items() if name not in known}
    return make(event_id, **a_position(random), **where, payload=unknown)


def a_position(random: Random) -> Json:
    """Seconds of a video, often at or right beside 90 % or 95 % of it."""
    duration = random.choice([120.7, 10.7, 100, 33.3, 7, 1e6, 86400])
    share = random.choice(["0.9", "0.9", "0.95", "0.5", "1", "1.2"])
    position = float(Decimal(str(duration)) * Decimal(share))
    beside = random.choice([position, position, nextafter(position, 0)])
    return {
        "duration": duration,
        "position": random.choice([beside, nextafter(position, inf), 0]),
    }


def a_score(random: Random) -> Json:
    """Points, often as good as others of another quiz."""
    score, max_score = random.choice(
        [
            (7, 10),
            (14, 20),
            (0, 10),
            (10, 10),
            (1, 3),
            (2, 6),
            (0.1, 0.3),
            (1e300, 1e300),
        ]
    )
    return {
        "score": score,
        "max_score": max_score,
        "passed": random.choice([True, False, False]),
    }


def dense_log() -> Log:
    """The same log each time, with a bit of everything."""
    log = a_log(Random(32), 200)
    assert len(log.snapshots) > 2
    return log
