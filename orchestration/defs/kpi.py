"""Key figures past their level, as a check that stays as it is until the next look."""

from collections.abc import Iterator

import dagster as dg

from ingest.settings import Settings
from ingest.store import database
from orchestration.defs.metadata import code_reference
from orchestration.defs.resources import OWNERS, POOL, one_line_failures

CHECK = "is_within_its_level"
KPIS = dg.AssetKey(["analytics", "kpis"])

# A view is materialised every few minutes, which turns its checks grey: this never is.
kpis = dg.AssetSpec(
    KPIS,
    deps=[dg.AssetKey(["analytics", "v_kpi"])],
    group_name="analytics",
    owners=OWNERS,
    kinds={"python"},
    metadata={"dagster/code_references": code_reference(__file__)},
    description="Whether the platform's key figures were within their levels when that "
    "was last looked at. No table: the place of a check that stays red.",
)


def past_their_level(row: dict[str, object]) -> tuple[list[str], dg.AssetCheckSeverity]:
    """Each figure of the row of `v_kpi` that is past its level, and the worst one."""
    levels = {
        name.removesuffix("_level"): level
        for name, level in row.items()
        if name.endswith("_level") and level != "ok"
    }
    severity = (
        dg.AssetCheckSeverity.ERROR
        if "critical" in levels.values()
        else dg.AssetCheckSeverity.WARN
    )
    lines = [f"{kpi} is {row[kpi]:.4g}: {level}" for kpi, level in levels.items()]
    return lines, severity


@dg.multi_asset_check(
    name="look_at_kpis",
    pool=POOL,
    specs=[
        dg.AssetCheckSpec(
            CHECK,
            asset=KPIS,
            description="A warning or an error, by the limits of the seed kpi_level.",
        )
    ],
)
def kpi_check(
    context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult]:
    """Reads `v_kpi`. A critical figure fails the run: it is in the failure alert."""
    with (
        one_line_failures(),
        database.open_for_reading(settings.warehouse) as connection,
    ):
        result = connection.execute("from analytics.v_kpi")
        names = [name for name, *_ in result.description or ()]
        [values] = result.fetchall()
    row = dict(zip(names, values, strict=True))
    found, severity = past_their_level(row)
    for line in found:
        context.log.warning(line)
    yield dg.AssetCheckResult(
        passed=not found,
        asset_key=KPIS,
        check_name=CHECK,
        severity=severity,
        metadata={name: str(value) for name, value in row.items()},
    )
    if found and severity == dg.AssetCheckSeverity.ERROR:
        raise dg.Failure("; ".join(found), allow_retries=False)
