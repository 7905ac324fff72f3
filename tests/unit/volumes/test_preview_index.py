"""The list of pictures: believed only as far as we could have written it, and never half new."""

import json
import os

import pytest

from voxelworks.protocol.views import LayerPreview, PictureView, SliceView
from voxelworks.volumes import previews
from voxelworks.volumes.previews import INDEX_FILE, adopt, read_index, save_index


def preview(letter):
    """Pictures whose names are made of one letter."""
    slices = tuple(
        SliceView(file=f"{letter * 31}{number}.webp", width=3, height=2, plane=plane, box="0,0,0,3,2,1")
        for number, plane in enumerate(("xy", "xz", "yz"))
    )
    return LayerPreview(slices=slices, thumbnail=PictureView(file=f"{letter * 31}0.webp", width=3, height=2))


def stage(folder, **layers):
    folder.mkdir()
    for item in layers.values():
        for picture in item.slices:
            (folder / picture.file).write_text(picture.file)
    save_index(folder, layers)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def files(*letters):
    return sorted([INDEX_FILE, *(f"{letter * 31}{number}.webp" for letter in letters for number in range(3))])


def test_what_was_saved_is_read(tmp_path):
    save_index(tmp_path, {"b": preview("b"), "a": preview("a")})
    assert read_index((tmp_path / INDEX_FILE).read_bytes()) == {"a": preview("a"), "b": preview("b")}


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../../secret.webp"}, {"file": "a.webp"}, {"file": "a" * 32 + ".html"}, {"width": 0},
        {"height": 10**6}, {"box": "1,2,3"}, {"plane": "zz"}, {"box": None},
    ],
)  # fmt: skip
def test_what_we_could_not_have_written_is_not_believed(change):
    raw = {"version": 1, "layers": {"a": preview("a").model_dump(mode="json")}}
    raw["layers"]["a"]["slices"][0] |= change
    assert read_index(json.dumps(raw).encode()) == {}


@pytest.mark.parametrize(
    "text", [None, b"", b"[", b"[]", b'{"version": 2}', b'{"layers": 5}', b"\xff" * 9, b"[" * 10**5]
)
def test_other_files_are_no_index(text):
    assert read_index(text) == {}
    assert read_index(b" " * (previews.INDEX_BYTES_MAX + 1)) == {}


def test_new_pictures_replace_those_of_their_layer(tmp_path):
    adopt(
        stage(tmp_path / "1", color=preview("a"), labels=preview("b")), tmp_path / "seen", is_complete=False
    )
    adopt(stage(tmp_path / "2", color=preview("c")), tmp_path / "seen", is_complete=False)
    assert names(tmp_path / "seen") == files("b", "c")
    assert read_index((tmp_path / "seen" / INDEX_FILE).read_bytes()) == {
        "color": preview("c"),
        "labels": preview("b"),
    }


def test_complete_pictures_replace_all(tmp_path):
    adopt(stage(tmp_path / "1", color=preview("a"), gone=preview("b")), tmp_path / "seen", is_complete=False)
    adopt(stage(tmp_path / "2", color=preview("a")), tmp_path / "seen", is_complete=True)
    assert names(tmp_path / "seen") == files("a")


def test_without_new_pictures_nothing_changes(tmp_path):
    (tmp_path / "none").mkdir()
    adopt(tmp_path / "none", tmp_path / "seen", is_complete=True)
    adopt(tmp_path / "missing", tmp_path / "seen", is_complete=False)
    assert not (tmp_path / "seen").exists()


def test_every_listed_picture_is_there_wherever_it_dies_and_a_repeat_completes_it(tmp_path, monkeypatch):
    class Died(BaseException):
        pass

    for die_at in range(1, 20):
        folder = tmp_path / str(die_at)
        folder.mkdir()
        seen = folder / "seen"
        adopt(stage(folder / "1", color=preview("a")), seen, is_complete=False)
        staged, count = stage(folder / "2", color=preview("c")), 0

        def step(function):
            def stepping(*args):
                nonlocal count
                count += 1
                if count == die_at:  # noqa: B023
                    raise Died
                return function(*args)

            return stepping

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", step(os.replace))
            patch.setattr(previews, "replace_file", step(previews.replace_file))
            patch.setattr(type(seen), "unlink", step(type(seen).unlink))
            try:
                adopt(staged, seen, is_complete=False)
                has_died = False
            except Died:
                has_died = True
        listed = read_index((seen / INDEX_FILE).read_bytes())
        assert listed in ({"color": preview("a")}, {"color": preview("c")})
        assert all((seen / picture.file).exists() for picture in listed["color"].slices)
        adopt(staged, seen, is_complete=False)
        assert names(seen) == files("c")
        if not has_died:
            assert die_at > 5
            return
    raise AssertionError("never ended")
