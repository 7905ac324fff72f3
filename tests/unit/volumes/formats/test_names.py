from hypothesis import given
from hypothesis import strategies as st

from voxelworks.volumes.formats.names import SectionNumbers, natural_key, section_numbers


def test_numbers_in_names_count_as_numbers():
    names = ["s_10.tif", "s_9.tif", "S_2.tif", "s_1.tif", "a.tif"]
    assert sorted(names, key=natural_key) == ["a.tif", "s_1.tif", "S_2.tif", "s_9.tif", "s_10.tif"]


def test_the_one_number_that_varies_is_the_section():
    assert section_numbers(["run2_z008_x", "run2_z009_x", "run2_z010_x"]) == SectionNumbers(
        (8, 9, 10), "run2_z", "_x", 3
    )
    assert section_numbers(["8", "9", "10"]) == SectionNumbers((8, 9, 10), "", "", 1)


def test_names_that_differ_otherwise_have_no_section_numbers():
    assert section_numbers(["a_1", "b_2"]) is None
    assert section_numbers(["r1_c1", "r1_c2", "r2_c1"]) is None
    assert section_numbers(["s_1", "s_2", "overview"]) is None
    assert section_numbers(["alone_1"]) is None


def test_the_same_number_written_twice_is_seen():
    assert section_numbers(["s_01", "s_1"]) == SectionNumbers((1, 1), "s_", "", 1)


def test_missing_names_look_like_the_others():
    numbers = section_numbers(["s_008.b", "s_009.b", "s_012.b"])
    assert (numbers.step, numbers.missing_count, numbers.missing_names(10)) == (1, 2, ["s_010.b", "s_011.b"])
    assert numbers.missing_names(1) == ["s_010.b"]


def test_every_tenth_section_is_a_whole_stack():
    numbers = section_numbers(["s10", "s20", "s30"])
    assert (numbers.step, numbers.missing_count) == (10, 0)


def test_a_gap_among_every_tenth_section_is_one_section():
    numbers = section_numbers(["s10", "s20", "s40"])
    assert (numbers.step, numbers.missing_count, numbers.missing_names(9)) == (10, 1, ["s30"])


@given(
    numbers=st.sets(st.integers(0, 400), min_size=3, max_size=40),
    width=st.integers(1, 6),
    before=st.sampled_from(["", "s_", "run 7 z="]),
    after=st.sampled_from(["", "_raw", "-c2"]),
)
def test_present_and_missing_names_are_the_whole_range(numbers, width, before, after):
    stems = sorted((f"{before}{number:0{width}d}{after}" for number in numbers), key=natural_key)
    found = section_numbers(stems)
    assert found is not None
    assert found.numbers == tuple(sorted(numbers))
    missing = found.missing_names(1000)
    assert len(missing) == found.missing_count
    whole = range(min(numbers), max(numbers) + 1, found.step)
    expected = {f"{before}{number:0{found.digits}d}{after}" for number in whole if number not in numbers}
    assert set(missing) == expected
