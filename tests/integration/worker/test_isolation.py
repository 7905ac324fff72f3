"""Isolated jobs: what they cannot reach, that they work all the same, and that they end with all they started."""

from __future__ import annotations

import errno
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from voxelworks.errors import NotAllowed
from voxelworks.protocol.messages import ChildFailed, ChildSealed, Claim, Json
from voxelworks.protocol.places import Places
from voxelworks.settings import ImportRoot, Settings
from voxelworks.worker import confinement, isolation, kernels
from voxelworks.worker.ending import StopReason
from voxelworks.worker.isolation import Isolation
from voxelworks.worker.limits import group_members
from voxelworks.worker.logs import LogSpool
from voxelworks.worker.process import Event, Exited, JobProcess
from voxelworks.worker.spec import Confinement, JobSpec, job_settings
from voxelworks.workflows.publishing import AttemptFolder

PROBE = Path(__file__).parent / "probe"
TIMEOUT_S = 120.0
NEW_USER, NEW_MOUNTS = "0x10000000", "0x20000"


@pytest.fixture(scope="module")
def possible() -> Isolation:
    """Skip where the system lets nobody make namespaces."""
    found = isolation.choose(Settings())
    if found.level != "namespaces":
        pytest.skip(found.reason)
    return found


@dataclass
class Ended:
    """What became of a job's process."""

    status: int
    log: str
    sealed: Json | None = None
    failed: ChildFailed | None = None

    @property
    def found(self) -> dict[str, str]:
        assert self.sealed is not None, (self.failed, self.log)
        found: dict[str, str] = self.sealed["found"]
        return found


@dataclass
class Bench:
    """Starts jobs' processes as a worker does, without any server."""

    settings: Settings
    isolation: Isolation
    spools: list[LogSpool] = field(default_factory=list)

    @property
    def places(self) -> Places:
        return Places.of(self.settings)

    def start(
        self, workflow: str, params: Json, *, reads: tuple[str, ...] = (), target: str | None = None,
        kind: str = "dataset", attempt: int = 1, kernels: Path | None = None,
    ) -> tuple[JobProcess, queue.SimpleQueue[Event]]:  # fmt: skip
        places = {place.rpartition("/")[2] if place.startswith("data:") else place: place for place in reads}
        folder = None
        if target is not None:
            places[target.rpartition("/")[2]] = target
            self.places.make_home(target)
            folder = AttemptFolder.for_target(kind, self.places.locate(target), "job", attempt)
        claim = Claim(
            job_id="1", attempt=attempt, token="t", workflow=workflow, version=1, params=params, places=places,
            work_key="job", lease_s=60, renew_s=30, cancel_grace_s=5,
        )  # fmt: skip
        view = self.isolation.confine(
            claim, target, folder, places=self.places, settings=self.settings, memory_bytes_max=2**30
        )
        spec = JobSpec(
            workflow=workflow, version=1, params=params, places=places, work_key="job", attempt=attempt, cluster=None,
            memory_bytes_max=4 * 2**30, settings=job_settings(self.settings), confinement=view,
        )  # fmt: skip
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.spools.append(LogSpool(2**20))
        return JobProcess(spec, log=self.spools[-1], events=events, kernels=kernels), events

    def run(self, workflow: str, params: Json, **options: object) -> Ended:
        process, events = self.start(workflow, params, **options)  # type: ignore[arg-type]
        return self.wait(process, events)

    def wait(self, process: JobProcess, events: queue.SimpleQueue[Event]) -> Ended:
        sealed, failed = None, None
        try:
            while not isinstance(event := events.get(timeout=TIMEOUT_S), Exited):
                if isinstance(event, ChildSealed):
                    sealed = event.result.value
                if isinstance(event, ChildFailed):
                    failed = event
        finally:
            status = process.clean_up()
        log = self.spools[-1]
        return Ended(status, log.read(0, log.size).decode(), sealed, failed)

    def try_out(self, *tries: str) -> dict[str, str]:
        """Let a job try to get out; give how far each try came."""
        found = self.run("probe_escape", {"tries": list(tries)}).found
        return {text.partition(" ")[0] if list(map(_verb, tries)).count(_verb(text)) == 1 else text: came
                for text, came in found.items()}  # fmt: skip


def _verb(text: str) -> str:
    return text.partition(" ")[0]


@pytest.fixture
def bench(possible: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """With all the isolation that this system gives."""
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(PROBE), os.environ.get("PYTHONPATH")]))
    )
    monkeypatch.syspath_prepend(PROBE)
    confinement.code_folders.cache_clear()
    home = tmp_path / "home"
    (home / "datasets").mkdir(parents=True)
    (home / "voxelworks.sqlite3").write_text("secret")
    (home / "worker.key").write_text("secret")
    (tmp_path / "scope").mkdir()
    settings = Settings(home=home, slots=2, import_roots=_roots(tmp_path / "scope"), isolation="required")
    bench = Bench(settings, possible)
    yield bench
    for spool in bench.spools:
        spool.close()
    confinement.code_folders.cache_clear()


@pytest.fixture(params=[True, False], ids=["own processes", "processes of the machine"])
def each_bench(request: pytest.FixtureRequest, bench: Bench) -> Bench:
    """Also with the least that counts as isolation, as in containers that hide parts of the list of processes."""
    if request.param and not bench.isolation.has_own_processes:
        pytest.skip("this system lets nobody mount the list of processes")
    return replace(bench, isolation=Isolation("namespaces", has_own_processes=request.param))


def _roots(folder: Path) -> dict[str, ImportRoot]:
    return {"scope": ImportRoot(path=folder)}


# What a job cannot do


def test_a_job_cannot_read_what_is_not_its_own(each_bench: Bench) -> None:
    home = each_bench.settings.home
    tries = [
        f"read {home}/voxelworks.sqlite3", f"list {home}", f"list {home.parent}/scope",
        f"list {Path.home()}/.ssh", f"list {Path.home()}/.cache", "read /etc/shadow", "list /etc/ssl/private",
        "list /home", "list /var", "list /mnt", "list /boot", "list /srv", "list /sys/kernel",
        f"read /proc/{os.getpid()}/environ",
    ]  # fmt: skip
    assert set(each_bench.run("probe_escape", {"tries": tries}).found.values()) <= {
        "FileNotFoundError",
        "PermissionError",
    }


def test_a_job_cannot_write_but_into_its_scratch(bench: Bench) -> None:
    home = bench.settings.home
    folders = [
        "/",
        "/tmp",
        "/etc",
        "/usr",
        "/usr/lib",
        "/dev",
        "/sys/fs/cgroup",
        "/var/tmp",
        home,
        home / "datasets",
    ]
    folders += [Path(sys.prefix), PROBE, Path(confinement.__file__).parent]
    found = bench.run("probe_escape", {"tries": [f"write {folder}/new" for folder in folders]}).found
    read_only = f"OSError {errno.EROFS}"
    assert set(found.values()) <= {read_only, "FileNotFoundError", "PermissionError"}, found
    assert bench.try_out("write /proc/sys/kernel/core_pattern", "write /proc/self/oom_score_adj") == {
        "write /proc/sys/kernel/core_pattern": read_only,
        "write /proc/self/oom_score_adj": read_only,
    }
    assert bench.try_out("write inside") == {"write": "written"}


def test_a_job_cannot_open_a_connection(each_bench: Bench, tmp_path: Path) -> None:
    by_file = tmp_path / "scope" / "server.socket"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        os.chdir(by_file.parent)
        local.bind(by_file.name)
        local.listen()
        abstract.bind("\0voxelworks-test")
        abstract.listen()
        port = server.getsockname()[1]
        found = each_bench.try_out(
            f"connect 127.0.0.1:{port}", "connect 8.8.8.8:53", "connect ::1:80", f"connect_file {by_file}",
            "connect_file @voxelworks-test",
        )  # fmt: skip
    assert set(found.values()) <= {
        "OSError 101",
        "OSError 99",
        "FileNotFoundError",
        "ConnectionRefusedError",
    }, found


def test_a_job_that_reads_remote_data_has_the_network(bench: Bench) -> None:
    settings = bench.settings.model_copy(update={"remote_hosts": frozenset({"example.org"})})
    remote = Bench(settings, bench.isolation, bench.spools)
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = f"connect 127.0.0.1:{server.getsockname()[1]}"
        ended = remote.run("probe_escape", {"tries": [text]}, reads=("https://example.org/data",))
    assert ended.found == {text: "connected"}


def test_a_job_has_no_rights_and_cannot_get_any(each_bench: Bench) -> None:
    kept = "0000000000000002" if os.geteuid() == 0 else "0" * 16
    assert each_bench.try_out(
        "capabilities", f"unshare {NEW_USER}", f"unshare {NEW_MOUNTS}", "remount /usr", "unmount /usr"
    ) == {
        "capabilities": f"{kept} {kept} {kept}",
        f"unshare {NEW_USER}": "OSError 28",
        f"unshare {NEW_MOUNTS}": "PermissionError",
        "remount": "PermissionError",
        "unmount": "PermissionError",
    }


def test_a_job_sees_and_reaches_no_foreign_process(bench: Bench) -> None:
    if not bench.isolation.has_own_processes:
        pytest.skip("processes are shared here")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        found = bench.try_out("processes", f"kill {other.pid}", f"kill {os.getpid()}")
        assert other.poll() is None
        other.kill()
    assert int(found.pop("processes")) < 8  # the job's own, with the servers of `multiprocessing`
    assert set(found.values()) == {"ProcessLookupError"}


def test_a_job_that_makes_a_dataset_writes_to_its_own_folder_alone(each_bench: Bench) -> None:
    datasets = each_bench.settings.datasets_dir / "lab"
    (datasets / "other").mkdir(parents=True)
    (datasets / "other/data").write_text("secret")
    (datasets / ".voxelworks/other-job/1").mkdir(parents=True)
    tries = [
        f"list {datasets}", f"read {datasets}/other/data", f"write {datasets}/new", f"list {datasets}/.voxelworks",
        f"write {datasets}/.voxelworks/new", f"write {datasets}/.voxelworks/job/1/scratch",
    ]  # fmt: skip
    ended = each_bench.run("probe_escape_dataset", {"target": "made", "tries": tries}, target="data:lab/made")
    assert ended.status == 0, ended
    assert [line.partition(" -> ")[2] for line in ended.log.splitlines() if " -> " in line] == [
        ".voxelworks", "FileNotFoundError", "OSError 30", "job", "OSError 30", "written",
    ]  # fmt: skip
    assert (datasets / ".voxelworks/job/1/manifest.json").exists()


def test_a_job_cannot_leave_compiled_functions_for_others(bench: Bench, tmp_path: Path) -> None:
    shared = tmp_path / "kernels"
    shared.mkdir()
    (shared / "index.nbi").write_text("trusted")
    ended = bench.run(
        "probe_escape", {"tries": ["read kernels/index.nbi", "write kernels/new"]}, kernels=shared
    )
    assert ended.found == {"read kernels/index.nbi": "7 bytes", "write kernels/new": "written"}
    assert [path.name for path in shared.iterdir()] == ["index.nbi"]


# What it still can


def test_a_job_says_what_is_wrong_in_the_same_words_as_without(bench: Bench) -> None:
    (bench.settings.datasets_dir / "lab/made").mkdir(parents=True)
    there = bench.run("probe_escape_dataset", {"target": "made"}, target="data:lab/made")
    assert there.failed is not None
    assert (there.failed.code, there.failed.message) == (
        "target-exists", "made exists already; choose another target, or remove it first"
    )  # fmt: skip


def test_a_later_attempt_adopts_and_fences_the_earlier_one(bench: Bench) -> None:
    """The earlier one keeps running in its own view, in which its folder has gone too."""
    datasets = bench.settings.datasets_dir / "lab"
    first = datasets / ".voxelworks/job/1"
    tries = [f"write {first}/result/begun", "wait 3", f"write {first}/late"]
    process, events = bench.start(
        "probe_escape_dataset", {"target": "made", "tries": tries}, target="data:lab/made", attempt=1
    )
    # Not before it has begun its dataset: that would make the folder anew, as debris (see `discard_debris`).
    _wait_for((first / "result/begun").exists)
    second = AttemptFolder(datasets, "job", 2)
    second.prepare((first / "fingerprint").read_text())
    ended = bench.wait(process, events)
    assert "late -> FileNotFoundError" in ended.log
    names = sorted(path.name for path in second.path.iterdir())
    assert names == ["checkpoints", "fingerprint", "result", "slots"]
    assert ended.failed is not None


def test_links_of_the_operator_lead_to_the_same_files(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "real/run").mkdir(parents=True)
    (tmp_path / "real/run/image").write_text("image")
    (tmp_path / "link").symlink_to("real")
    settings = bench.settings.model_copy(update={"import_roots": _roots(tmp_path / "link")})
    linked = Bench(settings, bench.isolation, bench.spools)
    tries = [f"read {tmp_path}/link/run/image", f"list {tmp_path}/real", f"list {tmp_path}"]
    ended = linked.run("probe_escape", {"tries": tries}, reads=("root:scope/run",))
    assert [ended.found[text] for text in tries] == ["5 bytes", "run", "link real"]


def test_what_lies_in_a_code_folder_but_is_private_is_hidden(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scope/run").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    confinement.code_folders.cache_clear()
    home = bench.settings.home
    tries = [f"list {tmp_path}", f"list {home}", f"list {tmp_path}/scope", f"write {home}/new"]
    ended = bench.run("probe_escape", {"tries": tries}, reads=("root:scope/run",))
    assert "voxelworks.sqlite3" in os.listdir(home)
    assert list(ended.found.values())[1:] == ["datasets", "run", "OSError 30"]


def test_real_electron_microscopy_is_converted_voxel_for_voxel(
    bench: Bench, test_data: Path, tmp_path: Path
) -> None:
    import numpy as np
    import tifffile

    from reference import read_mag

    volume = np.load(test_data / "mito_sbem_cdeep3m/raw_v1.npz")["data"]
    for z, section in enumerate(volume):
        tifffile.imwrite(tmp_path / f"scope/{z:03}.tif", section, compression="zlib")
    params = {"target": "made", "voxel_size": "5,5,30", "layers": [{"source": "root:scope/"}]}
    ended = bench.run(
        "convert",
        params,
        reads=("root:scope/",),
        target="data:lab/made",
        kernels=kernels.folder(bench.settings),
    )
    assert ended.failed is None, ended
    made = bench.settings.datasets_dir / "lab/.voxelworks/job/1/result"
    assert (read_mag(made, "color", "1") == volume[None]).all()
    assert (made / "color/4-4-1").is_dir()


def test_a_folder_of_temporary_files_or_of_a_user_is_no_code_folder(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("/tmp", str(Path.home()), "/"):
        monkeypatch.syspath_prepend(folder)
    confinement.code_folders.cache_clear()
    assert not {Path("/tmp"), Path.home(), Path("/")} & set(confinement.code_folders(()))
    assert bench.try_out("list /tmp/..")["list"].find("home") == -1


def test_real_images_become_the_same_dataset_with_and_without_isolation(
    each_bench: Bench, tmp_path: Path
) -> None:
    import numpy as np
    from PIL import Image

    dice = np.random.default_rng(7)
    for z in range(10):
        Image.fromarray(dice.integers(0, 255, (300, 290), np.uint8)).save(tmp_path / f"scope/{z:03}.png")
    params = {
        "target": "made", "voxel_size": "8,8,30",
        "layers": [{"source": "root:scope/", "category": "color"}],
    }  # fmt: skip
    plain = Bench(each_bench.settings, Isolation("limits"), each_bench.spools)
    results = []
    for which, runner in (("plain", plain), ("isolated", each_bench)):
        place = f"data:{which}/made"
        compiled = kernels.folder(each_bench.settings)
        ended = runner.run("convert", params, reads=("root:scope/",), target=place, kernels=compiled)
        assert ended.failed is None, ended
        results.append(_files(each_bench.settings.datasets_dir / which / ".voxelworks/job/1/result"))
    assert results[0] == results[1]
    assert any(name.startswith("color/2") for name in results[0])


# How it ends


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_signal_that_ended_a_job_is_told(bench: Bench, number: int) -> None:
    assert bench.run("probe_escape", {"tries": [f"die {int(number)}"]}).status == -number


def test_a_killed_job_leaves_no_process(each_bench: Bench, tmp_path: Path) -> None:
    marker = f"stays-{tmp_path.name}-{os.getpid()}-{each_bench.isolation.has_own_processes}"
    tries = [f"stay_behind {marker}", "wait 600"] if each_bench.isolation.has_own_processes else ["wait 600"]
    process, events = each_bench.start("probe_escape", {"tries": tries})
    if each_bench.isolation.has_own_processes:
        _wait_for(lambda: _running(marker))
    process.kill()
    ended = each_bench.wait(process, events)
    assert ended.status == -signal.SIGKILL
    assert group_members(process.group) == []
    assert not _running(marker)


def test_a_job_that_ends_takes_along_what_it_left_behind(bench: Bench, tmp_path: Path) -> None:
    """Also what has left its session and its group: the first process of the namespace ends, and all others with it."""
    if not bench.isolation.has_own_processes:
        pytest.skip("only groups are killed here")
    marker = f"left-{tmp_path.name}-{os.getpid()}"
    assert bench.try_out(f"stay_behind {marker}") == {"stay_behind": "left"}
    assert not _running(marker)


@pytest.mark.parametrize(
    ("reason", "code"), [("cancel", "cancelled"), ("walltime", "timed-out"), ("interrupt", "interrupted")]
)
def test_a_job_that_is_asked_to_stop_hears_it_and_why(bench: Bench, reason: StopReason, code: str) -> None:
    note = "note"  # in the scratch of the job
    process, events = bench.start("probe", {"note": note, "seconds": 600})
    while isinstance(events.get(timeout=TIMEOUT_S), Exited):
        pytest.fail("it ended too early")
    assert process.measure() > 5_000_000
    process.ask_to_stop(reason)
    ended = bench.wait(process, events)
    assert ended.failed is not None
    assert ended.failed.code == code
    assert ended.status == 1


# Choosing


def test_switched_off_and_impossible_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    off = isolation.choose(Settings(isolation="off"))
    assert (off.level, off.reason) == ("limits", "switched off (VOXELWORKS_ISOLATION)")
    assert isolation.choose(Settings(), cluster="slurm").level == "limits"
    with pytest.raises(NotAllowed, match="blocks are computed on a cluster"):
        isolation.choose(Settings(isolation="required"), cluster="slurm")
    monkeypatch.setattr(isolation, "_try", lambda *_, **__: "unshare: Operation not permitted")
    isolation._tried.cache_clear()
    try:
        assert isolation.choose(Settings()).level == "limits"
        with pytest.raises(NotAllowed, match="VOXELWORKS_ISOLATION=auto"):
            isolation.choose(Settings(isolation="required"))
    finally:
        isolation._tried.cache_clear()


def test_only_what_is_tried_with_success_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is needed but cannot be shown: the try fails, and tells why."""
    monkeypatch.setattr(isolation, "confine", lambda *_, **__: Confinement(readable=("/usr",)))
    assert "No module named" in (isolation._try(Settings(), has_own_processes=True) or "")


def test_a_job_that_cannot_be_shut_in_is_not_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Confinement(readable=("/not/there",))
    monkeypatch.setattr(Isolation, "confine", lambda *_, **__: broken)
    ended = bench.run("probe_escape", {"tries": ["write /tmp/out"]})
    assert ended.failed is not None
    assert (ended.failed.failure_class, ended.failed.code) == ("infrastructure", "isolation-failed")


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _running(marker: str) -> bool:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker in file.read_text() and "time.sleep" in file.read_text():
                return True
        except OSError:
            continue
    return False


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
