"""The report: files that need no other, with the numbers that SQL says, and mails."""

import gzip
import json
import re
from datetime import date, datetime
from html import unescape
from pathlib import Path

import pytest

from ingest.errors import WarehouseError
from ingest.settings import Settings
from serving import formats
from serving.access import Scope
from serving.reader import Reader
from serving.report import files, mail
from serving.report.content import Report, Section, Table, report
from serving.report.files import Written
from serving.tables import Column
from tests.support.browser import Page
from tests.support.demo import Demo
from tests.support.mail import mail_server

AXE = Path(__file__).parents[1] / "fixtures" / "axe-core-4.14.0.min.js.gz"
COURSE = "sql-first-query"
MOST_BYTES = 1_500_000


@pytest.fixture(scope="module")
def written(
    demo: Demo, tmp_path_factory: pytest.TempPathFactory
) -> dict[str | None, Written]:
    """By course; None is the one for all."""
    folder = tmp_path_factory.mktemp("report")
    with demo.follower().reader(Scope()) as reader:
        made = files.write_all(reader, folder)
    return {each.report.course_id: each for each in made}


def test_there_is_a_page_for_each_course_and_one_for_all(
    written: dict[str | None, Written], reader: Reader
) -> None:
    courses = reader.rows("select distinct course_id from catalogue.catalogue_class")
    assert set(written) == {None, *(row["course_id"] for row in courses)}
    assert len({each.page for each in written.values()}) == len(written)


def test_a_page_needs_no_other_file_and_is_small(
    written: dict[str | None, Written],
) -> None:
    for each in written.values():
        page = each.page.read_text()
        assert len(page.encode()) < MOST_BYTES
        assert not re.search(r"https?://|//[\w.-]+\.\w|@import", unescape(page))
        assert not re.search(r"<(link|iframe|img|object|script [^>]*src)", page)
        assert set(re.findall(r"url\((.)", page)) <= {"#"}
        assert "default-src 'none'" in page


def test_a_page_of_many_is_small_too() -> None:
    rows = [{"user_id": f"{number:05}" * 51} for number in range(20_000)]
    table = Table("All", (Column("user_id", "learner"),), rows, "")
    made = Report(
        "k",
        "k",
        date(2026, 1, 1),
        1,
        datetime(2026, 1, 2),
        (Section("All", tables=(table,)),),
    )
    page = files.html(made)
    assert len(page.encode()) < MOST_BYTES
    assert "19,800 more rows are in the dashboard" in page


def test_each_chart_has_words_and_an_image(
    written: dict[str | None, Written],
) -> None:
    for each in written.values():
        page = each.page.read_text()
        charts = [chart for part in each.report.sections for chart in part.charts]
        said = re.findall(r'<figure role="img" aria-label="([^"]+)"><svg', page)
        assert [unescape(words) for words in said] == [c.words for _, c in charts]
        assert list(each.images) == [name for name, _ in charts]
        for image in each.images.values():
            assert image.read_bytes().startswith(b"\x89PNG")
        ids = re.findall(r'<\w+ id="([^"]+)"', page)
        assert len(ids) == len(set(ids))


def cells(page: str, caption: str) -> list[list[str]]:
    _, after = page.split(f"<caption>{caption}</caption>")
    table, *_ = after.split("</table>")
    return [
        [unescape(cell) for cell in re.findall(r"<td[^>]*>([^<]*)", row)]
        for row in table.split("<tr>")[2:]
    ]


def test_a_page_shows_the_numbers_that_sql_says(
    written: dict[str | None, Written], reader: Reader
) -> None:
    page = written[COURSE].page.read_text()
    funnel = reader.rows(
        "select * from analytics.v_course_funnel where course_id = $c order by step",
        c=COURSE,
    )
    progress = reader.row(
        """
        select
            count(*) as learners,
            count(distinct user_id) filter (last_event_at >= timestamp '2026-09-25')
                as active,
            count(*) filter (started_at >= timestamp '2026-09-25') as started,
            count(*) filter (completed_at >= timestamp '2026-09-25') as completed
        from analytics.v_course_progress where course_id = $c
        """,
        c=COURSE,
    )
    assert [
        [cell for n, cell in enumerate(row) if n != 1]
        for row in cells(page, f"{progress['learners']} learners started")
    ] == [
        [
            str(step["step"]),
            *(
                formats.number(step[name])
                for name in ("reached_count", "completed_count", "lost_count")
            ),
            formats.share(step["lost_share"]),
        ]
        for step in funnel
    ]
    assert (
        f"Active learners: {progress['active']}; courses started: "
        f"{progress['started']}; courses completed: {progress['completed']};"
    ) in page
    whole = written[None].page.read_text()
    kpi = reader.row("from analytics.v_kpi")
    assert dict(row[:2] for row in cells(whole, "Key figures")) | {
        "Learners": formats.number(kpi["learner_count"]),
        "Completion": formats.share(kpi["completion_rate"]),
    } == dict(row[:2] for row in cells(whole, "Key figures"))
    at_risk = reader.rows("select distinct user_id from analytics.v_learner_at_risk")
    assert f"{len(at_risk)} learners need help" in whole


def test_what_is_new_is_new_since_that_day(reader: Reader) -> None:
    made = report(reader, COURSE, date(2026, 10, 20))
    assert made.sections[0].title == "Since 2026-10-20"
    [started] = reader.row(
        "select count(*) from analytics.v_course_progress "
        "where course_id = $c and started_at >= timestamp '2026-10-20'",
        c=COURSE,
    ).values()
    assert f"courses started: {started};" in made.sections[0].sentences[0]
    words = [chart.words for part in made.sections for _, chart in part.charts]
    assert any(said.startswith("events a day from 2026-10-2") for said in words)
    empty = report(reader, COURSE, date(2026, 12, 24))
    assert "No event since 2026-12-24." in [
        said for part in empty.sections for said in part.sentences
    ]


def test_without_names_no_learner_stands_in_it(demo: Demo, reader: Reader) -> None:
    learners = [
        row["user_id"]
        for row in reader.rows("select distinct user_id from raw.lms_event")
    ]
    with demo.follower().reader(Scope(sees_names=False)) as nameless:
        pages = [files.html(report(nameless, each, None)) for each in (None, COURSE)]
    with demo.follower().reader(Scope()) as named:
        assert "learner-0016" in files.html(report(named, COURSE, None))
    for page in pages:
        assert "Learners are not named in this report." in page
        assert not [user_id for user_id in learners if user_id in unescape(page)]


def test_a_course_that_is_not_there_is_said(reader: Reader, tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match=f"nope: no such course.*{COURSE}"):
        files.write_all(reader, tmp_path, course_id="nope")


def test_a_page_stays_in_its_folder_whatever_the_course_is_called(
    tmp_path: Path,
) -> None:
    names = set()
    for course in ("../../etc", "a/b", "a b", "A" * 256, "é", "<script>alert(1)"):
        made = Report(course, course, date(2026, 1, 1), 1, datetime(2026, 1, 2), ())
        page = files.write(made, tmp_path / "out").page
        assert page.parent == tmp_path / "out"
        assert "<script>alert" not in page.read_text()
        names.add(page.name)
    assert len(names) == 6


# --- in a browser ---------------------------------------------------------------------


@pytest.fixture
def opened(written: dict[str | None, Written], page: Page) -> Page:
    page.open(written[COURSE].page.as_uri())
    return page


def test_its_tables_sort_and_axe_finds_nothing_serious(opened: Page) -> None:
    def column(caption: str, number: int) -> list[str]:
        found = opened.run(
            "JSON.stringify([...[...document.querySelectorAll('table')].find(t => "
            f"t.caption.textContent.startsWith({json.dumps(caption)})).tBodies[0].rows]"
            f".map(r => r.cells[{number}].textContent))"
        )
        return list(json.loads(found))

    def click(caption: str, number: int) -> None:
        opened.run(
            "[...document.querySelectorAll('table')].find(t => "
            f"t.caption.textContent.startsWith({json.dumps(caption)}))"
            f".tHead.rows[0].cells[{number}].querySelector('button').click()"
        )

    videos, helped = "Every video", "Learners with most reasons"
    click(videos, 3)
    shares = [float(text.split()[0]) for text in column(videos, 3)]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2
    click(videos, 3)
    assert [float(text.split()[0]) for text in column(videos, 3)] == shares[::-1]
    click(helped, 0)
    assert column(helped, 0) == sorted(column(helped, 0))

    axe = gzip.decompress(AXE.read_bytes()).decode()
    opened.run(f"{axe}; undefined")
    found = opened.run(
        "axe.run({resultTypes: ['violations']}).then(r => JSON.stringify(r.violations"
        ".filter(v => ['serious', 'critical'].includes(v.impact))"
        ".map(v => [v.id, v.nodes[0].html])))"
    )
    assert json.loads(found) == []


# --- by mail --------------------------------------------------------------------------


def settings(demo: Demo, url: str, access: Path | None = None, **more: str) -> Settings:
    return Settings.from_environment(
        {
            "LMS_WAREHOUSE": str(demo.warehouse.path),
            "LMS_NOW": "2026-10-23 00:00:00",
            "LMS_REPORT_SMTP": url,
            "LMS_REPORT_TO": "ana@school.example, ben@school.example",
            "LMS_REPORT_FROM": "reports@school.example",
            **({"LMS_DASHBOARD_ACCESS": str(access)} if access else {}),
            **more,
        }
    )


@pytest.mark.long
def test_each_recipient_gets_what_they_may_see(demo: Demo, tmp_path: Path) -> None:
    access = tmp_path / "access.csv"
    access.write_text(
        f"viewer,course_id,names\nana@school.example,*,yes\n"
        f"ben@school.example,{COURSE},no\n"
    )
    who = "ana@school.example,ben@school.example,cleo@school.example"
    with mail_server() as server:
        chosen = settings(
            *(demo, f"smtp://127.0.0.1:{server.port}", access), LMS_REPORT_TO=who
        )
        assert mail.mail_reports(chosen, date(2026, 10, 16)) == 2
    assert set(server.mails) == {"ana@school.example", "ben@school.example"}
    ana, ben = server.mails["ana@school.example"], server.mails["ben@school.example"]
    assert ana["Subject"] == "Learning report since 2026-10-16"
    assert ana["From"] == "reports@school.example"
    names = [part.get_filename() for part in ana.iter_attachments()]
    assert names[0] == "all-courses.html"
    assert f"course-{COURSE}.html" in names
    [page] = ben.iter_attachments()
    assert page.get_filename() == f"course-{COURSE}.html"
    assert "learner-0" not in page.get_content()

    html = ana.get_body(("html",))
    text = ana.get_body(("plain",))
    assert html
    assert text
    shown = set(re.findall(r'src="cid:([^"]+)"', html.get_content()))
    images = {
        part["Content-ID"][1:-1]: part.get_content()
        for part in ana.walk()
        if part.get_content_type() == "image/png"
    }
    assert shown == set(images) != set()
    assert all(image.startswith(b"\x89PNG") for image in images.values())
    assert "Active learners:" in text.get_content()


@pytest.mark.long
def test_a_password_is_not_sent_in_clear(demo: Demo) -> None:
    with mail_server() as server:
        url = f"smtp://ana:secret-word@127.0.0.1:{server.port}"
        with pytest.raises(WarehouseError, match="offers no encryption") as said:
            mail.mail_reports(settings(demo, url), None)
    assert "secret-word" not in str(said.value)
    assert server.mails == {}


@pytest.mark.parametrize(
    ("url", "to", "message"),
    [
        pytest.param(
            "smtp://127.0.0.1:1",
            "a@b.example",
            "127.0.0.1:1: the report was not mailed",
            marks=pytest.mark.long,
        ),
        ("mail.example", "a@b.example", "LMS_REPORT_SMTP: give an address"),
        ("smtp://host:port", "a@b.example", "LMS_REPORT_SMTP: give an address"),
        ("smtp://127.0.0.1", "", "LMS_REPORT_TO: name who gets the report"),
    ],
)
def test_a_mail_that_cannot_be_sent_is_one_line(
    demo: Demo, url: str, to: str, message: str
) -> None:
    with pytest.raises(WarehouseError, match=message) as said:
        mail.mail_reports(settings(demo, url, LMS_REPORT_TO=to), None)
    assert "\n" not in str(said.value)
