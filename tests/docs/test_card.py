"""The example course card, in a real Chromium, on a real read API."""

import asyncio
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import uvicorn

from ingest.collector import tokens
from serving.api.app import make_app
from tests.support.browser import Page
from tests.support.collecting import LEARNER_SECRET, wait_for
from tests.support.reading import Reading, publish_by_hand, reading

CARD = Path(__file__).parents[2] / "docs" / "examples" / "card"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: Any) -> None:
        pass


@contextmanager
def site() -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(CARD))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def on_loopback(api: Reading, origin: str) -> Iterator[str]:
    app = make_app(replace(api.settings, origins=(origin,)), api.following)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws="none")
    )
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),), daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def test_a_card_shows_its_learners_progress_and_fetches_it_once(
    tmp_path: Path, page: Page
) -> None:
    published = publish_by_hand(tmp_path, 4)
    with (
        reading(published, tmp_path / "api") as api,
        site() as pages,
        on_loopback(api, pages) as url,
    ):
        given = {
            "url": url,
            "token": api.make_token("all-cards", needs_learner=True),
            "learner_token": tokens.learner_token("u1", LEARNER_SECRET, valid_sec=300),
            "course_id": "k1",
            "title": "Maths <b>",
        }
        assert api.settings.access
        with api.settings.access.open("a") as file:
            file.write("all-cards,*,no\n")

        page.open(f"{pages}/index.html#{urlencode(given)}")
        page.wait_until("document.querySelector('#card p') !== null")
        text = page.run("document.getElementById('card').innerText")
        assert text.split("\n\n") == ["Maths <b>", "4 of 10 steps, in progress"]
        assert page.run("document.querySelector('progress').position") == 0.4

        page.run("draw()")
        asked = 'read_api_requests_total{path="/v1/courses/{course_id}/progress"'
        wait_for(lambda: f'{asked},status="304"}} 1.0'.encode() in metrics(url))
        assert page.run("document.getElementById('card').innerText") == text

        publish_by_hand(tmp_path, 5)
        api.following.look()
        page.run("draw()")
        page.wait_until("document.querySelector('progress').position === 0.5")


def metrics(url: str) -> bytes:
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        return bytes(answer.read())
