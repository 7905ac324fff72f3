"""Files that strangers send take neither time nor memory nor a way out (T30)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from damage import read_anything
from voxelworks.errors import VoxelworksError
from voxelworks.testing.rounds import rounds

from . import hostile_files, hostile_formats
from .drill_site import DrillSite

CPU_MAX_S = 5.0
"""Of the process that reads, and of all that it starts: what else the machine has to do does not count."""
WAIT_MAX_S = 60.0
"""For what works no more, such as one that waits at a pipe."""
MEMORY_MAX_BYTES = 500 * 2**20
MEASURE_EVERY_S = 0.005
HARMLESS = {
    # Only its first directory is read, which is an image.
    "directories below each other in a loop",
    # No more of it is unpacked than there are voxels.
    "NRRD that is a bomb",
}


@dataclass
class Spent:
    """What the worst file took."""

    cpu_s: float = 0.0
    waited_s: float = 0.0
    memory_bytes: int = 0

    def take(self, other: Spent) -> None:
        self.cpu_s = max(self.cpu_s, other.cpu_s)
        self.waited_s = max(self.waited_s, other.waited_s)
        self.memory_bytes = max(self.memory_bytes, other.memory_bytes)

    def is_too_much(self) -> bool:
        is_slow = self.cpu_s > CPU_MAX_S or self.waited_s > WAIT_MAX_S
        return is_slow or self.memory_bytes > MEMORY_MAX_BYTES


@pytest.mark.faults("T30", "Annotations that are bombs, lead elsewhere, multiply entities, or are programs")
def test_a_hostile_annotation_is_refused_at_once(
    site: DrillSite, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    annotations = hostile_files.annotations(tmp_path / "escaped")
    worst = _send_each(
        site,
        {name: lambda content=content: {"files": {"file": content}} for name, content in annotations.items()},
        "/api/v1/annotations",
        tmp_path,
    )
    _record(record_property, len(annotations), worst)


@pytest.mark.faults("T30", "Metadata of datasets without end, that lead elsewhere, or with pickled objects")
def test_a_hostile_dataset_is_refused_at_once(
    make_site: Callable[..., DrillSite], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    datasets = hostile_files.datasets(folder)
    site = make_site(IMPORT_ROOTS=f'{{"root": "{folder}"}}')
    worst = _send_each(
        site,
        {
            name: lambda place=place: {"json": {"name": place, "place": f"root:root/{place}"}}
            for name, place in datasets.items()
        },
        "/api/v1/datasets",
        tmp_path,
    )
    _record(record_property, len(datasets), worst)


@pytest.mark.faults("T30", "Images with sizes that lie, directories in loops, bombs, and programs")
def test_a_hostile_image_is_refused_at_once(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    images = hostile_files.images(tmp_path / "images", tmp_path / "escaped")
    # Each starts a process of its own, which takes a second or two.
    chosen = dict(list(images.items())[: rounds(4, len(images))])
    _record(record_property, len(chosen), _convert_each(chosen, tmp_path))


@pytest.mark.faults(
    "T30", "Chunked stores that claim 10^12 voxels, loop, lead elsewhere, or have bombs for chunks"
)
def test_a_hostile_store_is_refused_at_once(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    stores = hostile_files.stores(tmp_path / "stores", tmp_path / "escaped")
    chosen = dict(list(stores.items())[: rounds(3, len(stores))])
    _record(record_property, len(chosen), _convert_each(chosen, tmp_path))


@pytest.mark.faults("T30", "Archives that are bombs, lead elsewhere, or claim entries and sizes without end")
def test_a_hostile_archive_is_refused_at_once(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    archives = hostile_files.archives(tmp_path / "archives", tmp_path / "escaped")
    chosen = dict(list(archives.items())[: rounds(2, len(archives))])
    _record(record_property, len(chosen), _convert_each(chosen, tmp_path))


@pytest.mark.faults(
    "T30", "Files of every other format that claim 10^12 voxels, loop, lead elsewhere, or are bombs"
)
def test_a_hostile_file_of_any_format_is_refused_at_once(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    formats = hostile_formats.formats(tmp_path / "formats", tmp_path / "escaped")
    read_each = rounds(_read_each, _convert_each)
    _record(record_property, len(formats), read_each(formats, tmp_path))


def _read_each(sources: dict[str, Path], tmp_path: Path) -> Spent:
    """Read some of what is hostile in this process; give the most that one took. All must be refused."""
    before = _tree(tmp_path)
    worst, wrong = Spent(), {}
    for name, source in sources.items():
        outcome = "was read"
        with _memory_watched(os.getpid()) as memory:
            # What the tests before have left in memory does not count.
            had_bytes, began, before_s = memory[0], time.monotonic(), time.process_time()
            try:
                read_anything(source, tmp_path / "scratch")
            except VoxelworksError:
                outcome = "refused"
            except Exception as error:
                outcome = repr(error)
            spent = Spent(time.process_time() - before_s, time.monotonic() - began)
        spent.memory_bytes = memory[0] - had_bytes
        worst.take(spent)
        is_right = outcome == "refused" or (outcome == "was read" and name in HARMLESS)
        if spent.is_too_much() or not is_right or _tree(tmp_path) != before:
            wrong[name] = (spent, outcome, _tree(tmp_path) - before)
    assert wrong == {}
    return worst


def _send_each(site: DrillSite, bodies: dict[str, Callable[[], object]], path: str, folder: Path) -> Spent:
    """Send what is hostile to the server; give the most that one took. All must be refused, and nothing be left."""
    assert site.server is not None
    before = _tree(folder)
    worst, wrong = Spent(), {}
    server = psutil.Process(site.server.pid)
    with httpx.Client(base_url=f"http://127.0.0.1:{site.port}", timeout=300, trust_env=False) as client:
        client.headers["Authorization"] = f"Bearer {site.client_token}"
        for name, body in bodies.items():
            with _memory_watched(site.server.pid) as memory:
                began, before_s = time.monotonic(), sum(server.cpu_times()[:2])
                answer = client.post(path, **body())  # type: ignore[arg-type]
                spent = Spent(sum(server.cpu_times()[:2]) - before_s, time.monotonic() - began)
            spent.memory_bytes = memory[0]
            worst.take(spent)
            left = {file for file in _tree(folder) - before if ".sqlite3" not in file}
            if spent.is_too_much() or not 400 <= answer.status_code < 500 or left:
                wrong[name] = (spent, answer.status_code, answer.text[:500], left)
    assert wrong == {}
    return worst


def _convert_each(sources: dict[str, Path], tmp_path: Path) -> Spent:
    """Convert what is hostile; give the most that one took. All must be refused, and nothing be left."""
    before = _tree(tmp_path)
    worst, wrong = Spent(), {}
    for number, (name, source) in enumerate(sources.items()):
        # Where it may write; a command that fails keeps what it would go on from.
        folder = tmp_path / f"made{number}"
        folder.mkdir()
        spent, status, said = _convert(source, folder / "made")
        worst.take(spent)
        is_refused = 0 < status < 10 and "Traceback" not in said
        shutil.rmtree(folder)
        if spent.is_too_much() or not (is_refused or name in HARMLESS) or _tree(tmp_path) != before:
            wrong[name] = (spent, status, said[-500:], _tree(tmp_path) - before)
    assert wrong == {}
    return worst


def _convert(source: Path, target: Path) -> tuple[Spent, int, str]:
    """Convert in a process of its own, killed after a while; give what it took, its exit status and what it said."""
    began, before_s = time.monotonic(), _cpu_of_ended_s()
    process = subprocess.Popen(
        [sys.executable, "-m", "voxelworks", "run", "convert", "--source", str(source), "--target", str(target),
         "--voxel-size", "1,1,1", "--no-pyramid", "--slots", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    # Not by its resource usage, where the peak of the process that started it may stand.
    with _memory_watched(process.pid) as memory:
        try:
            said, _ = process.communicate(timeout=2 * WAIT_MAX_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    spent = Spent(_cpu_of_ended_s() - before_s, time.monotonic() - began, memory[0])
    return spent, process.returncode, said


def _cpu_of_ended_s() -> float:
    """Tell how long all processes together have computed that this one started, and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


@contextmanager
def _memory_watched(pid: int) -> Iterator[list[int]]:
    """Give the most memory that a process was seen to have within the block, in bytes, once it is over."""
    process = psutil.Process(pid)
    highest = [process.memory_info().rss]
    is_over = threading.Event()

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            while not is_over.wait(MEASURE_EVERY_S):
                highest[0] = max(highest[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield highest
    finally:
        is_over.set()
        watcher.join()


def _tree(folder: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(where, name), folder)
        for where, _, names in os.walk(folder)
        for name in names
    }


def _record(record_property: Callable[[str, object], None], count: int, worst: Spent) -> None:
    record_property("files", count)
    record_property("taken or broken", 0)
    record_property("longest s", round(worst.cpu_s, 1))
    record_property("most memory MiB", round(worst.memory_bytes / 2**20))
