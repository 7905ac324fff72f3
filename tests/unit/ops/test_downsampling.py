"""What each method makes of small windows, value by value."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from voxelworks.errors import InvalidGeometry, InvalidParams, UnsupportedDtype
from voxelworks.ops.cache import choose
from voxelworks.ops.downsampling import downsample, pyramid


def window(*values, dtype="int32"):
    """A 2 x 2 x 2 volume of eight values."""
    return np.array(values, dtype).reshape(2, 2, 2)


def shrunk(array, method, factor_zyx=(2, 2, 2)):
    return downsample(array, factor_zyx, method).ravel().tolist()


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ((0, 0, 0, 0, 0, 0, 0, 3), 0),  # 0.375
        ((0, 0, 0, 0, 0, 0, 0, 4), 1),  # 0.5 is rounded up
        ((0, 0, 0, 0, 0, 0, 0, -4), 0),  # -0.5 too
        ((0, 0, 0, 0, 0, 0, 0, -5), -1),
        ((1, 2, 3, 4, 5, 6, 7, 8), 5),  # 4.5
    ],
)
def test_mean_of_integers_is_rounded_half_up(values, mean):
    assert shrunk(window(*values), "mean") == [mean]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"])
@pytest.mark.parametrize("method", ["mean", "median", "mode"])
def test_the_largest_and_smallest_values_do_not_overflow(dtype, method):
    for extreme in (np.iinfo(dtype).max, np.iinfo(dtype).min):
        assert shrunk(window(*[extreme] * 8, dtype=dtype), method) == [extreme]


def test_mean_of_64_bit_integers_is_exact():
    values = [2**64 - 1, 2**64 - 1, 2**64 - 3, 5, 2**63, 1, 2**64 - 1, 7]
    assert shrunk(window(*values, dtype="uint64"), "mean") == [(2 * sum(values) + 8) // 16]


def test_median_of_integers_is_the_mean_of_the_two_middle_values_rounded_down():
    assert shrunk(window(9, 1, 8, 2, 7, 3, 6, 5), "median") == [5]  # middle 5 and 6
    assert shrunk(window(-9, -1, -8, -2, -7, -3, -6, -5), "median") == [-6]  # middle -6 and -5


def test_mode_is_the_most_frequent_value():
    assert shrunk(window(7, 7, 7, 1, 1, 0, 0, 2), "mode") == [7]
    assert shrunk(window(0, 0, 0, 0, 0, 3, 3, 3), "mode") == [0]


def test_mode_prefers_any_object_to_the_background_on_a_tie():
    assert shrunk(window(0, 0, 0, 0, 9, 9, 9, 9), "mode") == [9]
    assert shrunk(window(0, 0, 0, 9, 9, 9, 5, 4), "mode") == [9]


def test_mode_takes_the_smallest_of_equally_frequent_objects():
    assert shrunk(window(8, 8, 8, 8, 3, 3, 3, 3), "mode") == [3]
    assert shrunk(window(1, 2, 3, 4, 5, 6, 7, 8), "mode") == [1]
    assert shrunk(window(-1, -2, 0, 0, -2, -1, 4, 5), "mode") == [-2]


def test_mode_tells_ids_apart_that_are_equal_as_doubles():
    near = 2**63
    assert shrunk(window(near, near + 1, near + 1, near, near + 1, 0, 0, 0, dtype="uint64"), "mode") == [
        near + 1
    ]


def test_windows_at_an_odd_border_hold_the_voxels_that_exist():
    row = np.array([1, 3, 10], "uint8").reshape(1, 1, 3)
    assert shrunk(row, "mean") == [2, 10]
    assert shrunk(row, "median") == [2, 10]
    assert shrunk(np.array([0, 0, 6], "uint8").reshape(1, 3, 1), "mode") == [0, 6]


def test_an_axis_with_factor_1_is_not_mixed():
    volume = np.arange(8, dtype="uint8").reshape(2, 2, 2)
    assert shrunk(volume, "mean", (1, 2, 2)) == [2, 6]  # 1.5 and 5.5
    assert shrunk(volume, "mean", (2, 1, 2)) == [3, 5]  # 2.5 and 4.5
    assert shrunk(volume, "mean", (2, 2, 1)) == [3, 4]
    assert shrunk(volume, "mean", (1, 1, 2)) == [1, 3, 5, 7]
    assert np.shares_memory(downsample(volume, (1, 1, 1), "mean"), volume)


def test_floats_are_added_in_double_precision():
    values = window(1e8, 1, 1, 1, 1, 1, 1, 1, dtype="float32")
    assert shrunk(values, "mean") == [float(np.float32((1e8 + 7) / 8))]


@pytest.mark.parametrize("method", ["mean", "median"])
def test_a_nan_makes_its_whole_window_nan(method):
    values = np.ones((2, 2, 4), "float32")
    values[1, 0, 1] = np.nan
    result = downsample(values, (2, 2, 2), method).ravel()
    assert np.isnan(result[0])
    assert result[1] == 1


def test_channels_stay_apart():
    volume = np.stack([np.full((3, 3, 3), value, "uint8") for value in (10, 20, 30)])
    result = downsample(volume, (2, 2, 2), "mean")
    assert result.shape == (3, 2, 2, 2)
    assert [set(channel.ravel().tolist()) for channel in result] == [{10}, {20}, {30}]


def test_any_memory_layout_gives_the_same():
    volume = np.random.default_rng(0).integers(0, 9, (5, 6, 7)).astype("uint16")
    expected = downsample(volume, (2, 2, 2), "mode").tolist()
    assert downsample(np.asfortranarray(volume), (2, 2, 2), "mode").tolist() == expected
    assert downsample(volume.astype(">u2"), (2, 2, 2), "mode").tolist() == expected
    assert downsample(np.repeat(volume, 2, axis=2)[:, :, ::2], (2, 2, 2), "mode").tolist() == expected


def test_an_empty_volume_stays_empty():
    assert downsample(np.zeros((0, 5, 4), "uint8"), (2, 2, 2), "mean").shape == (0, 3, 2)


def test_each_level_of_a_pyramid_is_made_from_the_one_before():
    volume = np.random.default_rng(0).integers(0, 255, (9, 10, 11)).astype("uint8")
    first, second = pyramid(volume, [(1, 2, 2), (2, 2, 2)], "mean")
    assert first.tolist() == downsample(volume, (1, 2, 2), "mean").tolist()
    assert second.tolist() == downsample(first, (2, 2, 2), "mean").tolist()


def test_what_cannot_be_shrunk_is_refused():
    volume = np.zeros((2, 2, 2), "uint8")
    with pytest.raises(InvalidGeometry, match=r"factor \(1, 4, 4\)"):
        downsample(volume, (1, 4, 4), "mean")
    with pytest.raises(InvalidGeometry, match="2 axes"):
        downsample(volume[0], (2, 2, 2), "mean")
    with pytest.raises(InvalidParams, match="'max'"):
        downsample(volume, (2, 2, 2), "max")
    with pytest.raises(UnsupportedDtype, match="the mode of float32"):
        downsample(volume.astype("float32"), (2, 2, 2), "mode")
    with pytest.raises(UnsupportedDtype, match="complex64"):
        downsample(volume.astype("complex64"), (2, 2, 2), "mean")


def test_compiled_functions_are_kept_in_the_preferred_folder(tmp_path):
    assert choose(tmp_path / "numba" / "1") == tmp_path / "numba" / "1"


def test_a_folder_that_cannot_be_made_is_replaced_by_one_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    assert choose(tmp_path / "file" / "numba") == tmp_path / f"voxelworks-{os.getuid()}"


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    open_to_all = tmp_path / f"voxelworks-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    (tmp_path / "file").touch()
    chosen = choose(tmp_path / "file" / "numba")
    assert chosen != open_to_all
    assert chosen.stat().st_mode & 0o077 == 0


def test_a_second_process_loads_what_the_first_compiled(tmp_path):
    code = (
        "import numpy as np; from voxelworks.ops import _windows, downsampling;"
        "downsampling.downsample(np.zeros((2, 2, 2), 'uint8'), (2, 2, 2), 'mean');"
        "print(sum(_windows.mean_of_integers.stats.cache_hits.values()))"
    )
    environment = {**os.environ, "VOXELWORKS_CACHE_DIR": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    hits = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    assert hits == ["0\n", "1\n"]
    assert any(path.suffix == ".nbc" for path in Path(tmp_path).rglob("*"))
