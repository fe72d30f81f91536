"""The job `backup`: the command's backup, into the folder that is set."""

from pathlib import Path

import dagster as dg
import pytest

from orchestration.backup import folder as folders
from tests.support.builders import Warehouse, ping

pytestmark = pytest.mark.long


def test_it_backs_up_into_the_folder_that_is_set_and_says_which_is_missing(
    warehouse: Warehouse, dbt: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.definitions import defs

    warehouse.land([ping("e1")])
    monkeypatch.setenv("LMS_WAREHOUSE", str(warehouse.path))
    job = defs.resolve_job_def("backup")
    with dg.instance_for_test() as instance:
        failed = job.execute_in_process(instance=instance, raise_on_error=False)
        monkeypatch.setenv("LMS_BACKUP", str(tmp_path / "backups"))
        result = job.execute_in_process(instance=instance)
    assert not failed.success
    assert result.success
    assert folders.numbers(tmp_path / "backups") == [1]
    [made] = result.asset_materializations_for_node("backup__warehouse")
    assert made.metadata["through_load"].value == 1


def test_its_schedule_is_off_until_somebody_switches_it_on(dbt: None) -> None:
    from orchestration.definitions import defs

    schedule = defs.resolve_schedule_def("backup_schedule")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
