import numpy as np
import pytest
from PIL import Image

from voxelworks.errors import UnsupportedFormat
from voxelworks.volumes.formats import open_source

KINDS = {"lossy": {"quality": 80}, "lossless": {"lossless": True, "exact": True}}


def write_webp(path, image, **options):
    Image.fromarray(image).save(path, "webp", **options)
    return path


def noise(shape):
    return np.random.default_rng(9).integers(0, 255, shape, dtype=np.uint8)


def refusal(path):
    with pytest.raises(UnsupportedFormat) as error:
        open_source(path).read_section(0)
    return error.value.message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [3, 4])
def test_sections_equal_what_pillow_reads(tmp_path, kind, samples):
    image = noise((21, 34, samples))
    image[..., 3:] = 255
    image[0, 0, 3:] = 254  # else the encoder leaves alpha out
    path = write_webp(tmp_path / "s.webp", image, **KINDS[kind])
    with Image.open(path) as opened:
        expected = np.asarray(opened)
    if samples == 4:
        assert refusal(path) == "s.webp is transparent in places; save it without an alpha channel"
        return
    source = open_source(path)
    assert (source.shape_zyx, source.channel_count, source.has_random_access) == ((1, 21, 34), 3, False)
    assert np.array_equal(source.read_section(0), np.moveaxis(expected, -1, 0))


def test_a_folder_of_sections_is_a_stack(tmp_path):
    images = noise((3, 21, 34, 3))
    for z, image in enumerate(images):
        write_webp(tmp_path / f"s{z}.webp", image, lossless=True)
    source = open_source(tmp_path)
    assert np.array_equal(source.read(source.box), np.moveaxis(images, -1, 0))


def test_animations_and_damaged_files_are_refused(tmp_path):
    frames = [Image.fromarray(image) for image in noise((2, 21, 34, 3))]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    assert refusal(tmp_path / "a.webp") == "a.webp is an animation; save each section as a file of its own"
    path = write_webp(tmp_path / "s.webp", noise((21, 34, 3)), lossless=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert (
        refusal(path) == f"s.webp is cut short: it has {len(whole) - 10} of {len(whole)} bytes; copy it again"
    )
    path.write_bytes(whole[:40] + bytes(len(whole) - 40))
    assert refusal(path).startswith("s.webp cannot be decoded: ")
    path.write_bytes(b"RIFF")
    assert refusal(path).startswith("s.webp is none of ")
