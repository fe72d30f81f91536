"""Moments and edges that are easy to get wrong, drawn at random, against the reference.

Events around changes of daylight-saving time, in leap seconds, with offsets of every
kind, in the years 1 and 9999; positions that are above or below 90 % by the 20th digit
of what was sent. They land in several files in any order, with refreshes in between;
days are cut in a time zone drawn at random. Every line is classified as the reference
does, and every table and view is what it makes of them.
"""

import os
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

from tests.support import oracle, reference
from tests.support.builders import RECEIVED_AT, Class, Warehouse, as_line, ping, quiz
from tests.support.torture.tally import Tally, rounds

LINES = 400

# Whole hours, half and quarter ones; a change at midnight, one of half an hour, one
# that left a day out.
ZONES = (
    *("Europe/Berlin", "America/New_York", "America/St_Johns", "Asia/Kathmandu"),
    *("Australia/Lord_Howe", "America/Havana", "Pacific/Apia", "UTC"),
)
CLASSES = [
    Class("c1", has_quiz=1),
    Class("c2", position=2, has_video=0, has_quiz=1),
    Class("c3", "k2"),
]
SNAPSHOT = ("2026-01-01T00:00:00Z", CLASSES)


def clocks(seed: int, count: int) -> Tally:
    """So many lines, in rounds of `LINES`."""
    tally = Tally()
    with (
        tempfile.TemporaryDirectory(prefix="lms-torture-") as name,
        mock.patch.dict(os.environ, {"DBT_TARGET_PATH": f"{name}/dbt_target"}),
    ):
        folder = Path(name)
        (folder / "template").mkdir()
        template = Warehouse(folder / "template")
        template.refresh()
        for number, random in rounds(max(1, count // LINES), seed):
            at = folder / "warehouse"
            at.mkdir(exist_ok=True)
            warehouse = template.copied(at)
            _round(f"round {number}", random, warehouse, min(count, LINES), tally)
    return tally


def _round(
    what: str, random: Random, warehouse: Warehouse, size: int, tally: Tally
) -> None:
    zone = random.choice(ZONES)
    changes = _changes(zone)
    lines = [a_line(random, f"{number:04}", changes) for number in range(size)]
    lines += random.sample(lines, size // 10)
    random.shuffle(lines)
    cuts = sorted(random.randint(0, len(lines)) for _ in range(2))
    known: dict[str, reference.Accepted] = {}
    expected = Counter(
        outcome.reason or outcome.kind
        for outcome in reference.classify(lines, RECEIVED_AT, known)
    )
    time, classes = SNAPSHOT
    warehouse.land_catalogue(*classes, effective_from=time)
    for start, end in zip([0, *cuts], [*cuts, len(lines)], strict=True):
        warehouse.land(lines[start:end])
        if random.random() < 0.5:
            warehouse.refresh(time_zone=zone)
    warehouse.refresh(time_zone=zone)
    tally.tried += len(lines)
    found = _outcomes(warehouse)
    tally.refused += sum(found.values()) - found["accepted"] - found["duplicate"]
    tally.check(found == expected, f"{what}: {found} and not {expected}")
    try:
        oracle.assert_equal(
            warehouse,
            [accepted.event for accepted in known.values()],
            oracle.catalogue_snapshots([SNAPSHOT]),
            time_zone=zone,
        )
    except AssertionError as error:
        tally.check(False, f"{what}, days of {zone}: {error}")


def _outcomes(warehouse: Warehouse) -> Counter[str]:
    dead = warehouse.rows("select reason, count(*) from raw.dead_letter group by all")
    [[accepted, duplicate]] = warehouse.rows(
        "select sum(accepted), sum(duplicate) from raw.load where kind = 'events'"
    )
    kinds = {"accepted": int(accepted), "duplicate": int(duplicate), **dict(dead)}
    return Counter({kind: count for kind, count in kinds.items() if count})


def _changes(zone: str) -> list[datetime]:
    """When the zone's offset changes, in UTC; in 2011 Apia left a day out."""
    found = []
    for year in (2011, 2025, 2026):
        hours = (
            datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(8784)
        )
        before = None
        for hour in hours:
            offset = hour.astimezone(ZoneInfo(zone)).utcoffset()
            if before is not None and offset != before:
                found.append(hour)
            before = offset
    return found or [datetime(2026, 3, 29, 1, tzinfo=UTC)]


def a_line(random: Random, event_id: str, changes: list[datetime]) -> bytes:
    where: dict[str, Any] = {
        "user": f"u{random.randrange(4)}",
        "in_class": random.choice(CLASSES).class_id,
        "at": a_moment(random, changes),
    }
    if random.random() < 0.3:
        return as_line(quiz(event_id, passed=random.random() < 0.5, **where))
    position, duration = an_edge(random)
    # Put in as text: a number of Python does not have these digits.
    line = as_line(ping(event_id, position=1, duration=2, **where))
    return line.replace(
        b'"position_sec": 1,', f'"position_sec": {position},'.encode()
    ).replace(b'"duration_sec": 2', f'"duration_sec": {duration}'.encode())


def an_edge(random: Random) -> tuple[str, str]:
    """A position and its duration: at 90 %, or beside it by little to very little."""
    with localcontext() as context:
        context.prec = 60
        duration = Decimal(random.randint(1, 10**9)).scaleb(-random.randint(0, 8))
        position = duration * Decimal("0.9")
        if random.random() < 0.3:
            position = position.quantize(Decimal(1).scaleb(-random.randint(9, 24)))
        position += random.choice([0, 1, -1]) * Decimal(1).scaleb(
            -random.randint(5, 25)
        )
        if random.random() < 0.2:
            duration += Decimal(1).scaleb(-random.randint(15, 26))
        return f"{max(position, Decimal(0)):f}", f"{duration:f}"


def a_moment(random: Random, changes: list[datetime]) -> str:
    kind = random.random()
    if kind < 0.04:
        return random.choice(
            [
                *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59"),
                *("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:60Z"),
                *("9999-12-31T23:59:59-14:00", "1999-12-31T23:59:59.999999Z"),
                *("2000-01-01T00:00:00+14:00", "2000-01-01T00:00:00.0000009Z"),
            ]
        )
    moment = random.choice(changes) + timedelta(
        microseconds=random.choice([0, 1, -1, random.randint(-(10**11), 10**11)])
    )
    sign, minutes = random.choice("+-"), random.choice([0, 0, 60, 345, 840, 1439])
    local = moment + timedelta(minutes=minutes if sign == "+" else -minutes)
    fraction = random.choice(["", ".", f".{local.microsecond:06}"])
    if fraction == ".":
        fraction += "".join(
            random.choice("0123456789") for _ in range(random.randint(1, 20))
        )
    seconds = "60" if random.random() < 0.1 else f"{local:%S}"
    offset = "Z" if not minutes and random.random() < 0.5 else None
    offset = offset or f"{sign}{minutes // 60:02}:{minutes % 60:02}"
    return f"{local:%Y-%m-%dT%H:%M}:{seconds}{fraction}{offset}"
