import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from voxelworks.db import SecretBox
from voxelworks.errors import InvalidInput, StorageFailed, TargetNotWritable


def test_what_was_sealed_is_opened_again_also_after_a_restart(tmp_path):
    sealed = SecretBox(tmp_path / "secret.key").seal("token of ada: ä")
    assert "token" not in sealed
    assert SecretBox(tmp_path / "secret.key").open(sealed) == "token of ada: ä"


def test_the_same_secret_is_never_sealed_to_the_same_text(tmp_path):
    box = SecretBox(tmp_path / "secret.key")
    assert box.seal("one") != box.seal("one")


def test_the_key_file_is_for_its_user_alone(tmp_path):
    SecretBox(tmp_path / "home" / "secret.key")
    assert stat.S_IMODE((tmp_path / "home" / "secret.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert [file.name for file in (tmp_path / "home").iterdir()] == ["secret.key"]


def test_processes_that_start_together_share_one_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        boxes = list(pool.map(SecretBox, [tmp_path / "secret.key"] * 8))
    assert {box.open(boxes[0].seal("shared")) for box in boxes} == {"shared"}
    assert [file.name for file in tmp_path.iterdir()] == ["secret.key"]


def test_another_key_does_not_open(tmp_path):
    sealed = SecretBox(tmp_path / "one.key").seal("secret")
    with pytest.raises(StorageFailed) as refused:
        SecretBox(tmp_path / "other.key").open(sealed)
    assert str(refused.value) == (
        "a stored secret cannot be decrypted with other.key; restore the key file that belongs to this database, "
        "or enter the secret again"
    )


@pytest.mark.parametrize("position", [0, 10, -5])
def test_a_changed_text_does_not_open(tmp_path, position):
    box = SecretBox(tmp_path / "secret.key")
    sealed = box.seal("a secret that is long enough")
    letters = list(sealed)
    letters[position] = "A" if letters[position] != "A" else "B"
    with pytest.raises(StorageFailed, match="cannot be decrypted"):
        box.open("".join(letters))


def test_a_file_without_a_key_is_named_and_kept(tmp_path):
    (tmp_path / "secret.key").write_text("not a key")
    with pytest.raises(InvalidInput, match=r"secret\.key holds no key; restore it from a backup"):
        SecretBox(tmp_path / "secret.key")
    assert (tmp_path / "secret.key").read_text() == "not a key"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "home").write_text("a file in the way")
    with pytest.raises(TargetNotWritable, match=r"home/secret\.key cannot be read or made"):
        SecretBox(tmp_path / "home" / "secret.key")
