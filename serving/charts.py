"""Charts, each with the words that say the same to those who cannot see it.

Colours are told apart without red and green, and stand on a light and a dark ground.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from serving import formats
from serving.reader import Row

BLUE, ORANGE, GREY = "#3b82c4", "#d9730d", "#8a8f98"

_HEIGHT = 220
MOST_QUIZZES = 30


@dataclass(frozen=True)
class Chart:
    """A chart and what it shows, in one or two sentences."""

    chart: Any
    words: str

    @property
    def spec(self) -> dict[str, Any]:
        """The chart in Vega-Lite. Not checked against its schema, which takes several
        times as long as all else, and which a test does for every chart."""
        spec: dict[str, Any] = self.chart.to_dict(validate=False)
        # Altair's own theme; the page has one.
        spec.pop("config", None)
        return spec


def _chart(rows: Sequence[Row], words: str, *, height: int = _HEIGHT) -> alt.Chart:
    values = [
        {
            name: value.isoformat() if hasattr(value, "isoformat") else value
            for name, value in row.items()
        }
        for row in rows
    ]
    return alt.Chart({"values": values}).properties(
        description=words, height=height, width="container"
    )


def _most(rows: Sequence[Row], name: str) -> Row:
    return max(rows, key=lambda row: row[name] or 0)


def _tips(*fields: str) -> list[alt.Tooltip]:
    """Of text, Altair would look for the class that it means: 13 ms for each."""
    return [alt.Tooltip(field) for field in fields]


_NAMES = alt.Axis(labelLimit=260, labelOverlap=False)
_DAY = alt.X("yearmonthdate(day):T", title=None, axis=alt.Axis(format="%d %b"))


def daily(rows: Sequence[Row], *, day: str, kind: str, count: str, noun: str) -> Chart:
    """Bars by day, stacked by type."""
    totals: dict[Any, int] = {}
    for row in rows:
        totals[row[day]] = totals.get(row[day], 0) + (row[count] or 0)
    best = max(totals, key=lambda each: totals[each])
    words = (
        f"{noun} a day from {min(totals)} to {max(totals)}: "
        f"{formats.number(sum(totals.values()))} in all, most on {best} "
        f"({formats.number(totals[best])})."
    )
    shown = [{"day": row[day], "type": row[kind], noun: row[count]} for row in rows]
    chart = (
        _chart(shown, words)
        .mark_bar()
        .encode(
            x=_DAY,
            y=alt.Y(f"{noun}:Q", title=noun),
            color=alt.Color(
                "type:N",
                title=None,
                scale=alt.Scale(range=[BLUE, ORANGE, GREY, "#7a5195"]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[
                alt.Tooltip("day:T", title="day"),
                alt.Tooltip("type:N"),
                alt.Tooltip(f"{noun}:Q", format=","),
            ],
        )
    )
    return Chart(chart, words)


def active_learners(rows: Sequence[Row]) -> Chart:
    """Learners with an event, by day."""
    best = _most(rows, "user_count")
    words = (
        f"Active learners a day from {rows[0]['active_on']} to "
        f"{rows[-1]['active_on']}: most on {best['active_on']} "
        f"({formats.number(best['user_count'])})."
    )
    shown = [{"day": row["active_on"], "learners": row["user_count"]} for row in rows]
    chart = (
        _chart(shown, words, height=160)
        .mark_line(color=BLUE, point=True)
        .encode(
            x=_DAY,
            y=alt.Y("learners:Q", title="active learners"),
            tooltip=[alt.Tooltip("day:T"), alt.Tooltip("learners:Q", format=",")],
        )
    )
    return Chart(chart, words)


def funnel(steps: Sequence[Row], started: int | None) -> Chart:
    """Learners who reached each step, the steepest loss in another colour."""
    worst = next((step for step in steps if step["is_steepest"]), None)
    words = (
        f"{formats.number(started)} learners started; "
        f"{formats.number(steps[-1]['reached_count'])} reached the last of "
        f"{len(steps)} steps."
    )
    if worst and worst["lost_count"] is not None:
        words += (
            f" Most are lost before step {worst['step']}, {worst['title']}: "
            f"{formats.number(worst['lost_count'])} of them "
            f"({formats.share(worst['lost_share'])})."
        )
    shown = [
        {
            "step": f"{step['step']}. {step['title']}",
            "learners": step["reached_count"],
            "lost": step["lost_count"],
            "loss": "the greatest loss" if step["is_steepest"] else "reached",
        }
        for step in steps
    ]
    base = _chart(shown, words, height=34 * len(steps) + 90).encode(
        y=alt.Y("step:N", sort=None, title=None, axis=_NAMES),
        x=alt.X("learners:Q", title="learners who reached it"),
    )
    bars = base.mark_bar().encode(
        color=alt.Color(
            "loss:N",
            title=None,
            scale=alt.Scale(
                domain=["reached", "the greatest loss"], range=[BLUE, ORANGE]
            ),
            legend=alt.Legend(orient="top"),
        ),
        tooltip=_tips("step:N", "learners:Q", "lost:Q"),
    )
    return Chart(bars, words)


def retention(bins: Sequence[Row]) -> Chart:
    """Above the share of learners who watched each 10 s, below how often again."""
    shown = [
        {
            "second": row["bin_start_sec"],
            "at": formats.length(row["bin_start_sec"]),
            "share": row["viewer_share"],
            "replays": row["replay_rate"] or 0,
        }
        for row in bins
        if row["viewer_share"] is not None
    ]
    first, last = shown[0], shown[-1]
    again = _most(shown, "replays")
    words = (
        f"{formats.share(first['share'])} of the learners watched the first 10 s, "
        f"{formats.share(last['share'])} the last."
    )
    if again["replays"] > 0:
        words += (
            f" Watched again most: {again['at']} ({formats.decimal(again['replays'])} "
            "more pings than viewers, for each viewer)."
        )
    minutes = alt.Axis(
        labelExpr="floor(datum.value / 60) + ':' + format(datum.value % 60, '02')",
        tickMinStep=10,
    )
    x = alt.X("second:Q", title="position in the video", axis=minutes)
    tip = [
        alt.Tooltip("at:N", title="from"),
        alt.Tooltip("share:Q", format=".1%", title="watched by"),
        alt.Tooltip("replays:Q", format=".2f", title="replays"),
    ]
    curve = (
        _chart(shown, words)
        .mark_area(interpolate="step-after", color=BLUE, opacity=0.8)
        .encode(
            x=x,
            y=alt.Y(
                "share:Q",
                title="share of its learners",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%"),
            ),
            tooltip=tip,
        )
    )
    replays = (
        _chart(shown, words, height=90)
        .mark_area(interpolate="step-after", color=ORANGE, opacity=0.9)
        .encode(x=x, y=alt.Y("replays:Q", title="replays"), tooltip=tip)
    )
    return Chart(
        alt.vconcat(curve, replays)
        .resolve_scale(x="shared")
        .properties(description=words),
        words,
    )


def tenths(rows: Sequence[Row], *, what: str) -> Chart:
    """Learners by tenths of something: of coverage, of the score."""
    total = sum(row["learner_count"] or 0 for row in rows)
    best = _most(rows, "learner_count")
    words = (
        f"{formats.number(total)} learners by {what}; most, "
        f"{formats.number(best['learner_count'])}, lie in {best['tenth'] * 10} to "
        f"{best['tenth'] * 10 + 10} %."
    )
    shown = [
        {
            "tenth": f"{row['tenth'] * 10} to {row['tenth'] * 10 + 10} %",
            "learners": row["learner_count"],
        }
        for row in rows
    ]
    chart = (
        _chart(shown, words, height=180)
        .mark_bar(color=BLUE)
        .encode(
            x=alt.X("tenth:N", sort=None, title=what, axis=alt.Axis(labelAngle=0)),
            y=alt.Y("learners:Q", title="learners", axis=alt.Axis(tickMinStep=1)),
            tooltip=_tips("tenth:N", "learners:Q"),
        )
    )
    return Chart(chart, words)


def quiz_rates(rows: Sequence[Row]) -> Chart:
    """For each quiz the share that passed first, and in the end; the hardest ones."""
    hardest = rows[0]
    drawn = f", the first {MOST_QUIZZES} drawn" if len(rows) > MOST_QUIZZES else ""
    words = (
        f"{len(rows)} quizzes, hardest first{drawn}: "
        f"{formats.share(hardest['first_try_pass_rate'])} pass "
        f"{hardest['title'] or hardest['class_id']} at the first try, "
        f"{formats.share(hardest['pass_rate'])} in the end."
    )
    shown = [
        {"quiz": row["title"] or row["class_id"], "passed": word, "share": row[name]}
        for row in rows[:MOST_QUIZZES]
        for name, word in (
            ("first_try_pass_rate", "at the first try"),
            ("pass_rate", "in the end"),
        )
    ]
    chart = (
        _chart(shown, words, height=34 * min(len(rows), MOST_QUIZZES) + 90)
        .mark_point(filled=True, size=110, opacity=1)
        .encode(
            y=alt.Y("quiz:N", sort=None, title=None, axis=_NAMES),
            x=alt.X(
                "share:Q",
                title="share of learners who passed",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%"),
            ),
            color=alt.Color(
                "passed:N",
                title=None,
                scale=alt.Scale(
                    domain=["at the first try", "in the end"], range=[ORANGE, BLUE]
                ),
                legend=alt.Legend(orient="top"),
            ),
            shape=alt.Shape("passed:N", title=None),
            tooltip=[
                *_tips("quiz:N", "passed:N"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )
    return Chart(chart, words)


def coverage_strips(videos: Sequence[Row]) -> Chart:
    """One strip for each video of a learner: what of it was watched."""
    shown = [
        {
            "video": video["title"] or video["class_id"],
            "from": start / video["bin_count"],
            "to": end / video["bin_count"],
            "seen": "seen" if is_seen else "not seen",
        }
        for video in videos
        if video["bin_count"]
        for start, end, is_seen in _runs(set(video["bins"] or ()), video["bin_count"])
    ]
    known = [video for video in videos if video["coverage"] is not None]
    least = min(known, key=lambda row: row["coverage"])
    words = (
        f"What was seen of {len(videos)} videos; least of "
        f"{least['title'] or least['class_id']}: {formats.share(least['coverage'])}."
    )
    chart = (
        _chart(shown, words, height=30 * len(videos) + 90)
        .mark_bar()
        .encode(
            y=alt.Y("video:N", sort=None, title=None, axis=_NAMES),
            x=alt.X("from:Q", title="of the video", axis=alt.Axis(format="%")),
            x2=alt.X2("to:Q"),
            color=alt.Color(
                "seen:N",
                title=None,
                scale=alt.Scale(domain=["seen", "not seen"], range=[BLUE, "#d5d9e0"]),
                legend=alt.Legend(orient="top"),
            ),
        )
    )
    return Chart(chart, words)


def _runs(seen: set[int], count: int) -> list[tuple[int, int, bool]]:
    """Bins 0, 1, 3 of 4 -> (0, 2, True), (2, 3, False), (3, 4, True)."""
    runs: list[tuple[int, int, bool]] = []
    for number in range(count):
        is_seen = number in seen
        if runs and runs[-1][2] == is_seen:
            runs[-1] = (runs[-1][0], number + 1, is_seen)
        else:
            runs.append((number, number + 1, is_seen))
    return runs


def timeline(rows: Sequence[Row]) -> Chart:
    """A learner's days: a mark for each class and day, larger with more events."""
    days = {row["event_date"] for row in rows}
    words = (
        f"Active on {len(days)} days from {min(days)} to {max(days)}, in "
        f"{len({row['class_id'] for row in rows})} classes."
    )
    shown = [
        {
            "day": row["event_date"],
            "class": row["class_id"],
            "type": row["event_type"],
            "events": row["event_count"],
        }
        for row in rows
    ]
    classes = len({row["class_id"] for row in rows})
    chart = (
        _chart(shown, words, height=26 * classes + 90)
        .mark_point(filled=True, opacity=0.8)
        .encode(
            x=_DAY,
            y=alt.Y("class:N", sort=None, title=None, axis=_NAMES),
            size=alt.Size("events:Q", legend=None),
            color=alt.Color(
                "type:N",
                title=None,
                scale=alt.Scale(range=[ORANGE, BLUE]),
                legend=alt.Legend(orient="top"),
            ),
            shape=alt.Shape("type:N", title=None),
            tooltip=_tips("day:T", "class:N", "type:N", "events:Q"),
        )
    )
    return Chart(chart, words)
