"""Deriving: `warehouse refresh`, `warehouse rebuild` and `warehouse check`."""

from typing import TYPE_CHECKING, Any

import typer

from orchestration.commands.terminal import (
    AsJson,
    errors,
    output,
    print_json,
    settings,
    short_path,
)

if TYPE_CHECKING:
    from orchestration.derive.dbt_runner import Derivation

commands = typer.Typer()


@commands.command()
def refresh(as_json: AsJson = False) -> None:
    """Bring everything derived up to date, incrementally."""
    _refresh(rebuild=False, as_json=as_json)


@commands.command()
def rebuild(as_json: AsJson = False) -> None:
    """Derive everything again from raw."""
    _refresh(rebuild=True, as_json=as_json)


@commands.command()
def check(as_json: AsJson = False) -> None:
    """Run every data test, those that scan the whole history too."""
    from orchestration.derive import dbt_runner

    checked = dbt_runner.check(settings().warehouse)
    _report(checked, checked.as_json() if as_json else None)


def _refresh(*, rebuild: bool, as_json: bool) -> None:
    from orchestration.refresh import refresh

    result = refresh(settings().warehouse, rebuild=rebuild)
    _report(result.derivation, result.as_json() if as_json else None)
    if result.snapshot and not as_json:
        done = "published" if result.snapshot.is_new else "as published"
        output.print(
            f"{done} {result.snapshot.published_at:%Y-%m-%d %H:%M:%S} (UTC), "
            f"through load {result.snapshot.load_id}: "
            f"{short_path(result.snapshot.path)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _report(derivation: "Derivation", as_json: dict[str, Any] | None) -> None:
    """Prints what dbt did, or `as_json` instead; exits with 1 if it failed."""
    summary = derivation.as_json()
    if as_json is not None:
        print_json(as_json)
    elif derivation.nothing_new:
        output.print(f"nothing new, {summary['seconds']:.1f} s")
    else:
        output.print(
            f"{summary['models']} models"
            + (", views as they were" if derivation.views_unchanged else "")
            + f", {summary['tests']} tests, {summary['seconds']:.1f} s"
            + ("" if derivation.succeeded else ", with failures")
        )
        for node in derivation.nodes:
            if node.warned:
                output.print(f"warning: {node.name}: {node.message}", markup=False)
    for node in derivation.failures:
        message = " ".join((node.message or "").split())
        errors.print(f"error: {node.name}: {message}")
    if summary["skipped"]:
        errors.print(f"skipped because of that: {', '.join(summary['skipped'])}")
    if not derivation.succeeded:
        raise typer.Exit(1)
