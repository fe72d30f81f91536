"""Writes docs/performance.md and its plots from the benchmark's results.

    python -m benchmarks.report data/bench/results.json docs
    python -m benchmarks.report data/bench/huge.json docs --page growth

Text outside the markers of the page is kept: what a miss is due to is said there. What
each measure is made of is long, and has a page of its own, performance-profiles.md.
"""

import json
from enum import StrEnum
from html import escape
from pathlib import Path
from typing import Annotated, Any

import altair as alt
import typer
import vl_convert

Json = dict[str, Any]


class Page(StrEnum):
    """The part of the page that is written: what stands between its two markers."""

    RESULTS = "results"
    GROWTH = "growth"

    @property
    def begin(self) -> str:
        return f"<!-- {self}: written by benchmarks/report.py -->"

    @property
    def end(self) -> str:
        return f"<!-- end of {self} -->"


# What is drawn over the number of events.
GROWING = ("refresh_shell", "refresh_sql", "land_delta")

PAGE = f"""# Performance

`make bench-full` measures all of this and writes what stands between the markers.
`make bench` does it with up to 10 million events in some minutes, and writes no page.

Each measure is a pair that is run alternately on one machine: the product, and a floor,
which is the same work written by hand and no more (benchmarks/floors.py). The ratio is
of CPU seconds, user and system, of all threads and child processes: the median over the
pairs. Other work on the machine moves seconds; it moves both of a pair.

- Landing, hashing, reading and the SQL alone are measured around the call, in a process
  of their own: starting Python is in neither. Commands are measured as whole processes.
- "The SQL alone" is all that dbt sends for the models in a real refresh, metadata
  queries included, sent again by one process without dbt to a copy of the warehouse.
  The script beside it must leave tables that are equal row for row.
- The job runs as a run's worker executes it: a new process, `execute_in_process` with
  an instance of its own. It finds no new files, and counts and checks what it derived.
- "New events" are 100,000 lines as they are delivered: late, repeated and broken ones
  among them.
- Peak memory is that of the whole process.

![Ratio of each measure to its bar](performance.svg)

What each is made of: [performance-profiles.md](performance-profiles.md).

{Page.RESULTS.begin}
{Page.RESULTS.end}

## Growth

{Page.GROWTH.begin}
{Page.GROWTH.end}
"""

PROFILES = """# What each measure is made of

Written by `make bench-full` beside [performance.md](performance.md): where the seconds
of a measure go, in the order of the table there.
"""


def write(results: Path, docs: Path, page: Page = Page.RESULTS) -> None:
    """Writes one part of the page, and the files that belong to it."""
    found = json.loads(results.read_text())
    path = docs / "performance.md"
    text = path.read_text() if path.exists() else PAGE
    if page is Page.GROWTH:
        content = growth_table(found)
        (docs / "performance-growth.svg").write_text(growth_plot(found))
    else:
        content = table(found)
        (docs / "performance.svg").write_text(plot(found))
        (docs / "performance-profiles.md").write_text(f"{PROFILES}\n{profiles(found)}")
    before, rest = text.split(page.begin)
    after = rest.split(page.end)[1]
    path.write_text(f"{before}{page.begin}\n\n{content}\n{page.end}{after}")


def table(found: Json) -> str:
    """The results, as Markdown."""
    lines = [
        *_measured(found),
        "| measure | events | CPU s, wall s | floor | CPU s, wall s | peak | ratio "
        "(wall) | bar | |",
        "|---|--:|--:|---|--:|--:|--:|--:|---|",
        *(_row(result) for result in found["results"]),
    ]
    return "\n".join(lines) + "\n"


def _measured(found: Json) -> list[str]:
    on = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    sizes = ", ".join(f"{size:,}" for size in found["sizes"])
    return [
        f"Measured {found['at'][:10]} with {sizes} events and {found['new_events']:,} "
        f"new ones, in {found['seconds'] / 60:.0f} minutes, on: {on}.",
        "",
        *(
            ()
            if found["finished"]
            else ("**This run broke off: it is not whole.**", "")
        ),
    ]


def profiles(found: Json) -> str:
    """What each measure is made of, or has changed, as Markdown."""
    lines = _measured(found)
    for result in found["results"]:
        missed = [name for name, met in result["conditions"].items() if not met]
        title = f"**{result['product']['is']}, {_short(result['events'])}**"
        verdict = f"missed: {', '.join(missed)}" if missed else "met"
        lines.append(f"- {title}: {verdict}")
        lines += [f"  - {note}" for note in result["notes"]]
        for name, seconds in result["profile"].items():
            parts = "; ".join(
                f"`{where}` {value:.2f}" for where, value in seconds.items()
            )
            lines.append(f"  - {name}: {parts}")
    return "\n".join(lines) + "\n"


def _growing(found: Json) -> list[Json]:
    return [
        {
            "what": result["product"]["is"].replace("`", ""),
            "events": result["events"],
            "seconds": result["product"]["cpu"],
            "peak_mb": result["product"]["peak_mb"],
        }
        for result in found["results"]
        if result["name"] in GROWING
    ]


def growth_table(found: Json) -> str:
    """What new events cost on each history, and times the history before it."""
    lines = [
        *_measured(found),
        "| what | events | CPU s | times the history before | peak |",
        "|---|--:|--:|--:|--:|",
    ]
    before: dict[str, float] = {}
    for each in sorted(
        _growing(found), key=lambda each: (each["what"], each["events"])
    ):
        earlier = before.get(each["what"])
        times = "" if earlier is None else f"{each['seconds'] / earlier:.2f}"
        before[each["what"]] = each["seconds"]
        lines.append(
            f"| {each['what']} | {_short(each['events'])} | {each['seconds']:.2f} "
            f"| {times} | {each['peak_mb']:,.0f} MB |"
        )
    lines += ["", "![CPU seconds over the number of events](performance-growth.svg)"]
    return "\n".join(lines) + "\n"


def growth_plot(found: Json) -> str:
    """An SVG: CPU seconds of each over the number of events."""
    chart = (
        alt.Chart(alt.Data(values=_growing(found)))
        .mark_line(point=True)
        .encode(
            x=alt.X("events:Q", title="events in the history").scale(type="log"),
            y=alt.Y("seconds:Q", title="CPU seconds for the new events"),
            color=alt.Color("what:N", title=None).legend(orient="top"),
        )
        .properties(
            width=560, height=260, background="white", title="Cost over the history"
        )
    )
    svg: str = vl_convert.vegalite_to_svg(chart.to_dict())
    return svg


def _row(result: Json) -> str:
    product, floor = result["product"], result["floor"]
    wall = result["wall_ratio"]
    peak = f"{product['peak_mb']:,.0f} MB" if "peak_mb" in product else ""
    ratio = f"{result['ratio']:.2f}" + ("" if wall is None else f" ({wall:.2f})")
    cells = (
        product["is"],
        _short(result["events"]),
        _seconds(product),
        floor["is"],
        _seconds(floor),
        peak,
        ratio,
        f"{result['bar']:g}",
        "met" if result["met"] else "**missed**",
    )
    return f"| {' | '.join(cells)} |"


def _seconds(side: Json) -> str:
    return f"{side['cpu']:.2f}, {side['wall']:.2f}" if "cpu" in side else ""


def _short(events: int) -> str:
    if events >= 1_000_000:
        return f"{events / 1e6:g} M"
    return f"{events / 1e3:g} k"


_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .small { font-size: 11px; fill: #59636e }
  .title { font-size: 15px; font-weight: 600 }
  .grid { stroke: #d1d9e0 }
  .bar { stroke: #1f2328; stroke-width: 2 }
  .met { fill: #2c7a7b }
  .missed { fill: #c05621 }
  .back { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .small { fill: #9198a1 }
    .grid { stroke: #3d444d }
    .bar { stroke: #e6edf3 }
    .met { fill: #4fd1c5 }
    .missed { fill: #f6ad55 }
    .back { fill: #0d1117 }
  }
"""

_LEFT, _WIDTH, _RIGHT, _ROW, _TOP = 370, 420, 155, 26, 74

# Farther to the right a bar is cut off; its number says how far it goes.
_LARGEST = 3.0


def plot(found: Json) -> str:
    """Horizontal bars: each ratio as a share of its bar, which is the line at 1."""
    results = found["results"]
    bottom = _TOP + _ROW * len(results)
    height = bottom + 76
    width = _LEFT + _WIDTH + _RIGHT

    def x(share: float) -> float:
        return _LEFT + _WIDTH * min(share, _LARGEST) / _LARGEST

    def text(at: float, y: float, content: str, more: str = "") -> str:
        return f'<text x="{at:.0f}" y="{y:.0f}" {more}>{escape(content)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">',
        "<title>Ratio of each measure to its floor, as a share of its bar</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="back" width="{width}" height="{height}"/>',
        text(16, 26, "What each costs, as a share of what it may", 'class="title"'),
        text(
            16,
            46,
            "CPU seconds of the product over those of its floor, divided by the bar; "
            "left of the line is met",
            'class="small"',
        ),
    ]
    for share in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        kind = "bar" if share == 1 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{x(share):.0f}" x2="{x(share):.0f}" '
            f'y1="{_TOP - 10}" y2="{bottom}"/>'
        )
        label = "the bar" if share == 1 else f"{share:g}"
        parts.append(
            text(x(share), bottom + 16, label, 'class="small" text-anchor="middle"')
        )
    for number, result in enumerate(results):
        y = _TOP + _ROW * number
        share = result["ratio"] / result["bar"]
        kind = "met" if result["met"] else "missed"
        name = f"{result['product']['is'].replace('`', '')}, {_short(result['events'])}"
        parts += [
            text(_LEFT - 10, y + 13, name, 'text-anchor="end"'),
            f'<rect class="{kind}" x="{_LEFT}" y="{y}" '
            f'width="{x(share) - _LEFT:.0f}" height="{_ROW - 8}" rx="2"/>',
            # Apart from the bars: a line through a number is hard to read.
            text(
                _LEFT + _WIDTH + 12,
                y + 13,
                f"{result['ratio']:.2f} of {result['bar']:g}"
                + ("" if result["met"] else ", missed"),
            ),
        ]
    machine = found["machine"]
    parts += [
        text(_LEFT, bottom + 34, "share of the bar (no unit)", 'class="small"'),
        text(
            16,
            bottom + 52,
            f"{found['at'][:10]}; {machine['cores']} cores of {machine['CPU']}, "
            f"{machine['memory']}, {machine['system']}",
            'class="small"',
        ),
        text(
            16,
            bottom + 67,
            ", ".join(
                f"{name} {machine[name]}"
                for name in ("Python", "duckdb", "dbt-core", "dagster")
            ),
            'class="small"',
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main(
    results: Annotated[Path, typer.Argument(help="The results, as JSON.")],
    docs: Annotated[Path, typer.Argument(help="The folder of the page.")],
    page: Annotated[Page, typer.Option(help="Which part of it.")] = Page.RESULTS,
) -> None:
    """Writes a part of the page, and its plot."""
    write(results, docs, page)


if __name__ == "__main__":
    typer.run(main)
