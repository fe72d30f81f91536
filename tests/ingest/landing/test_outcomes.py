"""What happens to a line: each outcome of the domain page, on real landings."""

import bz2
import gzip
import hashlib
import json
import lzma
import time
import zlib
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.contracts.events import LARGEST_LINE_BYTES
from ingest.landing import event_files
from ingest.landing.lines import chunk_of
from ingest.landing.outcomes import ChunkTable
from ingest.landing.outcomes import classify as classify_chunk
from ingest.store.database import open_for_writing
from tests.support.builders import (
    RECEIVED_AT,
    Json,
    Line,
    Warehouse,
    as_line,
    examples,
    new_warehouse,
    ping,
    ping_v1,
    quiz,
    without,
    write_lines,
)
from tests.support.reference import Accepted, as_utc, classify, parse_json

MIB = LARGEST_LINE_BYTES
# Barely more than the longest line, so that a few of those are several chunks.
SMALL_CHUNK = MIB + 4096

GRIN = "\N{GRINNING FACE}"


def spelled(line: Line, old: str, new: str) -> bytes:
    """The line with a part spelled as `json.dumps` would not."""
    assert old.encode() in as_line(line)
    return as_line(line).replace(old.encode(), new.encode())


def with_field(line: Line, text: str) -> bytes:
    """The line with one more envelope field, as text."""
    return as_line(line)[:-1] + b", " + text.encode() + b"}"


def in_payload(line: Line, text: str) -> bytes:
    """The line with one more payload field, as text."""
    return spelled(line, '"payload": {', f'"payload": {{{text}, ')


def counts(load: event_files.Load) -> dict[str, int]:
    """The outcomes that there were."""
    kinds = ("accepted", "duplicate", "conflict", "rejected")
    return {kind: getattr(load, kind) for kind in kinds if getattr(load, kind)}


# --------------------------------------------------------------------------------------
# Rejected
# --------------------------------------------------------------------------------------

Rejected = tuple[Line, str, str | None]

BROKEN_JSON: dict[str, Line] = {
    "cut short": as_line(ping())[:-1],
    "one brace": b"{",
    "single quotes": b"{'event_id': 'e1'}",
    "two objects": as_line(ping()) * 2,
    "text after the object": as_line(ping()) + b" //",
    "a trailing comma": as_line(ping())[:-1] + b",}",
    "a trailing comma in the payload": spelled(ping(), "100}", "100,}"),
    "a trailing comma in a list": with_field(ping(), '"other": [1,]'),
    "a trailing comma before spaces": as_line(ping())[:-1] + b" ,\t }",
    "NaN": ping(position=float("nan")),
    "Infinity": ping(duration=float("inf")),
    "-Infinity": ping(position=float("-inf")),
    "NaN in an unknown field": with_field(ping(), '"other": NaN'),
    "nan in an unknown field": with_field(ping(), '"other": nan'),
    "-Infinity in a list": with_field(ping(), '"other": [0, -Infinity]'),
    "Infinity in the payload": in_payload(ping(), '"other":Infinity'),
    "a leading zero": with_field(ping(), '"other": 01'),
    "a number without digits after its point": with_field(ping(), '"other": 1.'),
    "a plus sign": with_field(ping(), '"other": +1'),
    "a control character": with_field(ping(), '"other": "\t"'),
    "a NUL byte in a text": with_field(ping(), '"other": "\0"'),
    "a NUL byte after the object": as_line(ping()) + b"\0",
    "NUL bytes alone": b"\0" * 100,
    "an unknown escape": with_field(ping(), r'"other": "\x41"'),
    "a BOM that does not begin the file": b"\xef\xbb\xbf" + as_line(ping()),
    "a no-break space between": spelled(ping(), ", ", ",\N{NO-BREAK SPACE}"),
    "lists 500,000 deep": b"[" * 500_000,
    "objects 100,000 deep": b'{"a":' * 100_000,
    "closed lists 200,000 deep in an unknown field": with_field(
        ping(), '"other": ' + "[" * 200_000 + "]" * 200_000
    ),
}

NOT_JSON: dict[str, Rejected] = {
    name: (line, "broken_json", None) for name, line in BROKEN_JSON.items()
}

NOT_TEXT: dict[str, Rejected] = {
    name: (line, "invalid_utf8", None)
    for name, line in {
        "a byte that is no UTF-8": as_line(ping()).replace(b"u1", b"\xff"),
        "a character cut short": as_line(ping()) + b"\xf0\x9f\x98",
        "a surrogate as bytes": as_line(ping()).replace(b"u1", b"\xed\xa0\x80"),
        "Latin-1": '{"name": "José"}'.encode("latin-1"),
        "UTF-16": as_line(ping()).decode().encode("utf-16"),
        "a lone surrogate": spelled(ping(), "u1", r"\ud800"),
        "a surrogate pair the wrong way round": spelled(ping(), "u1", r"\ude00\ud83d"),
        "a lone surrogate in an unknown field": with_field(ping(), r'"x": "\udfff"'),
        "a lone surrogate in a key": with_field(ping(), r'"\udfff": 1'),
    }.items()
}

NO_OBJECT: dict[str, Rejected] = {
    f"not an object: {text}": (text.encode(), "not_an_object", None)
    for text in ("1", "null", '"text"', "[]", "[{}]", "1e999")
}

REPEATED_KEYS: dict[str, Rejected] = {
    "a key twice": (with_field(ping(), '"user_id": "u1"'), "duplicate_key", "user_id"),
    "a key twice, once escaped": (
        with_field(ping(), r'"\u0075ser_id": "u2"'),
        "duplicate_key",
        "user_id",
    ),
    "an unknown key twice": (
        with_field(ping(), '"other": 1, "other": 1'),
        "duplicate_key",
        "other",
    ),
    "the payload twice": (
        with_field(ping(), '"payload": {}'),
        "duplicate_key",
        "payload",
    ),
    "a payload key twice": (
        in_payload(ping(), '"video_id": "v1"'),
        "duplicate_key",
        "payload.video_id",
    ),
    "an unknown payload key twice": (
        in_payload(ping(), '"other": 1, "other": 2'),
        "duplicate_key",
        "payload.other",
    ),
}

REQUIRED = {
    **dict.fromkeys(
        ("event_id", "type", "user_id", "class_id", "occurred_at", "payload"), ping()
    ),
    **{f"payload.{name}": ping() for name in ping()["payload"]},
    **{f"payload.{name}": ping_v1() for name in ping_v1()["payload"]},
    **{f"payload.{name}": quiz() for name in quiz()["payload"]},
}


def changed(event: Json, path: str, value: Any) -> Json:
    if path.startswith("payload."):
        payload = {**event["payload"], path.removeprefix("payload."): value}
        return {**event, "payload": payload}
    return {**event, path: value}


def lacking(event: Json, path: str) -> Json:
    if path.startswith("payload."):
        name = path.removeprefix("payload.")
        return {**event, "payload": without(event["payload"], name)}
    return without(event, path)


MISSING: dict[str, Rejected] = {
    **{
        f"no {path}": (lacking(event, path), "missing_field", path)
        for path, event in REQUIRED.items()
    },
    **{
        f"null {path}": (changed(REQUIRED[path], path, None), "missing_field", path)
        for path in ("event_id", "payload", "payload.position_sec", "payload.passed")
    },
}

OF_ANOTHER_TYPE: list[tuple[Json, tuple[str, ...], Any]] = [
    (
        ping(),
        ("event_id", "type", "user_id", "class_id", "course_id", "occurred_at"),
        (1, True, ["x"], {}),
    ),
    (ping(), ("schema_version",), ("2", True, 2.5, [], {})),
    (ping(), ("payload",), ([], "{}", 1, True)),
    (ping(), ("payload.video_id", "payload.session_id"), (1, False, [], {})),
    (
        ping(),
        ("payload.position_sec", "payload.duration_sec", "payload.playback_rate"),
        ("12", "", True, [1], {}),
    ),
    (ping_v1(), ("payload.position", "payload.duration"), ("12", True, [1])),
    (quiz(), ("payload.quiz_id",), (1, True)),
    (quiz(), ("payload.score", "payload.max_score"), ("7", True, [7])),
    (quiz(), ("payload.passed",), (1, 0, "true", "", [])),
]

WRONG_TYPES: dict[str, Rejected] = {
    f"{path} is {json.dumps(value)}": (
        changed(event, path, value),
        "wrong_type",
        path,
    )
    for event, paths, values in OF_ANOTHER_TYPE
    for path in paths
    for value in values
}

OUT_OF_RANGE: dict[str, Rejected] = {
    **{
        f"{path} is {name}": (changed(ping(), path, value), "out_of_range", path)
        for path in ("event_id", "user_id", "class_id")
        for name, value in {
            "empty": "",
            "a space": " ",
            "ASCII white space": "\t\r\n",
            "a no-break space": "\N{NO-BREAK SPACE}",
            "wide spaces": "\N{IDEOGRAPHIC SPACE}\N{EM SPACE}\N{LINE SEPARATOR}",
            "257 letters": "x" * 257,
            "257 emoji": GRIN * 257,
        }.items()
    },
    **{
        f"{path} is {value}": (changed(event, path, value), "out_of_range", path)
        for event, path, value in [
            (ping(), "payload.position_sec", -0.001),
            (ping(), "payload.duration_sec", 0),
            (ping(), "payload.duration_sec", -1),
            (ping(), "payload.playback_rate", 0),
            (ping(), "payload.playback_rate", -1.5),
            (ping_v1(), "payload.position", -1),
            (ping_v1(), "payload.duration", 0.0),
            (quiz(), "payload.score", -1),
            (quiz(max_score=10), "payload.score", 10.000001),
            (quiz(score=0), "payload.max_score", 0),
        ]
    },
    **{
        f"a position of {number[:8]}": (
            spelled(ping(position=10), "10,", f"{number},"),
            "out_of_range",
            "payload.position_sec",
        )
        for number in ("1e999", "-1e999", "9" * 400, "9" * 5000)
    },
    **{
        f"it happened at {text}": (ping(at=text), "out_of_range", "occurred_at")
        for text in (
            "1999-12-31T23:59:59.999999Z",
            "2000-01-01T00:00:00+00:01",
            "1970-01-01T00:00:00Z",
            "0001-01-02T00:00:00Z",
            # Received on 2026-03-20 at 12:00.
            "2026-03-21T12:00:00.000001Z",
            "2026-03-21T12:00:01Z",
            "2026-03-21T11:00:01-01:00",
            "9999-12-31T00:00:00Z",
        )
    },
}

UNKNOWN_CONTRACTS: dict[str, Rejected] = {
    f"{event_type!r} version {version}": (
        ping(version=version, type=event_type),
        "unknown_contract",
        "type",
    )
    for event_type, version in [
        ("VIDEO_PING", 0),
        ("VIDEO_PING", -1),
        ("VIDEO_PING", 3),
        ("QUIZ_SUBMIT", 2),
        ("video_ping", 2),
        ("VIDEO_PING ", 2),
        ("VIDEO_PING 2", 1),
        ("LOGIN", 1),
        ("", 1),
    ]
}

BAD_TIMES = (
    "",
    "yesterday",
    "2026-03-10",
    "2026-03-10T10:00:00",
    "2026-03-10T10:00Z",
    "2026-03-10T10:00:00.Z",
    "2026-03-10T10:00:00,5Z",
    "2026-03-10T10:00:00+0100",
    "2026-03-10T10:00:00+01",
    "2026-03-10T10:00:00 UTC",
    "2026-03-10T10:00:00 Europe/Berlin",
    " 2026-03-10T10:00:00Z",
    "2026-03-10T10:00:00Z\n",
    "20260310T100000Z",
    "2026-3-10T10:00:00Z",
    "2026-02-29T10:00:00Z",
    "2026-13-01T10:00:00Z",
    "2026-03-10T24:00:00Z",
    "2026-03-10T10:60:00Z",
    "2026-03-10T10:00:61Z",
    "2026-03-10T10:00:00+24:00",
    "2026-03-10T10:00:00+01:60",
    "٢٠٢٦-03-10T10:00:00Z",
    "infinity",
)

BAD_TIMESTAMPS: dict[str, Rejected] = {
    f"it happened at {text!r}": (ping(at=text), "bad_timestamp", "occurred_at")
    for text in BAD_TIMES
}

REJECTED = {
    **NOT_JSON,
    **NOT_TEXT,
    **NO_OBJECT,
    **REPEATED_KEYS,
    **MISSING,
    **WRONG_TYPES,
    **OUT_OF_RANGE,
    **UNKNOWN_CONTRACTS,
    **BAD_TIMESTAMPS,
    "a line over 1 MiB": (as_line(ping()).ljust(MIB + 1), "line_too_long", None),
}


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """A valid event, then each line that must be rejected with a valid one after it."""
    warehouse = Warehouse(tmp_path_factory.mktemp("dirty"))
    lines: list[Line] = [ping("before")]
    for name, (line, _, _) in REJECTED.items():
        lines += [line, ping(f"after {name}"[:256])]
    warehouse.land(lines)
    return warehouse


@pytest.fixture(scope="module")
def dead_letters(dirty: Warehouse) -> dict[int, Json]:
    letters = dirty.records("select * from raw.dead_letter")
    return {letter["line_number"]: letter for letter in letters}


@pytest.mark.parametrize("name", REJECTED)
def test_a_line_that_breaks_a_rule_is_rejected_with_the_reason_and_the_field(
    dead_letters: dict[int, Json], name: str
) -> None:
    _, reason, field = REJECTED[name]
    letter = dead_letters.get(2 + 2 * list(REJECTED).index(name))
    assert letter is not None, "the line was accepted"
    assert (letter["reason"], letter["field"]) == (reason, field), letter["detail"]


def test_a_broken_line_does_not_harm_its_neighbours(dirty: Warehouse) -> None:
    accepted = dirty.rows("select event_id from raw.lms_event order by line_number")
    neighbours = ["before", *(f"after {name}"[:256] for name in REJECTED)]
    landed = {event_id for (event_id,) in accepted}
    assert [name for name in neighbours if name not in landed] == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (in_payload(ping(), r'"x": {"a": "\ud800", "a": 1}'), "invalid_utf8"),
        (ping(at="9999-12-31T23:59:60Z"), "out_of_range"),
        (ping(at="9999-12-31T23:59:59-23:59"), "out_of_range"),
        (ping(at="0001-01-01T00:00:00+23:59"), "out_of_range"),
        (ping(at="0000-01-01T00:00:00Z"), "bad_timestamp"),
        (in_payload(ping(GRIN), f'"x": {"[" * 5_000}{"]" * 5_000}'), "broken_json"),
    ],
    ids=[
        "a lone surrogate under a key that stands twice",
        "a leap second at the end of time",
        "after the end of time in UTC",
        "before the beginning of time in UTC",
        "in the year 0",
        "lists 5,000 deep",
    ],
)
def test_a_line_at_the_limits_of_the_checks_does_not_stop_the_batch(
    warehouse: Warehouse, line: Line, reason: str
) -> None:
    warehouse.land([ping("before"), line, ping("after")])
    assert warehouse.rows("select event_id from raw.lms_event order by all") == [
        ("after",),
        ("before",),
    ]
    assert warehouse.value("select reason from raw.dead_letter") == reason


def test_a_dead_letter_tells_what_came_and_where(warehouse: Warehouse) -> None:
    broken = b'{"name": "Jos\xe9", \x00\r'
    warehouse.land([ping("e1"), b"", broken, ping("e2")])
    [letter] = warehouse.records("select * from raw.dead_letter")
    assert letter.pop("detail")
    assert letter.pop("faults")
    assert letter == {
        "load_id": 1,
        "file": str(warehouse.folder / "events-1.ndjson"),
        "line_number": 3,
        "reason": "invalid_utf8",
        "field": None,
        "event_id": None,
        "line": broken,
        "line_bytes": len(broken),
        "line_sha256": hashlib.sha256(broken).hexdigest(),
        "first_seen": RECEIVED_AT,
        "attempts": 1,
    }


def test_every_dead_letter_keeps_its_line_byte_for_byte(
    dead_letters: dict[int, Json],
) -> None:
    kept = {number: letter["line"] for number, letter in dead_letters.items()}
    for index, (name, (line, _, _)) in enumerate(REJECTED.items()):
        number = 2 + 2 * index
        if number in kept:
            assert kept[number] == as_line(line)[:MIB], name


@pytest.mark.parametrize("chunk_bytes", [SMALL_CHUNK, 16 * MIB])
@pytest.mark.parametrize("size", [MIB + 1, 2 * MIB, 5 * MIB + 1])
def test_a_dead_letter_of_a_long_line_keeps_its_first_mib_and_the_hash_of_all(
    warehouse: Warehouse, size: int, chunk_bytes: int
) -> None:
    long = as_line(ping("long")).ljust(size, b"x")
    load = warehouse.land(
        [ping("e1"), long, ping("e2"), long + b"y"], chunk_bytes=chunk_bytes
    )
    assert counts(load) == {"accepted": 2, "rejected": 2}
    assert warehouse.rows(
        """
        select line_number, reason, line, line_bytes, line_sha256
        from raw.dead_letter
        order by line_number
        """
    ) == [
        (2, "line_too_long", long[:MIB], size, hashlib.sha256(long).hexdigest()),
        (
            4,
            "line_too_long",
            long[:MIB],
            size + 1,
            hashlib.sha256(long + b"y").hexdigest(),
        ),
    ]


@pytest.mark.parametrize("chunk_bytes", [SMALL_CHUNK, 16 * MIB])
def test_a_line_of_exactly_1_mib_is_accepted(
    warehouse: Warehouse, chunk_bytes: int
) -> None:
    longest = as_line(ping("e2")).ljust(MIB)
    load = warehouse.land([ping("e1"), longest, ping("e3")], chunk_bytes=chunk_bytes)
    assert counts(load) == {"accepted": 3}


# --------------------------------------------------------------------------------------
# Accepted
# --------------------------------------------------------------------------------------

UNUSUAL: dict[str, Line] = {
    "at the oldest moment": ping(at="2000-01-01T00:00:00Z"),
    "24 h after it was received": ping(at="2026-03-21T12:00:00Z"),
    "24 h after it was received, in another offset": ping(
        at="2026-03-22T11:59:00+23:59"
    ),
    "24 h after it was received, but for what is cut off": ping(
        at="2026-03-21T12:00:00.0000009Z"
    ),
    "a position at the start": ping(position=0),
    "a position of minus zero": spelled(ping(position=10), "10,", "-0.0,"),
    "a position past the duration": ping(position=1e300, duration=1e-300),
    "a number with a large exponent": spelled(ping(position=10), "10,", "1E+2,"),
    "a number that underflows": spelled(ping(position=10), "10,", "1e-999,"),
    "an integer past 64 bits": spelled(ping(position=10), "10,", "9" * 40 + ","),
    "a playback rate and a session": ping(
        payload={"playback_rate": 1.5, "session_id": "s1"}
    ),
    "a null playback rate and session": ping(
        payload={"playback_rate": None, "session_id": None}
    ),
    "an empty video id": ping(payload={"video_id": ""}),
    "a full score": quiz(score=10, max_score=10),
    "a score of zero": quiz(score=0, passed=False),
    "version 2.0": ping(version=2.0),
    "version 2e0": spelled(ping(), ": 2,", ": 2e0,"),
    "no version": without(ping_v1(), "schema_version"),
    "a null version": ping_v1(version=None),
    "a null course": {**ping(), "course_id": None},
    "an empty course": ping(course=""),
    "a blank course": ping(course=" \t"),
    "a long course": ping(course="k" * 1000),
    "unknown fields": ping(other=[1, {"a": None}], payload={"other": {"b": True}}),
    "the other version's fields with other types": ping(
        payload={"position": "far", "duration": [], "score": {}, "passed": 3}
    ),
    "fields that differ from known ones in case": with_field(
        ping(payload={"Position_Sec": "x", "VIDEO_ID": 1}), '"User_Id": 1'
    ),
    "an unknown field past the doubles": with_field(ping(), '"other": 1e999'),
    "an unknown field of 5000 digits": with_field(ping(), '"other": ' + "9" * 5000),
    "a payload field past the doubles": in_payload(ping(), '"other": -1e999'),
    "a key twice in an unknown field": with_field(ping(), '"x": {"a": 1, "a": 2}'),
    "an unknown field 400 deep": in_payload(ping(), '"x": ' + "[" * 400 + "]" * 400),
    "a payload with a key named like a path": ping(
        payload={"a.b": 1, "$": 2, 'a"b': 3, "": 4}
    ),
    "a text that looks like NaN": ping(payload={"other": ", NaN, : Infinity, [}"}),
    "white space between all tokens": json.dumps(ping(), indent=1)
    .replace("\n", "\r\t ")
    .encode(),
    "white space around": b"\t  " + as_line(ping()) + b" \r\t ",
    "escapes in a known key": spelled(ping(), "event_id", r"\u0065vent_id"),
    "escaped slashes": spelled(ping(), "v1", r"https:\/\/x\/"),
    "raw emoji": json.dumps(ping(user=GRIN), ensure_ascii=False).encode(),
    "DEL in a text": with_field(ping(), '"other": "\x7f"'),
}


def renamed(line: Line, event_id: str) -> bytes:
    return as_line(line).replace(b'"e1"', json.dumps(event_id).encode())


@pytest.fixture(scope="module")
def unusual(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    warehouse = Warehouse(tmp_path_factory.mktemp("unusual"))
    warehouse.land(renamed(line, name) for name, line in UNUSUAL.items())
    return warehouse


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_line_that_keeps_every_rule_is_accepted(
    unusual: Warehouse, name: str
) -> None:
    letters = unusual.rows(
        f"""
        select reason, field, detail
        from raw.dead_letter
        where line_number = {1 + list(UNUSUAL).index(name)}
        """
    )
    assert letters == []


@pytest.mark.parametrize("name", UNUSUAL)
def test_the_payload_of_an_unusual_line_can_be_read(
    unusual: Warehouse, name: str
) -> None:
    query = "select payload from raw.lms_event where event_id = '{}'"
    payload = unusual.value(query.format(name.replace("'", "''")))
    assert parse_json(payload.encode()) == parse_json(as_line(UNUSUAL[name]))["payload"]


IDS = [
    "'",
    '"',
    ";",
    "\\",
    "'; drop table raw.lms_event; --",
    "{{ var('now') }}",
    "{% for x in y %}",
    "{#",
    "$1",
    "?",
    "%s",
    "../../etc/passwd",
    r"C:\new\table",
    "https://example.org/a?b=c&d=e#f",
    "null",
    "NaN",
    "0",
    "1e5",
    "a,b",
    " leading and trailing ",
    "\na line break and\ta tab\r",
    "x" * 256,
    GRIN,
    GRIN * 256,
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}" * 85,
    "José",
    "Jose\N{COMBINING ACUTE ACCENT}",
    "日本語",
    "\N{NO-BREAK SPACE}x",
    "\N{ZERO WIDTH SPACE}",
    "\N{RIGHT-TO-LEFT OVERRIDE}abc",
    "\N{BYTE ORDER MARK}",
    "\x7f",
    "\x00",
    "a\x00b",
    "a\x00c",
    "Abc",
    "abc",
    "550e8400-e29b-41d4-a716-446655440000",
    "550E8400-E29B-41D4-A716-446655440000",
    "550e8400e29b41d4a716446655440000",
    "{550e8400-e29b-41d4-a716-446655440000}",
]


@pytest.fixture(scope="module")
def identified(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    warehouse = Warehouse(tmp_path_factory.mktemp("identified"))
    warehouse.land(ping(an_id, user=an_id, in_class=an_id) for an_id in IDS)
    return warehouse


@pytest.mark.parametrize("an_id", IDS, ids=lambda an_id: ascii(an_id)[:40])
def test_an_id_is_opaque(identified: Warehouse, an_id: str) -> None:
    line_number = 1 + IDS.index(an_id)
    assert identified.rows(
        f"""
        select event_id, user_id, class_id
        from raw.lms_event
        where line_number = {line_number}
        """
    ) == [(an_id, an_id, an_id)]


def test_ids_that_look_alike_are_known_one_by_one(identified: Warehouse) -> None:
    again = [ping(an_id, user=an_id, in_class=an_id, more=1) for an_id in IDS]
    assert counts(identified.land(again)) == {"duplicate": len(IDS)}


TIMES = {
    "2026-03-10T10:00:00Z": "2026-03-10 10:00:00",
    "2026-03-10t10:00:00z": "2026-03-10 10:00:00",
    "2026-03-10 10:00:00+00:00": "2026-03-10 10:00:00",
    "2026-03-10T10:00:00-00:00": "2026-03-10 10:00:00",
    "2026-03-10T15:45:00+05:45": "2026-03-10 10:00:00",
    "2026-03-09T22:00:00-12:00": "2026-03-10 10:00:00",
    "2026-03-11T09:59:00+23:59": "2026-03-10 10:00:00",
    "2026-03-10T10:00:00.5Z": "2026-03-10 10:00:00.5",
    "2026-03-10T10:00:00.123456Z": "2026-03-10 10:00:00.123456",
    "2026-03-10T10:00:00.1234569Z": "2026-03-10 10:00:00.123456",
    "2026-03-10T10:00:00.99999999999999999Z": "2026-03-10 10:00:00.999999",
    "2026-03-10T23:59:60Z": "2026-03-11 00:00:00",
    "2026-03-10T09:59:60.7Z": "2026-03-10 10:00:00",
    "2024-02-29T23:59:59.999999+00:00": "2024-02-29 23:59:59.999999",
    "2026-03-29T02:30:00+01:00": "2026-03-29 01:30:00",
}


@pytest.mark.parametrize(("text", "utc"), TIMES.items())
def test_occurred_at_is_stored_in_utc_and_microseconds(
    warehouse: Warehouse, text: str, utc: str
) -> None:
    warehouse.land([ping(at=text)], received_at=datetime(2026, 4, 1))
    assert warehouse.value("select occurred_at from raw.lms_event") == (
        datetime.fromisoformat(utc)
    )


def test_an_event_is_kept_with_its_fields_and_the_line_as_it_came(
    warehouse: Warehouse,
) -> None:
    line = b'  {"more": 1.0, ' + as_line(ping(course="k1"))[1:] + b" "
    warehouse.land([b"", line])
    [event] = warehouse.records("select * from raw.lms_event")
    assert event.pop("event_key")
    assert json.loads(event.pop("payload")) == ping()["payload"]
    assert event == {
        "event_id": "e1",
        "type": "VIDEO_PING",
        "schema_version": 2,
        "user_id": "u1",
        "class_id": "c1",
        "course_id": "k1",
        "occurred_at": datetime(2026, 3, 10, 10),
        "line": line.decode(),
        "received_at": RECEIVED_AT,
        "load_id": 1,
        "file": str(warehouse.folder / "events-1.ndjson"),
        "line_number": 2,
    }


# --------------------------------------------------------------------------------------
# Duplicates and conflicts
# --------------------------------------------------------------------------------------

FIRST = ping_v1(course="k1", payload={"other": [{"a": 1}]})
BARE = without(ping_v1(), "schema_version")

SAME: dict[str, tuple[Line, Line]] = {
    "the same line": (FIRST, FIRST),
    "other key order": (
        FIRST,
        dict(reversed([*FIRST.items()]))
        | {"payload": dict(reversed([*FIRST["payload"].items()]))},
    ),
    "other white space": (
        FIRST,
        json.dumps(FIRST, indent=2).replace("\n", "").encode(),
    ),
    "other escapes": (FIRST, spelled(FIRST, "v1", r"\u00761")),
    "10 and 10.0 and 1e1": (FIRST, spelled(FIRST, "10,", "1e1,")),
    "1 and 1.0 deep in the payload": (FIRST, spelled(FIRST, '"a": 1', '"a": 1.0')),
    "an unknown envelope field": (FIRST, {**FIRST, "sent_again": True}),
    "no version and version 1": (BARE, {**BARE, "schema_version": 1}),
    "no version and a null version": (BARE, {**BARE, "schema_version": None}),
    "version 1 and 1.0": (FIRST, {**FIRST, "schema_version": 1.0}),
    "no course and a null course": (BARE, {**BARE, "course_id": None}),
}

OTHER: dict[str, tuple[Line, Line]] = {
    "another type": (FIRST, quiz()),
    "another version": (ping_v1(), {**ping_v1(), **without(ping(), "event_id")}),
    "another user": (FIRST, {**FIRST, "user_id": "u2"}),
    "another class": (FIRST, {**FIRST, "class_id": "c2"}),
    "another course": (FIRST, {**FIRST, "course_id": "k2"}),
    "no course any more": (FIRST, without(FIRST, "course_id")),
    "the same moment in another offset": (
        FIRST,
        {**FIRST, "occurred_at": "2026-03-10T11:00:00+01:00"},
    ),
    "another position": (FIRST, changed(FIRST, "payload.position", 11)),
    "an unknown payload field": (FIRST, changed(FIRST, "payload.new", 1)),
    "a null for an absent payload field": (FIRST, changed(FIRST, "payload.new", None)),
    "true for 1 deep in the payload": (FIRST, spelled(FIRST, '"a": 1', '"a": true')),
    "a text for a number deep in the payload": (
        FIRST,
        spelled(FIRST, '"a": 1', '"a": "1"'),
    ),
    "a list one longer": (FIRST, changed(FIRST, "payload.other", [{"a": 1}, 1])),
}

FILLER = as_line(ping("filler")).ljust(MIB)


def land_in_one_file(warehouse: Warehouse, *lines: Line) -> dict[str, int]:
    return counts(warehouse.land(lines))


def land_in_two_files(warehouse: Warehouse, *lines: Line) -> dict[str, int]:
    first, *others = lines
    before = counts(warehouse.land([first]))
    after = counts(warehouse.land([ping("another"), *others]))
    after["accepted"] -= 1
    return dict(+(Counter(before) + Counter(after)))


def land_in_two_chunks(warehouse: Warehouse, *lines: Line) -> dict[str, int]:
    first, *others = lines
    load = warehouse.land([first, FILLER, *others], chunk_bytes=SMALL_CHUNK)
    found = counts(load)
    found["accepted"] -= 1
    return dict(+Counter(found))


WAYS = pytest.mark.parametrize(
    "land", [land_in_one_file, land_in_two_files, land_in_two_chunks]
)


@WAYS
def test_an_event_sent_twice_is_landed_once(warehouse: Warehouse, land: Any) -> None:
    assert land(warehouse, FIRST, FIRST) == {"accepted": 1, "duplicate": 1}
    found = "select count(*) from raw.lms_event where event_id = 'e1'"
    assert warehouse.value(found) == 1


@WAYS
def test_of_events_with_one_id_the_first_landed_stays(
    warehouse: Warehouse, land: Any
) -> None:
    other = {**FIRST, "user_id": "u2"}
    assert land(warehouse, FIRST, other, FIRST, other) == {
        "accepted": 1,
        "duplicate": 1,
        "conflict": 2,
    }
    found = "select user_id from raw.lms_event where event_id = 'e1'"
    assert warehouse.rows(found) == [("u1",)]


@pytest.mark.parametrize("name", SAME)
def test_a_known_id_with_equal_content_is_a_duplicate(
    warehouse: Warehouse, name: str
) -> None:
    assert land_in_one_file(warehouse, *SAME[name]) == {"accepted": 1, "duplicate": 1}


@pytest.mark.parametrize("name", OTHER)
def test_a_known_id_with_other_content_is_a_conflict(
    warehouse: Warehouse, name: str
) -> None:
    assert land_in_one_file(warehouse, *OTHER[name]) == {"accepted": 1, "conflict": 1}


def test_a_conflict_is_a_dead_letter_that_names_the_event(warehouse: Warehouse) -> None:
    warehouse.land([FIRST])
    other = {**FIRST, "user_id": "u2"}
    warehouse.land([other])
    assert warehouse.rows(
        """
        select load_id, line_number, reason, field, event_id, line, attempts
        from raw.dead_letter
        """
    ) == [(2, 1, "event_id_conflict", "event_id", "e1", as_line(other), 1)]


def test_a_known_id_with_content_that_breaks_a_rule_is_rejected(
    warehouse: Warehouse,
) -> None:
    assert land_in_one_file(warehouse, FIRST, {**FIRST, "payload": []}) == {
        "accepted": 1,
        "rejected": 1,
    }


def test_a_rejected_line_does_not_make_its_id_known(warehouse: Warehouse) -> None:
    assert land_in_one_file(warehouse, {**FIRST, "payload": []}, FIRST) == {
        "accepted": 1,
        "rejected": 1,
    }


@pytest.mark.parametrize("depth", [400, 600, 900, 3_000, 100_000])
def test_a_deeply_nested_event_sent_again_does_not_stop_the_batch(
    warehouse: Warehouse, depth: int
) -> None:
    deep = in_payload(ping("deep"), '"x": ' + "[" * depth + "]" * depth)
    load = warehouse.land([deep, b" " + deep, ping("after")])
    assert load.lines_read == 3
    assert warehouse.rows("from raw.lms_event select event_id where event_id = 'after'")


@pytest.mark.parametrize("depth", [501, 3_000, 100_000])
def test_what_is_nested_too_deeply_is_rejected_before_it_is_compared(
    warehouse: Warehouse, depth: int
) -> None:
    nested = "[" * (depth - 2) + "]" * (depth - 2)
    too_deep = [
        in_payload(ping("deep"), f'"x": {nested}, "y": 1'),
        in_payload(ping("deep"), f'"y": 1, "x": {nested}'),
    ]
    at_the_limit = [
        in_payload(ping("e1"), f'"x": {"[" * 498 + "]" * 498}, "y": 1'),
        in_payload(ping("e1"), f'"y": 1, "x": {"[" * 498 + "]" * 498}'),
    ]
    load = warehouse.land([*too_deep, *at_the_limit])
    assert counts(load) == {"accepted": 1, "duplicate": 1, "rejected": 2}
    assert warehouse.rows("select distinct reason, detail from raw.dead_letter") == [
        ("broken_json", "nested more than 500 levels deep")
    ]


def test_what_only_looks_nested_is_text(warehouse: Warehouse) -> None:
    text = in_payload(ping(), f'"x": "{"[" * 600}"')
    assert counts(warehouse.land([text])) == {"accepted": 1}


def of_length(
    length: int, position: str, extra: str = "", after: str = "", **fields: str
) -> bytes:
    """A ping written without a space, then with spaces until it has so many bytes."""
    envelope = {
        "event_id": '"e1"',
        "type": '"VIDEO_PING"',
        "schema_version": "2",
        "user_id": '"u1"',
        "class_id": '"k1"',
        "occurred_at": '"2026-03-01T10:00:00Z"',
    } | fields
    names = ",".join(f'"{name}":{value}' for name, value in envelope.items())
    payload = f'"video_id":"v","position_sec":{position},"duration_sec":1000000.5'
    line = f'{{{names},"payload":{{{payload}{extra}}}{after}}}'
    return line.replace("{", "{" + " " * (length - len(line)), 1).encode()


@pytest.mark.parametrize(
    ("position", "extra", "fields"),
    [
        ("1e1", ",", {}),
        ("1e2", ", ", {}),
        ("1e3", ",\t", {}),
        ("1e1", "", {"after": ","}),
        ("1e1", "", {"after": ',"course_id":"c1",'}),
        ('1e-6,"playback_rate":1e-6', ',"":NaN', {}),
        ("1e7", ',"":NaN', {}),
        ("1e7", ',"":inf', {}),
        ("1e10", ',"":1,"":2', {}),
        ("10.5", "", {"user_id": "5"}),
        ("10.5", "", {"event_id": "12345678901234567890123456789012"}),
        ("10.5", "", {"class_id": "true"}),
        ("10.5", "", {"class_id": "[1]"}),
        ("10.5", "", {"course_id": "-Infinity"}),
        ("10.500", "", {"user_id": "inf"}),
        ("10.500", "", {"class_id": "NaN"}),
        ("10.500", "", {"course_id": "iNfInItY"}),
        ("10.5", "", {"user_id": '{"a":1}'}),
        ('"10.5"', "", {}),
    ],
)
def test_a_wrong_line_of_the_length_of_a_right_one_is_rejected(
    warehouse: Warehouse, position: str, extra: str, fields: dict[str, str]
) -> None:
    """What its length proves of a line must be so whatever makes up for it."""
    lines = {of_length(length, position, extra, **fields) for length in range(290)}
    known: dict[str, Accepted] = {}
    for line in lines:
        [outcome] = classify([line], RECEIVED_AT, known)
        assert outcome.kind == "rejected"
    assert counts(warehouse.land(lines)) == {"rejected": len(lines)}


def test_a_line_of_many_keys_costs_what_its_size_costs(warehouse: Warehouse) -> None:
    """A key that stands twice was looked for once for each key: 16 s."""
    keys = ", ".join(f'"k{number}": 0' for number in range(60_000))
    started = time.process_time()
    load = warehouse.land([in_payload(ping(), f'{keys}, "k59999": 0')])
    assert time.process_time() - started < 3
    assert counts(load) == {"rejected": 1}
    assert warehouse.rows("select reason, field from raw.dead_letter") == [
        ("duplicate_key", "payload.k59999")
    ]


# --------------------------------------------------------------------------------------
# Lines of a file
# --------------------------------------------------------------------------------------


def written(folder: Path, content: bytes, name: str = "a.ndjson") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


BOM = b"\xef\xbb\xbf"
ONE, TWO = as_line(ping("e1")), as_line(ping("e2"))

LAYOUTS = {
    "a newline at the end": ONE + b"\n" + TWO + b"\n",
    "no newline at the end": ONE + b"\n" + TWO,
    "CRLF": ONE + b"\r\n" + TWO + b"\r\n",
    "a BOM": BOM + ONE + b"\n" + TWO,
    "blank lines": b"\n\r\n" + ONE + b"\n \t\n\n" + TWO + b"\n\n\n \n",
}


@pytest.mark.parametrize("chunk_bytes", [SMALL_CHUNK, 16 * MIB])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_of_two_events_has_two_lines(
    warehouse: Warehouse, name: str, chunk_bytes: int
) -> None:
    path = written(warehouse.folder, LAYOUTS[name])
    [load] = warehouse.land_files(path, chunk_bytes=chunk_bytes).loads
    assert (load.lines_read, counts(load)) == (2, {"accepted": 2})


def test_a_bom_before_the_only_line_is_no_part_of_it(warehouse: Warehouse) -> None:
    [load] = warehouse.land_files(written(warehouse.folder, BOM + ONE)).loads
    assert counts(load) == {"accepted": 1}


def test_a_line_number_counts_blank_lines_too(warehouse: Warehouse) -> None:
    warehouse.land([b"", ping("e1"), b"{", b" ", FILLER, b"", b"["])
    numbered = """
        select line_number from raw.lms_event
        union all
        select line_number from raw.dead_letter
        order by line_number
    """
    assert warehouse.rows(numbered) == [(2,), (3,), (5,), (7,)]


@pytest.mark.parametrize("content", [b"", b"\n\n \r\n", BOM, b" "])
def test_a_file_without_lines_is_a_load_of_none(
    warehouse: Warehouse, content: bytes
) -> None:
    [load] = warehouse.land_files(written(warehouse.folder, content)).loads
    assert (load.load_id, load.lines_read, counts(load)) == (1, 0, {})


def test_a_carriage_return_alone_does_not_end_a_line(warehouse: Warehouse) -> None:
    [load] = warehouse.land_files(written(warehouse.folder, ONE + b"\r" + TWO)).loads
    assert (load.lines_read, counts(load)) == (1, {"rejected": 1})


# --------------------------------------------------------------------------------------
# Compressed files
# --------------------------------------------------------------------------------------

CONTENT = b"".join(as_line(ping(f"e{number}")) + b"\n" for number in range(2_000))


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def flushed(content: bytes) -> bytes:
    """A gzip that ends, without a trailer, where its writer flushed it."""
    compressor = zlib.compressobj(wbits=31)
    return compressor.compress(content) + compressor.flush(zlib.Z_FULL_FLUSH)


def flipped(content: bytes, index: int) -> bytes:
    changed_content = bytearray(content)
    changed_content[index] ^= 0xFF
    return bytes(changed_content)


GZ, ZST = gzip.compress(CONTENT, mtime=0), zstd(CONTENT)
# `{"event_id": "e1"}` as the zstd command packs it: with a checksum, which Arrow leaves
# out. A changed byte in a frame without one cannot be told.
CHECKED_ZST = bytes.fromhex(
    "28b52ffd04589900007b226576656e745f6964223a20226531227d0a1be64710"
)

DAMAGED = {
    "half.ndjson.gz": GZ[: len(GZ) // 2],
    "without_trailer.ndjson.gz": GZ[:-8],
    "without_its_last_byte.ndjson.gz": GZ[:-1],
    "cut_at_a_flush.ndjson.gz": flushed(CONTENT),
    "wrong_checksum.ndjson.gz": flipped(GZ, -8),
    "wrong_length.ndjson.gz": flipped(GZ, -1),
    "flipped_in_the_middle.ndjson.gz": flipped(GZ, len(GZ) // 2),
    "header_alone.ndjson.gz": GZ[:10],
    "no_magic_bytes.ndjson.gz": flipped(GZ, 0),
    "empty.ndjson.gz": b"",
    "second_member_cut.ndjson.gz": GZ + GZ[: len(GZ) // 2],
    "half.ndjson.zst": ZST[: len(ZST) // 2],
    "without_its_last_byte.ndjson.zst": ZST[:-1],
    "wrong_checksum.ndjson.zst": flipped(CHECKED_ZST, 20),
    "no_magic_bytes.ndjson.zst": flipped(ZST, 0),
    "bzip2.ndjson": bz2.compress(CONTENT),
    "xz.ndjson": lzma.compress(CONTENT),
    "empty.ndjson.zst": b"",
    "second_frame_cut.ndjson.zst": ZST + ZST[: len(ZST) // 2],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_of_a_damaged_file_nothing_is_landed_and_the_failure_names_it(
    warehouse: Warehouse, name: str
) -> None:
    path = written(warehouse.folder, DAMAGED[name], name)
    [load] = warehouse.land_files(path, chunk_bytes=SMALL_CHUNK).loads
    assert load.failed is not None
    assert name in load.failed
    assert load.load_id is None
    landed = "select 1 from raw.lms_event union all select 1 from raw.load"
    assert warehouse.rows(landed) == []


def test_a_damaged_file_does_not_stop_the_others(warehouse: Warehouse) -> None:
    landed = warehouse.land_files(
        written(warehouse.folder, ONE, "a.ndjson"),
        written(warehouse.folder, GZ[:-1], "b.ndjson.gz"),
        written(warehouse.folder, TWO, "c.ndjson"),
    )
    assert [load.accepted for load in landed.loads] == [1, 0, 1]
    assert [Path(load.file).name for load in landed.failures] == ["b.ndjson.gz"]


def test_a_damaged_file_can_be_landed_once_it_is_whole(warehouse: Warehouse) -> None:
    warehouse.land_files(written(warehouse.folder, GZ[:-1], "a.ndjson.gz"))
    path = written(warehouse.folder, GZ, "a.ndjson.gz")
    [load] = warehouse.land_files(path).loads
    assert counts(load) == {"accepted": 2_000}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", CONTENT),
        ("a.ndjson.gz", GZ),
        ("a.ndjson.zst", ZST),
        ("gzip.ndjson", GZ),
        ("zstd.ndjson.gz", ZST),
        ("plain.ndjson.gz", CONTENT),
        ("S3.json", CONTENT),
        ("CAPITALS.NDJSON.GZ", GZ),
        ("two_members.ndjson.gz", gzip.compress(ONE + b"\n") + GZ),
        ("two_frames.ndjson.zst", zstd(ONE + b"\n") + ZST),
    ],
)
def test_a_whole_file_is_landed_whatever_packs_it(
    warehouse: Warehouse, name: str, content: bytes
) -> None:
    path = written(warehouse.folder, content, name)
    [load] = warehouse.land_files(path, chunk_bytes=SMALL_CHUNK).loads
    assert load.failed is None
    assert load.accepted == 2_000


# --------------------------------------------------------------------------------------
# Loads
# --------------------------------------------------------------------------------------


def test_a_file_with_known_content_is_not_landed_again_whatever_its_name(
    warehouse: Warehouse,
) -> None:
    first = written(warehouse.folder, ONE, "a.ndjson")
    copy = written(warehouse.folder, ONE, "b.ndjson")
    again = warehouse.land_files(first, first, copy)
    assert [(load.known, load.load_id) for load in again.loads] == [
        (False, 1),
        (True, None),
        (True, None),
    ]
    assert warehouse.rows("select load_id, lines_read from raw.load") == [(1, 1)]


def test_loads_are_numbered_one_after_the_other(warehouse: Warehouse) -> None:
    damaged = written(warehouse.folder, GZ[:-1], "damaged.ndjson.gz")
    warehouse.land([ping("e1")])
    warehouse.land_files(damaged)
    warehouse.land([b"{"])
    warehouse.land_files(warehouse.folder / "events-1.ndjson")
    warehouse.land([ping("e1", more=1)])
    assert warehouse.rows("select load_id from raw.load order by load_id") == [
        (1,),
        (2,),
        (3,),
    ]


def test_a_load_counts_what_happened_to_its_lines(warehouse: Warehouse) -> None:
    other = ping("e1", user="u2")
    load = warehouse.land([ping("e1"), ping("e1"), other, b"{", ping("e2"), b"", b"["])
    path = warehouse.folder / "events-1.ndjson"
    [row] = warehouse.records(
        """
        select
            load_id, kind, file, file_sha256, file_bytes, received_at,
            lines_read, accepted, duplicate, conflict, rejected
        from raw.load
        """
    )
    assert row == {
        "load_id": load.load_id,
        "kind": "events",
        "file": str(path),
        "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "file_bytes": path.stat().st_size,
        "received_at": RECEIVED_AT,
        "lines_read": 6,
        "accepted": 2,
        "duplicate": 1,
        "conflict": 1,
        "rejected": 2,
    }


def test_a_load_that_fails_in_the_middle_of_a_file_leaves_nothing(
    warehouse: Warehouse,
) -> None:
    def fail_at_the_second_chunk(file: Path, count: int) -> None:
        warehouse_saw.append(count)
        if len(warehouse_saw) == 2:
            raise KeyboardInterrupt

    warehouse_saw: list[int] = []
    path = write_lines(
        warehouse.folder / "a.ndjson",
        [ping("e1"), b"{", FILLER, ping("e2"), FILLER, b"[", ping("e3")],
    )
    with pytest.raises(KeyboardInterrupt):
        event_files.land(
            [path],
            warehouse.path,
            received_at=RECEIVED_AT,
            chunk_bytes=SMALL_CHUNK,
            on_lines=fail_at_the_second_chunk,
        )
    counted = """
        select (select count(*) from raw.lms_event),
            (select count(*) from raw.dead_letter), (select count(*) from raw.load)
    """
    assert warehouse.rows(counted) == [(0, 0, 0)]
    [load] = warehouse.land_files(path).loads
    assert counts(load) == {"accepted": 4, "duplicate": 1, "rejected": 2}


# --------------------------------------------------------------------------------------
# Every line there is
# --------------------------------------------------------------------------------------

# The bulk check and the exact one against the oracle. Lines are made of pieces of JSON
# text, so that what no JSON writer would write comes too; most have one fault or none.

JSON_VALUES = [
    *r"""
0
-0
-0.0
0.5
1
1.0
1e0
1E+0
2
2.0
3
9
9.5
10
10.0
100
-1
-1e-9
1e308
1e309
-1e999
1e-400
12345678901234567890
null
true
false
[]
{}
[[1]]
{"a": 1, "a": 2}
{"video_id": "v1"}
""
" "
"u1"
"u2"
"e1"
"12"
"1"
"\u0031"
"NaN"
"a\"b"
"\ud83d\ude00"
"\u0000"
"\u0009"
"VIDEO_PING"
"QUIZ_SUBMIT"
""".splitlines(),
    *('"é"', f'"{GRIN}"', f'"{GRIN * 256}"', f'"{"x" * 256}"', f'"{"x" * 257}"'),
    *('"\N{NO-BREAK SPACE}"', '"\N{NO-BREAK SPACE}x"', '"\N{ZERO WIDTH SPACE}"'),
    *("9" * 400, "9" * 4301, "[" * 50 + "]" * 50),
]
OTHER_VALUES = [
    *r"""
01
1.
.5
+1
0x10
1e
1 1
/**/1
NaN
nan
-NaN
Infinity
-Infinity
inf
True
[1,]
[,]
[1, 2
[NaN]
[-Infinity ]
{,}
{"a": 1,}
{"a": "\ud800", "a": 1}
"\ud800"
"\x41"
"
'u1'
}
""".splitlines(),
    *('"\t"', '"\0"'),
]
VALUES = st.one_of(
    st.sampled_from(JSON_VALUES),
    st.sampled_from(JSON_VALUES),
    st.sampled_from(OTHER_VALUES),
)


def digits(last: int) -> st.SearchStrategy[str]:
    """Two digits, now and then one too many; more often the last ones."""
    return st.one_of(st.integers(0, last + 1), st.integers(last - 1, last + 1)).map(
        "{:02}".format
    )


TIMES_OF_DAY = st.builds(
    "2026-03-{}{}{}:{}:{}{}{}".format,
    digits(21),
    st.sampled_from("TTTTt "),
    digits(23),
    digits(59),
    digits(60),
    st.sampled_from(["", "", ".5", ".123456", ".1234567", ".0000000001", "."]),
    st.one_of(
        st.sampled_from("ZZZz"),
        st.builds("{}{}:{}".format, st.sampled_from("+-"), digits(23), digits(59)),
    ),
)
MOMENTS = st.one_of(
    TIMES_OF_DAY,
    st.sampled_from(
        [
            *TIMES,
            *BAD_TIMES,
            "2000-01-01T00:00:00Z",
            "1999-12-31T23:59:59.999999Z",
            "2026-03-21T12:00:00Z",
            "2026-03-21T12:00:00.000001Z",
            "1900-02-29T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:60Z",
            "9999-12-31T23:59:59-00:01",
        ]
    ),
).map(json.dumps)

Fields = list[tuple[str, str]]


def fields_of(json_object: Json) -> Fields:
    return [(json.dumps(name), json.dumps(json_object[name])) for name in json_object]


def mutated(draw: st.DrawFn, fields: Fields) -> Fields:
    """The fields with one of them gone, changed, twice, renamed or new."""
    fields = list(fields)
    index = draw(st.integers(0, len(fields) - 1))
    name, value = fields[index]
    match draw(st.sampled_from(["drop", "change", "change", "twice", "rename", "add"])):
        case "drop":
            del fields[index]
        case "change":
            fields[index] = (name, draw(VALUES))
        case "twice":
            fields.insert(index, (name, draw(st.one_of(st.just(value), VALUES))))
        case "rename":
            respelled = [name.upper(), name.replace("i", r"\u0069"), name[:-1] + ' "']
            fields[index] = (draw(st.sampled_from(respelled)), value)
        case "add":
            names = st.sampled_from(['"x"', '"position"', '"score"', '"a.b"', '""'])
            fields.insert(index, (draw(names), draw(VALUES)))
    return fields


def joined(draw: st.DrawFn, fields: Fields) -> str:
    colon = draw(st.sampled_from([": ", ":", " : ", ":\t"]))
    comma = draw(st.sampled_from([", ", ",", " ,\r ", ",\t"]))
    return "{" + comma.join(name + colon + value for name, value in fields) + "}"


def with_other_bytes(draw: st.DrawFn, line: bytes) -> bytes:
    index = draw(st.integers(0, len(line) - 1))
    inserted = draw(
        st.one_of(st.binary(max_size=3), st.sampled_from([BOM, b",", b"}"]))
    )
    return line[:index] + inserted + line[index + draw(st.integers(0, 2)) :]


@st.composite
def event_lines(draw: st.DrawFn) -> bytes:
    """The line of an event: one of few, or with a fault in its fields or its bytes."""
    position = draw(st.sampled_from([10, 10.0, 9.5]))
    event = draw(
        st.sampled_from(
            [ping(position=position), ping_v1(position=position), quiz(score=position)]
        )
    )
    event_ids = st.sampled_from([f'"e{number}"' for number in range(9)])
    payload = fields_of(event["payload"])
    fields = fields_of(without(event, "event_id", "payload", "occurred_at"))
    moment = json.dumps(event["occurred_at"])
    fault = draw(
        st.sampled_from(
            [None, None, "payload", "payload", "envelope", "both", "moment", "bytes"]
        )
    )
    if fault == "moment":
        moment = draw(MOMENTS)
    if fault in ("payload", "both"):
        payload = mutated(draw, payload)
    if draw(st.booleans()):
        payload = draw(st.permutations(payload))
    fields = [
        ('"event_id"', draw(event_ids)),
        *fields,
        ('"occurred_at"', moment),
        ('"payload"', joined(draw, payload)),
    ]
    if fault in ("envelope", "both"):
        fields = mutated(draw, fields)
    line = joined(draw, fields).encode()
    return with_other_bytes(draw, line) if fault == "bytes" else line


HOSTILE = [as_line(line) for line, _, _ in REJECTED.values()]
JUNK = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"", b" ", b"\r", b"{}", b"null", b"\0"]),
    st.sampled_from([line for line in HOSTILE if len(line) < 2_000]),
)
LINES = st.sampled_from([event_lines()] * 5 + [JUNK]).flatmap(lambda lines: lines)
FILES = st.lists(st.lists(LINES, min_size=15, max_size=40), min_size=1, max_size=2)


@settings(max_examples=examples(30), deadline=None)
@given(files=FILES)
def test_every_line_ends_where_the_oracle_says_and_is_read_as_it_says(
    files: list[list[bytes]],
) -> None:
    known: dict[str, Accepted] = {}
    contents = list(dict.fromkeys(b"\n".join(lines) for lines in files))
    with new_warehouse() as warehouse:
        paths = [
            written(warehouse.folder, content, f"{index}.ndjson")
            for index, content in enumerate(contents)
        ]
        loads = warehouse.land_files(*paths, chunk_bytes=SMALL_CHUNK).loads
        landed = warehouse.records(
            "select *, payload::varchar as text from raw.lms_event"
        )
        # The second file may mend lines of the first.
        dead = warehouse.rows(
            """
            select file, line_number, reason from raw.dead_letter
            union all
            select file, line_number, reason from raw.discarded_letter
            """
        )
    found = {(row["file"], row["line_number"]): "accepted" for row in landed}
    for file, number, reason in dead:
        is_conflict = reason == "event_id_conflict"
        found[file, number] = "conflict" if is_conflict else "rejected"
    for path, content, load in zip(paths, contents, loads, strict=True):
        expected: Counter[str] = Counter()
        for number, line in enumerate(content.removeprefix(BOM).split(b"\n"), start=1):
            kind = found.pop((str(path), number), "duplicate")
            outcomes = classify([line], RECEIVED_AT, known)
            assert [kind] * len(outcomes) == [outcome.kind for outcome in outcomes], (
                line
            )
            expected.update([kind] * len(outcomes))
        assert counts(load) == expected
        assert load.lines_read == expected.total()
    assert found == {}
    for row in landed:
        event = known[row["event_id"]].event
        for name in ("type", "schema_version", "user_id", "class_id", "course_id"):
            assert row[name] == getattr(event, name), row["line"]
        assert as_utc(row["occurred_at"]) == event.occurred_at, row["line"]
        assert parse_json(row["text"].encode()) == event.payload, row["line"]


def test_a_load_holds_one_chunk_however_long_its_file_is(warehouse: Warehouse) -> None:
    held = []
    with open_for_writing(warehouse.path, make=True) as connection:
        table = ChunkTable(connection)
        connection.execute("begin")
        before = pa.total_allocated_bytes()
        for number in range(8):
            line = as_line(ping(f"e{number}")).ljust(1_000_000)
            classify_chunk(connection, table, chunk_of([line], number + 1), RECEIVED_AT)
            connection.execute("select count(*) from accepted").fetchall()
            held.append(pa.total_allocated_bytes() - before)
    assert min(held) >= 1_000_000
    assert max(held) < 3_000_000
