import pytest

from voxelworks.jobs._alike import without_what_varies


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("no space on /data/a", "no space on …"),
        ("cannot read 'my stack.tif' of \"run 7\": `x`", "cannot read … of …"),
        ("block 7,8,9 of job 0123456789abcdef broke (failed 3 times)", "block … of job … broke (failed … times)"),
        ("shape (3, 4) is not (1, 2, 3)", "shape … is not …"),
        ("the worker's disk doesn't answer", "the worker's disk doesn't answer"),
        ("KeyError: 'a'\n  at C:\\x\\y.py", "KeyError: … at …"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_differs_between_equal_defects_is_left_out(message, kept):
    assert without_what_varies(message) == kept


@pytest.mark.parametrize("sign", ['"', "'", "`", "/", "7", "a", " '"])
def test_of_long_messages_only_the_beginning_counts(sign):
    assert len(without_what_varies(sign * 1_000_000)) <= 1000
