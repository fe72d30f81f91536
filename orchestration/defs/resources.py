"""What assets and jobs share: settings, the writer's pool, how an error is told."""

import contextlib
from collections.abc import Iterator

import dagster as dg

from ingest.errors import WarehouseError, WarehouseLocked
from ingest.settings import Settings

# Steps that write to the warehouse are in this pool. It has one place, so that one of
# them runs at a time, whatever ticks together.
POOL = "duckdb"
RETRY_WAIT_SEC = 20
# As in dbt_project/models/_exposures.yml.
OWNERS = ["learning-data@example.org"]


class SettingsResource(dg.ConfigurableResource[Settings]):
    """The settings, read from the environment when a run or a tick begins."""

    def create_resource(self, context: dg.InitResourceContext) -> Settings:  # noqa: ARG002
        return Settings.from_environment()


@dg.definitions
def shared() -> dg.Definitions:
    """What every run has."""
    return dg.Definitions(resources={"settings": SettingsResource()})


@contextlib.contextmanager
def one_line_failures() -> Iterator[None]:
    """A locked warehouse is tried again, since whoever holds it lets go of it some
    time; nothing else is. What the user can mend is one line."""
    try:
        yield
    except WarehouseLocked as error:
        raise dg.RetryRequested(
            max_retries=3, seconds_to_wait=RETRY_WAIT_SEC
        ) from error
    except WarehouseError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
