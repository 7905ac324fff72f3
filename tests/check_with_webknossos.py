"""Open a dataset with the official WEBKNOSSOS library and compare it voxel for voxel.

usage: check_wk.py DATASET [REFERENCE.npz ...]

Run it with the Python of an environment of its own that has the package `webknossos` (AGPL: never imported by
Voxelworks). A reference file is named LAYER@MAG.npz, such as color@4-4-1.npz, and holds `data` (c, z, y, x)
and `topleft` (x, y, z) in voxels of that mag; it must be all that the layer covers. Without references the
dataset is described and every magnification is read.
"""

import sys
from pathlib import Path

import numpy as np
import webknossos as wk


def main() -> int:
    dataset = wk.Dataset.open(sys.argv[1])
    print(f"{dataset.name}: voxel size {tuple(dataset.voxel_size)}")
    for layer in dataset.layers.values():
        mags = [mag.to_layer_name() for mag in sorted(layer.mags)]
        print(
            f"  {layer.name}: {layer.category} {layer.dtype} x {layer.num_channels}, {layer.bounding_box}, mags {mags}"
        )
        if hasattr(layer, "largest_segment_id"):
            print(f"    largest segment id {layer.largest_segment_id}")
    if not sys.argv[2:]:
        for layer in dataset.layers.values():
            for mag in layer.mags.values():
                print(f"  {layer.name} {mag.mag}: sum {int(mag.read().astype(np.float64).sum())}, {mag.info}")
        return 0
    return max(compare(dataset, Path(reference)) for reference in sys.argv[2:])


def compare(dataset: wk.Dataset, reference: Path) -> int:
    layer_name, _, mag_name = reference.name.removesuffix(".npz").partition("@")
    with np.load(reference) as file:
        expected, topleft = file["data"], file["topleft"]
    mag = dataset.get_layer(layer_name).get_mag(mag_name)
    axes, starts = axes_of(mag.bounding_box)
    assert [
        starts[axis] // factor for axis, factor in zip("xyz", mag.mag.to_list(), strict=True)
    ] == topleft.tolist()
    # The whole mag: given a plain box, release 4.3.3 mixes up the axes of arrays that are not in x, y, z
    # order.
    found = mag.read().transpose([axes.index(axis) for axis in "czyx"])
    is_equal = (
        found.shape == expected.shape and found.dtype == expected.dtype and bool((found == expected).all())
    )
    print(
        f"  {layer_name} mag {mag_name}: {'equal' if is_equal else 'DIFFERENT'} {expected.shape} {expected.dtype}"
    )
    return 0 if is_equal else 1


def axes_of(box) -> tuple[list[str], dict[str, int]]:
    """Axis order of what is read, and where the box begins on each axis, in mag 1."""
    if isinstance(box, wk.BoundingBox):  # the library's usual order
        return list("cxyz"), dict(zip("xyz", box.topleft.to_list(), strict=True))
    return list(box.axes), dict(zip(box.axes, np.array(box.topleft).tolist(), strict=True))


if __name__ == "__main__":
    sys.exit(main())
