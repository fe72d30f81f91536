"""A build that fails says once, in one line: what, where in which file, what to do."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ingest.errors import WarehouseError
from orchestration.derive import dbt_project, dbt_runner, failures
from orchestration.derive.dbt_runner import Derivation
from tests.support.builders import Warehouse, ping
from tests.support.edits import copied_project, edit

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def broken(
    derived_nothing: Warehouse, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Warehouse, Path]]:
    """A warehouse, and a project in which each of five things is wrong."""
    warehouse = derived_nothing.copied(tmp_path_factory.mktemp("broken"))
    warehouse.land([ping("e1", position=99)])
    project = copied_project(tmp_path_factory.mktemp("project"))
    monitoring = project / "models" / "monitoring"
    edit(
        project / "models/progress/v_user_progress.sql",
        "        activity.class_id,\n",
        "        activity.no_such_column as class_id,\n",
    )
    edit(monitoring / "v_user_activity.sql", "select", "selekt")
    edit(
        monitoring / "v_signal_summary.sql",
        "video_completed_count,",
        "video_completed_count, 1 as more,",
    )
    edit(monitoring / "v_event_daily_stats.sql", "select", "{{ nope() }} select")
    edit(monitoring / "_monitoring.yml", "rank >= 1", "rank > 3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dbt_project, "DBT_PROJECT", project)
        patch.setenv("DBT_TARGET_PATH", str(project / "target"))
        yield warehouse, project


@pytest.fixture(scope="module")
def derivation(broken: tuple[Warehouse, Path]) -> Derivation:
    models = ["v_user_progress", "v_user_activity", "v_signal_summary"]
    return dbt_runner.derive(
        broken[0].path, select=[*models, "v_event_daily_stats", "+v_leaderboard"]
    )


@pytest.fixture
def problems(derivation: Derivation) -> dict[str, str]:
    return {node.name: str(node.problem) for node in derivation.failures}


def test_a_line_of_the_file_is_named_where_it_is_found_again(
    problems: dict[str, str], broken: tuple[Warehouse, Path]
) -> None:
    file = broken[1] / "models/progress/v_user_progress.sql"
    lines = file.read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if "no_such_column" in line)
    problem = problems["v_user_progress"]
    assert problem.startswith(f"v_user_progress: {file}:{number}: Binder Error: ")
    assert problem.endswith("; mend it and run the same again")


def test_else_the_line_of_the_sql_that_ran_which_is_kept(
    problems: dict[str, str], broken: tuple[Warehouse, Path]
) -> None:
    kept = broken[1] / "target/failed/v_user_activity.sql"
    problem = problems["v_user_activity"]
    number = int(problem.split(f" of {kept})")[0].rpartition("(line ")[2])
    assert "selekt" in kept.read_text().splitlines()[number - 1]


def test_columns_that_are_not_the_contracts_are_named(
    problems: dict[str, str], broken: tuple[Warehouse, Path]
) -> None:
    yaml = broken[1] / "models/monitoring/_monitoring.yml"
    assert f"than its contract in {yaml}: more (" in problems["v_signal_summary"]


def test_rows_that_break_a_test_are_found_by_the_query_that_is_named(
    problems: dict[str, str], broken: tuple[Warehouse, Path]
) -> None:
    kept = broken[1] / "target/failed/v_leaderboard_key_and_conditions_hold.sql"
    problem = problems["v_leaderboard_key_and_conditions_hold"]
    assert "1 row of it should not be there" in problem
    assert f'`warehouse query --live "$(cat {kept})"`' in problem
    assert len(broken[0].rows(kept.read_text())) == 1


def test_it_is_said_once_in_one_line_each(
    problems: dict[str, str],
    broken: tuple[Warehouse, Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert "'nope' is undefined" in problems["v_event_daily_stats"]
    assert all("\n" not in problem for problem in problems.values())
    dbt_runner.derive(broken[0].path, select=["v_user_progress"])
    assert capfd.readouterr() == ("", "")


def test_a_wrong_time_zone_is_one_line(warehouse: Warehouse) -> None:
    with pytest.raises(WarehouseError) as caught:
        warehouse.refresh(time_zone="Europe/Nowhere")
    assert str(caught.value) == (
        "dbt: the variable time_zone is 'Europe/Nowhere', which is no time zone; give "
        "an IANA name, such as Europe/Berlin"
    )


def test_yaml_that_cannot_be_read_is_one_line_without_an_excerpt(
    warehouse: Warehouse, project: Path
) -> None:
    edit(project / "models/monitoring/_monitoring.yml", "models:", "models: [")
    with pytest.raises(WarehouseError, match=r"_monitoring\.yml.* line 2") as caught:
        warehouse.refresh()
    assert "---" not in str(caught.value)


def test_a_unit_test_whose_sql_fails_is_said_without_that_sql(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """dbt's node of a unit test has no SQL."""
    monkeypatch.setattr(dbt_project, "DBT_PROJECT", ROOT / "dbt_project")
    node = SimpleNamespace(
        name="a_ping", original_file_path="models/staging/_unit_tests.yml"
    )
    message = """Runtime Error in unit_test a_ping (models/staging/_unit_tests.yml)
  An error occurred during execution of unit test 'a_ping'.
  Binder Error: Referenced column "user_id" not found
  LINE 27:         user_id,
                   ^"""
    found = failures.problem(SimpleNamespace(node=node, message=message, failures=None))
    assert found.startswith("a_ping: dbt_project/models/staging/_unit_tests.yml: ")
    assert 'Binder Error: Referenced column "user_id" not found' in found
