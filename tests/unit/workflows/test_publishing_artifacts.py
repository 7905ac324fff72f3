"""A file for download gets its name once, whoever publishes it and however often."""

import pytest

from voxelworks.errors import StorageFailed, TargetExists
from voxelworks.protocol.messages import SealedResult
from voxelworks.workflows.publishing import AttemptFolder, publish, seal


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out.zip"


@pytest.fixture
def sealed(target):
    folder = AttemptFolder.for_target("artifact", str(target), "job", 1)
    folder.prepare("inputs")
    (folder.result / "out.zip").write_bytes(b"content")
    digest, size = seal(folder, kind="artifact", known={})
    assert not target.exists()
    return SealedResult(
        kind="artifact", place="artifact:local/job", value={}, manifest_sha256=digest, size_bytes=size
    )


def test_a_file_is_published_and_again(sealed, target):
    for _ in range(2):
        publish(sealed, str(target), work_key="job", attempt=1)
        assert target.read_bytes() == b"content"


def test_what_somebody_else_has_put_there_stays(sealed, target):
    target.write_bytes(b"mine")
    with pytest.raises(TargetExists):
        publish(sealed, str(target), work_key="job", attempt=1)
    assert target.read_bytes() == b"mine"


def test_a_file_that_is_gone_is_not_published(sealed, target):
    publish(sealed, str(target), work_key="job", attempt=1)
    target.write_bytes(b"less")
    with pytest.raises(StorageFailed, match="is gone although it was sealed"):
        publish(sealed, str(target), work_key="job", attempt=1)
