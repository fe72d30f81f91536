"""Which lines satisfy their contract: quickly in bulk, and exactly one by one.

`read_lines_sql` accepts, over a whole chunk inside DuckDB, only lines that are valid
beyond doubt. Every other line goes through `examine`, which decides exactly and names
the reason. Both are made from the classes in `ingest.contracts.events`; a property test
holds that a line which the first accepts is read the same by the second.
"""

import contextlib
import functools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec

from ingest.contracts.events import (
    DEEPEST_NESTING,
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
    """Why a line is no event: a reason of a fixed vocabulary, the field, what to do.

    `value` is what was refused, as JSON, or its first 200 characters. `event_id` is the
    one that the line names. `more` are the line's other faults, each with its reason.
    """

    reason: str
    field: str | None
    detail: str
    value: str | None = None
    event_id: str | None = None
    more: tuple["Rejection", ...] = ()

    def faults(self) -> list[dict[str, str | None]]:
        """Every fault of the line, the first one first."""
        names = ("reason", "field", "detail", "value")
        return [
            {name: getattr(fault, name) for name in names}
            for fault in (self, *self.more)
        ]


# --- one line, exactly ---------------------------------------------------------------

_LONGEST_SHOWN = 200
_MOST_FAULTS = 20


def _shown(value: Any) -> str:
    """A refused value as JSON, cut, and as text that UTF-8 can hold."""
    text = value[:_LONGEST_SHOWN] if isinstance(value, str) else value
    shown = json.dumps(text, ensure_ascii=False, default=repr)[:_LONGEST_SHOWN]
    return shown.encode(errors="backslashreplace").decode()


class _Duplicated(dict[str, Any]):
    """A JSON object in which keys stood twice; remembers which."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counted = Counter(name for name, _ in pairs)
        self.keys_twice = [name for name, count in counted.items() if count > 1]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else _Duplicated(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int | float:
    # CPython refuses to convert more than 4300 digits; JSON allows them.
    return int(digits) if len(digits) <= 4300 else float(digits)


_TEXT_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def _check_depth(text: str) -> None:
    """Raises `ValueError` for more levels of lists and objects than are allowed."""
    if text.count("[") + text.count("{") <= DEEPEST_NESTING:
        return
    depth = 0
    for found in _TEXT_OR_BRACKET.finditer(text):
        first = text[found.start()]
        depth += (first in "[{") - (first in "]}")
        if depth > DEEPEST_NESTING:
            raise ValueError(f"nested more than {DEEPEST_NESTING} levels deep")


def parse_json(text: str) -> Any:
    """Strict RFC 8259, in time that grows with the text alone. Raises `ValueError`,
    for more than `DEEPEST_NESTING` levels too."""
    _check_depth(text)
    return json.loads(
        text,
        object_pairs_hook=_object,
        parse_constant=_no_constant,
        parse_int=_integer,
    )


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

_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_WRONG_TYPE = re.compile(r"Expected `(?:[\w| ]+)`, got `\w+`")


# Looking them up takes 0.1 ms, for each line that is refused.
_fields_of = functools.cache(msgspec.structs.fields)


def _read_fields(
    value: Mapping[str, Any], shape: type[msgspec.Struct], prefix: str
) -> tuple[dict[str, Any], list[Rejection]]:
    """The typed fields that keep the rules of `shape`, and the faults of the others."""
    try:
        return msgspec.structs.asdict(msgspec.convert(value, shape)), []
    except msgspec.ValidationError:
        pass
    fields, faults = {}, []
    for each in _fields_of(shape):
        name = each.encode_name
        if name not in value:
            if each.required:
                detail = f"Object missing required field `{name}`"
                faults.append(Rejection("missing_field", prefix + name, detail))
            continue
        try:
            fields[name] = msgspec.convert(value[name], each.type)
        except msgspec.ValidationError as error:
            detail = _PLACE.sub("", str(error))
            if detail.endswith("got `null`"):
                reason = "missing_field"
            else:
                reason = "wrong_type" if _WRONG_TYPE.match(detail) else "out_of_range"
            place = _PLACE.search(str(error))
            inner = f".{place.group(1)}" if place and place.group(1) else ""
            shown = _shown(value[name])
            faults.append(Rejection(reason, prefix + name + inner, detail, shown))
    return fields, faults


def _keys_twice(value: Any, prefix: str) -> list[Rejection]:
    if not isinstance(value, _Duplicated):
        return []
    detail = "the key stands twice"
    return [
        Rejection("duplicate_key", prefix + name, detail, _shown(value[name]))
        for name in value.keys_twice
    ]


def _payload_faults(payload: dict[str, Any], contract: Contract) -> list[Rejection]:
    values, faults = _read_fields(payload, contract, "payload.")
    for name, value in list(values.items()):
        if isinstance(value, float) and not math.isfinite(value):
            detail, shown = "not a finite number", _shown(payload[name])
            faults.append(Rejection("out_of_range", f"payload.{name}", detail, shown))
            del values[name]
    for name, other in contract.AT_MOST:
        if {name, other} <= values.keys() and values[name] > values[other]:
            detail, shown = f"Expected `{name}` <= `{other}`", _shown(payload[name])
            faults.append(Rejection("out_of_range", f"payload.{name}", detail, shown))
    return [*_keys_twice(payload, "payload."), *faults]


def _occurred_at(text: str, received_at: datetime) -> datetime | Rejection:
    reason = "out_of_range"
    try:
        occurred_at = parse_occurred_at(text)
    except ValueError as error:
        reason, detail = "bad_timestamp", str(error)
    except OverflowError:
        detail = "outside of the years 1 to 9999"
    else:
        if occurred_at < OLDEST_OCCURRED_AT:
            detail = "before 2000-01-01"
        elif occurred_at > received_at + LARGEST_CLOCK_LEAD:
            detail = "more than 24 h after it was received"
        else:
            return occurred_at
    return Rejection(reason, "occurred_at", detail, _shown(text))


def examine(line: str, received_at: datetime) -> Event | Rejection:
    """What one line is, exactly. `received_at` is naive and in UTC."""
    try:
        value = parse_json(line)
    except ValueError as error:
        return Rejection("broken_json", None, str(error), event_id=event_id_in(line))
    # JSON, but no text that UTF-8 could hold; DuckDB does not take it as JSON.
    if any(escape.group("lone") for escape in _ESCAPES.finditer(line)):
        detail = "a lone surrogate escape"
        return Rejection("invalid_utf8", None, detail, event_id=event_id_in(line))
    if not isinstance(value, dict):
        detail = f"got {type(value).__name__}"
        return Rejection("not_an_object", None, detail, _shown(value))
    return examine_value(value, received_at)


def examine_value(value: dict[str, Any], received_at: datetime) -> Event | Rejection:
    """What an event is that is no text yet; its payload is a dict, too."""
    faults = _keys_twice(value, "")
    version = value.get("schema_version")
    if isinstance(version, float) and version.is_integer():
        value = {**value, "schema_version": int(version)}
    fields, wrong = _read_fields(value, Envelope, "")
    faults += wrong
    contract = occurred_at = None
    if "type" in fields and not any(each.field == "schema_version" for each in wrong):
        version = fields.get("schema_version")
        fields["schema_version"] = version = 1 if version is None else version
        contract = contracts().get((fields["type"], version))
        if contract is None:
            detail = f"no contract for {fields['type']!r} version {version}"
            shown = _shown(fields["type"])
            faults.append(Rejection("unknown_contract", "type", detail, shown))
    if "occurred_at" in fields:
        occurred_at = _occurred_at(fields["occurred_at"], received_at)
        if isinstance(occurred_at, Rejection):
            faults.append(occurred_at)
    if contract and "payload" in fields:
        faults += _payload_faults(value["payload"], contract)
    if faults:
        first, *more = faults
        event_id = _usable_id(value.get("event_id"))
        return replace(first, event_id=event_id, more=tuple(more[: _MOST_FAULTS - 1]))
    del fields["payload"]
    return Event(**{**fields, "occurred_at": occurred_at})


_EVENT_ID = re.compile(r'"event_id"\s*:\s*("(?:[^"\\]|\\.)*")')


def event_id_in(text: str) -> str | None:
    """The event id that a line names, one that is no JSON too."""
    with contextlib.suppress(ValueError):
        if found := _EVENT_ID.search(text):
            return _usable_id(json.loads(found.group(1)))
    return None


def _usable_id(value: Any) -> str | None:
    if not isinstance(value, str) or not value.strip() or len(value) > 256:
        return None
    return None if any("\ud800" <= c <= "\udfff" for c in value) else value


_COMPARED = ("type", "user_id", "class_id", "course_id", "occurred_at", "payload")


def same_content(first: str, second: str) -> bool:
    """Whether two valid lines with one `event_id` say the same.

    Envelope fields and payload are compared as JSON values, key order aside; an absent
    field equals its default; unknown envelope fields do not count.
    """
    try:
        one, other = parse_json(first), parse_json(second)
    except ValueError:
        return False  # landed before there was a limit to nesting: kept as a conflict
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
def payload_names() -> tuple[str, ...]:
    """The fields of all contracts; a name may be a number in one, text in another."""
    return tuple(
        dict.fromkeys(
            name for contract in contracts().values() for name in field_types(contract)
        )
    )


@functools.cache
def _texts() -> frozenset[str]:
    """The payload fields that are text in every contract that has them."""
    kinds: dict[str, set[type]] = {}
    for contract in contracts().values():
        for name, (declared, _) in field_types(contract).items():
            kinds.setdefault(name, set()).add(type(declared))
    text = {msgspec.inspect.StrType}
    return frozenset(name for name, found in kinds.items() if found == text)


def _shape() -> str:
    """What `json_transform` reads: text as it is, any other field as its JSON text."""
    envelope = dict.fromkeys(_TEXTS_OF_ENVELOPE, "VARCHAR") | {"schema_version": "JSON"}
    payload = {
        name: "VARCHAR" if name in _texts() else "JSON" for name in payload_names()
    }
    return json.dumps({**envelope, "payload": payload})


def _json(name: str) -> str:
    """A field that is no text, as JSON: `12.5`, or `"abc"`; NULL if absent."""
    return f"json.{name}::varchar"


def _number(name: str) -> str:
    """A field as a number; NULL for what is none. Computed once, as a column."""
    return f"number_{name}"


def _numbers() -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(
            name
            for contract in contracts().values()
            for name, (declared, _) in field_types(contract).items()
            if isinstance(declared, msgspec.inspect.FloatType)
        )
    )


def _field_check(name: str, declared: msgspec.inspect.Type, required: bool) -> str:
    """The SQL condition on one payload field; that texts are texts is not in it."""
    value = f"json.payload.{name}"
    if isinstance(declared, msgspec.inspect.StrType):
        check, text = f"{value} is not null", value
        if name not in _texts():
            check, text = f"starts_with({value}::varchar, '\"')", f"({value}->>'$')"
        for operator, length in _lengths(declared).items():
            check += f" and length({text}) {operator} {length}"
        if declared.pattern is not None:
            check = "false"  # only `examine` reads patterns as Python does
    elif isinstance(declared, msgspec.inspect.BoolType):
        check = f"{value}::varchar in ('true', 'false')"
    elif isinstance(declared, msgspec.inspect.FloatType):
        number = _number(name)
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
    checks += [f"{_number(low)} <= {_number(high)}" for low, high in contract.AT_MOST]
    # A field that only another contract has may be anything, `Infinity` too.
    others = (name for name in payload_names() if name not in types)
    checks += [f"json.payload.{name} is null" for name in others]
    return " and ".join(checks)


# How much shorter a line may be than its fields as DuckDB writes them: less than
# anything takes that would make it wrong, as `,"":NaN` (7) or a key twice (9).
_MOST_SAVED = 6

_TEXTS_OF_ENVELOPE = tuple(name for name in _ENVELOPE if name != "schema_version")
# What DuckDB takes and is no text, of that which begins with a letter; those that JSON
# does not have in any case.
_NO_TEXTS = ("true", "false")
_NOT_FINITE = ("nan", "inf", "infinity")


def _length(value: str, name: str, is_text: bool, required: bool) -> str:
    """How long `"name":value,` is, without a space."""
    length = f"strlen({value}) + {len(name) + 4 + 2 * is_text}"
    return length if required else f"coalesce({length}, 0)"


def _is_surely_text(value: str, required: bool) -> str:
    """Whether what DuckDB read as text cannot have been a number, list or the like."""
    check = (
        f"case when {value} >= 'A' and {value} < '{{' and not starts_with({value}, '[')"
        f" then case when strlen({value}) in (3, 8)"
        f" then lower({value}) not in {_NOT_FINITE} else {value} not in {_NO_TEXTS} end"
        f" else not regexp_matches({value}, '^([-+.eE\\d]*$|[\\[{{-])') end"
    )
    return check if required else f"({value} is null or {check})"


def _envelope_has_nothing_else() -> tuple[str, str]:
    """How long the envelope is without a space and `payload`, and what must hold of it.

    `type` and `occurred_at` are texts if they are valid, and an id is one that has the
    length of a UUID.
    """
    schema_version = _json("schema_version")
    lengths = [_length(schema_version, "schema_version", False, required=False)]
    for name in _TEXTS_OF_ENVELOPE:
        lengths.append(_length(f"json.{name}", name, True, name != "course_id"))
    checks = [
        f"case when strlen(json.event_id) = 36 then uuid is not null"
        f" else {_is_surely_text('json.event_id', required=True)} end",
        _is_surely_text("json.user_id", required=True),
        _is_surely_text("json.class_id", required=True),
        _is_surely_text("json.course_id", required=False),
        # A comma after the last field. Nothing but `payload` ends with a brace: an
        # object more takes as much as is saved at most.
        "case when suffix(line, '}}') then not (suffix(line, ',}}')"
        r" or suffix(line, ' }}') or suffix(line, e'\t}}') or suffix(line, e'\r}}'))"
        f" else not regexp_matches(line, '{_TRAILING_COMMA}') end",
    ]
    return " + ".join(lengths), " and ".join(checks)


def _payload_has_nothing_else(contract: Contract) -> str:
    """Whether a line is as long as the known fields in it, written without a space.

    Then each of them is there once, every text in quotes, and nothing is beside them:
    what is read as text is surely no number, and shorter than DuckDB writes it is only
    a number with an exponent, `1e3` for 1000.0. Numbers that would save too much are
    left to the exact look at keys.
    """
    if (
        not contract.TYPE.isidentifier()
        or contract.TYPE.lower() in _NO_TEXTS + _NOT_FINITE
    ):
        return "false"
    types = field_types(contract)
    lengths, checks = [], []
    numbers = sum(isinstance(t, msgspec.inspect.FloatType) for t, _ in types.values())
    for name, (declared, required) in types.items():
        is_text = name in _texts()
        value = f"json.payload.{name}" if is_text else _json(f"payload.{name}")
        lengths.append(_length(value, name, is_text, required))
        if is_text:
            checks.append(_is_surely_text(value, required))
        elif isinstance(declared, msgspec.inspect.FloatType):
            zeros = "0" * (_MOST_SAVED // numbers + 1)
            check = (
                f"{_number(name)} between 0.01 and 1e15"
                f" and not suffix({value}, '{zeros}.0')"
            )
            checks.append(check if required else f"({value} is null or ({check}))")
    return " and ".join([f"length_left = {' + '.join(lengths)}", *checks])


def _identifier_check(name: str) -> str:
    # The usual id starts with a printable ASCII character, so it is not blank: one
    # comparison instead of a pattern. Others are looked at by `examine`.
    return f"{name} >= '!' and {name} < chr(127) and strlen({name}) <= 256"


@functools.cache
def read_lines_sql() -> str:
    """A query over the table `chunk(line_number, line)` that reads all lines at once.

    Parameter `$received_at` (naive, UTC). One row for each line: `line_number`,
    `line`, `event_id`, `event_key` (the id itself where it is a UUID, else its MD5, for
    quick look-up), `type`, `schema_version`, `user_id`, `class_id`, `course_id`,
    `occurred_at`, and `is_clean`: the line is valid beyond doubt.

    Most lines are parsed once: their length proves that they have known fields and
    nothing else. Of the others the keys and types are read, too: each key must be there
    once. There is no filter on what was parsed: DuckDB would push it down and parse
    again. What is seldom needed stands in a `case`: DuckDB evaluates both sides of an
    `or`.
    """
    known = [f"json.{name}" for name in _ENVELOPE]
    known += [f"json.payload.{name}" for name in payload_names()]
    fields = " + ".join(f"({field} is not null)::integer" for field in known)
    not_json = " or ".join(f"regexp_matches(line, '{p}')" for p in _NOT_JSON)
    lead = int(LARGEST_CLOCK_LEAD.total_seconds())
    payload_check, has_nothing_else = (
        " ".join(
            f"when '{event_type} {version}' then {check(contract)}"
            for (event_type, version), contract in contracts().items()
        )
        for check in (_payload_check, _payload_has_nothing_else)
    )
    envelope_length, envelope_has_nothing_else = _envelope_has_nothing_else()
    numbers = ", ".join(
        f"try_cast({_json(f'payload.{name}')} as double) as {_number(name)}"
        for name in _numbers()
    )
    texts = [f"$.{name}" for name in _TEXTS_OF_ENVELOPE]
    texts += [f"$.payload.{name}" for name in sorted(_texts())]
    return f"""
        with

        parsed as (
            select
                line_number,
                line,
                readable,
                json_transform(readable, '{_shape()}') as json
            from (
                select *, case when json_valid(line) then line end as readable
                from chunk
            )
        ),

        read as (
            select
                *,
                try_cast(coalesce({_json("schema_version")}, '1') as integer)
                    as schema_version,
                case
                    when regexp_full_match(json.occurred_at, '{_TIMESTAMP}')
                        then try_cast(json.occurred_at as timestamptz)::timestamp
                end as occurred_at,
                try_cast(json.event_id as uuid) as uuid,
                -- `{{"payload":{{}}}}`, without two commas, which no last field has.
                strlen(line) - 13 - ({envelope_length}) as length_left,
                {numbers}
            from parsed
        ),

        named as (
            select
                *,
                json.type || ' ' || schema_version as contract
            from read
        ),

        measured as (
            select
                *,
                coalesce(
                    {envelope_has_nothing_else}
                    and case contract {has_nothing_else} end,
                    false
                ) as has_nothing_else
            from named
        ),

        looked_into as (
            select
                *,
                case
                    when not has_nothing_else
                        then json_keys(readable, ['$', '$.payload'])
                end as keys,
                case when not has_nothing_else then json_type(readable, {texts}) end
                    as types_of_texts,
                case when not has_nothing_else then {fields} end as fields
            from measured
        )

        select
            line_number,
            line,
            json.event_id as event_id,
            coalesce(uuid, md5_number(json.event_id)::uuid) as event_key,
            json.type as type,
            schema_version,
            json.user_id as user_id,
            json.class_id as class_id,
            json.course_id as course_id,
            occurred_at,
            coalesce(
                {_identifier_check("json.event_id")}
                and {_identifier_check("json.user_id")}
                and {_identifier_check("json.class_id")}
                and (
                    json.schema_version is null
                    or {_json("schema_version")} = schema_version::varchar
                )
                and occurred_at >= timestamp '{OLDEST_OCCURRED_AT}'
                and occurred_at
                <= $received_at::timestamp + interval {lead} second
                and case contract {payload_check} end
                and case
                    when has_nothing_else then true
                    when keys is null then false
                    when list_distinct(types_of_texts) != ['VARCHAR'] then false
                    when regexp_matches(line, '{_TRAILING_COMMA}') then false
                    -- `payload` is a key, and its value an object: it has fields.
                    when len(keys[1]) + len(keys[2]) = fields + 1 then true
                    else not ({not_json})
                        and len(keys[1]) = list_unique(keys[1])
                        and len(keys[2]) = list_unique(keys[2])
                        -- Known fields hold no lists; others may be nested too deep.
                        and length(line) - length(
                            replace(replace(line, '[', ''), '{{', '')
                        ) <= {DEEPEST_NESTING}
                        -- A known key with `null` is not in `fields`.
                        and len(list_intersect(keys[1], {[*_ENVELOPE]}))
                        + len(list_intersect(keys[2], {[*payload_names()]})) = fields
                end,
                false
            ) as is_clean
        from looked_into
    """
