import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ingest.errors import WarehouseError
from orchestration.snapshot import snapshot
from serving import LmsWarehouse
from serving.published import snapshot_path
from tests.support.builders import Class, Warehouse, ping, quiz


@pytest.fixture(scope="module")
def published(
    derived_nothing: Warehouse, tmp_path_factory: pytest.TempPathFactory
) -> LmsWarehouse:
    warehouse = derived_nothing.copied(tmp_path_factory.mktemp("published"))
    warehouse.land_catalogue(Class("c1", has_quiz=1), Class("c2"))
    warehouse.land(
        [
            ping("e1", position=10),
            ping("e2", position=95, at="2026-03-10T11:00:00Z"),
            quiz("e3", score=8),
            ping("e4", user="o'neil", in_class="c2", position=50),
        ]
    )
    warehouse.refresh()
    snapshot.publish(warehouse.path)
    return LmsWarehouse(warehouse.path)


def test_progress_is_a_data_frame_of_the_contract(published: LmsWarehouse) -> None:
    frame = published.progress()
    assert list(frame.columns) == [
        *("user_id", "class_id", "course_id", "video_max_position_sec"),
        *("video_completed", "quiz_passed", "quiz_score"),
    ]
    assert frame["user_id"].tolist() == ["o'neil", "u1"]
    [one] = published.progress(user_id="o'neil").to_dict("records")
    assert (one["class_id"], one["video_max_position_sec"]) == ("c2", 50)
    assert published.progress(user_id="u1", class_id="c2").empty


def test_the_leaderboard_starts_with_the_first_rank(published: LmsWarehouse) -> None:
    frame = published.leaderboard()
    assert frame["rank"].is_monotonic_increasing
    assert frame["user_id"].iloc[0] == "u1"


def test_a_row_leads_to_its_events(published: LmsWarehouse) -> None:
    row = published.progress(user_id="u1").iloc[0]
    assert published.events(row)["event_id"].tolist() == ["e1", "e3", "e2"]
    signals = published.signals(user_id="u1", signal_type="VIDEO_COMPLETED")
    assert len(signals) == 1
    signal = signals.iloc[0]
    assert published.events(signal)["event_id"].tolist() == ["e2"]
    assert signal["occurred_at"] == pd.Timestamp("2026-03-10 11:00")


def test_a_query_takes_parameters_and_its_error_is_one_line(
    published: LmsWarehouse,
) -> None:
    frame = published.query("select $1 as learner, 1 as n", ["o'neil"])
    assert frame.to_dict("records") == [{"learner": "o'neil", "n": 1}]
    with pytest.raises(WarehouseError, match="nowhere") as error:
        published.query("from nowhere")
    assert "\n" not in str(error.value)


def test_without_a_snapshot_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="run `warehouse refresh`"):
        LmsWarehouse(tmp_path / "none.duckdb").progress()


ROOT = Path(__file__).parents[2]

# What a client of another language does: it opens the file and asks.
OLD_CLIENT = """
import duckdb, json, sys
connection = duckdb.connect(sys.argv[1], read_only=True)
found = {"version": duckdb.__version__}
for schema, name in connection.execute(
    "select table_schema, table_name from information_schema.tables"
).fetchall():
    rows = connection.execute(f'select * from "{schema}"."{name}"').fetchall()
    found[f"{schema}.{name}"] = len(rows)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def oldest_reader() -> Path:
    """Where the oldest client is, installed once; its file says which."""
    folder, wanted = ROOT / ".oldest-reader", "tests/requirements-oldest-reader.txt"
    made = folder / wanted
    if not made.exists() or made.read_bytes() != (ROOT / wanted).read_bytes():
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--upgrade"),
                *("--no-deps", "--require-hashes", "--disable-pip-version-check"),
                *("--target", str(folder), "--requirement", wanted),
            ],
            cwd=ROOT,
            check=True,
        )
        made.parent.mkdir(exist_ok=True)
        made.write_bytes((ROOT / wanted).read_bytes())
    return folder


def test_an_old_client_reads_every_table_and_view(
    published: LmsWarehouse, oldest_reader: Path
) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", OLD_CLIENT, str(snapshot_path(published.path))],
        env={**os.environ, "PYTHONPATH": str(oldest_reader)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    found = json.loads(asked.stdout)
    assert found.pop("version") == "1.1.3"
    assert len(found) > 50
    for name, count in found.items():
        assert len(published.query(f"from {name}")) == count, name
