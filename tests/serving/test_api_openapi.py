"""Whatever is asked, the read API keeps to its own OpenAPI document (schemathesis)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.reading import publish_by_hand, reading

EXAMPLES = int(os.environ.get("EXAMPLES", "10"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
PATHS = (
    "/v1/progress",
    "/v1/courses/{course_id}/progress",
    "/v1/learners/{user_id}",
    "/v1/models/v_course_progress",
)


def with_token(app: ASGIApp, token: str) -> ASGIApp:
    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        # A learner token made up by chance only ever ends in a 401.
        replaced = {b"authorization", b"learner-token"}
        given = [each for each in scope["headers"] if each[0] not in replaced]
        ours = (b"authorization", f"Bearer {token}".encode())
        await app({**scope, "headers": [*given, ours]}, receive, send)

    return asked


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("read_api")
    with reading(publish_by_hand(folder, 1), folder / "api") as api:
        app = with_token(api.app, api.token)
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_one_that_the_document_names(
    document: Any, path: str, mode: GenerationMode
) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=document[path]["GET"].as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    holds()
