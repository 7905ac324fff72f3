import pytest

from voxelworks.archives.paths import check_paths, without_common_folder
from voxelworks.errors import UnsafeReference


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../a",
        "a/../b",
        "a//b",
        "a/",
        "",
        ".",
        "a\\b",
        "C:/a",
        "a\nb",
        "a\0b",
        "a\x7fb",
        "a/./b",
        "\u202ea",
    ],
)
def test_a_path_that_leads_elsewhere_or_hides_something_is_refused(path):
    with pytest.raises(UnsafeReference):
        check_paths(["s1.tif", path])


@pytest.mark.parametrize(
    "path", ["s1.tif", "run 1/Schnitt-ä.tif", ".hidden", "a..b/c", "1/2/3/4.png", "日本/s1.tif"]
)
def test_usual_paths_are_taken(path):
    check_paths([path])


@pytest.mark.parametrize("path", ["x" * 256, "ä" * 128, "/".join(["folder"] * 200)])
def test_a_name_that_no_disk_takes_is_refused(path):
    with pytest.raises(UnsafeReference, match="too long"):
        check_paths([path])


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (["s1.tif", "s1.tif"], "twice"),
        (["s1.tif", "S1.TIF"], "'s1.tif' and 'S1.TIF' are the same name to some file systems"),
        (["\u00e4.tif", "a\u0308.tif"], "the same name to some"),
        (["Run/a.tif", "run/b.tif"], "'Run' and 'run' are the same name"),
        (["a", "a/b"], "'a' is a file, and 'a' a folder"),
    ],
)
def test_names_that_would_overwrite_each_other_are_told(paths, told):
    with pytest.raises(UnsafeReference, match=told):
        check_paths(paths)


def test_folders_that_all_files_share_are_left_out():
    assert without_common_folder(["run/raw/s1.tif", "run/raw/s2.tif"]) == {
        "run/raw/s1.tif": "s1.tif", "run/raw/s2.tif": "s2.tif",
    }  # fmt: skip
    assert without_common_folder(["run/raw/s1.tif", "run/labels/s1.tif"]) == {
        "run/raw/s1.tif": "raw/s1.tif", "run/labels/s1.tif": "labels/s1.tif",
    }  # fmt: skip
    assert without_common_folder(["s1.tif", "run/s2.tif"]) == {"s1.tif": "s1.tif", "run/s2.tif": "run/s2.tif"}
