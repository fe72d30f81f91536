"""Which lines satisfy their contract: quickly in bulk, and exactly one by one.

`read_lines_sql` accepts, over a whole chunk inside DuckDB, only lines that are valid
beyond doubt. Every other line goes through `examine`, which decides exactly and names
the reason. Both are made from the classes in `ingest.contracts.events`; a property test
holds that a line which the first accepts is read the same by the second.
"""

import functools
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec

from ingest.contracts.events import (
    LARGEST_CLOCK_LEAD,
    OLDEST_OCCURRED_AT,
    Contract,
    Envelope,
    contracts,
    field_types,
)


@dataclass(frozen=True)
class Event:
    """The typed fields of a valid line; `occurred_at` is naive and in UTC."""

    event_id: str
    type: str
    schema_version: int
    user_id: str
    class_id: str
    course_id: str | None
    occurred_at: datetime


@dataclass(frozen=True)
class Rejection:
    """Why a line is no event: a reason of a fixed vocabulary, the field, what to do."""

    reason: str
    field: str | None
    detail: str


# --- one line, exactly ---------------------------------------------------------------


class _Invalid(Exception):
    def __init__(self, reason: str, field: str | None, detail: str) -> None:
        self.rejection = Rejection(reason, field, detail)
        super().__init__(detail)


class _Duplicated(dict[str, Any]):
    """A JSON object in which a key stood twice; remembers which."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.key = next(name for name in names if names.count(name) > 1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else _Duplicated(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int | float:
    # CPython refuses to convert more than 4300 digits; JSON allows them.
    return int(digits) if len(digits) <= 4300 else float(digits)


def parse_json(text: str) -> Any:
    """Strict RFC 8259. Raises `ValueError`; deep nesting is a `ValueError` too."""
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_int=_integer,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


_RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?"
    r"(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)


def parse_occurred_at(text: str) -> datetime:
    """The instant that an RFC 3339 text names, naive and in UTC.

    Digits past the microsecond are cut off; a leap second counts as the first instant
    of the next minute. Raises `ValueError` when the text has no offset or is no time,
    and `OverflowError` for an instant that is outside of the years 1 to 9999 in UTC.
    """
    match = _RFC_3339.fullmatch(text)
    if not match:
        raise ValueError("not an RFC 3339 time with an offset")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = match.groups()[6:]
    leap = second == 60
    local = datetime(
        year,
        month,
        day,
        hour,
        minute,
        59 if leap else second,
        0 if leap else int((fraction or "0")[:6].ljust(6, "0")),
        tzinfo=UTC,
    ) + timedelta(seconds=1 if leap else 0)
    if sign:
        if int(offset_hours) > 23 or int(offset_minutes) > 59:
            raise ValueError("no such offset")
        offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
        local = local.replace(tzinfo=timezone(offset if sign == "+" else -offset))
    return local.astimezone(UTC).replace(tzinfo=None)


# Every escape in a JSON text in its turn, so that a lone surrogate is told from one of
# a pair and from an escaped backslash before a `u`.
_ESCAPES = re.compile(
    r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<lone>u[dD][89a-fA-F]..)|.)", re.ASCII
)

_MISSING = re.compile(r"missing required field `(.*)`")
_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_WRONG_TYPE = re.compile(r"Expected `(?:[\w| ]+)`, got `\w+`")


def _convert(value: Any, shape: type[Any], prefix: str) -> Any:
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        message = str(error)
        place = _PLACE.search(message)
        field = place.group(1) if place else ""
        detail = _PLACE.sub("", message)
        if missing := _MISSING.search(message):
            raise _Invalid("missing_field", prefix + missing.group(1), detail) from None
        if detail.endswith("got `null`"):
            reason = "missing_field"
        else:
            reason = "wrong_type" if _WRONG_TYPE.match(message) else "out_of_range"
        raise _Invalid(reason, (prefix + field) or None, detail) from None


def _check_keys(value: Any, prefix: str) -> None:
    if isinstance(value, _Duplicated):
        raise _Invalid("duplicate_key", prefix + value.key, "the key stands twice")


def _check_payload(payload: dict[str, Any], contract: Contract) -> None:
    _check_keys(payload, "payload.")
    values = _convert(payload, contract, "payload.")
    for name in contract.__struct_fields__:
        value = getattr(values, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise _Invalid("out_of_range", f"payload.{name}", "not a finite number")
    for name, other in contract.AT_MOST:
        if getattr(values, name) > getattr(values, other):
            detail = f"Expected `{name}` <= `{other}`"
            raise _Invalid("out_of_range", f"payload.{name}", detail)


def _check_occurred_at(text: str, received_at: datetime) -> datetime:
    try:
        occurred_at = parse_occurred_at(text)
    except ValueError as error:
        raise _Invalid("bad_timestamp", "occurred_at", str(error)) from None
    except OverflowError:
        detail = "outside of the years 1 to 9999"
        raise _Invalid("out_of_range", "occurred_at", detail) from None
    if occurred_at < OLDEST_OCCURRED_AT:
        raise _Invalid("out_of_range", "occurred_at", "before 2000-01-01")
    if occurred_at > received_at + LARGEST_CLOCK_LEAD:
        detail = "more than 24 h after it was received"
        raise _Invalid("out_of_range", "occurred_at", detail)
    return occurred_at


def _read(text: str, received_at: datetime) -> Event:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise _Invalid("broken_json", None, str(error)) from None
    # JSON, but no text that UTF-8 could hold; DuckDB does not take it as JSON.
    if any(escape.group("lone") for escape in _ESCAPES.finditer(text)):
        raise _Invalid("invalid_utf8", None, "a lone surrogate escape")
    if not isinstance(value, dict):
        raise _Invalid("not_an_object", None, f"got {type(value).__name__}")
    return _read_value(value, received_at)


def _read_value(value: dict[str, Any], received_at: datetime) -> Event:
    _check_keys(value, "")
    version = value.get("schema_version")
    if isinstance(version, float) and version.is_integer():
        value = {**value, "schema_version": int(version)}
    envelope: Envelope = _convert(value, Envelope, "")
    schema_version = 1 if envelope.schema_version is None else envelope.schema_version
    contract = contracts().get((envelope.type, schema_version))
    if contract is None:
        detail = f"no contract for {envelope.type!r} version {schema_version}"
        raise _Invalid("unknown_contract", "type", detail)
    occurred_at = _check_occurred_at(envelope.occurred_at, received_at)
    _check_payload(value["payload"], contract)
    return Event(
        envelope.event_id,
        envelope.type,
        schema_version,
        envelope.user_id,
        envelope.class_id,
        envelope.course_id,
        occurred_at,
    )


def examine(line: str, received_at: datetime) -> Event | Rejection:
    """What one line is, exactly. `received_at` is naive and in UTC."""
    try:
        return _read(line, received_at)
    except _Invalid as invalid:
        return invalid.rejection


def examine_value(value: dict[str, Any], received_at: datetime) -> Event | Rejection:
    """What an event is that is no text yet; its payload is a dict, too."""
    try:
        return _read_value(value, received_at)
    except _Invalid as invalid:
        return invalid.rejection


_COMPARED = ("type", "user_id", "class_id", "course_id", "occurred_at", "payload")


def same_content(first: str, second: str) -> bool:
    """Whether two valid lines with one `event_id` say the same.

    Envelope fields and payload are compared as JSON values, key order aside; an absent
    field equals its default; unknown envelope fields do not count.
    """
    try:
        one, other = parse_json(first), parse_json(second)
    except ValueError:
        return False  # nested too deeply to compare: kept as a conflict
    versions = [value.get("schema_version") or 1 for value in (one, other)]
    return versions[0] == versions[1] and all(
        _equal(one.get(name), other.get(name)) for name in _COMPARED
    )


def _equal(one: Any, other: Any) -> bool:
    to_compare = [(one, other)]
    while to_compare:
        one, other = to_compare.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            to_compare += [(value, other[key]) for key, value in one.items()]
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            to_compare += zip(one, other, strict=True)
        # Python's True == 1; JSON's is not.
        elif isinstance(one, bool) != isinstance(other, bool) or one != other:
            return False
    return True


# --- a chunk of lines, in DuckDB -----------------------------------------------------

_ENVELOPE = (
    "event_id",
    "type",
    "schema_version",
    "user_id",
    "class_id",
    "course_id",
    "occurred_at",
)

# DuckDB's JSON takes trailing commas, NaN and Infinity, which JSON does not have. Each
# pattern starts with one literal character, which makes it four times as fast. A match
# inside a text only sends the line to `examine`.
_TRAILING_COMMA = r",\s*\}"
_NOT_JSON = (
    r",\s*(\]|-?[nN][aA]|-?[iI][nN])",
    r":\s*(-?[nN][aA]|-?[iI][nN])",
    r"\[\s*([}\]]|-?[nN][aA]|-?[iI][nN])",
)

# Up to microseconds; finer ones, leap seconds and other spellings go to `examine`.
_TIMESTAMP = (
    r"\d{4}-\d\d-\d\d[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?"
    r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
)


@functools.cache
def _payload_names() -> tuple[str, ...]:
    """The fields of all contracts; a name may be a number in one, text in another."""
    return tuple(
        dict.fromkeys(
            name for contract in contracts().values() for name in field_types(contract)
        )
    )


def _shape() -> str:
    """What `json_transform` reads: each known field, as its own JSON text."""
    names = dict.fromkeys(_ENVELOPE, "JSON")
    return json.dumps({**names, "payload": dict.fromkeys(_payload_names(), "JSON")})


def _json(name: str) -> str:
    """A field as JSON text: `"abc"`, with its quotes, or `12.5`; NULL if absent."""
    return f"json.{name}::varchar"


def _is_text(json_text: str) -> str:
    return f"starts_with({json_text}, '\"')"


def _text(json_text: str) -> str:
    """The text that a JSON string stands for."""
    return (
        f"case when contains({json_text}, '\\') then ({json_text})::json->>'$' "
        f"else substring({json_text}, 2, length({json_text}) - 2) end"
    )


def _field_check(name: str, declared: msgspec.inspect.Type, required: bool) -> str:
    """The SQL condition on one payload field."""
    value = _json(f"payload.{name}")
    if isinstance(declared, msgspec.inspect.StrType):
        check = _is_text(value)
        for operator, length in _lengths(declared).items():
            check += f" and length({_text(value)}) {operator} {length}"
        if declared.pattern is not None:
            check = "false"  # only `examine` reads patterns as Python does
    elif isinstance(declared, msgspec.inspect.BoolType):
        check = f"{value} in ('true', 'false')"
    elif isinstance(declared, msgspec.inspect.FloatType):
        number = f"try_cast({value} as double)"
        # JSON text that is no number is none for DuckDB either, or not a finite one.
        check = f"isfinite({number})"
        for operator, bound in _bounds(declared).items():
            check += f" and {number} {operator} {bound!r}"
    else:
        raise TypeError(f"no bulk check for {declared}; add it to _field_check")
    return check if required else f"({value} is null or ({check}))"


def _lengths(declared: msgspec.inspect.StrType) -> dict[str, int]:
    bounds = {">=": declared.min_length, "<=": declared.max_length}
    return {operator: bound for operator, bound in bounds.items() if bound is not None}


def _bounds(declared: msgspec.inspect.FloatType) -> dict[str, float]:
    bounds = {
        ">=": declared.ge,
        ">": declared.gt,
        "<=": declared.le,
        "<": declared.lt,
    }
    return {operator: bound for operator, bound in bounds.items() if bound is not None}


def _payload_check(contract: Contract) -> str:
    types = field_types(contract)
    checks = [
        _field_check(name, declared, required)
        for name, (declared, required) in types.items()
    ]
    for name, other in contract.AT_MOST:
        low, high = (
            f"try_cast({_json(f'payload.{field}')} as double)"
            for field in (name, other)
        )
        checks.append(f"{low} <= {high}")
    # A field that only another contract has may be anything, `Infinity` too.
    others = (name for name in _payload_names() if name not in types)
    checks += [f"json.payload.{name} is null" for name in others]
    return " and ".join(checks)


def _identifier_check(name: str) -> str:
    # The usual id starts with a printable ASCII character, so it is not blank: one
    # comparison instead of a pattern. Others are looked at by `examine`.
    return (
        f"{_is_text(_json(name))} and {name} >= '!' and {name} < chr(127)"
        f" and length({name}) <= 256"
    )


@functools.cache
def read_lines_sql() -> str:
    """A query over the table `chunk(line_number, line)` that reads all lines at once.

    Parameter `$received_at` (naive, UTC). One row for each line: `line_number`,
    `event_id`, `event_key` (the id itself where it is a UUID, else its MD5, for quick
    look-up), `type`, `schema_version`, `user_id`, `class_id`, `course_id`,
    `occurred_at`, and `is_clean`: the line is valid beyond doubt.

    A line is parsed twice: for its known fields, and for its keys, of which each must
    be there once. There is no filter on what was parsed: DuckDB would push it down and
    parse again. What is seldom needed stands in a `case`: DuckDB evaluates both sides
    of an `or`.
    """
    known = [f"json.{name}" for name in _ENVELOPE]
    known += [f"json.payload.{name}" for name in _payload_names()]
    fields = " + ".join(f"({field} is not null)::integer" for field in known)
    not_json = " or ".join(f"regexp_matches(line, '{p}')" for p in _NOT_JSON)
    lead = int(LARGEST_CLOCK_LEAD.total_seconds())
    payload_check = " ".join(
        f"when '{event_type} {version}' then {_payload_check(contract)}"
        for (event_type, version), contract in contracts().items()
    )
    return f"""
        with

        parsed as (
            select
                line_number,
                line,
                json_transform(line, '{_shape()}') as json,
                json_keys(line, ['$', '$.payload']) as keys
            from (
                select
                    line_number,
                    case when json_valid(line) then line end as line
                from chunk
            )
        ),

        read as (
            select
                line_number,
                line,
                json,
                keys,
                {_text(_json("event_id"))} as event_id,
                {_text(_json("type"))} as type,
                try_cast(coalesce({_json("schema_version")}, '1') as integer)
                    as schema_version,
                {_text(_json("user_id"))} as user_id,
                {_text(_json("class_id"))} as class_id,
                {_text(_json("course_id"))} as course_id,
                {_text(_json("occurred_at"))} as occurred_at_text
            from parsed
        ),

        timed as (
            select
                *,
                case
                    when regexp_full_match(occurred_at_text, '{_TIMESTAMP}')
                        then try_cast(occurred_at_text as timestamptz)::timestamp
                end as occurred_at,
                {fields} as fields
            from read
        )

        select
            line_number,
            event_id,
            coalesce(try_cast(event_id as uuid), md5_number(event_id)::uuid)
                as event_key,
            type,
            schema_version,
            user_id,
            class_id,
            course_id,
            occurred_at,
            coalesce(
                {_is_text(_json("type"))}
                and {_identifier_check("event_id")}
                and {_identifier_check("user_id")}
                and {_identifier_check("class_id")}
                and (json.course_id is null or {_is_text(_json("course_id"))})
                and (
                    json.schema_version is null
                    or {_json("schema_version")} = schema_version::varchar
                )
                and {_is_text(_json("occurred_at"))}
                and occurred_at >= timestamp '{OLDEST_OCCURRED_AT}'
                and occurred_at
                <= $received_at::timestamp + interval {lead} second
                and case type || ' ' || schema_version {payload_check} end
                and not regexp_matches(line, '{_TRAILING_COMMA}')
                and case
                    when keys is null then false
                    -- `payload` is a key, and its value an object: it has fields.
                    when len(keys[1]) + len(keys[2]) = fields + 1 then true
                    else not ({not_json})
                        and len(keys[1]) = list_unique(keys[1])
                        and len(keys[2]) = list_unique(keys[2])
                        -- A known key with `null` is not in `fields`.
                        and len(list_intersect(keys[1], {[*_ENVELOPE]}))
                        + len(list_intersect(keys[2], {[*_payload_names()]})) = fields
                end,
                false
            ) as is_clean
        from timed
    """
