"""What `warehouse contracts --write` generates from the classes of the contracts.

JSON Schemas and an AsyncAPI document for other languages (`schemas/`), the macro with
which dbt reads every version in one shape (`dbt_project/macros/contracts.sql`), and the
seed of the event types.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

from ingest.contracts.events import (
    LARGEST_LINE_BYTES,
    Contract,
    Divided,
    Envelope,
    column_sources,
    contract_name,
    contracts,
    event_types,
    field_types,
    sql_type,
    status,
)

SCHEMA_FOLDER = Path(__file__).parent / "schemas"


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
    return f"{contract_name(contract)}.json"


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3 document: what the warehouse receives, where, in which messages.

    Its schemas are those of `json_schema`, inlined: they use nothing that draft-07, the
    draft of AsyncAPI's own schemas, does not have.
    """
    name = contract_name
    classes = contracts().values()
    schemas = {
        name(c): {
            k: v for k, v in json_schema(c).items() if k not in ("$schema", "$id")
        }
        for c in classes
    }
    messages = {
        name(c): {
            "name": f"{c.TYPE} v{c.VERSION}",
            "title": f"{c.TYPE} v{c.VERSION}",
            "summary": " ".join((c.__doc__ or "").split()),
            "description": f"Status: {status(c)}.",
            "contentType": "application/json",
            "payload": {"$ref": f"#/components/schemas/{name(c)}"},
        }
        for c in classes
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "LMS event warehouse",
            "version": f"1.0.0+{digest()}",
            "description": "The events that the warehouse receives. Delivery is at "
            "least once, in any order: the same event_id is the same event.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": {
                "address": "events/{file}.ndjson",
                "title": "The landing zone",
                "description": "A folder of NDJSON files: UTF-8, one message a line, "
                f"at most {LARGEST_LINE_BYTES} bytes each. Write a file under a name "
                "that starts with a dot, or elsewhere on the same file system, and "
                "rename it when it is finished. Plain, .gz or .zst.",
                "messages": {
                    name(c): {"$ref": f"#/components/messages/{name(c)}"}
                    for c in classes
                },
                "parameters": {"file": {"description": "A name never used before."}},
            }
        },
        "operations": {
            f"receive_{event_type.lower()}": {
                "action": "receive",
                "channel": {"$ref": "#/channels/events"},
                "summary": f"Land {event_type} events, of every version.",
                "messages": [
                    {"$ref": f"#/channels/events/messages/{name(c)}"}
                    for c in classes
                    if event_type == c.TYPE
                ],
            }
            for event_type in event_types()
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def digest() -> str:
    """Names the state of all contracts: equal contracts, equal digest."""
    schemas = [json_schema(contract) for contract in contracts().values()]
    return hashlib.sha256(json.dumps(schemas, sort_keys=True).encode()).hexdigest()[:12]


def dbt_macro() -> str:
    """The generated macro file that tells dbt how to read every version.

    Per event type: `fields`, what to take out of the JSON payload with its SQL type,
    and `columns`, for each column the version's field for it, as SQL.
    """
    lines = [
        "{#- Generated from ingest/contracts by `warehouse contracts --write`. -#}",
        "{% macro event_contracts() %}",
        "    {% do return({",
    ]
    for event_type in event_types():
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
        columns = dict.fromkeys(
            column
            for contract in reversed(versions)
            for column in column_sources(contract)
        )
        for column in columns:
            readable = ", ".join(
                f"{contract.VERSION}: '{_as_sql(column_sources(contract)[column])}'"
                for contract in versions
                if column in column_sources(contract)
            )
            lines += [f"                '{column}': {{{readable}}},"]
        lines += ["            },", "        },"]
    lines += ["    }) %}", "{% endmacro %}", ""]
    return "\n".join(lines)


def _as_sql(source: str | Divided) -> str:
    return source if isinstance(source, str) else f"{source.field} / {source.by}"


def as_json_file(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def generated_files(dbt_project: Path) -> dict[Path, str]:
    """Every file that is generated from the contracts, with its text."""
    files = {
        SCHEMA_FOLDER / schema_file_name(contract): as_json_file(json_schema(contract))
        for contract in contracts().values()
    }
    files[SCHEMA_FOLDER / "asyncapi.json"] = as_json_file(asyncapi())
    files[dbt_project / "macros" / "contracts.sql"] = dbt_macro()
    files[dbt_project / "seeds" / "staging" / "event_type.csv"] = "\n".join(
        ["event_type", *event_types(), ""]
    )
    return files
