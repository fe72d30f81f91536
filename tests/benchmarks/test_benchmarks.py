"""The benchmark at a tiny size: its floors must stay equal to the models."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import report
from benchmarks.bench import BY_NAME

pytestmark = pytest.mark.long

PROJECT = Path(__file__).parents[2]

OF_A_SHELL = {"refresh_shell", "refresh_nothing", "refresh_job", "growth_shell"}


def measure(folder: Path, *options: str) -> dict[str, Any]:
    results = folder / "results.json"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.bench", "--repeat", "1"),
            *("--slice", "4k", "--delta", "300", "--scratch", str(folder)),
            *("--results", str(results), *options),
        ],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert [path.name for path in folder.iterdir()] == ["results.json"]
    found: dict[str, Any] = json.loads(results.read_text())
    return found


@pytest.fixture(scope="module")
def measured(dbt: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All but what starts commands: dbt runs twice, not ten times."""
    return measure(
        tmp_path_factory.mktemp("bench"),
        *("--sizes", "2k,20k", "--only", "land,rebuild,delta,sql"),
    )


@pytest.mark.parametrize("name", ["rebuild", "refresh_sql"])
def test_the_floor_leaves_the_tables_that_the_models_leave(
    measured: dict[str, Any], name: str
) -> None:
    [result] = [each for each in measured["results"] if each["name"] == name]
    assert result["conditions"]["equal row for row"], result["notes"]
    rows = [note for note in result["notes"] if note.endswith(" rows")]
    assert [note for note in rows if ": 0 rows" in note] == []
    assert len(rows) == 7


def test_every_measure_of_a_part_is_in_the_results(measured: dict[str, Any]) -> None:
    assert measured["finished"]
    assert {result["name"] for result in measured["results"]} == (
        BY_NAME.keys() - OF_A_SHELL - {"growth_sql"}
    )
    assert all(result["ratio"] > 0 for result in measured["results"])


def test_the_page_keeps_what_was_written_by_hand(
    measured: dict[str, Any], tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps(measured))
    report.write(results, tmp_path)
    page = tmp_path / "performance.md"
    page.write_text(page.read_text() + "\nThe reason of a miss.\n")
    report.write(results, tmp_path)
    text = page.read_text()
    assert text.endswith("\nThe reason of a miss.\n")
    assert text.count("| land a dirty file into an empty warehouse |") == 1
    profiles = (tmp_path / "performance-profiles.md").read_text()
    assert profiles.count("**land a dirty file into an empty warehouse, 2 k**") == 1
    plot = ElementTree.fromstring((tmp_path / "performance.svg").read_text())
    labels = " ".join(element.text or "" for element in plot.iter())
    assert all(
        result["product"]["is"].replace("`", "") in labels
        for result in measured["results"]
    )


def test_growth_is_what_new_events_cost_on_each_history(tmp_path: Path) -> None:
    measured = [(10_000_000, 4.0), (50_000_000, 5.0), (200_000_000, 6.0)]
    found = {
        "at": "2026-01-01T00:00:00",
        "sizes": [events for events, _ in measured],
        "new_events": 100_000,
        "seconds": 60,
        "finished": True,
        "machine": {"cores": "2"},
        "results": [
            {
                "name": "refresh_shell",
                "events": events,
                "product": {"is": "`refresh`", "cpu": cpu, "peak_mb": 300},
            }
            for events, cpu in measured
        ],
    }
    results = tmp_path / "results.json"
    results.write_text(json.dumps(found))
    report.write(results, tmp_path, report.Page.GROWTH)
    rows = [
        line.split("|")[2:5]
        for line in (tmp_path / "performance.md").read_text().splitlines()
        if line.startswith("| refresh |")
    ]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["10 M", "4.00", ""],
        ["50 M", "5.00", "1.25"],
        ["200 M", "6.00", "1.20"],
    ]
    plot = ElementTree.fromstring((tmp_path / "performance-growth.svg").read_text())
    marks = [
        mark.get("aria-label", "")
        for mark in plot.iter()
        if mark.get("aria-roledescription") == "point"
    ]
    assert len(marks) == 3


@pytest.mark.slow
def test_every_measure_is_in_the_results(tmp_path: Path) -> None:
    found = measure(tmp_path, "--sizes", "2k,4k,20k")
    assert {result["name"] for result in found["results"]} == BY_NAME.keys()
