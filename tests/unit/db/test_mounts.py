from pathlib import Path

import pytest

from voxelworks.db import Mount, refuse_network_file_system
from voxelworks.errors import NetworkFileSystem

LOCAL = [Mount("/", "ext4"), Mount("/tmp", "tmpfs")]


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "gpfs", "9p", "beegfs"]
)
def test_a_database_on_a_network_file_system_is_refused(kind):
    with pytest.raises(NetworkFileSystem) as refused:
        refuse_network_file_system(Path("/lab/ada/voxelworks"), [*LOCAL, Mount("/lab", kind)])
    assert str(refused.value) == (
        f"/lab/ada/voxelworks lies on /lab, a network file system ({kind}), where SQLite can lose data; "
        "set VOXELWORKS_HOME to a local folder, or VOXELWORKS_DATABASE_URL to a PostgreSQL database"
    )


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "apfs", "overlay", "tmpfs", "fuse.bindfs"])
def test_a_database_on_a_local_file_system_is_not(kind):
    refuse_network_file_system(Path("/lab/ada/voxelworks"), [*LOCAL, Mount("/lab", kind)])


def test_the_deepest_mount_counts():
    mounts = [Mount("/", "ext4"), Mount("/lab", "nfs4"), Mount("/lab/scratch", "xfs")]
    refuse_network_file_system(Path("/lab/scratch/voxelworks"), mounts)
    with pytest.raises(NetworkFileSystem):
        refuse_network_file_system(Path("/lab/scratchy/voxelworks"), mounts)


def test_a_later_mount_hides_an_earlier_one():
    with pytest.raises(NetworkFileSystem):
        refuse_network_file_system(Path("/lab/voxelworks"), [Mount("/lab", "autofs"), Mount("/lab", "nfs4")])


def test_a_symbolic_link_does_not_hide_the_network(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(NetworkFileSystem):
        refuse_network_file_system(
            tmp_path / "link", [*LOCAL, Mount(str(tmp_path.resolve() / "real"), "nfs")]
        )


def test_an_unknown_place_is_taken_as_local():
    refuse_network_file_system(Path("/lab"), [])
