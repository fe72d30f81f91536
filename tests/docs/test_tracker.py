"""The example tracker where browsers, players and networks are not as they should be.

In a real Chromium, with a <video> and a collector that are played: what each does can
be said to the second.
"""

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Page, chromium

PLAYER = Path(__file__).parents[2] / "docs" / "examples" / "player"

# `got` are the events that the played collector has on disk, each delivery of one.
STAGE = """
(async () => {
  globalThis.got = []
  globalThis.answer = (events) => ({ status: 200 })
  globalThis.fetch = async (url, { body, signal }) => {
    const { events } = JSON.parse(body)
    const { status, hangs, headers = {} } = answer(events)
    if (hangs) await new Promise((_, fail) => signal.addEventListener('abort', fail))
    if (status === 200) got.push(...events)
    return new Response('{}', { status, headers })
  }
  class Video extends EventTarget {
    currentTime = 0; duration = 100; playbackRate = 1; currentSrc = 'one.webm'
    at(second, kind = 'timeupdate') {
      this.currentTime = second
      this.dispatchEvent(new Event(kind))
    }
  }
  globalThis.video = new Video()
  const { track } = await import('./tracker.js')
  globalThis.follow = (class_id = 'c1', user_id = 'ada') =>
    track(video, { url: '/v1/events', video_id: 'v1', user_id, class_id })
  globalThis.told = () => got.map((e) => [e.class_id, e.payload.position_sec])
})()
"""


class Quiet(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path != "/stage.html":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Stage</title>")

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, str]]:
    handler = functools.partial(Quiet, directory=str(PLAYER))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with chromium(tmp_path_factory.mktemp("chromium") / "profile") as page:
            yield page, f"http://127.0.0.1:{server.server_port}/stage.html"
        server.shutdown()


@pytest.fixture
def stage(browser: tuple[Page, str]) -> Page:
    page, address = browser
    page.open("about:blank")
    page.open(address)
    page.run("localStorage.clear()")
    page.run(STAGE)
    return page


def delivered(page: Page, count: int) -> list[list[Any]]:
    """What has come, once as many have."""
    page.wait_until(f"got.length >= {count}", within_sec=10)
    return json.loads(page.run("JSON.stringify(told())"))  # type: ignore[no-any-return]


def test_a_second_track_ends_the_first(stage: Page) -> None:
    stage.run("follow('c1'); video.at(5, 'pause')")
    stage.run("video.duration = NaN; video.currentSrc = 'two.webm'; follow('c2')")
    stage.run("video.duration = 12; video.at(12, 'ended')")
    assert delivered(stage, 2) == [["c1", 5], ["c2", 12]]


def test_another_film_in_the_same_video_ends_it(stage: Page) -> None:
    stage.run("follow('c1'); video.at(5, 'pause')")
    stage.run("video.currentSrc = 'two.webm'; video.at(12, 'ended')")
    stage.run("video.currentSrc = 'one.webm'; video.at(90, 'ended'); follow('c1')")
    stage.run("video.at(20, 'pause')")
    assert delivered(stage, 2) == [["c1", 5], ["c1", 20]]


def test_stopping_tells_where_it_was_and_no_more(stage: Page) -> None:
    stage.run("globalThis.stop = follow(); video.at(7); stop(); stop()")
    stage.run("video.at(50, 'pause')")
    assert delivered(stage, 1) == [["c1", 7]]


FAULTS = {
    "localStorage is denied": """
        Object.defineProperty(globalThis, 'localStorage', {
            get() { throw new DOMException('denied', 'SecurityError') } })""",
    "localStorage is full": """
        Storage.prototype.setItem = () => { throw new DOMException('full') }""",
    "what was stored is no JSON": "localStorage.setItem('lms-events-of-ada', '[{')",
    "what was stored are no events": """
        localStorage.setItem('lms-events-of-ada', '[null, 1, {}]')""",
    "there is no randomUUID on plain http": """
        Object.defineProperty(crypto, 'randomUUID', { value: undefined })""",
    "the rate is 0 while it buffers": "video.playbackRate = 0",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_delivers_although(stage: Page, fault: str) -> None:
    stage.run(f"(() => {{ {FAULTS[fault]} }})()")
    stage.run("follow(); video.at(10); video.at(20)")
    assert delivered(stage, 2) == [["c1", 10], ["c1", 20]]
    assert not stage.run("got.some((e) => e.payload.playback_rate === 0)")
    assert stage.run(r"got.every((e) => /^[\da-f]{8}-.{4}-4.{3}-/.test(e.event_id))")


def test_an_answer_that_never_comes_is_not_waited_for(stage: Page) -> None:
    stage.run(
        """(() => {
            const wait = setTimeout
            globalThis.setTimeout = (run, ms) => wait(run, ms / 100)
            let asked = 0
            answer = () => asked++ < 2 ? { hangs: true } : { status: 200 }
            follow()
            video.at(10)
        })()"""
    )
    assert delivered(stage, 1) == [["c1", 10]]


def test_a_full_queue_is_sent_as_fast_as_the_collector_takes_it(stage: Page) -> None:
    """Nothing plays any more: what waits is sent all the same."""
    stage.run(
        """(() => {
            const wait = setTimeout
            globalThis.setTimeout = (run, ms) => wait(run, ms / 100)
            const old = Array.from({ length: 5000 }, (_, n) => (
                { event_id: `old-${n}`, class_id: 'c0', payload: { position_sec: n } }))
            localStorage.setItem('lms-events-of-ada', JSON.stringify(old))
            let left = 2000
            answer = (events) => {
                if (events.length > left) {
                    left += 500
                    return { status: 429, headers: { 'Retry-After': '2' } }
                }
                left -= events.length
                return { status: 200 }
            }
            follow()
            video.at(100, 'ended')
        })()"""
    )
    told = delivered(stage, 5000)
    assert told[-1] == ["c1", 100]
    assert len(told) == 5000
    assert stage.run("localStorage.getItem('lms-events-of-ada')") == "[]"


def test_one_event_that_is_unwanted_holds_up_no_other(stage: Page) -> None:
    stage.run(
        """(() => {
            const unwanted = (event) => event.payload.position_sec === 20
            answer = (events) => ({ status: events.some(unwanted) ? 413 : 200 })
            follow()
            for (const second of [10, 20, 30, 40]) video.at(second)
        })()"""
    )
    assert sorted(delivered(stage, 3)) == [["c1", 10], ["c1", 30], ["c1", 40]]
    stage.wait_until("localStorage.getItem('lms-events-of-ada') === '[]'")


@pytest.mark.parametrize(
    ("off_by_sec", "corrected"), [(-366 * 86400, True), (60, False)]
)
def test_a_clock_that_is_far_off_is_corrected_before_an_event_is_made(
    stage: Page, off_by_sec: int, corrected: bool
) -> None:
    stage.run(
        f"""(async () => {{
            const headers = {{ Date: new Date().toUTCString() }}
            answer = () => ({{ status: 200, headers }})
            const true_now = Date.now
            Date.now = () => true_now() + {off_by_sec * 1000}
            follow()
            await new Promise((done) => setTimeout(done, 100))
            video.at(10)
        }})()"""
    )
    delivered(stage, 1)
    by = stage.run("got[0].clock_corrected_by_sec ?? 0")
    late = stage.run("(Date.parse(got[0].occurred_at) - Date.now()) / 1000")
    assert by == pytest.approx(-off_by_sec if corrected else 0, abs=5)
    assert late == pytest.approx(-off_by_sec if corrected else 0, abs=15)
