"""What every page is made of: its head, its scope, tables, numbers and charts."""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from zoneinfo import available_timezones

import streamlit as st

from ingest.errors import WarehouseError
from ingest.settings import Settings
from serving import formats, tables
from serving.access import scope_of
from serving.charts import Chart
from serving.questions import overview
from serving.questions.events import Selection
from serving.reader import Follower, Reader, Row
from serving.tables import Column

_ROWS_SHOWN = 50
_LOOK_EVERY_SEC = 3

# `currentColor` follows Streamlit's light and dark theme.
_STYLE = """
<style>
table.rows { border-collapse: collapse; width: 100%; font-size: 0.9rem }
table.rows caption { text-align: left; font-weight: 600; padding: 0.4rem 0 }
table.rows th, table.rows td {
  text-align: left; padding: 0.3rem 0.8rem 0.3rem 0; vertical-align: top;
  border-bottom: 1px solid color-mix(in srgb, currentColor 18%, transparent);
  overflow-wrap: anywhere; min-width: 4rem }
table.rows td.long { min-width: 9rem }
table.rows td.short { white-space: nowrap }
table.rows th { overflow-wrap: normal }
table.rows .number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums }
table.rows a, .kpi a, .more a, .lead a { color: inherit;
  text-decoration: underline; text-underline-offset: 0.15em }
table.rows a:hover, .kpi a:hover { text-decoration-thickness: 2px }
.kpis, .kpis li { margin: 0 !important }
.kpis { padding: 0 !important; display: grid; gap: 0.8rem; list-style: none;
  grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)) }
.kpi { border: 1px solid color-mix(in srgb, currentColor 25%, transparent);
  border-left: 5px solid color-mix(in srgb, currentColor 35%, transparent);
  border-radius: 0.4rem; padding: 0.6rem 0.8rem; margin: 0 }
.kpi.warning { border-left-color: #d9730d }
.kpi.critical { border-left-color: #c0262d }
.kpi .value { font-size: 1.6rem; font-weight: 600; display: block }
.kpi .means { font-size: 0.82rem }
.kpi .level { font-weight: 600 }
.more { display: flex; gap: 1rem }
.scroll { overflow-x: auto }
/* Streamlit's own grey is too faint to read. */
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] * {
  color: inherit !important; opacity: 1 !important }
</style>
"""


@st.cache_resource
def _follower(path: Path, now: str) -> Follower:
    """One for all sessions; where the snapshot is depends on the environment."""
    return Follower(path, now=now or None)


@dataclass(frozen=True)
class Page:
    """A page being drawn: whom it asks, in which zone it says times, which course was
    chosen (None for all), and where things are. Downloads are made when they are asked
    for, by a reader of the same scope from `asked_later`."""

    reader: Reader
    zone: str
    course: str | None
    settings: Settings
    asked_later: Callable[[], AbstractContextManager[Reader]]

    def moment(self, value: Any) -> str:
        return formats.moment(value, self.zone)

    def address(self, page: str, **query: Any) -> str:
        """Of another page, with what was chosen here."""
        chosen = {"zone": None if self.zone == "UTC" else self.zone}
        given = {name: value for name, value in (query | chosen).items() if value}
        return f"{page}?{urlencode(given)}" if given else page

    def events(self, **selection: Any) -> str | None:
        """The address of the events behind a number; None for who may not see them."""
        if not self.reader.scope.sees_names:
            return None
        address = Selection(**selection).address()
        return address if self.zone == "UTC" else f"{address}&zone={self.zone}"

    def learner(self, row: Row) -> str:
        return self.address("learner", user=row["user_id"])

    def lead(self, text: str, address: str | None = None) -> None:
        """One sentence that says what is to be seen, and leads there."""
        shown = escape(text)
        if address:
            shown = f'<a href="{escape(address)}">{shown}</a>'
        st.html(f'<p class="lead">{shown}</p>')

    def kpis(self, kpis: Sequence[overview.Kpi]) -> None:
        cells = []
        for kpi in kpis:
            value = escape(kpi.value)
            if self.reader.scope.sees_names and kpi.value != formats.NOTHING:
                address = kpi.events.address()
                value = f'<a href="{escape(address)}">{value}</a>'
            level = (
                f' <span class="level">({kpi.level})</span>'
                if kpi.level in ("warning", "critical")
                else ""
            )
            cells.append(
                f'<li class="kpi {kpi.level or ""}">{escape(kpi.label)}{level}'
                f'<span class="value">{value}</span>'
                f'<span class="means">{escape(kpi.meaning)}</span></li>'
            )
        st.html(f'<ul class="kpis">{"".join(cells)}</ul>')

    def table(
        self,
        columns: Sequence[Column],
        rows: Sequence[Row],
        *,
        caption: str,
        file: str,
        empty: str,
        all_rows: Callable[[Reader], Sequence[Row]] | None = None,
    ) -> None:
        """The rows, 50 at a time, with a CSV file of all of them, or of what `all_rows`
        reads when it is asked for; `empty` says what it means that there are none."""
        if not rows:
            st.info(empty)
            return
        at = _page_number(file)
        shown = rows[at * _ROWS_SHOWN : (at + 1) * _ROWS_SHOWN]
        st.html(
            f'<div class="scroll" role="region" tabindex="0" '
            f'aria-label="{escape(caption)}">'
            f"{tables.html(columns, shown, caption=caption)}</div>"
        )
        if len(rows) > _ROWS_SHOWN:
            self._more(file, at, len(rows))
        st.download_button(
            "CSV of this table",
            self.made_later(all_rows or (lambda _: rows), tables.as_csv),
            f"{file}.csv",
            "text/csv",
            key=f"csv-{file}",
            on_click="ignore",
            icon=":material/download:",
            help=caption,
        )

    def made_later(
        self, read: Callable[[Reader], Any], form: Callable[[Any], str]
    ) -> Callable[[], str]:
        """A download's content, made once somebody wants it."""

        def make() -> str:
            with self.asked_later() as reader:
                return form(read(reader))

        return make

    def _more(self, file: str, at: int, count: int) -> None:
        first, last = at * _ROWS_SHOWN + 1, min((at + 1) * _ROWS_SHOWN, count)
        query = {**st.query_params.to_dict()}
        links = [
            f'<a href="?{escape(urlencode({**query, f"{file}-page": to}))}">{word}</a>'
            for word, to, there in (
                ("earlier rows", at - 1, at > 0),
                ("more rows", at + 1, last < count),
            )
            if there
        ]
        st.html(
            f'<p class="more"><span>rows {first} to {last} of {count:,}</span>'
            f"{''.join(links)}</p>"
        )

    def chart(self, chart: Chart) -> None:
        st.vega_lite_chart(chart.spec)
        st.caption(chart.words)


def _page_number(file: str) -> int:
    text = st.query_params.get(f"{file}-page", "0")
    return int(text) if text.isdecimal() and len(text) < 6 else 0


def _viewer(settings: Settings) -> str | None:
    """Whom the reverse proxy names."""
    return st.context.headers.get(settings.dashboard_user_header)


def drawn(
    title: str, *, has_course: bool = True
) -> Callable[[Callable[[Page], None]], Callable[[], None]]:
    """Makes a page of the function that draws what is on it: with its head, its choices
    and its scope. What a user can mend is one line on it."""

    def page_of(draw: Callable[[Page], None]) -> Callable[[], None]:
        def show() -> None:
            st.html(_STYLE)
            st.title(title)
            try:
                _draw(draw, has_course=has_course)
            except WarehouseError as error:
                st.error(str(error), icon=":material/error:")

        return show

    return page_of


def _draw(draw: Callable[[Page], None], *, has_course: bool) -> None:
    settings = Settings.from_environment()
    follower = _follower(settings.published_snapshot, settings.now)
    scope = scope_of(settings.dashboard_access, _viewer(settings))
    if scope.courses == ():
        st.warning(
            "No course is open to you: ask who runs the dashboard to name you in "
            "its access file."
        )
        return
    shown = follower.newest()
    with follower.reader(scope) as reader:
        zone = _chosen_zone()
        course = _chosen_course(reader) if has_course else None
        _say_what_is_shown(reader, zone, settings.now)
        draw(
            Page(
                reader.only(course),
                zone,
                course,
                settings,
                lambda: follower.reader(reader.only(course).scope),
            )
        )
    _follow(follower, shown)


@functools.cache
def _zones() -> list[str]:
    return ["UTC", *sorted(available_timezones() - {"UTC"})]


def _chosen_zone() -> str:
    zone = st.sidebar.selectbox(
        "Times in",
        _zones(),
        key="zone",
        bind="query-params",
    )
    return str(zone)


def _chosen_course(reader: Reader) -> str | None:
    course: str | None = st.sidebar.selectbox(
        "Course",
        overview.courses(reader),
        index=None,
        placeholder="All courses",
        key="course",
        bind="query-params",
    )
    return course


def _say_what_is_shown(reader: Reader, zone: str, now: str) -> None:
    published = formats.moment(reader.published_at, zone)
    asked = f", seen from {now} (UTC)" if now else ""
    st.caption(f"As of load {reader.load_id}, published {published} ({zone}){asked}")


@st.fragment(run_every=_LOOK_EVERY_SEC)
def _follow(follower: Follower, shown: Path) -> None:
    """Draws the page again as soon as there is a newer snapshot."""
    if follower.newest() != shown:
        st.rerun()
