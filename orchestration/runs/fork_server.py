"""The process that those of runs are forked from: it has imported what they need.

    python -m orchestration.runs.fork_server orchestration.definitions

Each line of its input are the arguments of a run, as `dagster api execute_run` takes
them; each is answered with the process id of the run, or with one line that begins with
`error` when nothing can be forked. It ends with its input, and a run that is under way
goes on.

A fork has only the thread that forked, so this process has no other: it opens no
warehouse and no instance. dbt leaves threads behind when it parses all of the project;
this process then begins anew, and finds it parsed.
"""

import importlib
import os
import signal
import sys

from ingest.errors import first_line

# To begin with one thread; an edit meanwhile makes dbt parse again.
_ATTEMPTS = 5


def import_all(definitions: str) -> None:
    """What a run would import and dbt would prepare by itself, which takes longer than
    most runs do."""
    importlib.import_module(definitions)

    from ingest.settings import Settings
    from orchestration.derive import dbt_runner

    arguments = ["parse", "--no-write-json"]
    dbt_runner.invoke(arguments, Settings.from_environment().warehouse)


def execute(arguments: str) -> None:
    """Executes a run in this process, and ends it."""
    from dagster._cli.api import execute_run_command

    # What a run reads is not the arguments of the next.
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    execute_run_command.main([arguments])


def has_one_thread() -> bool:
    return len(os.listdir("/proc/self/task")) == 1


def main() -> int:
    definitions, *attempts = sys.argv[1:]
    # An interrupt is for the runs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what imports say is no answer
    try:
        import_all(definitions)
        if not has_one_thread() and len(attempts) == _ATTEMPTS:
            raise RuntimeError("a library that runs import starts threads")
    except Exception as error:
        print(f"error: {first_line(error)}", file=answers, flush=True)
        raise
    if not has_one_thread():
        os.dup2(answers.fileno(), sys.stdout.fileno())
        os.execv(sys.executable, [*sys.orig_argv, "again"])
    while line := sys.stdin.readline():
        process = os.fork()
        if process == 0:
            answers.close()
            execute(line)
        print(process, file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
