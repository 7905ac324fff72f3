"""`voxelworks run`, killed at any moment and repeated; and what is not believed when it goes on (T20, T21)."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from voxelworks.testing.independent_writers import write_tiff
from voxelworks.testing.rounds import rounds
from voxelworks.worker.limits import group_members

from .conftest import BLOCK_COUNT, FORMS, LARGE_ZYX, VOXEL_SIZE, Stacks, convert_params, undisturbed
from .fault_site import SHARD_BYTES_MAX, SLOTS, TIMEOUT_S, WORK_FOLDER, Tree, find, tree, watched

RESUMED = "going on where an earlier attempt stopped"


class Command:
    """A `voxelworks run` that can be killed and repeated."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.folder = folder
        self._arguments = [str(argument) for argument in arguments]
        self.process = self._start()

    def _start(self, **settings: str) -> subprocess.Popen[str]:
        own = {"SLOTS": str(SLOTS), "SHARD_BYTES_MAX": str(SHARD_BYTES_MAX)} | settings
        return subprocess.Popen(
            [sys.executable, "-m", "voxelworks", "run", *self._arguments, "--json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {f"VOXELWORKS_{name}": value for name, value in own.items()}, start_new_session=True,
        )  # fmt: skip

    def kill_when(
        self, condition: Callable[[], bool], *, wait_s: float = 0.0, only_pool: random.Random | None = None
    ) -> bool:
        """Kill it with SIGKILL some time after a moment, or only one of its pool; False if it ended before."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, "waited in vain for the moment to kill"
            if self.process.poll() is not None:
                self.process.communicate()
                return False
            time.sleep(0.0005)
        time.sleep(wait_s)
        group = group_members(self.process.pid)
        if only_pool is not None:
            others = [pid for pid in group if pid != self.process.pid]
            with suppress(ProcessLookupError, IndexError):
                os.kill(only_pool.choice(others), signal.SIGKILL)
            return True
        self.process.kill()
        self.process.communicate()
        while any(_is_running(pid) for pid in group):
            assert time.monotonic() < deadline, "the pool outlives the command"
            time.sleep(0.005)
        return True

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; give exit status, standard output and standard error."""
        output, errors = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, output, errors

    def repeat(self, **settings: str) -> tuple[int, str, str]:
        self.process = self._start(**settings)
        return self.end()

    def start_again(self) -> None:
        self.process = self._start()

    def marker_count(self) -> int:
        return len(find(self.folder, f"{WORK_FOLDER}/*/*/checkpoints/*/*.json"))

    def has_manifest(self) -> bool:
        return bool(find(self.folder, f"{WORK_FOLDER}/*/*/manifest.json"))


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def convert_command(source: Path, target: Path) -> Command:
    return Command(
        target.parent, "convert", "--source", source, "--target", target, "--voxel-size", VOXEL_SIZE,
        "--layer-name", "color", "--category", "color",
    )  # fmt: skip


@pytest.mark.faults("T20", "`voxelworks run`, killed again and again, and repeated")
@pytest.mark.parametrize("form", rounds(FORMS[1::2], FORMS))
def test_a_killed_run_is_repeated_and_goes_on(
    tmp_path: Path,
    stacks: Stacks,
    dice: random.Random,
    record_property: Callable[[str, object], None],
    form: str,
) -> None:
    kill_count = rounds(1, 12)
    command = convert_command(stacks.folder / f"large-{form}", tmp_path / "cells")
    for moment in sorted(dice.sample(range(1, BLOCK_COUNT - 10), kill_count)):
        assert command.kill_when(lambda: command.marker_count() >= moment, only_pool=dice)  # noqa: B023
        assert command.kill_when(lambda: command.marker_count() > moment)  # noqa: B023
        assert not (tmp_path / "cells").exists()
        command.start_again()
    status, output, errors = command.end()
    assert (status, json.loads(output)["mags"]) == (0, ["1", "2"]), errors
    assert RESUMED in errors
    assert tree(tmp_path / "cells") == stacks.large
    assert os.listdir(tmp_path) == ["cells"]
    record_property("kills", 2 * kill_count)


@dataclass(frozen=True)
class Case:
    """A command, and what it makes visible."""

    command: Command
    dataset: Path
    visible: Path
    """Folder that appears when the result is moved to its place."""
    expected: Tree

    @classmethod
    def of_conversion(cls, folder: Path, stacks: Stacks) -> Case:
        dataset = folder / "cells"
        return cls(convert_command(stacks.folder / "small", dataset), dataset, dataset, stacks.small)

    @classmethod
    def of_addition(cls, folder: Path, stacks: Stacks) -> Case:
        dataset = folder / "cells"
        options = ["--dataset", dataset, "--layer", "layer0", "--coarsest-mag", "4"]
        return cls(
            Command(dataset, "downsample", *options), dataset, dataset / "layer0" / "2", stacks.layers[2]
        )

    def left(self) -> str:
        """Say where the command stood when it was killed."""
        if not self.visible.exists():
            return "sealed but not moved"
        # As long as this file is there, a repetition completes the run.
        is_cleared = not find(self.command.folder, f"{WORK_FOLDER}/*/*/accepted.json")
        return "ended" if is_cleared else "moved but not cleared up"


@pytest.mark.faults("T20", "`voxelworks run`, killed while its result becomes visible, and repeated")
def test_a_run_that_is_killed_at_its_end_is_completed_by_repeating_it(
    tmp_path: Path, stacks: Stacks, dice: random.Random, record_property: Callable[[str, object], None]
) -> None:
    """While it seals, moves, lists and clears up: of a new dataset, and of an addition."""
    hits: Counter[str] = Counter()
    for number in range(rounds(2, 16)):
        folder = tmp_path / str(number)
        folder.mkdir()
        if number % 2:
            shutil.copytree(stacks.almost, folder / "cells")
        with watched(folder, tmp_path / "watch.json"):
            case = Case.of_addition(folder, stacks) if number % 2 else Case.of_conversion(folder, stacks)
            moment = case.visible.exists if number % 4 < 2 else case.command.has_manifest
            case.command.kill_when(moment, wait_s=dice.choice([0.0, dice.uniform(0.0, 0.02)]))
            left = case.left()
            hits[left] += 1
            status, output, errors = case.command.repeat()
            if left == "ended":
                assert (status, "already" in errors) == (2, True), errors
            else:
                assert (status, json.loads(output)["dataset"]) == (0, str(case.dataset)), errors
        assert tree(case.dataset) == case.expected
        assert not (case.command.folder / WORK_FOLDER).exists()
    record_property("kills", sum(hits.values()))
    record_property("hit", dict(hits))


def _killed_in_the_middle(folder: Path, stack: Path, dice: random.Random) -> tuple[Command, Path]:
    command = convert_command(stack, folder / "cells")
    moment = dice.randrange(BLOCK_COUNT // 5, BLOCK_COUNT - 20)
    assert command.kill_when(lambda: command.marker_count() >= moment)
    (work,) = (folder / WORK_FOLDER).glob("*/[0-9]*/")
    return command, work


@pytest.mark.faults("T21", "Markers and blocks are damaged between kill and repetition")
@pytest.mark.parametrize("form", rounds(FORMS[2:3], FORMS))
def test_broken_markers_and_half_written_blocks_are_not_believed(
    tmp_path: Path,
    stacks: Stacks,
    dice: random.Random,
    record_property: Callable[[str, object], None],
    form: str,
) -> None:
    """T21. Whole markers are: their blocks are not touched again."""
    command, work = _killed_in_the_middle(tmp_path, stacks.folder / f"large-{form}", dice)
    markers = sorted(work.glob("checkpoints/*/*.json"))
    cut, foreign, missing, shortened, lost, *whole = dice.sample(markers, len(markers))
    shards = {marker: _shard(work, marker) for marker in markers}
    cut.write_bytes(cut.read_bytes()[:-10])
    foreign.write_text(json.dumps(json.loads(foreign.read_text()) | {"fingerprint": "0" * 64}))
    missing.unlink()
    for marker in (cut, foreign, missing, shortened):
        shards[marker].write_bytes(shards[marker].read_bytes()[:1000])
    shards[missing].with_name(shards[missing].name + ".__lock").write_bytes(b"half")
    shards[lost].unlink()
    before = {marker: shards[marker].stat().st_ino for marker in whole}
    names = {marker: shards[marker].relative_to(work / "result") for marker in whole}
    status, _, errors = command.repeat()
    assert status == 0, errors
    assert RESUMED in errors
    assert tree(tmp_path / "cells") == stacks.large
    assert {marker: (tmp_path / "cells" / names[marker]).stat().st_ino for marker in whole} == before
    record_property("broken", 5)
    record_property("believed", len(whole))


def _shard(work: Path, marker: Path) -> Path:
    (name,) = json.loads(marker.read_text())["result"]["files"]
    return work / "result" / name


@pytest.mark.faults("T21", "Input or settings change between kill and repetition")
@pytest.mark.parametrize("change", rounds(["section"], ["section", "settings"]))
def test_what_was_done_with_other_input_is_done_again(
    tmp_path: Path,
    stacks: Stacks,
    dice: random.Random,
    record_property: Callable[[str, object], None],
    change: str,
) -> None:
    """T21: one section is replaced, or the shards get another size, between kill and repetition."""
    record_property("changed", change)
    stack = tmp_path / "stack"
    shutil.copytree(stacks.folder / "large-plain", stack)
    shard_bytes_max = SHARD_BYTES_MAX
    command, _ = _killed_in_the_middle(tmp_path, stack, dice)
    if change == "section":
        write_tiff(stack / "section0003.tif", np.full((1, *LARGE_ZYX[1:]), 7, dtype=np.uint8))
    else:
        shard_bytes_max = 2**21
    status, _, errors = command.repeat(SHARD_BYTES_MAX=str(shard_bytes_max))
    assert status == 0, errors
    assert RESUMED not in errors
    undisturbed("convert", shard_bytes_max, **convert_params(stack, tmp_path / "fresh" / "cells"))
    assert tree(tmp_path / "cells") == tree(tmp_path / "fresh" / "cells") != stacks.large
