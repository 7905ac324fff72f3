from pathlib import Path

import psutil
import pytest

from voxelworks.blocks.memory import PROCESS_BYTES, _control_group_bytes, fit_slots, free_memory_bytes
from voxelworks.errors import ResourcesExceeded

MIB = 2**20


def test_as_many_blocks_run_as_fit_into_memory():
    block = 100 * MIB
    each = block + PROCESS_BYTES
    assert fit_slots(block, 8, 20 * each) == 8
    assert fit_slots(block, 8, 3 * each) == 3
    assert fit_slots(block, 8, 3 * each - 1) == 2
    assert fit_slots(0, 8, 0) == 8


def test_a_block_that_does_not_fit_is_refused_with_both_numbers():
    with pytest.raises(ResourcesExceeded) as caught:
        fit_slots(1000 * MIB, 8, 500 * MIB)
    assert caught.value.message == (
        f"one block needs {1000 + PROCESS_BYTES // MIB} MiB of memory, but only 500 MiB are free; "
        "lower VOXELWORKS_SHARD_BYTES_MAX, raise VOXELWORKS_MEMORY_BYTES_MAX if it is set, or use a larger machine"
    )


def test_the_limit_of_the_job_includes_what_this_process_holds():
    held = psutil.Process().memory_info().rss
    free = free_memory_bytes(held + 100 * MIB)
    assert 50 * MIB < free < 150 * MIB
    assert free_memory_bytes(1) == 0


def write_group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_control_groups_of_version_2_count_with_those_above_them(tmp_path):
    mount = tmp_path / "mount"
    write_group(
        mount / "slurm", memory__max=1000, memory__current=300, memory__stat="anon 5\ninactive_file 50"
    )
    write_group(
        mount / "slurm" / "job1", memory__max="max", memory__current=200, memory__stat="inactive_file 20"
    )
    membership = tmp_path / "cgroup"
    membership.write_text("0::/slurm/job1\n")
    assert list(_control_group_bytes(membership, mount)) == [750]


def test_control_groups_of_version_1_are_found_inside_containers(tmp_path):
    mount = tmp_path / "mount"
    write_group(
        mount / "memory",
        memory__limit_in_bytes=1000,
        memory__usage_in_bytes=600,
        memory__stat="inactive_file 1\ntotal_inactive_file 100",
    )
    membership = tmp_path / "cgroup"
    membership.write_text("9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n")
    assert list(_control_group_bytes(membership, mount)) == [500]


def test_systems_without_control_groups_have_no_such_limit(tmp_path):
    assert list(_control_group_bytes(tmp_path / "none", tmp_path)) == []
