"""The dashboard: its pages as functions, and in a real Chromium on the demo data."""

import gzip
import html
import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import pytest
from streamlit.testing.v1 import AppTest

from orchestration.snapshot import snapshot
from serving import formats, tables
from serving.access import Scope
from serving.questions import learner, needs_help
from serving.questions.events import Selection, events
from serving.reader import Reader
from tests.support.browser import Page, chromium
from tests.support.builders import ping
from tests.support.demo import Demo

ROOT = Path(__file__).parents[2]
AXE = ROOT / "tests" / "fixtures" / "axe-core-4.14.0.min.js.gz"
WAREHOUSE = (sys.executable, "-c", "from orchestration.cli import main; main()")
COURSE = "sql-first-query"
ODD = 'zoë "z" o\'neil; 🎓'

# Every page, with what its address may choose. The first is not the front page: an
# address that was sent opens on a dashboard that has just started, too.
PAGES = {
    "course": {"course": COURSE},
    "overview": {},
    "video": {"class_id": f"{COURSE}/joins"},
    "quiz": {"course": COURSE},
    "needs_help": {},
    "learner": {"user": ODD},
    "data_health": {"reason": "broken_json"},
    "events": {"user": ODD, "class_id": f"{COURSE}/joins"},
}
TITLES = {"needs_help": "Needs help", "data_health": "Data health"}


def shown(page: str, **query: str) -> AppTest:
    """The page with these choices in its address."""
    app = AppTest.from_string(
        f"from serving.dashboard.screens import {page}\n{page}.show()\n",
        default_timeout=60,
    )
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception, app.exception
    return app


def markup(app: AppTest) -> str:
    return "".join(element.proto.body for element in app.get("html"))


def links(app: AppTest) -> list[tuple[str, str]]:
    """Address and text of every link."""
    found = re.findall(r'<a href="([^"]*)">([^<]*)</a>', markup(app))
    return [(html.unescape(address), html.unescape(text)) for address, text in found]


@pytest.mark.parametrize("page", PAGES)
def test_every_number_that_is_a_link_leads_to_events(
    demo: Demo, reader: Reader, page: str
) -> None:
    """One click leads to them; a second, where it leads to another page first."""
    app = shown(page, **PAGES[page])
    assert not app.error
    addresses = links(app)
    assert addresses
    followed = 0
    for address, text in dict(addresses).items():
        target, _, query = address.partition("?")
        if target != "events":
            assert target in {"", *PAGES}
            continue
        found = events(reader, Selection.of_address(dict(parse_qsl(query))), limit=1)
        is_none = text in ("0", "0.0 %", "0:00", "0.00", formats.NOTHING)
        assert found.total or is_none, (address, text)
        assert all(row["file"] and row["line_number"] for row in found.rows)
        followed += 1
    assert followed or page in ("events", "data_health")


def test_a_page_shows_the_numbers_that_sql_says(demo: Demo, reader: Reader) -> None:
    kpi = reader.row("select * from analytics.v_kpi")
    overview = markup(shown("overview"))
    for value in (
        formats.number(kpi["learner_count"]),
        formats.share(kpi["completion_rate"]),
        formats.share(kpi["mean_quiz_score_ratio"]),
    ):
        assert f">{value}</a>" in overview
    funnel = reader.rows(
        "select * from analytics.v_course_funnel where course_id = $c order by step",
        c=COURSE,
    )
    course = markup(shown("course", course=COURSE))
    rows = re.findall(r"<tr>(.*?)</tr>", course)
    for step, row in zip(funnel, rows[1:], strict=False):
        cells = re.findall(r"<td[^>]*>(?:<a [^>]*>)?([^<]*)", row)
        assert cells[0] == str(step["step"])
        assert cells[2:5] == [
            formats.number(step[name])
            for name in ("reached_count", "completed_count", "lost_count")
        ]
    [failing] = reader.rows(
        "select count(*) as n from analytics.v_learner_at_risk where reason = $r",
        r="failing_quiz",
    )
    health = markup(shown("data_health"))
    assert f">{demo.published.resolve().name}</td>" in health
    help_needed = markup(shown("needs_help", reason="failing_quiz"))
    assert help_needed.count("<tr>") == failing["n"] + 1


def test_the_odd_learner_is_shown_as_text(demo: Demo) -> None:
    app = shown("learner", user=ODD)
    assert html.escape(ODD) in markup(shown("needs_help")) + markup(
        shown("course", course=COURSE)
    )
    assert not app.error
    hostile = '<img src=x onerror="alert(1)">'
    for page, choices in PAGES.items():
        given = dict.fromkeys(choices, hostile)
        assert "<img" not in markup(shown(page, **given))


def test_who_may_not_see_it_is_told_so_and_reads_nothing(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "access.csv"
    file.write_text(f"viewer,course_id,names\nana,{COURSE},no\n")
    monkeypatch.setenv("LMS_DASHBOARD_ACCESS", str(file))
    unnamed = shown("overview")
    assert "No course is open to you" in unnamed.warning[0].value
    assert not unnamed.get("html")[1:]
    monkeypatch.setattr("serving.dashboard.view._viewer", lambda _settings: "ana")
    for page, query in PAGES.items():
        app = shown(page, **query)
        assert ODD not in markup(app)
        assert "learner-0" not in markup(app)
        assert "events?" not in markup(app)
        if page in ("needs_help", "learner", "events"):
            assert "not named for you" in app.error[0].value
        if page == "data_health":
            assert "every course" in app.error[0].value


def test_an_empty_scope_says_what_that_means(demo: Demo) -> None:
    app = shown("video", class_id="data-literacy/check")
    assert not app.exception
    app = shown("learner", user="nobody-at-all")
    assert "No learner's id contains" in app.info[0].value
    app = shown("events", user="nobody-at-all")
    assert "No event stands behind this number" in app.info[0].value
    app = shown("events", kind="nonsense")
    assert "names no events" in app.error[0].value


def test_times_are_in_the_chosen_zone(demo: Demo, reader: Reader) -> None:
    app = shown("overview", zone="Asia/Tokyo")
    expected = formats.moment(reader.published_at, "Asia/Tokyo")
    assert f"published {expected} (Asia/Tokyo)" in app.caption[0].value
    assert "zone=Asia" in markup(shown("course", course=COURSE, zone="Asia/Tokyo"))


# --- in Chromium ---


@dataclass(frozen=True)
class Dashboard:
    """A dashboard that runs, and a browser on it."""

    address: str
    browser: Page

    def open(self, page: str, **query: str) -> None:
        path = "" if page == "overview" else page
        self.browser.open(f"{self.address}/{path}?{urlencode(query)}")
        self.wait(TITLES.get(page, page.capitalize()))

    def wait(self, title: str) -> None:
        self.browser.wait_until(
            "document.querySelector('.stApp')?.dataset.testScriptState === "
            "'notRunning' && document.querySelector('.stMain').innerText"
            ".includes('As of load') && [...document.querySelectorAll('h1')].some("
            f"h => h.innerText.trim() === {json.dumps(title)})",
            within_sec=60,
        )

    def text(self) -> str:
        return str(self.browser.run("document.querySelector('.stMain').innerText"))


@pytest.fixture(scope="module")
def dashboard(
    demo: Demo, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dashboard]:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*WAREHOUSE, "dashboard", f"--port={port}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    try:
        with chromium(tmp_path_factory.mktemp("browser") / "profile") as browser:
            browser.command(
                "Emulation.setDeviceMetricsOverride",
                width=1280,
                height=900,
                deviceScaleFactor=1,
                mobile=False,
            )
            address = f"http://127.0.0.1:{port}"
            _wait_for_port(port)
            yield Dashboard(address, browser)
    finally:
        process.terminate()
        process.wait(20)


def _wait_for_port(port: int) -> None:
    import socket

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("no dashboard within 60 s")


def test_each_page_opens_and_nothing_serious_is_in_the_way_of_anyone(
    dashboard: Dashboard,
) -> None:
    axe = gzip.decompress(AXE.read_bytes()).decode()
    for page, query in PAGES.items():
        dashboard.open(page, **query)
        assert "As of load" in dashboard.text()
        dashboard.browser.run(f"{axe}; undefined")
        violations = dashboard.browser.run(
            "axe.run({resultTypes: ['violations']}).then(r => r.violations"
            ".filter(v => ['serious', 'critical'].includes(v.impact))"
            ".map(v => `${v.id}: ${v.nodes[0].html}`))"
        )
        assert not violations, (page, violations)


def test_a_number_is_clicked_and_its_events_are_there(dashboard: Dashboard) -> None:
    dashboard.open("needs_help", reason="failing_quiz")
    dashboard.browser.run("document.querySelector('table.rows td.number a').click()")
    dashboard.wait("Events")
    text = dashboard.text()
    assert "not passed" in text
    assert ".ndjson" in text
    dashboard.open("learner", user=ODD)
    assert ODD in dashboard.text()


@pytest.mark.parametrize(
    ("page", "query", "button", "file"),
    [
        ("needs_help", {}, "CSV of this table", "needs-help.csv"),
        ("learner", {"user": ODD}, "The whole record as CSV", "learner.csv"),
        ("learner", {"user": ODD}, "The whole record as JSON", "learner.json"),
    ],
)
def test_a_file_is_made_when_it_is_asked_for_and_has_everything(
    dashboard: Dashboard,
    reader: Reader,
    tmp_path: Path,
    page: str,
    query: dict[str, str],
    button: str,
    file: str,
) -> None:
    browser = dashboard.browser
    browser.command(
        "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path)
    )
    dashboard.open(page, **query)
    found = (
        "[...document.querySelectorAll('[data-testid=stDownloadButton] button')]"
        f".find(b => b.textContent.includes({json.dumps(button)}))"
    )
    browser.wait_until(f"!!{found}")
    browser.run(f"{found}.click()")
    target = tmp_path / file
    deadline = time.monotonic() + 60
    while not target.exists():
        assert time.monotonic() < deadline, list(tmp_path.iterdir())
        time.sleep(0.05)
    rows = needs_help.at_risk(reader)
    record = learner.record(reader, ODD)
    made = {
        "needs-help.csv": lambda: tables.as_csv(rows),
        "learner.csv": lambda: tables.as_csv(learner.record_rows(record)),
        "learner.json": lambda: tables.as_json(record),
    }
    assert target.read_text("utf-8") == made[file]()


# What the README shows; `make pictures` takes them anew.
PICTURES = {
    "course": "dashboard-course.png",
    "video": "dashboard-video.png",
    "needs_help": "dashboard-needs-help.png",
}


@pytest.mark.parametrize("page", PICTURES)
def test_a_page_is_drawn_into_a_picture_that_fits_a_readme(
    dashboard: Dashboard, page: str
) -> None:
    dashboard.open(page, **PAGES[page])
    charts = "[...document.querySelectorAll('[data-testid=stVegaLiteChart]')]"
    # They come after the text.
    dashboard.browser.wait_until(
        f"{charts}.length >= {0 if page == 'needs_help' else 1} && {charts}.every(c => "
        "c.querySelector('canvas, svg')?.getBoundingClientRect().height > 100) "
        "&& document.fonts.status === 'loaded'"
    )
    picture = dashboard.browser.picture()
    width, height = struct.unpack(">II", picture[16:24])
    assert (width, height) == (1280, 900)
    assert 20_000 < len(picture) < 300_000  # an empty page takes 10,000
    if os.environ.get("LMS_WRITE_PICTURES"):
        (ROOT / "docs" / PICTURES[page]).write_bytes(picture)


def test_the_keyboard_reaches_choice_links_and_download_in_this_order(
    dashboard: Dashboard,
) -> None:
    browser = dashboard.browser
    dashboard.open("course", course=COURSE)
    kinds = {
        "choice": "e.closest('.stSidebar') && e.getAttribute('aria-label')"
        "?.includes('Course')",
        "link": "e.closest('table.rows') && e.tagName === 'A'",
        "download": "e.closest('[data-testid=stDownloadButton]')",
    }
    # What appears behind the focus is not reached any more.
    for awaited in (
        ".stSidebar [aria-label*=Course]",
        "table.rows a",
        "[data-testid=stDownloadButton]",
    ):
        browser.wait_until(f"!!document.querySelector('{awaited}')")
    reached: list[str] = []
    for _ in range(60):
        browser.press("Tab")
        for kind, is_there in kinds.items():
            if browser.run(f"(e => !!({is_there}))(document.activeElement)"):
                reached.append(kind)
        if "download" in reached:
            break
    links = browser.run(
        "document.querySelector('table.rows').querySelectorAll('a').length"
    )
    assert links > 0
    assert reached == ["choice", *["link"] * links, "download"]


def test_enter_follows_a_link_and_the_page_behind_it_opens(
    dashboard: Dashboard,
) -> None:
    dashboard.open("course", course=COURSE)
    dashboard.browser.run("document.querySelector('table.rows a').focus()")
    dashboard.browser.press("Enter")
    dashboard.wait("Events")
    assert ".ndjson" in dashboard.text()


def test_a_page_works_on_a_phone_and_in_the_dark(dashboard: Dashboard) -> None:
    browser = dashboard.browser
    dashboard.open("course", course=COURSE)
    media = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.command("Emulation.setEmulatedMedia", features=media)
    browser.command(
        "Emulation.setDeviceMetricsOverride",
        width=390,
        height=800,
        deviceScaleFactor=1,
        mobile=True,
    )
    try:
        dashboard.open("course", course=COURSE)
        assert browser.run("document.documentElement.scrollWidth <= 390")
        background = browser.run(
            "getComputedStyle(document.querySelector('.stApp')).backgroundColor"
        )
        red, green, blue = map(int, re.findall(r"\d+", background)[:3])
        assert red + green + blue < 150
    finally:
        browser.command("Emulation.setEmulatedMedia", features=[])
        browser.command(
            "Emulation.setDeviceMetricsOverride",
            width=1280,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )


def test_a_page_follows_a_refresh(dashboard: Dashboard, demo: Demo) -> None:
    learners = "select learner_count from analytics.v_kpi"
    known = demo.warehouse.value(learners)
    dashboard.open("overview")
    assert f"\n{known}\n" in dashboard.text()
    before = dashboard.text().split("As of load ")[1].split(",")[0]
    demo.warehouse.land(
        [ping("new-1", user="newcomer", at="2026-10-22T10:00:00Z")],
        received_at=demo.warehouse.value("select max(received_at) from raw.load"),
    )
    demo.warehouse.refresh(now="")
    snapshot.publish(demo.warehouse.path)
    dashboard.browser.wait_until(
        f"!document.querySelector('.stMain').innerText.includes('load {before},')",
        within_sec=30,
    )
    dashboard.wait("Overview")
    assert demo.warehouse.value(learners) == known + 1
    assert f"\n{known + 1}\n" in dashboard.text()
    with demo.follower().reader(Scope()) as reader:
        assert reader.load_id == int(before) + 1
