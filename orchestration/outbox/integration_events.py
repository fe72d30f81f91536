"""What others may rely on: each signal in its published shape.

Domain events and the warehouse's tables may change at any time; what is written here
may not. A signal is published as a CloudEvents 1.0 event, whose `type` names a contract
and its version, and as an xAPI statement of the same id. Both are pure functions of one
row of the outbox, so that publishing again gives the same bytes.

A class below is one version of one contract. A published field is never removed, never
renamed and never changes its type: write a class with the next VERSION instead, and
`warehouse contracts --write` its schema. Adding a field is no new version.
docs/integration-events.md is the contract in words.
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

import msgspec
from msgspec import Meta

from ingest.errors import WarehouseError

SCHEMA_FOLDER = Path(__file__).parent / "schemas"

# The ids of everything ever published hang on it.
_ID_NAMESPACE = uuid.UUID("6817032a-9819-4a80-bc93-dd8db06877bc")

# Enough for 10^12 events; text of one width sorts as its numbers do.
SEQUENCE_DIGITS = 12

Identifier = Annotated[str, Meta(min_length=1, description="An opaque id of the LMS.")]


@dataclass(frozen=True)
class Fact:
    """One row of the outbox: all that a published event is made of. Times are UTC.

    `base_url` is the address of the LMS and `completion_threshold` the share of a video
    that counts as all of it, both as they were when the fact was enqueued.
    """

    sequence: int
    signal_id: str
    signal_type: str
    contract_version: int
    user_id: str
    class_id: str | None
    course_id: str | None
    occurred_at: datetime
    enqueued_at: datetime
    base_url: str
    completion_threshold: float


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all contracts: the `data` of one version of one event type."""

    SIGNAL: ClassVar[str]
    VERSION: ClassVar[int]

    signal_id: Annotated[
        str, Meta(description="Names the fact; the warehouse explains it by this id.")
    ]
    user_id: Annotated[str, Meta(min_length=1, description="The learner.")]
    occurred_at: Annotated[
        datetime,
        Meta(tz=True, description="When it happened, in UTC; the same as `time`."),
    ]

    @classmethod
    def of(cls, fact: Fact) -> "Data":
        values = {name: getattr(fact, name) for name in cls.__struct_fields__}
        return cls(**{**values, "occurred_at": _utc(fact.occurred_at)})


class VideoCompletedV1(Data, frozen=True, kw_only=True):
    """The learner has seen a class's video up to the completion threshold."""

    SIGNAL = "VIDEO_COMPLETED"
    VERSION = 1

    class_id: Identifier
    completion_threshold: Annotated[
        float,
        Meta(gt=0, le=1, description="The share of the video that counts as all."),
    ]


class QuizPassedV1(Data, frozen=True, kw_only=True):
    """The learner has passed a class's quiz."""

    SIGNAL = "QUIZ_PASSED"
    VERSION = 1

    class_id: Identifier


class StepCompletedV1(Data, frozen=True, kw_only=True):
    """The learner has done all that the catalogue asks of a step of a course."""

    SIGNAL = "STEP_COMPLETED"
    VERSION = 1

    class_id: Identifier
    course_id: Identifier


class CourseCompletedV1(Data, frozen=True, kw_only=True):
    """The learner has completed every step of a course."""

    SIGNAL = "COURSE_COMPLETED"
    VERSION = 1

    course_id: Identifier


Contract = type[Data]

# Their order is that of facts of one moment: a step is complete after its parts, a
# course after its steps.
CONTRACTS: tuple[Contract, ...] = (
    VideoCompletedV1,
    QuizPassedV1,
    StepCompletedV1,
    CourseCompletedV1,
)


def newest(contracts: Sequence[Contract] = CONTRACTS) -> dict[str, Contract]:
    """For each signal type the version that is published now, in the order above."""
    found: dict[str, Contract] = {}
    for contract in contracts:
        known = found.get(contract.SIGNAL)
        if known is None or known.VERSION < contract.VERSION:
            found[contract.SIGNAL] = contract
    return found


def contract_of(fact: Fact) -> Contract:
    [contract] = (
        contract
        for contract in CONTRACTS
        if fact.signal_type == contract.SIGNAL
        and fact.contract_version == contract.VERSION
    )
    return contract


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """CloudEvents 1.0.2, JSON, with the extensions for order, partition and recording.

    Attributes that are not listed may be added; ignore those that you don't know.
    """

    specversion: Literal["1.0"] = "1.0"
    id: Annotated[
        uuid.UUID,
        Meta(description="Identity: the same id is the same fact, published once."),
    ]
    source: Annotated[
        str,
        Meta(min_length=1, extra_json_schema={"format": "uri-reference"}),
    ]
    type: str
    subject: Annotated[
        str,
        Meta(
            min_length=1,
            description="The learner: `user_id`, in which `%` and characters that "
            "CloudEvents does not allow are percent-encoded.",
        ),
    ]
    time: Annotated[datetime, Meta(tz=True, description="When it happened, in UTC.")]
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: Annotated[str, Meta(extra_json_schema={"format": "uri"})]
    sequence: Annotated[
        str,
        Meta(
            pattern=rf"^[0-9]{{{SEQUENCE_DIGITS}}}$",
            description="The place in the order of publication; grows by one.",
        ),
    ]
    partitionkey: Annotated[
        str,
        Meta(min_length=1, description="The learner: order holds within one."),
    ]
    recordedtime: Annotated[
        datetime, Meta(tz=True, description="When the fact became known, in UTC.")
    ]
    data: Any


def event_id(signal_id: str) -> uuid.UUID:
    """The id of a signal's event, the same in every version and in xAPI.

    It hangs on nothing but the signal: a warehouse that is made again from its landing
    zone publishes what consumers know already under the ids that they know.
    """
    return uuid.uuid5(_ID_NAMESPACE, signal_id)


def event_type(contract: Contract) -> str:
    """lms.video.completed.v1"""
    return f"lms.{contract.SIGNAL.lower().replace('_', '.')}.v{contract.VERSION}"


def schema_id(contract: Contract) -> str:
    return f"urn:lms-warehouse:integration-event:{contract.SIGNAL}:{contract.VERSION}"


def cloud_event(fact: Fact) -> CloudEvent:
    contract = contract_of(fact)
    learner = _attribute(fact.user_id)
    return CloudEvent(
        id=event_id(fact.signal_id),
        source=f"{fact.base_url}/warehouse",
        type=event_type(contract),
        subject=learner,
        time=_utc(fact.occurred_at),
        dataschema=f"{schema_id(contract)}#/properties/data",
        sequence=f"{fact.sequence:0{SEQUENCE_DIGITS}}",
        partitionkey=learner,
        recordedtime=_utc(fact.enqueued_at),
        data=contract.of(fact),
    )


# CloudEvents 1.0.2, type system, String: no control characters and no noncharacters.
# `%` is encoded too, so that two learners never share a subject.
_NOT_IN_ATTRIBUTES = re.compile(
    "[%\x00-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(
        chr(plane * 0x10000 + last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
    )
    + "]"
)


def _attribute(text: str) -> str:
    return _NOT_IN_ATTRIBUTES.sub(lambda found: quote(found[0], safe=""), text)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


_COMPLETED = "http://adlnet.gov/expapi/verbs/completed"
_PASSED = "http://adlnet.gov/expapi/verbs/passed"
_VIDEO = "https://w3id.org/xapi/video/activity-type/video"
_QUIZ = "http://adlnet.gov/expapi/activities/assessment"
_STEP = "https://w3id.org/xapi/cmi5/activitytype/block"
_COURSE = "https://w3id.org/xapi/cmi5/activitytype/course"
_THRESHOLD = "https://w3id.org/xapi/video/extensions/completion-threshold"


def statement(fact: Fact) -> dict[str, Any]:
    """The fact as an xAPI 1.0.3 statement, in the words of cmi5 and the video profile.

    It claims neither profile (no `category`): both ask for what no signal knows, a
    session, the segments played. The threshold is stated where it decided.
    """
    steps = [_activity(fact, _STEP, "classes", fact.class_id)] if fact.class_id else []
    courses = (
        [_activity(fact, _COURSE, "courses", fact.course_id)] if fact.course_id else []
    )
    context: dict[str, Any] = {"platform": "LMS"}
    verb, result = _COMPLETED, {"completion": True}
    match fact.signal_type:
        case "VIDEO_COMPLETED":
            about = _activity(fact, _VIDEO, "classes", fact.class_id, "video")
            parents = steps
            context["extensions"] = {_THRESHOLD: fact.completion_threshold}
        case "QUIZ_PASSED":
            about = _activity(fact, _QUIZ, "classes", fact.class_id, "quiz")
            parents = steps
            verb, result = _PASSED, {"success": True}
        case "STEP_COMPLETED":
            [about], parents = steps, courses
        case _:
            [about], parents = courses, []
    if parents:
        context["contextActivities"] = {"parent": parents}
    return {
        "id": str(event_id(fact.signal_id)),
        "actor": {
            "objectType": "Agent",
            "account": {"homePage": fact.base_url, "name": fact.user_id},
        },
        "verb": {"id": verb, "display": {"en": verb.rpartition("/")[2]}},
        "object": about,
        "result": result,
        "context": context,
        "timestamp": _utc(fact.occurred_at),
    }


def _activity(fact: Fact, kind: str, *path: str | None) -> dict[str, Any]:
    encoded = "/".join(quote(part or "", safe="") for part in path)
    return {
        "objectType": "Activity",
        "id": f"{fact.base_url}/{encoded}",
        "definition": {"type": kind},
    }


Format = Literal["cloudevents", "xapi"]
FORMATS: tuple[Format, ...] = ("cloudevents", "xapi")


def as_lines(event_format: Format, facts: Sequence[Fact]) -> list[bytes]:
    """Each fact as JSON in one line, without the line's end."""
    shape = cloud_event if event_format == "cloudevents" else statement
    return [msgspec.json.encode(shape(fact)) for fact in facts]


def idempotency_key(facts: Sequence[Fact]) -> str:
    """Names a batch by what is in it: the same events in the same order, one key."""
    ids = ",".join(fact.signal_id for fact in facts)
    return str(uuid.uuid5(_ID_NAMESPACE, f"batch:{ids}"))


def json_schema(contract: Contract) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a whole event under `contract`."""
    _, definitions = msgspec.json.schema_components([CloudEvent, contract])
    event, data = definitions["CloudEvent"], definitions[contract.__name__]
    properties = event["properties"]
    for attribute in ("specversion", "datacontenttype"):
        [only] = properties[attribute]["enum"]
        properties[attribute] = {"const": only}
    properties["type"] = {"const": event_type(contract)}
    properties["data"] = data
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": schema_id(contract),
        **event,
        # The encoder writes every attribute, those with a default too.
        "required": list(properties),
        "title": event_type(contract),
        "description": data["description"],
    }


_ANNOTATIONS = {"title", "description", "examples", "default", "$schema", "$comment"}


def breaking_changes(
    released: Mapping[str, Any], current: Mapping[str, Any], where: str = "event"
) -> Iterator[str]:
    """What a consumer of `released` could no longer rely on, a line each.

    A field may come; none may go, become optional, or be described otherwise than it
    was. Wording may change.
    """
    old, new = released.get("properties", {}), current.get("properties", {})
    for name in old:
        if name not in new:
            yield f"{where}.{name}: removed"
        else:
            yield from breaking_changes(old[name], new[name], f"{where}.{name}")
    optional = set(current.get("required", ()))
    for name in released.get("required", ()):
        if name in new and name not in optional:
            yield f"{where}.{name}: no longer always there"
    for keyword in sorted(released.keys() | current.keys()):
        if keyword in _ANNOTATIONS | {"properties", "required"}:
            continue
        if released.get(keyword) != current.get(keyword):
            yield (
                f"{where}: {keyword} was {released.get(keyword)!r}, "
                f"is {current.get(keyword)!r}"
            )


def schema_file(contract: Contract) -> Path:
    return SCHEMA_FOLDER / f"{contract.SIGNAL.lower()}_v{contract.VERSION}.json"


def generated_files(contracts: Sequence[Contract] = CONTRACTS) -> dict[Path, str]:
    """Every schema file with its text.

    Raises `WarehouseError` where it would break the released one that lies there: a
    version is for good.
    """
    files = {}
    for contract in contracts:
        path, schema = schema_file(contract), json_schema(contract)
        if path.exists():
            released = json.loads(path.read_text(encoding="utf-8"))
            if broken := list(breaking_changes(released, schema)):
                raise WarehouseError(
                    f"{path.name} is published and {contract.__name__} breaks it "
                    f"({'; '.join(broken)}); leave the class as it was and add one "
                    "with the next VERSION"
                )
        files[path] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    return files
