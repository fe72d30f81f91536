"""The demonstration data, derived and published once for all tests of what reads it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.demo import write_demo_data
from ingest.landing import event_files
from ingest.landing.catalogue import land_catalogue
from orchestration.snapshot import snapshot
from serving.access import Scope
from serving.reader import Reader
from tests.support.builders import MadeOnce, Warehouse
from tests.support.demo import NOW, Demo


@pytest.fixture(scope="session")
def demo(
    dbt: None, made_once: MadeOnce, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Demo]:
    made = Warehouse(made_once("demo", _make_demo))
    warehouse = Warehouse(tmp_path_factory.mktemp("demo"))
    shutil.copy(made.path, warehouse.path)
    snapshot.publish(warehouse.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMS_WAREHOUSE", str(warehouse.path))
        patch.delenv("LMS_PUBLISHED", raising=False)
        patch.setenv("LMS_NOW", NOW)
        yield Demo(warehouse)


def _make_demo(folder: Path) -> None:
    landing, warehouse = folder / "landing", Warehouse(folder)
    write_demo_data(landing)
    for file in sorted((landing / "catalogue").iterdir()):
        land_catalogue(file, warehouse.path)
    event_files.land(event_files.event_files([landing / "events"]), warehouse.path)
    warehouse.refresh(now="")


@pytest.fixture
def reader(demo: Demo) -> Iterator[Reader]:
    """Of everything."""
    with demo.follower().reader(Scope()) as reader:
        yield reader
