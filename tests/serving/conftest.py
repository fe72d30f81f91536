"""The demonstration data, derived and published once for all tests of what reads it."""

from collections.abc import Iterator

import pytest

from ingest.demo import write_demo_data
from ingest.landing import event_files
from ingest.landing.catalogue import land_catalogue
from orchestration.snapshot import snapshot
from serving.access import Scope
from serving.reader import Reader
from tests.support.builders import Warehouse
from tests.support.demo import NOW, Demo


@pytest.fixture(scope="session")
def demo(dbt: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    landing = folder / "landing"
    write_demo_data(landing)
    warehouse = Warehouse(tmp_path_factory.mktemp("demo_warehouse"))
    for file in sorted((landing / "catalogue").iterdir()):
        land_catalogue(file, warehouse.path)
    event_files.land(event_files.event_files([landing / "events"]), warehouse.path)
    warehouse.refresh(now="")
    snapshot.publish(warehouse.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMS_WAREHOUSE", str(warehouse.path))
        patch.delenv("LMS_PUBLISHED", raising=False)
        patch.setenv("LMS_NOW", NOW)
        yield Demo(warehouse)


@pytest.fixture
def reader(demo: Demo) -> Iterator[Reader]:
    """Of everything."""
    with demo.follower().reader(Scope()) as reader:
        yield reader
