"""A run without a server that was killed while it published, or whose files were touched by others."""

from pathlib import Path

import pytest

from voxelworks.errors import StorageFailed
from voxelworks.protocol.messages import SealedResult
from voxelworks.workflows.publishing import AttemptFolder, accept, complete, file_facts, publish, seal


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    folder = AttemptFolder(tmp_path, "run-1", 1)
    folder.prepare("same")
    (folder.result / "datasource-properties.json").write_text("{}")
    return folder


@pytest.fixture
def accepted(folder: AttemptFolder) -> SealedResult:
    digest, size = seal(folder, kind="dataset", known={})
    result = SealedResult(
        kind="dataset", place="demo", value={"dataset": "demo"}, manifest_sha256=digest, size_bytes=size
    )
    accept(result, folder)
    return result


def test_a_result_that_has_not_moved_is_looked_at_anew(folder, accepted, tmp_path):
    assert complete(folder, str(tmp_path / "demo")) is None
    assert not (tmp_path / "demo").exists()


def test_a_result_that_has_moved_is_the_answer_also_while_it_is_cleared_up(folder, accepted, tmp_path):
    publish(accepted, str(tmp_path / "demo"), work_key="run-1", attempt=1)
    assert complete(folder, str(tmp_path / "demo")) == accepted
    folder.manifest_path.unlink()
    assert complete(folder, str(tmp_path / "demo")) == accepted
    folder.discard()
    assert complete(folder, str(tmp_path / "demo")) is None
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_result_that_somebody_has_removed_is_not_the_answer(folder, accepted, tmp_path):
    publish(accepted, str(tmp_path / "demo"), work_key="run-1", attempt=1)
    (tmp_path / "demo" / "datasource-properties.json").unlink()
    with pytest.raises(StorageFailed, match="is gone although it was sealed"):
        complete(folder, str(tmp_path / "demo"))


def test_the_next_attempt_believes_neither_the_seal_nor_the_acceptance(folder, accepted):
    second = AttemptFolder(folder.home, "run-1", 2)
    second.prepare("same")
    assert (second.manifest_path.exists(), second.accepted_path.exists()) == (False, False)


def test_a_file_that_is_not_as_long_as_its_block_wrote_it_is_not_sealed(folder):
    shard = folder.result / "0"
    shard.write_bytes(b"whole")
    known = {"0": file_facts(shard)}
    shard.write_bytes(b"half")
    with pytest.raises(StorageFailed, match="is not what was written"):
        seal(folder, kind="dataset", known=known)


def test_what_a_fenced_attempt_wrote_is_debris_and_what_it_holds_is_not(folder):
    folder.discard_debris()
    assert folder.path.exists()
    second = AttemptFolder(folder.home, "run-1", 2)
    second.prepare("same")
    (folder.result / "color").mkdir(parents=True)
    folder.discard_debris()
    assert (folder.path.exists(), second.path.exists()) == (False, True)
