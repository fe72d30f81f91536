"""The example page in a real browser: from a video that plays to `v_user_progress`."""

import functools
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from ingest.collector import tokens
from ingest.store.database import utc_now
from tests.support.browser import Page
from tests.support.builders import Class, Warehouse
from tests.support.collecting import LEARNER_SECRET, Service, service, wait_for
from tests.support.webm import video

# With the other tests of real collectors: they share what their processes fork from.

PLAYER = Path(__file__).parents[2] / "docs" / "examples" / "player"
SECONDS = 40


class Handler(SimpleHTTPRequestHandler):
    """Serves the example, and the video in parts: else nobody could seek in it."""

    def do_GET(self) -> None:
        if not self.path.endswith(".webm"):
            super().do_GET()
            return
        content = video(SECONDS)
        wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        assert wanted
        first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        part = content[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Type", "video/webm")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    """The address of the LMS's pages: another origin than the collector's."""
    handler = functools.partial(Handler, directory=str(PLAYER))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


WAITING = "JSON.parse(localStorage.getItem('lms-events-of-ada') ?? '[]').length"
VIDEO = "document.getElementById('lesson')"


@dataclass(frozen=True)
class Watched:
    """Where the learner paused, paused while offline, sought to, and left."""

    paused_at: float
    paused_offline_at: float
    sought: float
    left_at: float


def watch(page: Page, site: str, collector: Service, token: str) -> Watched:
    """Plays to the end: with a pause, a part offline, a seek, and away to leave."""
    given = {
        "url": f"http://127.0.0.1:{collector.port}/v1/events",
        "token": token,
        "learner_token": tokens.learner_token("ada", LEARNER_SECRET, valid_sec=300),
        "user_id": "ada",
        "class_id": "algebra",
        "course_id": "maths",
        "video": "lesson.webm",
    }

    def pause() -> float:
        return float(page.run(f"{VIDEO}.pause(), {VIDEO}.currentTime"))

    page.open(f"{site}/index.html#{urlencode(given)}")
    page.wait_until(f"{VIDEO}.readyState >= 2")
    page.run(f"{VIDEO}.playbackRate = 8; {VIDEO}.play()")
    page.wait_until(f"{VIDEO}.currentTime > 11")
    paused_at = pause()
    page.wait_until(f"{WAITING} === 0")

    page.set_offline(True)
    page.run(f"{VIDEO}.play()")
    page.wait_until(f"{WAITING} >= 1")
    paused_offline_at = pause()
    page.wait_until(f"{WAITING} >= 2")
    page.set_offline(False)
    page.run("dispatchEvent(new Event('online'))")
    page.wait_until(f"{WAITING} === 0")

    sought = paused_offline_at - 2
    page.run(f"{VIDEO}.currentTime = {sought}")
    page.wait_until(f"!{VIDEO}.seeking && {WAITING} === 0")
    page.run(f"{VIDEO}.play()")
    page.wait_until(f"{VIDEO}.ended && {WAITING} === 0")

    # The last word is the beacon's, of a page that is gone.
    page.run(f"{VIDEO}.currentTime = 33")
    wait_for(lambda: pings_at(collector, 33) == 1)
    page.wait_until(f"{WAITING} === 0")
    page.open("about:blank")
    wait_for(lambda: pings_at(collector, 33) == 2)
    return Watched(paused_at, paused_offline_at, sought, 33)


def pings_at(collector: Service, position: float) -> int:
    payloads = (json.loads(line)["payload"] for line in collector.raw_lines())
    return sum(payload["position_sec"] == position for payload in payloads)


@pytest.mark.long
def test_a_video_that_plays_is_completed_in_v_user_progress(
    tmp_path: Path, site: str, page: Page, dbt: None, warehouse: Warehouse
) -> None:
    book = tmp_path / "collector" / "tokens.json"
    _, token = tokens.create(
        book, "player", sources=["web"], types=["VIDEO_PING"], needs_learner=True
    )
    with service(tmp_path, LMS_CORS_ORIGINS=site) as collector:
        watched = watch(page, site, collector, token)
        assert collector.stop() == 0
        log = collector.log.read_text()
    warehouse.land_catalogue(Class("algebra", "maths"))
    warehouse.land_files(*collector.landing.glob("*.ndjson"), received_at=utc_now())
    warehouse.refresh(select=["+v_user_progress"])

    assert warehouse.records("from progress.v_user_progress") == [
        {
            "user_id": "ada",
            "class_id": "algebra",
            "course_id": "maths",
            "video_max_position_sec": SECONDS,
            "video_completed": 1,
            "quiz_passed": 0,
            "quiz_score": None,
        }
    ]
    assert '"status": 4' not in log
    assert warehouse.rows("from raw.dead_letter") == []
    positions = [
        float(position)
        for (position,) in warehouse.rows(
            "select payload ->> '$.position_sec' "
            "from raw.lms_event order by occurred_at"
        )
    ]
    assert any(10 <= position <= 13 for position in positions)
    assert SECONDS in positions
    for position in (
        *(watched.paused_at, watched.paused_offline_at, watched.sought),
        watched.left_at,
    ):
        assert pytest.approx(position, abs=0.001) in positions
    assert positions[-1] == watched.left_at
