"""The collector's OpenAPI document, by hand: bodies are read without a model each.

What an event may be comes from the contracts' own JSON Schemas.
"""

from typing import Any

from fastapi import FastAPI

from ingest.collector.request_body import LARGEST_BODY_BYTES, MOST_EVENTS
from ingest.contracts.events import contract_name, contracts
from ingest.contracts.generated import json_schema

_JSON = "application/json"


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(name: str) -> dict[str, Any]:
    return {_JSON: {"schema": _ref(name)}}


def _errors(*statuses: int) -> dict[str, Any]:
    meanings = {
        400: "The body cannot be read as JSON, or is no whole gzip member.",
        401: "A token or a signature is missing, wrong or no longer valid.",
        408: "The body did not come in time.",
        413: f"More than {LARGEST_BODY_BYTES} bytes or {MOST_EVENTS} events.",
        415: "A Content-Encoding other than gzip.",
        422: "Signed, but no form's response.",
        429: "Too many events for this token; Retry-After says when to come again.",
        503: "Not on disk: nothing of it is promised. Send it again.",
    }
    return {
        str(status): {
            "description": meanings[status],
            "content": _content("Error"),
            **(
                {"headers": {"Retry-After": {"schema": {"type": "integer"}}}}
                if status == 429
                else {}
            ),
        }
        for status in statuses
    }


def events_operation() -> dict[str, Any]:
    """The description of `POST /v1/events`."""
    return {
        "summary": "Send one event or a batch",
        "description": "Answered in the order of the events. A browser that leaves "
        "sends the object with its tokens as text/plain, by sendBeacon.",
        "security": [{"producer": []}, {}],
        "parameters": [
            {
                "name": "Learner-Token",
                "in": "header",
                "schema": {"type": "string"},
                "description": "A JWT (HS256) of the LMS with `sub` and `exp`: events "
                "of this learner only.",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                _JSON: {"schema": _ref("Events")},
                "text/plain": {"schema": {"type": "string"}},
            },
        },
        "responses": {
            "200": {
                "description": "On disk, but for what was refused.",
                "content": _content("Answer"),
            },
            "403": {
                "description": "No event of it was allowed; nothing was kept.",
                "content": _content("Answer"),
            },
            **_errors(400, 401, 408, 413, 415, 429, 503),
        },
    }


OPENAPI_TALLY: dict[str, Any] = {
    "summary": "Tally's webhook",
    "security": [{"tally": []}],
    "requestBody": {
        "required": True,
        "content": {_JSON: {"schema": _ref("TallyWebhook")}},
    },
    "responses": {
        "200": {
            "description": "On disk. `rejected`: it will be a dead letter until the "
            "quiz register is mended and it is retried.",
            "content": _content("Verdict"),
        },
        **_errors(400, 401, 408, 413, 422, 503),
    },
}


def ok_operation(meaning: str, *more: int) -> dict[str, Any]:
    return {
        "responses": {
            str(status): {"description": meaning if status == 200 else "It does not."}
            for status in (200, *more)
        }
    }


def _schemas() -> dict[str, Any]:
    events = {
        contract_name(contract): {
            name: value
            for name, value in json_schema(contract).items()
            if name not in ("$schema", "$id")
        }
        for contract in contracts().values()
    }
    text = {"type": "string"}
    list_of_events = {
        "type": "array",
        "items": _ref("Event"),
        "maxItems": MOST_EVENTS,
    }
    return {
        **events,
        "Event": {"anyOf": [_ref(name) for name in events]},
        "Events": {
            "anyOf": [
                _ref("Event"),
                list_of_events,
                {
                    "type": "object",
                    "required": ["events"],
                    "properties": {
                        "events": list_of_events,
                        "token": text,
                        "learner_token": text,
                    },
                },
            ]
        },
        "Verdict": {
            "type": "object",
            "required": ["event_id", "outcome"],
            "properties": {
                "event_id": {"type": ["string", "null"]},
                "outcome": {"enum": ["accepted", "rejected", "refused"]},
                "reason": text,
                "field": {"type": ["string", "null"]},
                "detail": text,
            },
        },
        "Answer": {
            "type": "object",
            "required": ["accepted", "rejected", "refused", "events"],
            "properties": {
                **{
                    name: {"type": "integer"}
                    for name in ("accepted", "rejected", "refused")
                },
                "events": {"type": "array", "items": _ref("Verdict")},
            },
        },
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {"error": text},
        },
        "TallyWebhook": {
            "type": "object",
            "required": ["eventType", "data"],
            "properties": {
                "eventType": {"const": "FORM_RESPONSE"},
                "data": {
                    "type": "object",
                    "required": ["responseId", "formId", "createdAt", "fields"],
                    "properties": {
                        "responseId": text,
                        "formId": text,
                        "createdAt": {"type": "string", "format": "date-time"},
                        "fields": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["key", "label", "type", "value"],
                                "properties": dict.fromkeys(
                                    ("key", "label", "type"), text
                                ),
                            },
                        },
                    },
                },
            },
        },
    }


def describe(app: FastAPI) -> None:
    """Adds the schemas and how to authenticate to the document at /openapi.json."""
    make_document = app.openapi

    def openapi() -> dict[str, Any]:
        document = make_document()
        components = document.setdefault("components", {})
        components["schemas"] = _schemas()
        components["securitySchemes"] = {
            "producer": {"type": "http", "scheme": "bearer"},
            "tally": {"type": "apiKey", "in": "header", "name": "Tally-Signature"},
        }
        return document

    app.openapi = openapi  # type: ignore[method-assign]
