"""The executor of every run: in process, and never waiting for a run that is dead.

A step that writes takes the one place of the pool, and a run that is killed keeps it.
Run monitoring frees it, but only where the daemon runs: without one, the next run from
a shell waited for minutes. So a run holds a lock for as long as its process lives, and
each run frees the places of those whose lock nobody holds.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import dagster as dg
import filelock

from ingest.store import files
from orchestration.defs.resources import POOL
from orchestration.runs import alive

logger = logging.getLogger(__name__)

LOOK_EVERY_SEC = 5.0


def free_places_of_the_dead(instance: dg.DagsterInstance) -> list[str]:
    """The runs whose places in the pool were freed: their processes are gone.

    A run without a lock file is left to run monitoring: an earlier version made it.
    """
    freed = []
    storage = instance.event_log_storage
    for run_id in {
        *(slot.run_id for slot in storage.get_concurrency_info(POOL).claimed_slots)
    }:
        path = alive.folder(instance) / run_id
        if not path.exists():
            continue
        with contextlib.suppress(filelock.Timeout), files.lock(path, wait_sec=0):
            storage.free_concurrency_slots_for_run(run_id)
            path.unlink(missing_ok=True)
            freed.append(run_id)
            logger.warning(
                "run %s: its process is gone; its place in the pool %s is free",
                run_id,
                POOL,
            )
    return freed


class _Alive(dg.Executor):
    """Another executor, whose run is seen to be alive and waits for no dead one."""

    def __init__(self, executor: dg.Executor) -> None:
        self._executor = executor

    @property
    def retries(self) -> Any:
        return self._executor.retries

    @property
    def step_dependency_config(self) -> Any:
        return self._executor.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[Any]:
        instance = plan_context.instance
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(LOOK_EVERY_SEC):
                with contextlib.suppress(Exception):  # the storage is busy: next time
                    free_places_of_the_dead(instance)

        with alive.holding(instance, plan_context.dagster_run.run_id):
            free_places_of_the_dead(instance)
            watch = threading.Thread(target=look, name="dead runs", daemon=True)
            watch.start()
            try:
                yield from self._executor.execute(plan_context, execution_plan)
            finally:
                ended.set()
                watch.join()


@dg.executor(  # type: ignore[call-overload, untyped-decorator]
    name="in_process", config_schema=dg.in_process_executor.config_schema
)
def in_process(context: dg.InitExecutorContext) -> dg.Executor:
    """All steps in one process."""
    create = dg.in_process_executor.executor_creation_fn
    assert create is not None
    return _Alive(create(context))


@dg.definitions
def executor() -> dg.Definitions:
    # One writer: more processes would only wait for each other, and cost 8 CPU-seconds.
    return dg.Definitions(executor=in_process)
