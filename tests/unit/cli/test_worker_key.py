"""Where `voxelworks worker` takes its key from."""

import pytest

from voxelworks.cli.worker import _connect, worker
from voxelworks.errors import InvalidInput
from voxelworks.settings import Settings

SERVER = "http://127.0.0.1:9"


def used(home, key=None, key_file=None):
    with _connect(Settings(home=home), SERVER, key, key_file) as client:
        return client._http.headers["Authorization"].removeprefix("Bearer ")


def test_a_file_counts_more_than_a_key_and_this_more_than_the_home(tmp_path):
    (tmp_path / "worker.key").write_text("of the home\n")
    (tmp_path / "secret").write_text("of the file\n")
    assert used(tmp_path) == "of the home"
    assert used(tmp_path, "given") == "given"
    assert used(tmp_path, "given", tmp_path / "secret") == "of the file"


def test_a_key_that_cannot_be_read_is_named_with_the_way_out(tmp_path):
    for file in (None, tmp_path / "none"):
        named = file or tmp_path / "worker.key"
        with pytest.raises(
            InvalidInput, match=rf"{named} cannot be read .*give --key-file, or set VOXELWORKS_WORKER_KEY"
        ):
            used(tmp_path, key_file=file)


def test_the_environment_names_key_and_file(monkeypatch):
    monkeypatch.setenv("VOXELWORKS_WORKER_KEY", "secret")
    monkeypatch.setenv("VOXELWORKS_WORKER_KEY_FILE", "/run/secrets/key")
    given = worker.make_context("worker", []).params
    assert (given["key"], str(given["key_file"])) == ("secret", "/run/secrets/key")
