"""The contracts: every version is read as ever, and no published promise is broken.

Fixtures of a version stay for good. `<type>_v<version>.ndjson` has lines of all that
the contract allows and refuses; `<type>_v<version>.golden.json` says what becomes of
each, by `event_id`: `accepted`, with the columns that staging reads from it (one that
is not named is NULL), or `rejected`, with the reason. What a JSON Schema cannot say
(which of two fields is larger, a number too large for a double) is marked as
`beyond_schema`.
"""

import gzip
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest

from ingest.contracts import events, generated, versions
from ingest.contracts.events import (
    Contract,
    Divided,
    Payload,
    contract_name,
)
from ingest.contracts.generated import json_schema
from tests.support.builders import Json, Warehouse

DBT_PROJECT = Path(__file__).parents[3] / "dbt_project"
FIXTURES = Path(__file__).parents[2] / "fixtures"
LINES = FIXTURES / "contracts"
STAGING = DBT_PROJECT / "models" / "staging"

EVERY_CONTRACT = pytest.mark.parametrize(
    "contract", events.contracts().values(), ids=contract_name
)


def golden(contract: Contract) -> Json:
    path = LINES / f"{contract_name(contract)}.golden.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def lines(contract: Contract) -> list[str]:
    path = LINES / f"{contract_name(contract)}.ndjson"
    return path.read_text(encoding="utf-8").splitlines()


def staging_model(contract: Contract) -> str | None:
    """The model that reads the payloads of the contract's type, if one does yet."""
    for path in STAGING.glob("*.sql"):
        if f"payload_columns('{contract.TYPE}')" in path.read_text(encoding="utf-8"):
            return path.stem
    return None


# --------------------------------------------------------------------------------------
# Fixtures and golden answers
# --------------------------------------------------------------------------------------


def test_every_version_ever_accepted_has_a_contract_a_fixture_and_its_golden() -> None:
    names = {contract_name(c) for c in events.contracts().values()}
    assert {path.stem for path in LINES.glob("*.ndjson")} == names
    assert {path.name.split(".")[0] for path in LINES.glob("*.json")} == names


@pytest.fixture(scope="module")
def landed(dbt: None, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """A warehouse with every fixture, and the views that read it."""
    from orchestration.derive.dbt_runner import derive

    warehouse = Warehouse(tmp_path_factory.mktemp("contracts"))
    warehouse.land_files(*sorted(LINES.glob("*.ndjson")))
    models = {staging_model(c) for c in events.contracts().values()}
    derivation = derive(warehouse.path, select=["stg_event", *filter(None, models)])
    assert derivation.succeeded, derivation.failures
    return warehouse


# Of every event, whatever its contract; test_outcomes.py is about them.
ENVELOPE = "event_id, user_id, class_id, occurred_at, received_at, load_id"


def outcomes(warehouse: Warehouse, contract: Contract) -> Json:
    """What became of the fixture's lines, as its golden file says it."""
    file = str(LINES / f"{contract_name(contract)}.ndjson")
    ids = [json.loads(line)["event_id"] for line in lines(contract)]
    model = staging_model(contract)
    accepted = warehouse.records(
        f"""
        select
            events.event_id,
            events.schema_version,
            events.course_id,
            {f"staged.* exclude ({ENVELOPE})" if model else ""}
        from staging.stg_event as events
        {f"inner join staging.{model} as staged using (event_id)" if model else ""}
        where event_id in (select event_id from raw.lms_event where file = '{file}')
        """
    )
    rejected = warehouse.records(
        f"select line_number, reason, field from raw.dead_letter where file = '{file}'"
    )
    return {
        "accepted": {row["event_id"]: columns(row) for row in accepted},
        "rejected": {ids[row.pop("line_number") - 1]: row for row in rejected},
    }


# A column of a staging model that is no field of a contract.
LINE = "line"


def columns(row: Json) -> Json:
    return {
        name: value
        for name, value in row.items()
        if value is not None and name not in {"event_id", LINE}
    }


@EVERY_CONTRACT
def test_every_line_of_a_version_is_still_read_as_when_it_was_new(
    contract: Contract, landed: Warehouse
) -> None:
    expected = golden(contract)
    for refused in expected["rejected"].values():
        refused.pop("beyond_schema", None)
    actual = outcomes(landed, contract)
    for outcome, cases in actual.items():
        for event_id, case in cases.items():
            print(f"{outcome} {json.dumps(event_id)}: {json.dumps(case)}")
    assert actual == expected


# --------------------------------------------------------------------------------------
# The contracts in other languages
# --------------------------------------------------------------------------------------


def test_the_generated_files_are_what_the_classes_say() -> None:
    """If not: `warehouse contracts --write`."""
    files = {**versions.new_states(), **generated.generated_files(DBT_PROJECT)}
    assert {
        p for p, t in files.items() if not p.exists() or p.read_text() != t
    } == set()
    schemas = {path for path in files if path.parent == generated.SCHEMA_FOLDER}
    assert schemas == set(generated.SCHEMA_FOLDER.glob("*.json"))


@EVERY_CONTRACT
def test_a_json_schema_takes_what_is_accepted_and_refuses_what_is_rejected(
    contract: Contract,
) -> None:
    schema = json_schema(contract)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    taken = {
        event["event_id"]: validator.is_valid(event)
        for event in map(json.loads, lines(contract))
    }
    expected = golden(contract)
    refused = expected["rejected"].items()
    assert taken == {
        **dict.fromkeys(expected["accepted"], True),
        **{event_id: case.get("beyond_schema", False) for event_id, case in refused},
    }


ASYNCAPI: Json = json.loads((generated.SCHEMA_FOLDER / "asyncapi.json").read_text())


def test_the_asyncapi_document_follows_the_specification() -> None:
    """The specification's own schema, as npm's @asyncapi/specs 6.11.1 has it."""
    path = FIXTURES / "asyncapi-3.0.0.schema.json.gz"
    schema = json.loads(gzip.decompress(path.read_bytes()))
    validator = jsonschema.validators.validator_for(schema)
    assert [error.message for error in validator(schema).iter_errors(ASYNCAPI)] == []


def references(value: object) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(references, value))
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set()


def resolve(reference: str) -> Any:
    """What `#/...` names in the document; follows a reference to a reference."""
    assert reference.startswith("#/")
    value: Any = ASYNCAPI
    for step in reference[2:].split("/"):
        value = value[step]
    return resolve(value["$ref"]) if "$ref" in value else value


def test_the_asyncapi_operations_lead_to_the_schemas_of_all_versions() -> None:
    assert all(resolve(reference) for reference in references(ASYNCAPI))
    [channel] = ASYNCAPI["channels"].values()
    received: dict[str, Json] = {}
    for operation in ASYNCAPI["operations"].values():
        assert operation["action"] == "receive"
        assert resolve(operation["channel"]["$ref"]) == channel
        for message in operation["messages"]:
            # The specification wants those of the channel, not of the components.
            assert message["$ref"].startswith("#/channels/events/messages/")
            name = message["$ref"].split("/")[-1]
            received[name] = resolve(resolve(message["$ref"])["payload"]["$ref"])
    assert received == {
        contract_name(contract): {
            keyword: value
            for keyword, value in json_schema(contract).items()
            if keyword not in ("$schema", "$id")
        }
        for contract in events.contracts().values()
    }
    assert received.keys() == channel["messages"].keys()


# --------------------------------------------------------------------------------------
# What was published
# --------------------------------------------------------------------------------------


def test_every_contract_keeps_what_was_published() -> None:
    assert versions.breaking_changes() == []
    for contract in events.contracts().values():
        assert versions.published(contract), f"{contract_name(contract)} is unpublished"


def state(
    optional: tuple[str, ...] = (),
    without: str = "",
    at_most: tuple[tuple[str, str], ...] = (),
    **fields: Json,
) -> Json:
    """The rules of a contract with some payload fields (a number in `size` if none)."""
    properties = {"size": {"type": "number", "minimum": 1, "maximum": 9}, **fields}
    properties.pop(without, None)
    payload = {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }
    return {
        "schema": {
            "type": "object",
            "properties": {"payload": payload},
            "required": ["payload"],
        },
        "at_most": [list(pair) for pair in at_most],
    }


NUMBER: Json = {"type": "number"}
TEXT: Json = {"type": "string", "maxLength": 5, "pattern": "a"}
OR_NULL: Json = {"anyOf": [{"type": "number", "minimum": 1}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        (state(), state(without="size", more=NUMBER), "size: removed"),
        (state(), state(optional=("size",)), "size: was required, is optional"),
        (state(optional=("size",)), state(), "size: was optional, is required"),
        (state(), state(more=NUMBER), "more: new and required"),
        (state(), state(size=TEXT), "size: type was number, is string"),
        (
            state(),
            state(size={"type": "number", "minimum": 2, "maximum": 9}),
            "size: the lower bound was raised",
        ),
        (
            state(),
            state(size={"type": "number", "exclusiveMinimum": 1, "maximum": 9}),
            "size: the lower bound was raised",
        ),
        (
            state(),
            state(size={"type": "number", "minimum": 1, "maximum": 8}),
            "size: the upper bound was lowered",
        ),
        (state(size=NUMBER), state(), "size: the lower bound was raised"),
        (
            state(size=TEXT),
            state(size={**TEXT, "maxLength": 4}),
            "size: the upper bound was lowered",
        ),
        (
            state(size=TEXT),
            state(size={**TEXT, "pattern": "b"}),
            "size: pattern was a, is b",
        ),
        (
            state(size=NUMBER),
            state(size={**NUMBER, "format": "f"}),
            "size: format was None, is f",
        ),
        (
            state(optional=("size",), size=OR_NULL),
            state(optional=("size",), size=OR_NULL["anyOf"][0]),
            "size: null was allowed, is refused",
        ),
        (
            state(size=OR_NULL["anyOf"][0]),
            state(size=OR_NULL),
            "size: null was refused, is allowed",
        ),
        (
            state(other=NUMBER),
            state(other=NUMBER, at_most=(("size", "other"),)),
            "size: new rule <= other",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_change_that_could_refuse_a_line_or_hide_a_field_is_breaking(
    old: Json, new: Json, change: str
) -> None:
    assert f"payload.{change}" in versions.changes_that_break(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (state(), state()),
        (state(), state(optional=("more",), more=NUMBER)),
        (state(), state(optional=("more",), more=OR_NULL)),
        (state(), state(size={"type": "number", "minimum": 0, "maximum": 10})),
        (state(), state(size=NUMBER)),
        (
            state(size={"type": "number", "exclusiveMinimum": 1}),
            state(size={"type": "number", "minimum": 1}),
        ),
        (state(size=TEXT), state(size={"type": "string"})),
        (
            state(other=NUMBER, at_most=(("size", "other"),)),
            state(other=NUMBER),
        ),
    ],
    ids=[
        *("nothing", "an optional field", "an optional field or null", "looser bounds"),
        *("no bounds", "a bound that is included", "any text", "a rule less"),
    ],
)
def test_a_change_that_takes_every_line_as_before_is_not_breaking(
    old: Json, new: Json
) -> None:
    assert versions.changes_that_break(old, new) == []


# --------------------------------------------------------------------------------------
# Classes that cannot stand side by side
# --------------------------------------------------------------------------------------


class Measured(Payload, frozen=True, kw_only=True):
    """A contract of a type of its own; what the tests below add to it has mistakes."""

    TYPE = "MEASURED"
    VERSION = 1

    length: float
    name: str


class MeasuredAgain(Payload, frozen=True, kw_only=True):
    TYPE = "MEASURED"
    VERSION = 1

    length: float


class OtherMeaning(Payload, frozen=True, kw_only=True):
    TYPE = "MEASURED"
    VERSION = 2

    length: str


class OtherColumn(Payload, frozen=True, kw_only=True):
    TYPE = "MEASURED"
    VERSION = 2
    READ_FROM: ClassVar = {"length": "size"}

    size: bool


class NoSuchField(Payload, frozen=True, kw_only=True):
    TYPE = "MEASURED"
    VERSION = 2
    READ_FROM: ClassVar = {"length": Divided("length_mm", by=1000)}

    length_cm: float


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (MeasuredAgain, "MeasuredAgain and Measured are both MEASURED v1"),
        (OtherMeaning, "OtherMeaning.length is varchar, in Measured it is double"),
        (OtherColumn, "OtherColumn.length is boolean, in Measured it is double"),
        (NoSuchField, "the class has no field 'length_mm'"),
    ],
)
def test_classes_that_contradict_each_other_are_no_contracts(
    second: Contract, message: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        events.arranged([Measured, second])
