"""The read API on the demo data: the numbers that SQL says, for whom may see them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ingest.store.database import utc_now
from serving.questions.course import without_small_losses
from serving.reader import FEWEST_LEARNERS, Reader
from tests.support.demo import NOW, Demo
from tests.support.reading import Reading, reading

COURSE, OTHER = "sql-first-query", "python-first-steps"
ODD = 'zoë "z" o\'neil; 🎓'

# What dbt's types are in JSON.
TYPES = {
    "varchar": {"string"},
    "integer": {"integer"},
    "bigint": {"integer"},
    "double": {"number"},
    "date": {"string"},
    "timestamp": {"string"},
    "varchar[]": {"array"},
}


@pytest.fixture(scope="module")
def api(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reading]:
    access = f"instructor,{COURSE},yes\nauthor,*,no\n"
    folder = tmp_path_factory.mktemp("api")
    with reading(demo.published, folder, access=access, now=NOW) as made:
        yield made


@pytest.fixture(scope="module")
def instructor(api: Reading) -> str:
    """Of one course."""
    return api.make_token("instructor")


@pytest.fixture(scope="module")
def author(api: Reading) -> str:
    """Of every course, without names."""
    return api.make_token("author")


def as_json(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the API writes them: times in UTC."""

    def plain(value: Any) -> str:
        text = str(value.isoformat())
        return f"{text}Z" if "T" in text else text

    return list(json.loads(json.dumps(rows, default=plain)))


def every_page(api: Reading, path: str, limit: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        answer = api.get(path, {"limit": limit, **after}).json
        rows += answer["rows"]
        assert len(answer["rows"]) <= limit
        if answer["next"] is None:
            return rows
        after = {"after": answer["next"]}


def models(api: Reading) -> list[str]:
    assert api.following.served
    return list(api.following.served.models)


def test_the_schema_of_each_model_is_its_contract_in_dbt(api: Reading) -> None:
    from orchestration.derive.dbt_runner import manifest_path

    manifest = json.loads(manifest_path().read_text())
    contracts = {
        node["alias"]: node
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model"
        and node["config"]["access"] == "public"
        and node["config"]["contract"]["enforced"]
    }
    document = api.get("/openapi.json").json
    schemas = document["components"]["schemas"]
    assert set(contracts) == set(schemas) - {"Error"} == set(models(api))
    for name, node in contracts.items():
        assert f"/v1/models/{name}" in document["paths"]
        schema = schemas[name]
        assert schema["required"] == list(node["columns"])
        assert schema["description"] == node["description"]
        for column, said in schema["properties"].items():
            contract = node["columns"][column]
            types = {said["type"]} if isinstance(said["type"], str) else {*said["type"]}
            assert said["description"] == contract["description"]
            assert types - {"null"} == TYPES[contract["data_type"]]
            assert ("null" in types) != (column in node["config"]["meta"]["key"])


def test_a_models_contract_is_what_its_relation_has(
    api: Reading, demo: Demo, reader: Reader
) -> None:
    """In the order of the columns, too; and no two rows share a key."""
    assert api.following.served
    for model in api.following.served.models.values():
        relation = f"{model.schema}.{model.name}"
        described = reader.rows(f"describe {relation}")
        assert [
            (row["column_name"], row["column_type"].lower()) for row in described
        ] == [(column.name, column.type) for column in model.columns]
        key = ", ".join(model.key) or "1"
        assert not reader.rows(
            f"select {key} from {relation} group by all having count(*) > 1"
        )


def test_the_pages_of_each_model_have_every_row_once(
    api: Reading, reader: Reader
) -> None:
    assert api.following.served
    for model in api.following.served.models.values():
        rows = reader.rows(f"from {model.schema}.{model.name} order by all")
        limit = max(3, len(rows) // 3)
        found = every_page(api, f"/v1/models/{model.name}", limit)
        assert len(found) == len(rows), model.name
        key = [json.dumps([row[name] for name in model.key]) for row in found]
        assert len({*key}) == len(rows), model.name
        for row in as_json(rows):
            assert row in found, model.name


@pytest.mark.parametrize(
    ("path", "sql"),
    [
        ("/v1/progress", "from progress.v_user_progress order by user_id, class_id"),
        (
            f"/v1/courses/{COURSE}/progress",
            "from analytics.v_course_progress where course_id = $c order by user_id",
        ),
        (
            f"/v1/courses/{COURSE}/funnel",
            "from analytics.v_course_funnel where course_id = $c order by step",
        ),
        ("/v1/leaderboard", "from analytics.v_leaderboard_v2 order by rank, user_id"),
        (
            "/v1/at-risk",
            "from analytics.v_learner_at_risk order by user_id, course_id, reason",
        ),
    ],
)
def test_an_endpoint_answers_with_the_rows_that_sql_says(
    api: Reading, reader: Reader, path: str, sql: str
) -> None:
    rows = as_json(reader.rows(sql, c=COURSE))
    assert len(rows) > 2
    assert every_page(api, path, 20) == rows
    answer = api.get(path).json
    assert answer["load_id"] == reader.load_id
    assert answer["published_at"] == f"{reader.published_at.isoformat()}Z"


def test_the_progress_of_each_learner_is_as_sql_says(
    api: Reading, reader: Reader
) -> None:
    """It comes from memory."""
    rows = as_json(
        reader.rows("from progress.v_user_progress order by user_id, class_id")
    )
    learners = {row["user_id"] for row in rows}
    assert ODD in learners
    for user_id in learners:
        own = [row for row in rows if row["user_id"] == user_id]
        for query, learner in (({"user_id": user_id}, None), ({}, user_id)):
            found = api.rows("/v1/progress", {**query, "limit": 1000}, learner=learner)
            assert found == own
        one = {"user_id": user_id, "class_id": own[-1]["class_id"]}
        assert api.rows("/v1/progress", one) == own[-1:]
    assert api.rows("/v1/progress", {"user_id": "nobody"}) == []


def test_all_of_one_learner_is_in_one_answer(api: Reading, reader: Reader) -> None:
    found = api.get(f"/v1/learners/{quote(ODD, safe='')}").json
    for part, relation in (
        ("progress", "progress.v_user_progress"),
        ("courses", "analytics.v_course_progress"),
        ("videos", "analytics.v_video_engagement"),
        ("signals", "signals.lms_signal"),
        ("needs_help", "analytics.v_learner_at_risk"),
        ("streak", "analytics.v_learner_streak"),
        ("badges", "analytics.v_badge_award"),
        ("skills", "analytics.v_skill_mastery"),
        ("leaderboard", "analytics.v_leaderboard_v2"),
    ):
        rows = as_json(reader.rows(f"from {relation} where user_id = $u", u=ODD))
        assert len(found[part]) == len(rows), part
        assert all(row in found[part] for row in rows), part
    assert len(found["signals"]) > 1
    assert api.get("/v1/learners/nobody").status == 404


def test_a_learner_token_reads_what_is_of_its_own_learner_only(api: Reading) -> None:
    card = api.make_token("all-cards", needs_learner=True)
    assert api.settings.access
    with api.settings.access.open("a") as file:
        file.write("all-cards,*,no\n")

    def get(path: str, query: dict[str, str] | None = None) -> Any:
        return api.get(path, query, token=card, learner=ODD)

    assert api.following.served
    for name, model in api.following.served.models.items():
        answer = get(f"/v1/models/{name}", {"limit": "1000"})
        if "user_id" in model:
            assert {row["user_id"] for row in answer.json["rows"]} <= {ODD}
            others = get(f"/v1/models/{name}", {"user_id": "learner-0016"})
            assert others.json["rows"] == []
        else:
            assert answer.status == 403
    assert {row["user_id"] for row in get("/v1/leaderboard").json["rows"]} == {ODD}
    assert get(f"/v1/courses/{COURSE}/funnel").status == 403
    assert get("/v1/learners/learner-0016").status == 403
    own = get(f"/v1/learners/{quote(ODD, safe='')}")
    assert own.status == 200
    assert "learner-0" not in own.body.decode()


def test_a_scope_of_one_course_reads_that_course_only(
    api: Reading, instructor: str, reader: Reader
) -> None:
    classes = {
        row["class_id"]
        for row in reader.rows(
            "select class_id from catalogue.catalogue_class where course_id = $c",
            c=COURSE,
        )
    }
    assert api.following.served
    for name, model in api.following.served.models.items():
        answer = api.get(f"/v1/models/{name}", {"limit": 1000}, token=instructor)
        if not {"course_id", "class_id"} & {each.name for each in model.columns}:
            assert answer.status == 403, name
            continue
        for row in answer.json["rows"]:
            of_course = row.get("course_id") == COURSE
            assert of_course or row["class_id"] in classes, (name, row)
    assert api.rows(f"/v1/courses/{COURSE}/funnel", token=instructor)
    assert api.get(f"/v1/courses/{OTHER}/funnel", token=instructor).status == 404
    assert api.get(f"/v1/courses/{OTHER}/funnel").status == 200
    assert api.get("/v1/courses/none/funnel").status == 404
    both = {"user_id": "learner-0012"}
    seen = api.rows("/v1/progress", both, token=instructor)
    assert 0 < len(seen) < len(api.rows("/v1/progress", both))
    record = api.get("/v1/learners/learner-0012", token=instructor).json
    assert {row["course_id"] for row in record["courses"]} == {COURSE}
    assert record["streak"] is record["badges"] is record["leaderboard"] is None


def test_who_may_not_see_names_reads_no_learner_and_no_cell_of_few(
    api: Reading, author: str
) -> None:
    assert api.following.served
    for name, model in api.following.served.models.items():
        answer = api.get(f"/v1/models/{name}", {"limit": 1000}, token=author)
        if "user_id" in model:
            assert answer.status == 403, name
            continue
        whole = api.rows(f"/v1/models/{name}", {"limit": 1000})
        if name == "v_course_funnel":
            assert answer.json["rows"] == without_small_losses(whole) != whole
            continue
        for row, full in zip(answer.json["rows"], whole, strict=True):
            assert [row[key] for key in model.key] == [full[key] for key in model.key]
            if any(0 < full[count] < FEWEST_LEARNERS for count in model.learner_counts):
                assert {row[count] for count in model.learner_counts} == {None}
            else:
                assert row == full
    path = f"/v1/courses/{COURSE}/funnel"
    steps = api.rows(path, token=author)
    first = api.get(path, {"limit": 2}, token=author).json
    rest = api.rows(path, {"after": first["next"]}, token=author)
    assert first["rows"] + rest == steps
    assert api.rows(path, {"step": "2"}, token=author) == steps[1:2]
    assert api.get(f"/v1/learners/{quote(ODD)}", token=author).status == 403
    assert api.get(f"/v1/courses/{COURSE}/progress", token=author).status == 403


def test_what_depends_on_the_time_is_another_answer_each_minute(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reading(demo.published, tmp_path) as api:
        changing, lasting = "/v1/at-risk", f"/v1/courses/{COURSE}/funnel"
        before = {path: api.get(path).headers["etag"] for path in (changing, lasting)}
        later = utc_now().replace(year=2100)
        monkeypatch.setattr("serving.api.app.utc_now", lambda: later)
        assert api.get(lasting).headers["etag"] == before[lasting]
        assert api.get(changing).headers["etag"] != before[changing]
