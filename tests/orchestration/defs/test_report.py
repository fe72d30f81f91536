"""The job `weekly_report`: files beside the warehouse, and a mail."""

import dagster as dg
import pytest

from orchestration.snapshot import snapshot
from tests.support.builders import Class, Warehouse, ping
from tests.support.mail import mail_server

pytestmark = pytest.mark.long


def test_it_writes_the_report_in_place_of_the_last_and_mails_it(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.definitions import defs

    warehouse.land_catalogue(Class("c1", "k1"))
    warehouse.land([ping("e1", position=95, duration=100)])
    warehouse.refresh(now="")
    snapshot.publish(warehouse.path)
    reports = warehouse.folder / "reports"
    (reports / "images").mkdir(parents=True)
    (reports / "course-gone.html").write_text("of a course that is no more")
    (reports / "images" / "course-gone-funnel.png").write_bytes(b"")
    monkeypatch.setenv("LMS_WAREHOUSE", str(warehouse.path))
    monkeypatch.setenv("LMS_NOW", "2026-03-12 00:00:00")
    monkeypatch.setenv("LMS_REPORT_TO", "ana@school.example")
    with mail_server() as server, dg.instance_for_test() as instance:
        monkeypatch.setenv("LMS_REPORT_SMTP", f"smtp://127.0.0.1:{server.port}")
        result = defs.resolve_job_def("weekly_report").execute_in_process(
            instance=instance
        )
    assert result.success
    pages = sorted(path.name for path in reports.glob("*.html"))
    assert pages == ["all-courses.html", "course-k1.html"]
    images = {path.name for path in reports.glob("images/*")}
    assert "course-k1-funnel.png" in images
    assert "course-gone-funnel.png" not in images
    assert "Since 2026-03-05" in (reports / "course-k1.html").read_text()
    assert server.mails["ana@school.example"]["Subject"].endswith("since 2026-03-05")


def test_its_schedule_is_off_until_somebody_switches_it_on(dbt: None) -> None:
    from orchestration.definitions import defs

    schedule = defs.resolve_schedule_def("weekly_report_schedule")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
