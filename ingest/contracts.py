"""The event contracts: one class per (type, version), and nothing else says its rules.

From these classes come the checks that run (`ingest.validation`), the reasons in dead
letters, the JSON Schemas for other languages' trackers (`ingest/schemas/`) and the
macro with which dbt reads every version in the newest shape
(`dbt_project/macros/contracts.sql`). To add a version or a type: write its class here,
add a fixture under `tests/fixtures/contracts/`, run `warehouse contracts --write`.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

SCHEMA_FOLDER = Path(__file__).parent / "schemas"

OLDEST_OCCURRED_AT = datetime(2000, 1, 1)
LARGEST_CLOCK_LEAD = timedelta(hours=24)
LARGEST_LINE_BYTES = 1024 * 1024

Identifier = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        pattern=r"\S",
        description="An opaque id: 1 to 256 characters, not blank.",
    ),
]


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The fields around every payload. Other fields are kept and ignored."""

    event_id: Identifier
    type: str
    schema_version: int | None = 1
    user_id: Identifier
    class_id: Identifier
    course_id: str | None = None
    occurred_at: Annotated[
        str,
        Meta(
            description="When it happened: RFC 3339, with an offset; since 2000.",
            extra_json_schema={"format": "date-time"},
        ),
    ]
    payload: dict[str, Any]


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all contracts; a subclass with a TYPE and a VERSION is a contract.

    `READ_FROM` maps a field of the newest version to this version's name for it; a
    field that it leaves out keeps its name, or is NULL where this version has none.
    `AT_MOST` lists pairs (field, other): the field's value may not exceed the other's.
    """

    TYPE: ClassVar[str]
    VERSION: ClassVar[int]
    READ_FROM: ClassVar[Mapping[str, str]] = {}
    AT_MOST: ClassVar[tuple[tuple[str, str], ...]] = ()


class VideoPingV1(Payload, frozen=True, kw_only=True):
    """A playback position, sent every 10 seconds of playback."""

    TYPE = "VIDEO_PING"
    VERSION = 1
    READ_FROM = {"position_sec": "position", "duration_sec": "duration"}

    video_id: str
    position: Annotated[float, Meta(ge=0, description="Seconds from the start.")]
    duration: Annotated[float, Meta(gt=0, description="Seconds, of the whole video.")]


class VideoPingV2(Payload, frozen=True, kw_only=True):
    """A playback position, with the units in the names: what the player sends today."""

    TYPE = "VIDEO_PING"
    VERSION = 2

    video_id: str
    position_sec: Annotated[float, Meta(ge=0, description="Seconds from the start.")]
    duration_sec: Annotated[float, Meta(gt=0, description="Seconds, of the whole.")]
    playback_rate: Annotated[float, Meta(gt=0, description="1 is normal.")] | None = (
        None
    )
    session_id: str | None = None


class QuizSubmitV1(Payload, frozen=True, kw_only=True):
    """A submission of a quiz form."""

    TYPE = "QUIZ_SUBMIT"
    VERSION = 1
    AT_MOST = (("score", "max_score"),)

    quiz_id: str
    score: Annotated[float, Meta(ge=0, description="Points reached.")]
    max_score: Annotated[float, Meta(gt=0, description="Points that can be reached.")]
    passed: bool


Contract = type[Payload]


@functools.cache
def contracts() -> dict[tuple[str, int], Contract]:
    """Every contract by (type, version), in that order."""
    found = {(c.TYPE, c.VERSION): c for c in Payload.__subclasses__()}
    return dict(sorted(found.items()))


def newest(event_type: str) -> Contract:
    """The contract in whose shape all versions of `event_type` are read."""
    return max(
        (c for c in contracts().values() if event_type == c.TYPE),
        key=lambda contract: contract.VERSION,
    )


def field_names(contract: Contract) -> tuple[str, ...]:
    return contract.__struct_encode_fields__


def source_field(contract: Contract, field: str) -> str | None:
    """The name that `contract` has for `field` of the newest version, if it has one."""
    name = contract.READ_FROM.get(field, field)
    return name if name in field_names(contract) else None


def json_schema(contract: Contract) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a whole event under `contract`.

    It says all that a schema can; `score <= max_score`, the bounds of `occurred_at`
    and the finiteness of numbers (JSON has no others) are stated in descriptions.
    """
    _, definitions = msgspec.json.schema_components([Envelope, contract])
    envelope = definitions["Envelope"]
    payload = definitions[contract.__name__]
    if contract.AT_MOST:
        limits = ", ".join(f"{field} <= {other}" for field, other in contract.AT_MOST)
        payload["description"] = f"{payload['description']} {limits}."
    envelope["properties"]["type"] = {"const": contract.TYPE}
    envelope["properties"]["payload"] = payload
    version: dict[str, Any] = {"const": contract.VERSION}
    if contract.VERSION == 1:
        version = {"enum": [1, None], "default": 1}
    else:
        envelope["required"].append("schema_version")
    envelope["properties"]["schema_version"] = version
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:lms-warehouse:event:{contract.TYPE}:{contract.VERSION}",
        **envelope,
        "title": f"{contract.TYPE} v{contract.VERSION}",
        "description": payload["description"],
    }


def schema_file_name(contract: Contract) -> str:
    return f"{contract.TYPE.lower()}_v{contract.VERSION}.json"


def digest() -> str:
    """Names the state of all contracts: equal contracts, equal digest."""
    schemas = [json_schema(contract) for contract in contracts().values()]
    return hashlib.sha256(json.dumps(schemas, sort_keys=True).encode()).hexdigest()[:12]


_SQL_TYPES = {
    msgspec.inspect.StrType: "varchar",
    msgspec.inspect.FloatType: "double",
    msgspec.inspect.IntType: "bigint",
    msgspec.inspect.BoolType: "boolean",
}


def field_types(contract: Contract) -> dict[str, tuple[msgspec.inspect.Type, bool]]:
    """For each field its inspected type, unwrapped, and whether it is required."""
    info = msgspec.inspect.type_info(contract)
    assert isinstance(info, msgspec.inspect.StructType)
    return {f.encode_name: (_plain_type(f.type), f.required) for f in info.fields}


def _plain_type(declared: msgspec.inspect.Type) -> msgspec.inspect.Type:
    if isinstance(declared, msgspec.inspect.Metadata):
        return _plain_type(declared.type)
    if isinstance(declared, msgspec.inspect.UnionType):
        [one] = [
            t for t in declared.types if not isinstance(t, msgspec.inspect.NoneType)
        ]
        return _plain_type(one)
    return declared


def sql_type(declared: msgspec.inspect.Type) -> str:
    return _SQL_TYPES[type(declared)]


def dbt_macro() -> str:
    """The generated macro file that tells dbt how to read every version.

    Per event type: `fields`, what to take out of the JSON payload with its SQL type,
    and `columns`, for each column of the newest shape where each version has it.
    """
    types = sorted({contract.TYPE for contract in contracts().values()})
    lines = [
        "{#- Generated from ingest/contracts.py by `warehouse contracts --write`. -#}",
        "{% macro event_contracts() %}",
        "    {% do return({",
    ]
    for event_type in types:
        versions = [c for c in contracts().values() if event_type == c.TYPE]
        fields: dict[str, str] = {}
        for contract in versions:
            for name, (declared, _) in field_types(contract).items():
                fields.setdefault(name, sql_type(declared))
        lines += [f"        '{event_type}': {{", "            'fields': {"]
        lines += [
            f"                '{name}': '{kind}'," for name, kind in fields.items()
        ]
        lines += ["            },", "            'columns': {"]
        for column in field_names(newest(event_type)):
            sources = {c.VERSION: source_field(c, column) for c in versions}
            readable = ", ".join(f"{v}: '{s}'" for v, s in sources.items() if s)
            lines += [f"                '{column}': {{{readable}}},"]
        lines += ["            },", "        },"]
    lines += ["    }) %}", "{% endmacro %}", ""]
    return "\n".join(lines)


def generated_files(dbt_project: Path) -> dict[Path, str]:
    """Every file that is generated from the contracts, with its text."""
    files = {
        SCHEMA_FOLDER / schema_file_name(contract): json.dumps(
            json_schema(contract), indent=2, ensure_ascii=False
        )
        + "\n"
        for contract in contracts().values()
    }
    files[dbt_project / "macros" / "contracts.sql"] = dbt_macro()
    return files
