"""How sizes are told, on pages, in the terminal and in errors."""

import pytest

from voxelworks.sizes import size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1023 * 2**20, "1023 MiB"),
        (2**30, "1 GiB"),
        (2**62, "4096 PiB"),
    ],
)  # fmt: skip
def test_a_size_is_written_with_its_unit(count, text):
    assert size_text(count) == text
