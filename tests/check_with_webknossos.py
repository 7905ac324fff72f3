"""Open a dataset with the official WEBKNOSSOS library and compare it voxel for voxel.

usage: check_with_webknossos.py DATASET [REFERENCE.npz ...]
       check_with_webknossos.py --claims FILE.json
       check_with_webknossos.py --agglomerates DATASET LAYER FOLDER

Run it with the Python of an environment of its own that has the package `webknossos` (AGPL: never imported by
Voxelworks). A reference file is named LAYER@MAG.npz, such as color@4-4-1.npz, and holds `data` (c, z, y, x)
and `topleft` (x, y, z) in voxels of that mag; it must be all that the layer covers. Without references the
dataset is described and every magnification is read.

Claims are a JSON list of datasets, each with its `path`, `voxel_size` and `layers`. A layer states `category`,
`dtype`, `channels`, `box` (x, y, z, width, height, depth), `largest_segment_id`, `attachments` (name -> path) and
`mags` (name -> .npy file of all voxels, c, z, y, x). What differs is printed, one line each, then how many values
were compared.

Agglomerate files of a layer are read as graphs and written anew into a folder, which must give equal arrays.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorstore
import webknossos as wk
from webknossos.dataset import AgglomerateAttachment


def main() -> int:
    if sys.argv[1] == "--claims":
        return check_claims(json.loads(Path(sys.argv[2]).read_text()))
    if sys.argv[1] == "--agglomerates":
        return check_agglomerates(wk.Dataset.open(sys.argv[2]).get_layer(sys.argv[3]), Path(sys.argv[4]))
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


def check_agglomerates(layer, folder: Path) -> int:
    different = 0
    for attachment in layer.attachments.agglomerates:
        graph = attachment.to_graph()
        print(f"{attachment.name}: {graph}")
        written = AgglomerateAttachment.create(folder / attachment.name, graph)
        for place in sorted(path for path in Path(written.path).iterdir() if path.is_dir()):
            found, expected = (
                rows_of(Path(parent) / place.name) for parent in (attachment.path, written.path)
            )
            if found.dtype != expected.dtype or not np.array_equal(found, expected):
                different += 1
                print(
                    f"{place.name}: {found.dtype} {found.shape} instead of {expected.dtype} {expected.shape}"
                )
    return 1 if different else 0


def rows_of(place: Path) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(place)}}
    return tensorstore.open(spec).result().read().result()


def check_claims(claims: list[dict]) -> int:
    compared, different = 0, 0
    for claim in claims:
        dataset = wk.Dataset.open(claim["path"])
        pairs = {"voxel size": (list(dataset.voxel_size), claim["voxel_size"])}
        pairs["layers"] = (sorted(dataset.layers), sorted(claim["layers"]))
        for name, stated in claim["layers"].items():
            layer = dataset.get_layer(name)
            pairs |= {f"{name}: {what}": pair for what, pair in layer_pairs(layer, stated).items()}
        compared += len(pairs)
        for what, (found, expected) in pairs.items():
            if found != expected:
                different += 1
                print(f"{dataset.name}, {what}: {found} instead of {expected}")
    print(f"{compared} compared")
    return 1 if different else 0


def layer_pairs(layer, stated: dict) -> dict[str, tuple]:
    """What the library finds, and what is claimed."""
    _, starts = axes_of(layer.bounding_box)
    sizes = dict(zip(axes_of(layer.bounding_box)[0], layer.bounding_box.size, strict=False))
    if isinstance(layer.bounding_box, wk.BoundingBox):
        sizes = dict(zip("xyz", layer.bounding_box.size.to_list(), strict=True))
    box = [*(int(starts[axis]) for axis in "xyz"), *(int(sizes[axis]) for axis in "xyz")]
    pairs = {
        "category": (str(layer.category), stated["category"]),
        "dtype": (np.dtype(layer.dtype).name, stated["dtype"]),
        "channels": (layer.num_channels, stated["channels"]),
        "box": (box, stated["box"]),
        "mags": (sorted(mag.to_layer_name() for mag in layer.mags), sorted(stated["mags"])),
        "largest id": (getattr(layer, "largest_segment_id", None), stated["largest_segment_id"]),
    }
    for name, path in stated["attachments"].items():
        attachment = getattr(layer.attachments, name)
        pairs[name] = (Path(str(attachment.path)).resolve(), Path(path).resolve())
    for name, file in stated["mags"].items():
        mag, expected = layer.get_mag(name), np.load(file)
        axes, _ = axes_of(mag.bounding_box)
        found = mag.read().transpose([axes.index(axis) for axis in "czyx"])
        pairs[f"shape in mag {name}"] = (found.shape, expected.shape)
        pairs[f"type in mag {name}"] = (found.dtype, expected.dtype)
        is_equal = found.shape == expected.shape and bool((found == expected).all())
        pairs[f"voxels in mag {name}"] = (is_equal, True)
    return pairs


def axes_of(box) -> tuple[list[str], dict[str, int]]:
    """Axis order of what is read, and where the box begins on each axis, in mag 1."""
    if isinstance(box, wk.BoundingBox):  # the library's usual order
        return list("cxyz"), dict(zip("xyz", box.topleft.to_list(), strict=True))
    return list(box.axes), dict(zip(box.axes, np.array(box.topleft).tolist(), strict=True))


if __name__ == "__main__":
    sys.exit(main())
