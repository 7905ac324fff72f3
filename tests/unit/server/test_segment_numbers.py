"""Numbers of the table of segments."""

import pytest

from voxelworks.server.segments import number_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (3, "3"), (3.0, "3"), (12345.678, "12\u202f346"), (1.5, "1.500"), (0.0012345, "0.001234"),
        (0.000353, "0.000353"), (8e-6, "0.000008"), (-4.2e-5, "-0.000042"), (1e-12, "1e-12"),
    ],
)  # fmt: skip
def test_a_number_is_written_with_the_digits_that_count(value, text):
    assert number_text(value) == text
