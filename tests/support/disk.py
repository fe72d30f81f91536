# ruff: noqa: ARG002  # The calls of a file system have the arguments that they have.
"""A disk that fails on purpose, and forgets what was not synced: a file system in FUSE.

It is in memory, in a process of its own. Every call that changes something is counted;
the n-th one can fail, or cut the power. What is left after a cut is

- of a file: what was synced, and any part of what was written since, the last write
  perhaps torn;
- of names: what was synced, and the next changes in their order, up to a random one.

As on ext4, XFS and btrfs a sync of any file or folder syncs all names before it. With
`strict`, which POSIX allows, only the sync of a folder does, and only its own.
"""

import contextlib
import errno
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, Literal

# Debian's `fuse3` has it; without this the package would look for version 2 first.
_LIBRARY = "libfuse3.so.3"

Kind = Literal["eio", "enospc", "short", "cut"]


@dataclass(frozen=True)
class Fault:
    """What happens to the call number `at` (the first is 1), and if `lasting` to all
    after it. `short` writes half of what it should; of other calls it is `eio`."""

    at: int
    kind: Kind
    lasting: bool = False


# --- what is on the disk --------------------------------------------------------------

# A write at an offset, or a length to cut to.
Change = tuple[int, bytes] | int


@dataclass(eq=False)
class Node:
    number: int
    mode: int
    name: str = ""
    data: bytearray = field(default_factory=bytearray)
    names: dict[str, "Node"] = field(default_factory=dict)
    links: int = 1
    changed_ns: int = field(default_factory=time.time_ns)
    synced: bytearray = field(default_factory=bytearray)
    synced_names: dict[str, "Node"] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def change(self, change: Change) -> None:
        apply(self.data, change)
        self.pending.append(change)
        self.changed_ns = time.time_ns()

    def sync(self) -> None:
        for change in self.pending:
            apply(self.synced, change)
        self.pending.clear()

    def after_a_cut(self, random: Random) -> bytearray:
        """What was synced, with any part of what was not."""
        left = bytearray(self.synced)
        kept = random.choice([0.0, 0.5, 1.0])
        for number, change in enumerate(self.pending):
            if random.random() >= kept and kept < 1:
                continue
            is_last = number == len(self.pending) - 1
            if is_last and not isinstance(change, int) and random.random() < 0.5:
                offset, data = change
                change = (offset, data[: random.randrange(len(data) + 1)])
            apply(left, change)
        return left


def apply(data: bytearray, change: Change) -> None:
    if isinstance(change, int):
        data[change:] = bytes(max(0, change - len(data)))
    else:
        offset, written = change
        if len(data) < offset:
            data.extend(bytes(offset - len(data)))
        data[offset : offset + len(written)] = written


# A change of names: in which folder, which name, what it is of then.
Renaming = list[tuple[Node, str, Node | None]]


class Contents:
    """Every call of the file system, on memory; the calls that change are counted."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.clear()

    def clear(self) -> None:
        self.numbers = 1
        self.root = Node(1, stat.S_IFDIR | 0o755)
        self.journal: list[Renaming] = []
        self.open: dict[int, Node] = {}
        self.handles = 0
        self.fault: Fault | None = None
        self.calls: list[str] = []
        self.is_off = False

    # --- faults

    def arm(self, fault: Fault | None) -> None:
        self.fault, self.calls = fault, []

    def count(self, call: str, of: "str | Node", where: str = "") -> bool:
        """Notes a call; whether it is to be a short one. Raises what it fails with."""
        if self.is_off:
            raise OSError(errno.EIO, "the power is off")
        name = of.name if isinstance(of, Node) else of
        self.calls.append(f"{call} {name}{where}")
        fault, number = self.fault, len(self.calls)
        if fault and (number == fault.at or (fault.lasting and number > fault.at > 0)):
            if fault.kind == "cut":
                self.is_off = True
            if fault.kind == "short" and call == "write":
                return True
            full = fault.kind == "enospc"
            raise OSError(errno.ENOSPC if full else errno.EIO, "on purpose")
        return False

    # --- names

    def find(self, path: str) -> Node:
        if self.is_off:
            raise OSError(errno.EIO, "the power is off")
        node = self.root
        for name in filter(None, path.split("/")):
            if name not in node.names:
                raise OSError(errno.ENOENT, "no such name")
            node = node.names[name]
        return node

    def at(self, path: str | None, handle: int | None) -> Node:
        if handle and handle in self.open:
            return self.open[handle]
        assert path is not None
        return self.find(path)

    def parent(self, path: str) -> tuple[Node, str]:
        folder, _, name = path.rpartition("/")
        return self.find(folder), name

    def make(self, mode: int, name: str) -> Node:
        self.numbers += 1
        return Node(self.numbers, mode, name)

    def rename_all(self, changes: Renaming) -> None:
        for folder, name, node in changes:
            if node is None:
                folder.names.pop(name, None)
            else:
                folder.names[name] = node
            folder.changed_ns = time.time_ns()
        self.journal.append(changes)

    def sync_names(self, folder: Node | None) -> None:
        """Of one folder, or without one all."""
        kept = []
        for changes in self.journal:
            if folder is None or any(changed is folder for changed, _, _ in changes):
                put(changes, lambda node: node.synced_names)
            else:
                kept.append(changes)
        self.journal = kept

    # --- from and to a real folder

    def load(self, folder: str) -> None:
        """Has what the folder has, all of it synced."""
        self.clear()
        self._load(Path(folder), self.root)

    def _load(self, folder: Path, into: Node) -> None:
        for path in folder.iterdir():
            node = self.make(path.lstat().st_mode, path.name)
            if path.is_symlink():
                node.data = bytearray(os.readlink(path).encode())
            elif path.is_dir():
                self._load(path, node)
            else:
                node.data = bytearray(path.read_bytes())
                node.changed_ns = path.stat().st_mtime_ns
            node.synced = bytearray(node.data)
            into.names[path.name] = into.synced_names[path.name] = node

    def save(self, folder: str) -> None:
        """Writes what a process sees now."""
        _save(Path(folder), self.root, lambda node: (node.data, node.names))

    def survive(self, folder: str, seed: int) -> None:
        """Writes what a cut at this moment leaves."""
        random = Random(seed)
        names: dict[int, dict[str, Node]] = {}
        contents: dict[int, bytearray] = {}

        def names_of(node: Node) -> dict[str, Node]:
            return names.setdefault(node.number, dict(node.synced_names))

        def left(node: Node) -> tuple[bytearray, dict[str, Node]]:
            if node.number not in contents:
                contents[node.number] = node.after_a_cut(random)
            return contents[node.number], names_of(node)

        for changes in self.journal[: random.randint(0, len(self.journal))]:
            put(changes, names_of)
        _save(Path(folder), self.root, left)


def put(changes: Renaming, names_of: Callable[[Node], dict[str, Node]]) -> None:
    for folder, name, node in changes:
        if node is None:
            names_of(folder).pop(name, None)
        else:
            names_of(folder)[name] = node


def _save(
    folder: Path,
    node: Node,
    look: Callable[[Node], tuple[bytearray, dict[str, Node]]],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, child in look(node)[1].items():
        path = folder / name
        if child.is_folder:
            _save(path, child, look)
        elif stat.S_ISLNK(child.mode):
            path.symlink_to(look(child)[0].decode() or "torn")
        else:
            path.write_bytes(look(child)[0])
            os.utime(path, ns=(child.changed_ns, child.changed_ns))
        if not stat.S_ISLNK(child.mode):
            path.chmod(stat.S_IMODE(child.mode))


# --- the file system ------------------------------------------------------------------


def _operations(contents: Contents) -> Any:
    import mfusepy

    class Operations(mfusepy.Operations):  # type: ignore[misc]
        use_ns = True
        flag_nopath = flag_nullpath_ok = True

        def getattr(self, path: str | None, fh: int | None = None) -> dict[str, Any]:
            node = contents.at(path, fh)
            return {
                "st_ino": node.number,
                "st_mode": node.mode,
                "st_nlink": node.links,
                "st_size": len(node.data),
                "st_blocks": (len(node.data) + 511) // 512,
                "st_uid": os.getuid(),
                "st_gid": os.getgid(),
                **dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), node.changed_ns),
            }

        def readdir(self, path: str | None, fh: int) -> list[tuple[str, Any, int]]:
            folder = contents.at(path, fh)
            found = {".": folder, "..": folder, **folder.names}
            return [
                (name, {"st_ino": node.number, "st_mode": node.mode}, 0)
                for name, node in found.items()
            ]

        def opendir(self, path: str) -> int:
            return self._handle(contents.find(path))

        def releasedir(self, path: str | None, fh: int) -> int:
            return self.release(path, fh)

        def open(self, path: str, flags: int) -> int:
            node = contents.find(path)
            if flags & os.O_TRUNC and node.data:
                contents.count("truncate", path)
                node.change(0)
            return self._handle(node)

        def _handle(self, node: Node) -> int:
            contents.handles += 1
            contents.open[contents.handles] = node
            return contents.handles

        def release(self, path: str | None, fh: int) -> int:
            contents.open.pop(fh, None)
            return 0

        def create(self, path: str, mode: int, fi: Any = None) -> int:
            contents.count("create", path)
            folder, name = contents.parent(path)
            node = contents.make(stat.S_IFREG | stat.S_IMODE(mode), name)
            contents.rename_all([(folder, name, node)])
            return self._handle(node)

        def mkdir(self, path: str, mode: int) -> int:
            contents.count("mkdir", path)
            folder, name = contents.parent(path)
            node = contents.make(stat.S_IFDIR | stat.S_IMODE(mode), name)
            contents.rename_all([(folder, name, node)])
            return 0

        def symlink(self, target: str, source: str) -> int:
            contents.count("symlink", target)
            folder, name = contents.parent(target)
            node = contents.make(stat.S_IFLNK | 0o777, name)
            node.data = bytearray(source.encode())
            node.synced = bytearray(node.data)
            contents.rename_all([(folder, name, node)])
            return 0

        def readlink(self, path: str) -> str:
            return contents.find(path).data.decode()

        def link(self, target: str, source: str) -> int:
            contents.count("link", target)
            folder, name = contents.parent(target)
            node = contents.find(source)
            node.links += 1
            contents.rename_all([(folder, name, node)])
            return 0

        def unlink(self, path: str) -> int:
            contents.count("unlink", path)
            folder, name = contents.parent(path)
            contents.find(path).links -= 1
            contents.rename_all([(folder, name, None)])
            return 0

        def rmdir(self, path: str) -> int:
            if contents.find(path).names:
                raise OSError(errno.ENOTEMPTY, "not empty")
            contents.count("rmdir", path)
            folder, name = contents.parent(path)
            contents.rename_all([(folder, name, None)])
            return 0

        def rename(self, old: str, new: str) -> int:
            contents.count("rename", new)
            (from_, old_name), (to, new_name) = (
                contents.parent(old),
                contents.parent(new),
            )
            node = contents.find(old)
            node.name = new_name
            contents.rename_all([(from_, old_name, None), (to, new_name, node)])
            return 0

        def chmod(self, path: str | None, mode: int, fh: int | None = None) -> int:
            node = contents.at(path, fh)
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
            return 0

        def chown(self, path: str | None, uid: int, gid: int) -> int:
            return 0

        def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
            node = contents.find(path)
            node.changed_ns = times[1] if times else time.time_ns()
            return 0

        def truncate(self, path: str | None, length: int, fh: int | None = None) -> int:
            node = contents.at(path, fh)
            contents.count("truncate", node, f" to {length}")
            node.change(length)
            return 0

        def read(self, path: str | None, size: int, offset: int, fh: int) -> bytes:
            if contents.is_off:
                raise OSError(errno.EIO, "the power is off")
            return bytes(contents.at(path, fh).data[offset : offset + size])

        def write(self, path: str | None, data: bytes, offset: int, fh: int) -> int:
            node = contents.at(path, fh)
            where = f" {len(data)} at {offset}"
            if contents.count("write", node, where) and len(data) > 1:
                data = data[: len(data) // 2]
            node.change((offset, data))
            return len(data)

        def fsync(self, path: str | None, datasync: int, fh: int) -> int:
            node = contents.at(path, fh)
            contents.count("fsync", node)
            node.sync()
            if not contents.strict:
                contents.sync_names(None)
            return 0

        def fsyncdir(self, path: str | None, datasync: int, fh: int) -> int:
            folder = contents.at(path, fh)
            contents.count("fsyncdir", folder)
            contents.sync_names(folder if contents.strict else None)
            return 0

        def statfs(self, path: str) -> dict[str, int]:
            return {
                "f_bsize": 4096,
                "f_frsize": 4096,
                **dict.fromkeys(("f_blocks", "f_bfree", "f_bavail"), 2**22),
                **dict.fromkeys(("f_files", "f_ffree", "f_favail"), 2**20),
                "f_namemax": 255,
            }

    return Operations()


def _serve(folder: str, orders: Connection, strict: bool) -> None:
    import mfusepy

    contents = Contents(strict=strict)

    def obey() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                name, arguments = orders.recv()
                try:
                    made = getattr(contents, name)
                    result = made(*arguments) if callable(made) else made
                    orders.send((result, None))
                except Exception as error:
                    orders.send((None, repr(error)))

    class Fuse(mfusepy.FUSE):  # type: ignore[misc]
        def truncate_fuse_3(self, path: bytes | None, length: int, fip: Any) -> int:
            """With the handle, which the package leaves out."""
            handle = fip.contents.fh if fip else None
            return int(self.operations.truncate(path and path.decode(), length, handle))

    threading.Thread(target=obey, daemon=True).start()
    Fuse(
        _operations(contents),
        folder,
        foreground=True,
        nothreads=True,
        hard_remove=True,
        use_ino=True,
        entry_timeout=0,
        attr_timeout=0,
        negative_timeout=0,
        fsname="lms-torture",
    )


class Disk:
    """The disk, mounted at `folder`."""

    def __init__(self, folder: Path, orders: Connection) -> None:
        self.folder = folder
        self._orders = orders

    def _order(self, name: str, *arguments: Any) -> Any:
        self._orders.send((name, arguments))
        result, error = self._orders.recv()
        assert error is None, error
        return result

    def load(self, folder: Path) -> None:
        """It has what this folder has, synced, and no fault is armed."""
        self._order("load", str(folder))

    def arm(self, fault: Fault | None = None) -> None:
        """From here on calls are counted, and the fault happens."""
        self._order("arm", fault)

    def calls(self) -> list[str]:
        """Those that changed something since `arm`, with the path that each was of."""
        return list(self._order("calls"))

    def save(self, folder: Path) -> None:
        """What a process sees now, into a new folder."""
        self._order("save", str(folder))

    def survive(self, folder: Path, seed: int) -> None:
        """What a power cut at this moment leaves, into a new folder."""
        self._order("survive", str(folder), seed)


def what_is_missing() -> str | None:
    """Why no such disk can be made here, and what to do; None if it can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return (
            "no access to /dev/fuse, for a disk that fails on purpose: run as root, "
            "and a container with `--device /dev/fuse --cap-add SYS_ADMIN`"
        )
    try:
        subprocess.run(["fusermount3", "--version"], check=True, capture_output=True)
    except OSError:
        return "no fusermount3: install Debian's `fuse3` (`make programs`)"
    return None


@contextlib.contextmanager
def mounted(folder: Path, *, strict: bool = False) -> Iterator[Disk]:
    """A new disk at an empty folder. Raises `RuntimeError` where none can be made."""
    if missing := what_is_missing():
        raise RuntimeError(missing)
    os.environ["FUSE_LIBRARY_PATH"] = _LIBRARY
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(str(folder), theirs, strict))
    process.start()
    theirs.close()
    try:
        deadline = time.monotonic() + 60
        while not os.path.ismount(folder):
            if not process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"{folder}: the disk could not be mounted")
            time.sleep(0.02)
        yield Disk(folder, ours)
    finally:
        ours.close()
        subprocess.run(["fusermount3", "-u", "-z", str(folder)], check=False)
        process.join(5)
        process.kill()
        process.join()
