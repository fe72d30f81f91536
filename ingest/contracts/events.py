"""The event contracts: one class per (type, version), and nothing else says its rules.

From these classes come the checks that run (`ingest.contracts.validation`), the reasons
in dead letters, what producers call (`ingest.producer`), and the files that other
languages and dbt read (`ingest.contracts.generated`). To add a version or a
type: write its class here, add a fixture under `tests/fixtures/contracts/`, run
`warehouse contracts --write`; docs/versions.md walks through it.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

OLDEST_OCCURRED_AT = datetime(2000, 1, 1)
LARGEST_CLOCK_LEAD = timedelta(hours=24)
# What a line may be, whoever looks at it first. All work on one grows with its bytes.
LARGEST_LINE_BYTES = 1024 * 1024
DEEPEST_NESTING = 500

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


@dataclass(frozen=True)
class Divided:
    """A number read in a larger unit: `Divided("position_ms", by=1000)` is seconds.

    A quotient is the double nearest to the decimal that was meant; a product with
    0.001 is not.
    """

    field: str
    by: int


class Payload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all contracts; a subclass with a TYPE and a VERSION is a contract.

    All versions of a type are read in one shape: the columns of its staging model.
    `READ_FROM` is the upcaster. It maps a column to this version's field for it; a
    field that it leaves out is read under its own name. A column that this version has
    no field for is NULL. A column, once there, stays: what a later version calls
    otherwise is mapped to it, so that adding a version changes no model and no class.
    `AT_MOST` lists pairs (field, other): the field's value may not exceed the other's.
    """

    TYPE: ClassVar[str]
    VERSION: ClassVar[int]
    READ_FROM: ClassVar[Mapping[str, str | Divided]] = {}
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
    return arranged(Payload.__subclasses__())


def arranged(classes: Iterable[Contract]) -> dict[tuple[str, int], Contract]:
    """The classes by (type, version), in that order.

    Raises `TypeError` where they cannot stand side by side: two for one version, a name
    with two meanings, an upcaster of a field that is not there.
    """
    found: dict[tuple[str, int], Contract] = {}
    for contract in classes:
        key = (contract.TYPE, contract.VERSION)
        if key in found:
            raise TypeError(
                f"{contract.__name__} and {found[key].__name__} are both "
                f"{contract.TYPE} v{contract.VERSION}; count VERSION up"
            )
        found[key] = contract
    for event_type in {contract.TYPE for contract in found.values()}:
        _check_one_shape([c for c in found.values() if event_type == c.TYPE])
    return dict(sorted(found.items()))


def _check_one_shape(versions: list[Contract]) -> None:
    """Names mean one thing: dbt reads all versions with one list of fields."""
    field_kinds: dict[str, tuple[str, str]] = {}
    column_kinds: dict[str, tuple[str, str]] = {}
    for contract in versions:
        kinds = {
            name: sql_type(declared)
            for name, (declared, _) in field_types(contract).items()
        }
        for column, source in contract.READ_FROM.items():
            if source_field(source) not in kinds:
                raise TypeError(
                    f"{contract.__name__}.READ_FROM[{column!r}]: the class has no "
                    f"field {source_field(source)!r}"
                )
        columns = {
            column: kinds[source_field(source)]
            for column, source in column_sources(contract).items()
        }
        for known, new in ((field_kinds, kinds), (column_kinds, columns)):
            for name, kind in new.items():
                first, where = known.setdefault(name, (kind, contract.__name__))
                if kind != first:
                    raise TypeError(
                        f"{contract.__name__}.{name} is {kind}, in {where} it is "
                        f"{first}; give it another name"
                    )


def event_types() -> tuple[str, ...]:
    return tuple(dict.fromkeys(event_type for event_type, _ in contracts()))


def newest(event_type: str) -> Contract:
    """The contract of `event_type` that producers send today."""
    return max(
        (c for c in contracts().values() if event_type == c.TYPE),
        key=lambda contract: contract.VERSION,
    )


def status(contract: Contract) -> str:
    if contract is newest(contract.TYPE):
        return "current"
    return "superseded, read for ever"


def field_names(contract: Contract) -> tuple[str, ...]:
    return contract.__struct_encode_fields__


def source_field(source: str | Divided) -> str:
    return source if isinstance(source, str) else source.field


def column_sources(contract: Contract) -> dict[str, str | Divided]:
    """Each column that `contract` fills, in the order of its fields, and from what."""
    sources: dict[str, str | Divided] = {}
    for field in field_names(contract):
        renamed = {
            column: source
            for column, source in contract.READ_FROM.items()
            if source_field(source) == field
        }
        sources.update(renamed or {field: field})
    return sources


def contract_name(contract: Contract) -> str:
    """What the contract's files are called: video_ping_v2."""
    return f"{contract.TYPE.lower()}_v{contract.VERSION}"


_SQL_TYPES = {
    msgspec.inspect.StrType: "varchar",
    msgspec.inspect.FloatType: "double",
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
    """Raises `TypeError` for what the bulk check of landing does not know."""
    if type(declared) not in _SQL_TYPES:
        raise TypeError(f"{declared}: payload fields are str, float or bool")
    return _SQL_TYPES[type(declared)]
