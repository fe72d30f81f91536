"""The read API as a service: who may ask, and which snapshot an answer is of.

On snapshots by hand, without dbt.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from ingest.store.database import utc_now
from tests.support.collecting import call_app, environment, port_of
from tests.support.reading import Reading, publish_by_hand, reading

WAREHOUSE = Path(sys.executable).with_name("warehouse")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Reading]:
    with reading(publish_by_hand(tmp_path, 1), tmp_path / "api") as made:
        yield made


def test_who_has_no_token_or_one_that_only_sends_reads_nothing(api: Reading) -> None:
    sender = api.make_token("player", sources=["web"], reads=False)

    assert api.get("/v1/progress", token="lmsw_made-up").status == 401
    assert api.get("/v1/progress", token=sender).json == {
        "error": "this token may send, and read nothing"
    }
    assert asyncio.run(call_app(api.app, "GET", "/v1/progress")).status == 401


def test_who_the_access_file_does_not_name_reads_nothing(api: Reading) -> None:
    stranger = api.make_token("stranger")

    assert api.get("/v1/progress", token=stranger).status == 403
    assert api.rows("/v1/progress", token=stranger, learner="u1") == []
    assert api.get("/v1/learners/u1", token=stranger, learner="u1").status == 404


def test_an_edit_of_the_access_file_holds_at_once(api: Reading) -> None:
    pages = api.make_token("pages")
    assert api.get("/v1/progress", token=pages).status == 403
    assert api.settings.access
    with api.settings.access.open("a") as file:
        file.write("pages,k1,yes\n")
    assert len(api.rows("/v1/progress", token=pages)) == 15
    with api.settings.access.open("a") as file:
        file.write("pages,k2,perhaps\n")
    assert len(api.rows("/v1/progress", token=pages)) == 15
    assert "write yes or no" in api.get("/ready").body.decode()


def test_a_row_of_few_learners_loses_its_numbers_for_who_sees_no_names(
    api: Reading,
) -> None:
    assert api.settings.access
    with api.settings.access.open("a") as file:
        file.write("author,*,no\n")
    path = "/v1/models/v_quiz_difficulty"
    whole = api.rows(path)
    rows = api.rows(path, token=api.make_token("author"))
    assert [row["class_id"] for row in rows] == [f"c{count}" for count in range(7)]
    assert [rows[count] for count in (0, 5, 6)] == [whole[count] for count in (0, 5, 6)]
    for row in rows[1:5]:
        assert row["learner_count"] is row["pass_rate"] is None


def test_a_token_that_pages_have_reads_only_with_a_learner_token(api: Reading) -> None:
    card = api.make_token("card", needs_learner=True)

    assert api.get("/v1/progress", token=card).status == 401
    forged = {"Learner-Token": "a.b.c"}
    assert api.get("/v1/progress", token=card, headers=forged).status == 401


def test_a_token_has_so_many_requests_a_second(api: Reading) -> None:
    slow = api.make_token("all-slowly", rate=0.001)
    # A burst of 10 after a pause.
    statuses = [api.get("/v1/progress", token=slow).status for _ in range(11)]

    assert statuses == [403] * 10 + [429]
    answer = api.get("/v1/progress", token=slow)
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"limit": "0"}, "limit: give a number from 1 to 1000"),
        ({"limit": "1e2"}, "limit: give a number"),
        ({"after": "never"}, "after: give the `next`"),
        ({"after": "WyJhIl0"}, "after: give the `next`"),
        ({"learner": "u1"}, "learner: no filter of v_user_progress; there are user_id"),
    ],
)
def test_what_cannot_be_asked_is_said(
    api: Reading, query: dict[str, str], message: str
) -> None:
    answer = api.get("/v1/progress", query)
    assert answer.status == 400
    assert message in answer.json["error"]


def test_an_answer_that_the_client_has_is_not_sent_again(
    api: Reading, tmp_path: Path
) -> None:
    first = api.get("/v1/progress", {"user_id": "u1"})
    assert first.headers["last-modified"] == "Sun, 01 Mar 2026 12:01:00 GMT"

    def again(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return api.get("/v1/progress", {"user_id": "u1"}, headers=named).status

    tag = first.headers["etag"]
    for known in (tag, f'"x", W/{tag}', "*"):
        assert again(If_None_Match=known) == 304
    assert again(If_None_Match='"x"') == 200
    assert again(If_Modified_Since=first.headers["last-modified"]) == 304
    assert again(If_Modified_Since="Sun, 01 Mar 2026 12:00:59 GMT") == 200
    assert again(If_Modified_Since="yesterday") == 200

    publish_by_hand(tmp_path, 2)
    api.following.look()
    assert again(If_None_Match=tag) == 200
    assert again(If_Modified_Since=first.headers["last-modified"]) == 200


def test_another_reader_has_another_tag(api: Reading) -> None:
    tags = {
        api.get("/v1/progress", learner=learner).headers["etag"]
        for learner in (None, "u1", "u2")
    }
    assert len(tags) == 3


def test_a_catalogue_that_comes_into_force_changes_the_answer(tmp_path: Path) -> None:
    """No snapshot is published for it."""
    path = publish_by_hand(tmp_path, 1, catalogue_from="2026-03-05")
    tags = []
    for now in ("2026-03-04 00:00:00", "2026-03-06 00:00:00"):
        with reading(path, tmp_path / now[:10], now=now) as api:
            tags.append(api.get("/v1/progress").headers["last-modified"])
    assert tags == ["Sun, 01 Mar 2026 12:01:00 GMT", "Thu, 05 Mar 2026 00:00:00 GMT"]


def test_a_catalogue_comes_into_force_while_it_is_served(tmp_path: Path) -> None:
    soon = utc_now().replace(microsecond=0) + timedelta(seconds=3)
    path = publish_by_hand(tmp_path, 1, catalogue_from=f"{soon:%Y-%m-%d %H:%M:%S}")
    with reading(path, tmp_path / "api") as api:
        before = api.get("/v1/progress").headers["last-modified"]
        time.sleep(max(0, (soon - utc_now()).total_seconds()) + 0.1)
        api.following.look()
        after = api.get("/v1/progress").headers["last-modified"]
    assert before == "Sun, 01 Mar 2026 12:01:00 GMT"
    assert after == format_datetime(soon.replace(tzinfo=UTC), usegmt=True)


def test_no_answer_is_of_two_snapshots(tmp_path: Path) -> None:
    """Every row has the number of its load, by whichever way it is read."""
    with reading(publish_by_hand(tmp_path, 1, learners=50), tmp_path / "api") as api:

        def ask(number: int) -> None:
            query = ({"user_id": f"u{number % 50}"}, {"course_id": "k1"})[number % 2]
            answer = api.get("/v1/progress", query)
            assert answer.status == 200
            found = {row["video_max_position_sec"] for row in answer.json["rows"]}
            assert found == {answer.json["load_id"]}

        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, number) for number in range(300)]
            for load_id in range(2, 8):
                publish_by_hand(tmp_path, load_id, learners=50)
                api.following.look()
                (tmp_path / f"snapshot-{load_id - 1:08}.duckdb").unlink()
            for each in asked:
                each.result()
        assert api.get("/v1/progress").json["load_id"] == 7


def test_a_damaged_snapshot_leaves_the_one_before(api: Reading, tmp_path: Path) -> None:
    (tmp_path / "damaged.duckdb").write_bytes(b"no database")
    link = tmp_path / "warehouse.duckdb"
    link.unlink()
    link.symlink_to("damaged.duckdb")
    api.following.look()

    assert api.get("/v1/progress").json["load_id"] == 1
    ready = api.get("/ready")
    assert ready.status == 503
    assert "damaged.duckdb: damaged" in ready.json["problems"][0]
    assert b"read_api_snapshot_refused 1.0" in api.get("/metrics").body


def test_where_nothing_was_published_it_says_when_to_come_again(tmp_path: Path) -> None:
    with reading(tmp_path / "none.duckdb", tmp_path / "api") as api:
        answer = api.get("/v1/progress")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert api.get("/ready").status == 503
        assert "/v1/progress" not in api.get("/openapi.json").json["paths"]


def test_neither_log_nor_metrics_name_a_learner(
    api: Reading, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in ("/v1/learners/u1", "/v1/learners/nobody", "/v1/progress?user_id=u1"):
        api.get(path)
    said = api.get("/metrics").body.decode() + "".join(capfd.readouterr())
    assert 'path="/v1/learners/{user_id}"' in said
    assert "u1" not in said
    assert "nobody" not in said


def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    published = tmp_path / "published"
    published.mkdir()
    publish_by_hand(published, 1)
    given = {**os.environ, **environment(tmp_path)}
    made = subprocess.run(
        [WAREHOUSE, "tokens", "create", "pages", "--reads"],
        env=given,
        capture_output=True,
        text=True,
        check=True,
    )
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [WAREHOUSE, "serve", "--port", "0"], env=given, stderr=errors
        )
    try:
        port = port_of(lambda: process.poll() is None, log)
        request = Request(
            f"http://127.0.0.1:{port}/v1/progress?user_id=u1",
            headers={"Authorization": f"Bearer {made.stdout.strip()}"},
        )
        with urlopen(request, timeout=30) as answer:
            found = json.load(answer)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert datetime.fromisoformat(found["published_at"]).year == 2026
    assert [row["class_id"] for row in found["rows"]] == ["c0", "c1", "c2", "c3", "c4"]
