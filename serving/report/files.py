"""A report as one HTML file that needs no other, and its charts as images.

Charts are SVG in the page, with the words that say the same; mail programs, which show
no SVG, get PNG.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from ingest.errors import WarehouseError
from ingest.store.files import write_durably
from serving import formats, tables
from serving.charts import Chart
from serving.questions import overview
from serving.reader import Reader
from serving.report import IMAGES
from serving.report.content import Report, Table, report

_WIDTH = 640
_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Written:
    """A report's page, and its images by the name of their chart."""

    report: Report
    page: Path
    images: dict[str, Path]


def write(made: Report, folder: Path) -> Written:
    """Each file is whole or not there. Raises `WarehouseError`."""
    name = _file_name(made.course_id)
    page = folder / f"{name}.html"
    images = {}
    try:
        write_durably(page, html(made).encode())
        for section in made.sections:
            for chart_name, chart in section.charts:
                path = folder / IMAGES / f"{name}-{chart_name}.png"
                write_durably(path, vl_convert.vegalite_to_png(_spec(chart), scale=1.5))
                images[chart_name] = path
    except OSError as error:
        raise WarehouseError(
            f"{folder}: cannot be written ({error.strerror or error}); give another "
            "--out"
        ) from error
    return Written(made, page, images)


def write_all(
    reader: Reader,
    folder: Path,
    *,
    course_id: str | None = None,
    since: date | None = None,
) -> list[Written]:
    """One report for each course in the reader's scope, before them one for all if it
    may see all; or the one of `course_id`. Raises `WarehouseError`."""
    courses = overview.courses(reader)
    if course_id is not None and course_id not in courses:
        raise WarehouseError(
            f"{course_id}: no such course in today's catalogue; there are "
            f"{', '.join(courses) or 'none'}"
        )
    chosen: list[str | None] = [course_id] if course_id is not None else [*courses]
    if course_id is None and reader.scope.courses is None:
        chosen = [None, *chosen]
    return [write(report(reader, each, since), folder) for each in chosen]


def html(made: Report) -> str:
    def svg(chart: Chart) -> Markup:
        drawn = vl_convert.vegalite_to_svg(_spec(chart))
        # A page needs no namespaces, which look like addresses.
        return Markup(re.sub(r' xmlns(:xlink)?="[^"]*"', "", drawn, count=2))

    def table(content: Table) -> Markup:
        return Markup(
            tables.html(content.columns, content.shown, caption=content.caption)
        )

    return _templates.get_template("report.html.jinja").render(
        report=made,
        published=formats.moment(made.published_at),
        svg=svg,
        table=table,
        number=formats.number,
    )


def _spec(chart: Chart) -> dict[str, Any]:
    """A chart as wide as the page: outside of a browser there is no container."""
    spec = json.loads(chart.chart.to_json(), object_hook=_with_width)
    return dict(spec)


def _with_width(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("width") == "container":
        part["width"] = _WIDTH
    return part


def _file_name(course_id: str | None) -> str:
    """Of a report: ids may hold what a file's name cannot."""
    if course_id is None:
        return "all-courses"
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", course_id)[:60]
    if plain != course_id:
        plain += f"-{hashlib.sha256(course_id.encode()).hexdigest()[:8]}"
    return f"course-{plain}"
