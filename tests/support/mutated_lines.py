"""Lines that are nearly right: every spelling of a value that JSON or DuckDB knows."""

import uuid
from random import Random

from ingest.contracts.events import contracts, field_types

# Some are JSON, some only DuckDB takes, some nobody does.
NUMBERS = [
    *("0", "-0", "1", "10.25", "600", "600.0", "1.50", "100", "99.000", "1000000.0"),
    *("1e0", "1e3", "1E2", "1E+5", "1e-7", "3.0e2", "1e15", "1e16", "1e22", "1e400"),
    *("99.99999999999999999", "12345678901234567890", "0.00001", "5e-324"),
    *("NaN", "nan", "Nan", "NAN", "inf", "-inf", "INF", "Infinity", "-Infinity"),
    *("iNfInItY", "+1", "+inf", ".5", "5.", "01", "0x10", "e5", "-", "true", "null"),
    *("TRUE", "NULL", "nul", '"5"', '"NaN"', "[1]", "[]", "{}", '{"a":1}'),
]
TEXTS = [
    *('"u1"', '"a"', r'"\u0041bc"', '"é"', '"😀"', r'"\n"', '" "', '""', '"tru"'),
    *('"true"', '"12"', '"1e5"', '"[1]"', '"{"', r'"x\"y"', '"a}"', '"^"', '"_-"'),
    *('"-5"', '"+"', '"Infinity"', '"inf"', r'"\/"', '"a/b"', '"~"', r'"a\u0000b"'),
    *('"a\tb"', r'"\x41"', '"a', "abc", "A1", "$a", "'x'", '/**/"x"', "1" * 32),
    *("1" * 36, f'"{"1" * 36}"', f'"{"z" * 36}"', f'"{uuid.UUID(int=1)}"'),
]
MOMENTS = [
    *('"2026-03-01T10:00:00Z"', '"2026-03-01T10:00:00.123456+02:00"'),
    *('"2026-03-01 10:00:00Z"', '"2026-03-01T10:00:00"', '"2026-03-01T24:00:00Z"'),
    *('"2026-03-01T10:00:60Z"', '"2026-02-30T10:00:00Z"', '"1999-10-01T10:00:00Z"'),
]
AT_THE_END = [
    *(",", ", ", ",,", ",\t", ',"":1', ',"":NaN', ',"":inf', ',"":-1', ',"x":1'),
    *(',"a":1,"a":2', ',"":1,"":2'),
]
RIGHT = {
    "video_id": ['"v1"', '"t7"'],
    "session_id": ['"s1"'],
    "quiz_id": ['"q1"'],
    "passed": ["true", "false"],
    "position": ["10.5", "10", "1e1", "99.000", "0", "1e3", "5.0"],
    "position_sec": ["10.5", "10", "1e1", "99.000", "0", "1e3", "5.0"],
    "duration": ["600", "1000000.5", "1e6", "1e7", "600.250"],
    "duration_sec": ["600", "1000000.5", "1e6", "1e7", "600.250"],
    "playback_rate": ["1", "1.5", "1e0", "1.0"],
    "score": ["5", "7.5", "1e0", "5.0"],
    "max_score": ["10", "1e1", "100", "1e2", "10.0"],
}


def mutated_lines(random: Random, count: int) -> list[str]:
    """About half are valid; the others differ from a valid one in little."""
    return [_line(random, number) for number in range(count)]


def _line(random: Random, number: int) -> str:
    is_wrong = random.choice([0, 0.03, 0.15])
    spaces = random.choice([0, 0, 0, 0.05, 0.3])

    def value(right: str, pool: list[str]) -> str:
        return random.choice(pool) if random.random() < is_wrong else right

    def space() -> str:
        if random.random() >= spaces:
            return ""
        return random.choice([" ", "\t", "\r", " " * random.randint(1, 12)])

    def an_object(pairs: list[tuple[str, str]]) -> str:
        fields = ",".join(
            f'{space()}"{name}"{space()}:{space()}{text}' for name, text in pairs
        )
        end = random.choice(AT_THE_END) if random.random() < is_wrong / 4 else ""
        return "{" + fields + end + space() + "}"

    (event_type, version), contract = random.choice(list(contracts().items()))
    event_id = random.choice(
        [f"e{number}", str(uuid.UUID(int=random.getrandbits(128)))]
    )
    fields = [
        ("event_id", value(f'"{event_id}"', TEXTS)),
        ("type", value(f'"{event_type}"', TEXTS)),
        ("schema_version", value(str(version), NUMBERS)),
        ("user_id", value('"u1"', TEXTS + NUMBERS)),
        ("class_id", value('"c1"', TEXTS + NUMBERS)),
        ("course_id", value('"k1"', TEXTS + NUMBERS)),
        ("occurred_at", value(MOMENTS[0], MOMENTS)),
    ]
    payload = [
        (name, value(random.choice(RIGHT[name]), TEXTS + NUMBERS))
        for name in field_types(contract)
        if random.random() > 0.03
    ]
    for pairs in (fields, payload):
        if pairs and random.random() < is_wrong / 2:
            pairs.append(random.choice(pairs))
        if random.random() < is_wrong / 2:
            pairs.append((random.choice(["", "x"]), random.choice(TEXTS + NUMBERS)))
    fields.append(("payload", an_object(payload)))
    if random.random() < 0.3:
        random.shuffle(fields)
    line = an_object(fields)
    if random.random() < is_wrong / 2:
        at = random.randrange(len(line))
        line = (
            line[:at] + random.choice('",}{ \\1e.') + line[at + random.choice([0, 1]) :]
        )
    return line
