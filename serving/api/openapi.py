"""The read API's OpenAPI document; the schemas of rows are the models' contracts."""

from collections.abc import Iterable, Mapping
from typing import Any

from serving.api.contracts import Model
from serving.api.pages import MOST_ROWS, ROWS

_JSON = "application/json"
_ERRORS = {
    400: "A filter, `after` or `limit` that is none.",
    401: "A token is missing, forged, revoked or over.",
    403: "This token may not read that.",
    404: "There is none, or none that this token may see.",
    429: "Too many requests for this token; Retry-After says when to come again.",
    503: "Nothing to read was published yet; Retry-After says when to come again.",
}
_TEXT = {"type": "string"}


def document(
    endpoints: Mapping[str, str], parts: Mapping[str, str], models: Mapping[str, Model]
) -> dict[str, Any]:
    """Of paths that answer with rows of a model each, of one learner's parts, and of
    all public models."""
    paths = {
        "/v1/learners/{user_id}": _operation(
            "All of one learner; a part that tells of courses out of scope is null.",
            _of_snapshot(
                {
                    "user_id": _TEXT,
                    **{
                        part: {
                            "type": ["array", "null"],
                            "items": _ref(name),
                        }
                        for part, name in parts.items()
                        if name in models
                    },
                }
            ),
            [_in_path("user_id")],
        )
    } | {
        path.replace(":path", ""): _operation(
            models[name].description, _page(name), _parameters(path, models[name])
        )
        for path, name in (
            *endpoints.items(),
            *((f"/v1/models/{name}", name) for name in models),
        )
        if name in models
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "LMS read API",
            "version": "1",
            "description": "What the warehouse has published; each answer says of "
            "which load it is.",
        },
        "paths": (paths if models else {})
        | {
            path: {"get": {"responses": {"200": {"description": meaning}, **more}}}
            for path, meaning, more in (
                ("/health", "The process is alive.", {}),
                ("/ready", "It answers.", {"503": {"description": "It does not."}}),
                ("/metrics", "For Prometheus.", {}),
            )
        },
        "components": {
            "schemas": {
                **{name: model.json_schema() for name, model in models.items()},
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": _TEXT},
                },
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "learner": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Learner-Token",
                    "description": "A JWT (HS256) of the LMS with `sub` and `exp`: "
                    "what is of this learner only.",
                },
            },
        },
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _of_snapshot(properties: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        "load_id": {"type": "integer", "description": "The newest load in it."},
        "published_at": {"type": "string", "format": "date-time"},
        **properties,
    }
    return {"type": "object", "required": list(found), "properties": found}


def _page(name: str) -> dict[str, Any]:
    return _of_snapshot(
        {
            "rows": {"type": "array", "items": _ref(name)},
            "next": {
                "type": ["string", "null"],
                "description": "`after` of the next page; null at the end.",
            },
        }
    )


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT}


def _parameters(path: str, model: Model) -> list[dict[str, Any]]:
    in_path = [name for name in model.filters if f"{{{name}:path}}" in path]
    return [
        *map(_in_path, in_path),
        *(
            {"name": name, "in": "query", "schema": _TEXT}
            for name in (*model.filters, "after")
            if name not in in_path
        ),
        {
            "name": "limit",
            "in": "query",
            "schema": {
                "type": "integer",
                "minimum": 1,
                "maximum": MOST_ROWS,
                "default": ROWS,
            },
        },
    ]


def _operation(
    summary: str, answer: dict[str, Any], parameters: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "get": {
            "summary": summary,
            "security": [{"token": []}, {"token": [], "learner": []}],
            "parameters": list(parameters),
            "responses": {
                "200": {
                    "description": "Of one snapshot.",
                    "headers": {
                        name: {"schema": _TEXT} for name in ("ETag", "Last-Modified")
                    },
                    "content": {_JSON: {"schema": answer}},
                },
                "304": {"description": "The same as the client has."},
                **{
                    str(status): {
                        "description": meaning,
                        "content": {_JSON: {"schema": _ref("Error")}},
                    }
                    for status, meaning in _ERRORS.items()
                },
            },
        }
    }
