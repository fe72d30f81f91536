"""Whatever comes, the collector keeps to its own OpenAPI document (schemathesis)."""

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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest.landing import tally
from tests.support.collecting import TALLY_SECRET, collecting

EXAMPLES = int(os.environ.get("EXAMPLES", "15"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]


def signing(app: ASGIApp, token: str) -> ASGIApp:
    """The app behind one that has a token and signs each body as Tally does."""

    async def signed(scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        more = scope["type"] == "http"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        ours = {
            b"authorization": f"Bearer {token}".encode(),
            b"tally-signature": tally.signature_of(bytes(body), TALLY_SECRET),
        }
        # A learner token made up by chance only ever ends in a 401.
        replaced = {*ours, b"learner-token"}
        given = [each for each in scope["headers"] if each[0] not in replaced]
        messages = [{"type": "http.request", "body": bytes(body)}]

        async def again() -> Message:
            return messages.pop() if messages else {"type": "http.disconnect"}

        await app({**scope, "headers": [*given, *ours.items()]}, again, send)

    return signed


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("collector")
    with collecting(folder) as collector:
        app = signing(collector.app, collector.token)
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", ["/v1/events", "/v1/tally"])
def test_every_answer_is_one_that_the_document_names(
    document: Any, path: str, mode: GenerationMode
) -> None:
    """Valid requests and such as break the document's rules."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=document[path]["POST"].as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    holds()
