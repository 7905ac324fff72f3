"""Shutting a process in: namespaces of Linux in which it sees its own files and processes, and no network.

Plain system calls, without a helper program that runs as root. The process must have one thread, and run code that is
trusted: what it enters with decides what it sees from then on.

A new user namespace gives the right to make the others: one for mounts (built from nothing, then the old root is let go
of), for System V objects, for the network (with not even a loopback device that is up), and for processes. Then all
rights are given up again, together with the right to make further namespaces.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from voxelworks.errors import IsolationFailed
from voxelworks.worker.spec import VIEW_FOLDER, Confinement

_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_PROCESSES, _NEW_NETWORK = 1 << 17, 1 << 27, 1 << 28, 1 << 29, 1 << 30
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_PROGRAMS, _REMOUNT, _BIND, _WHOLE_TREE, _PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
_MOUNT_FLAGS = {"ro": _READ_ONLY, "nosuid": _NO_SUID, "nodev": _NO_DEVICES, "noexec": _NO_PROGRAMS}
"""Must be repeated when a mount is changed: the kernel refuses to take such flags away."""
_DETACH = 2
_SET_NO_NEW_PRIVILEGES, _DROP_FROM_BOUNDS, _AMBIENT, _CLEAR_AMBIENT = 38, 24, 47, 4
_OVERRIDE_FILE_RIGHTS, _SET_USER = 1, 7
"""Capabilities (CAP_DAC_OVERRIDE, CAP_SETUID)."""
_CAPABILITIES_VERSION = 0x20080522
_DEVICES = ("null", "zero", "full", "random", "urandom")
_STREAMS = {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}
_GRAPHICS = ("nvidia*", "dri", "kfd", "dxg")


def enter(view: Confinement) -> None:
    """Shut this process in. Its working folder must be writable in the view; it stays its working folder.

    With processes of its own this returns in a grandchild: the process that called waits for it and then ends in the
    same way, and one between the two takes in what the job leaves behind.

    Raises
    ------
    IsolationFailed
    """
    try:
        is_privileged = _leave_namespaces(view)
        if view.has_own_processes:
            _become_first_process()
        _forbid_further_namespaces()
        _build(view)
        _give_up_rights(keep_file_rights=is_privileged)
        if view.has_own_processes:
            _fork_job()
    except OSError as error:
        raise IsolationFailed(f"the job could not be shut in: {error}") from error


# Rights


def _leave_namespaces(view: Confinement) -> bool:
    """Leave this process's namespaces for new ones; say whether files of all users stay open to it.

    A worker that runs as root may read the files of everybody, and its jobs those that they are shown. Others keep
    their one user.
    """
    flags = _NEW_USER | _NEW_MOUNTS | _NEW_IPC
    flags |= _NEW_PROCESSES if view.has_own_processes else 0
    flags |= 0 if view.has_network else _NEW_NETWORK
    if os.geteuid() == 0 and _has_right(_SET_USER):
        with _mapping_by_helper():
            _call("unshare", flags)
        return True
    user, group = os.geteuid(), os.getegid()
    _call("unshare", flags)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")
    return False


@contextmanager
def _mapping_by_helper() -> Iterator[None]:
    """Let a process that stays outside map all users and groups to themselves, as soon as the block has ended."""
    ranges = {kind: _identity(f"/proc/self/{kind}_map") for kind in ("uid", "gid")}
    target, (is_ready, tell_ready) = os.getpid(), os.pipe()
    helper = os.fork()
    if not helper:
        status = 1
        with suppress(BaseException):
            os.close(tell_ready)
            if os.read(is_ready, 1):
                for kind, text in ranges.items():
                    _write(f"/proc/{target}/{kind}_map", text)
                status = 0
        os._exit(status)
    os.close(is_ready)
    try:
        yield
        os.write(tell_ready, b"x")
    finally:
        os.close(tell_ready)
        _, status = os.waitpid(helper, 0)
    if status:
        raise PermissionError(errno.EPERM, "the users of the new namespace could not be set")


def _identity(path: str) -> str:
    """Map every user that exists here to itself."""
    rows = (line.split() for line in Path(path).read_text().splitlines())
    return "".join(f"{inside} {inside} {count}\n" for inside, _, count in rows)


def _has_right(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _give_up_rights(*, keep_file_rights: bool) -> None:
    """Keep no capability, now and in programs to be started; except, as root, that of reading files of all users.

    It counts only for what the view shows, and not where that is read-only.
    """
    kept = 1 << _OVERRIDE_FILE_RIGHTS if keep_file_rights else 0
    with suppress(OSError):  # beyond the last that this kernel knows
        for number in range(64):
            if not kept >> number & 1:
                _control(_DROP_FROM_BOUNDS, number)
    _control(_AMBIENT, _CLEAR_AMBIENT)
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITIES_VERSION, 0))
    data = ctypes.create_string_buffer(struct.pack("6I", kept, kept, 0, 0, 0, 0))
    _call("capset", header, data)
    _control(_SET_NO_NEW_PRIVILEGES, 1)


def _forbid_further_namespaces() -> None:
    """Let the job make no namespaces in which it would have rights again: less of the kernel is open to it."""
    with suppress(OSError):  # where the system does not let it be set, the kernel still locks all mounts
        _write("/proc/sys/user/max_user_namespaces", "0")


# Files


def _build(view: Confinement) -> None:
    """Build the view in a folder in memory, and make it the root."""
    scratch = Path.cwd()
    root = scratch / VIEW_FOLDER
    root.mkdir(exist_ok=True)
    # What is mounted from here on shall not show outside.
    _mount(None, "/", None, _WHOLE_TREE | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NO_SUID | _NO_DEVICES, "mode=0755")
    _show_system(root, view)
    # What lies further up first: it would hide what lies in it.
    places = [(path, _show_readable) for path in view.readable]
    places += [(path, _show_writable) for path in view.writable]
    places += [(path, _show_empty) for path in view.hidden]
    for path, show in sorted(places, key=lambda place: len(Path(place[0]).parts)):
        show(root, path)
    for path in view.folders:
        _inside(root, path).mkdir(parents=True, exist_ok=True)
    for path in view.placeholders:
        _touch(_inside(root, path))
    for path, target in view.links.items():
        _link(_inside(root, path), target)
    for path in ("/", *view.hidden):
        _mount(None, _inside(root, path), None, _REMOUNT | _BIND | _READ_ONLY | _NO_SUID | _NO_DEVICES)
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir(scratch)


def _show_system(root: Path, view: Confinement) -> None:
    (root / "proc").mkdir()
    if view.has_own_processes:
        # Read-only: the number of root inside is that of root outside, to whom settings of the system are open.
        _mount("proc", root / "proc", "proc", _READ_ONLY | _NO_SUID | _NO_DEVICES | _NO_PROGRAMS)
    else:
        _show_readable(root, "/proc")
    (root / "dev").mkdir()
    graphics = (path for pattern in _GRAPHICS for path in Path("/dev").glob(pattern))
    for device in (*(Path("/dev") / name for name in _DEVICES), *graphics):
        _bind(root, str(device))
    for name, number in _STREAMS.items():
        os.symlink(f"/proc/self/fd{number}", root / "dev" / name)
    (root / "dev/shm").mkdir()
    size = f",size={view.shared_memory_bytes}" if view.shared_memory_bytes else ""
    _mount("tmpfs", root / "dev/shm", "tmpfs", _NO_SUID | _NO_DEVICES, "mode=1777" + size)


def _show_readable(root: Path, path: str) -> None:
    target = _bind(root, path)
    for mounted, flags in _mounts_below(target):
        try:
            _mount(None, mounted, None, _REMOUNT | _BIND | _READ_ONLY | _NO_SUID | flags)
        except PermissionError as error:
            if (
                error.errno != errno.EACCES
            ):  # a file system of another user, such as FUSE: nobody else gets there
                raise


def _show_writable(root: Path, path: str) -> None:
    # Without what is mounted in it: the view itself is, in the scratch folder.
    target = _bind(root, path, whole_tree=False)
    for mounted, flags in _mounts_below(target):
        _mount(None, mounted, None, _REMOUNT | _BIND | _NO_SUID | _NO_DEVICES | flags)


def _show_empty(root: Path, path: str) -> None:
    target = _inside(root, path)
    target.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", target, "tmpfs", _NO_SUID | _NO_DEVICES, "mode=0755")


def _bind(root: Path, path: str, *, whole_tree: bool = True) -> Path:
    target = _inside(root, path)
    if Path(path).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        _touch(target)
    # The kernel wants a tree with all that is mounted in it: what such mounts hide shall not come to light.
    _mount(path, target, None, _BIND | (_WHOLE_TREE if whole_tree else 0))
    return target


def _mounts_below(target: Path) -> Iterator[tuple[Path, int]]:
    """Yield the mounts at and below a folder, with the flags that they have."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        mounted = Path(_unescaped(fields[4]))
        if mounted == target or target in mounted.parents:
            yield mounted, sum(_MOUNT_FLAGS.get(option, 0) for option in fields[5].split(","))


def _unescaped(text: str) -> str:
    r"""Read ``\040`` and the like, as the kernel writes blanks in paths."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def _inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(path):
        path.touch()


def _link(path: Path, target: str) -> None:
    if not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, path)


# Processes


def _become_first_process() -> None:
    """Go on in a child, the first process of its namespace; this one stays outside and ends as the job ends."""
    _hold_signals()
    status_out, status_in = os.pipe()
    first = os.fork()
    if first:
        os.close(status_in)
        _stand_for(first, status_out)
    os.close(status_out)
    global _status_in
    _status_in = status_in


_status_in = -1
"""Where the first process of the namespace tells how the job ended."""


def _fork_job() -> None:
    """Go on in a child; this process takes in orphans until the child has ended, and everything else with it."""
    job = os.fork()
    if job:
        _take_in_orphans(job)
    os.close(_status_in)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release_signals()


def _stand_for(first: int, status_out: int) -> NoReturn:
    """Hand signals on, wait for the job, and end in the same way. The worker knows this process alone."""
    faulthandler.disable()
    os.chdir("/")
    with suppress(OSError):
        _give_up_rights(keep_file_rights=False)
    _hand_on_signals(first)
    told = os.read(status_out, 16)
    _, own = os.waitpid(first, 0)
    status = int(told) if told else own
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _take_in_orphans(job: int) -> NoReturn:
    """Be the first process of the namespace: when it ends, the kernel kills all others before anybody is told."""
    faulthandler.disable()
    _hand_on_signals(job)
    for descriptor in _open_descriptors():
        if descriptor != _status_in:
            with suppress(OSError):
                os.close(descriptor)
    while True:
        ended, status = os.wait()
        if ended == job:
            os.write(_status_in, str(status).encode())
            os._exit(0)


def _hand_on_signals(process: int) -> None:
    def hand_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(process, number)

    signal.signal(signal.SIGTERM, hand_on)
    _release_signals()


def _hold_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _open_descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]


# System calls


def _mount(
    source: str | Path | None, target: str | Path, kind: str | None, flags: int, data: str = ""
) -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _call("mount", *arguments, ctypes.c_ulong(flags), data.encode() or None, about=str(target))


def _write(path: str, text: str) -> None:
    with open(path, "w") as stream:
        stream.write(text)


def _control(option: int, value: int) -> None:
    _call("prctl", *(ctypes.c_ulong(number) for number in (option, value, 0, 0, 0)))


def _call(name: str, *arguments: object, about: str = "") -> None:
    function: Callable[..., int] = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", about or None)
