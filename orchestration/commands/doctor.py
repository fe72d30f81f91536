"""What needs a hand: `warehouse doctor`."""

from typing import Annotated

import typer

from orchestration.commands.terminal import (
    AsJson,
    errors,
    output,
    print_json,
    print_table,
    settings,
)

commands = typer.Typer()


@commands.command("doctor")
def doctor_command(
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read every block of the files.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at everything an operator would look at. Exit code 1 if it needs a hand.

    Nothing is changed, and nobody is waited for.
    """
    from orchestration.doctor import doctor

    found = doctor.look(settings(), read_all=not quick)
    problems = [each for each in found if each.level == "problem"]
    if as_json:
        print_json({"needs_a_hand": bool(problems), "findings": found})
    else:
        print_table(
            "",
            ["", "where", "what"],
            [(each.level, each.area, each.found) for each in found if not each.to_do],
        )
        for each in found:
            if each.level == "note" and each.to_do:
                output.print(
                    f"note: {each.area}: {each.found}; {each.to_do}",
                    markup=False,
                    soft_wrap=True,
                )
        for each in problems:
            errors.print(f"problem: {each.area}: {each.found}; {each.to_do}")
    if problems:
        raise typer.Exit(1)
