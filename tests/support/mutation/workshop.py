"""A copy of the project in which one text at a time is another, and the tests run.

Each mutant has a process of its own, forked from one that has imported what takes long
and nothing of the project. What is mutated is the copy; the project is only read.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

OURS = ("ingest", "orchestration", "serving", "tests")
COPIED = (*OURS, "benchmarks", "dbt_project", "docs", "pyproject.toml", "README.md")
# Ends with 0 if the tests passed; runs in the process of the mutant, in the copy.
Step = Callable[[], int]


@dataclass(frozen=True)
class Mutant:
    """`new` stands from `start` to `end` of the file's text."""

    file: str
    rule: str
    start: int
    end: int
    new: str

    def applied(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.end :]

    def shown(self, text: str) -> str:
        """Where it is, and the line before and after."""
        number = text.count("\n", 0, self.start)
        before = text.splitlines()[number].strip()
        after = self.applied(text).splitlines()[number].strip()
        return f"{self.file}:{number + 1} {self.rule}: {before}  ->  {after}"


class Workshop:
    def __init__(self, project: Path, folder: Path) -> None:
        self.folder = folder
        unwanted = shutil.ignore_patterns("__pycache__", "target", "logs", "*.png")
        for name in COPIED:
            if (project / name).is_dir():
                shutil.copytree(project / name, folder / name, ignore=unwanted)
            elif (project / name).exists():
                shutil.copy(project / name, folder / name)

    @contextlib.contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """The file of the copy is the mutant's, and is put back whatever happens."""
        file = self.folder / mutant.file
        text = file.read_text()
        try:
            file.write_text(mutant.applied(text))
            yield
        finally:
            file.write_text(text)

    def is_killed(self, mutant: Mutant, steps: Sequence[Step], seconds: float) -> bool:
        """Whether a step fails, one after the other, or all take longer than that."""
        with self.mutated(mutant):
            return self.run(steps, seconds) != 0

    def run(self, steps: Sequence[Step], seconds: float) -> int | None:
        """0 if all steps passed, else what the first that did not ended with; None if
        they took too long. What the last one printed is in `log` of the folder."""
        until = time.monotonic() + seconds
        for step in steps:
            if code := self._run(step, until):
                return code
            if time.monotonic() > until:
                return None
        return 0

    def _run(self, step: Step, until: float) -> int:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                os._exit(self._in_the_child(step))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        try:
            while time.monotonic() < until:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.02)
            return 0
        finally:  # with all that it started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)

    def _in_the_child(self, step: Step) -> int:
        os.setsid()
        os.chdir(self.folder)
        log = os.open(self.folder / "log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for name in list(sys.modules):
            if name.split(".")[0] in OURS:
                del sys.modules[name]
        sys.path.insert(0, str(self.folder))
        # A file of the same size and second would be taken from the cache.
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        return step()
