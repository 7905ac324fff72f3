"""Write annotations with the official WEBKNOSSOS library, and read with it what others wrote.

usage: annotate_with_webknossos.py ORDERS.json

Run it with the Python of an environment of its own that has the package `webknossos` (AGPL: never imported by
Voxelworks). The orders are a JSON object:

* `write`: annotations to make, each with its `path`, `voxel_size`, `dataset`, `trees` (lists of x, y, z), `volume`
  (its name), `fallback`, `dtype`, `mag`, `pieces` (first voxel x, y, z in mag 1, and .npy file of z, y, x) and
  `segments` (id, name, colour).
* `read`: annotations of others, each with its `path`, `trees` and `volumes` (name -> `fallback`, `dtype` and `buckets`:
  mag, first voxel x, y, z in voxels of it, and .npy file of z, y, x).

What differs is printed, one line each, then how many values were compared.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import webknossos as wk
from webknossos.annotation.volume_layer import SegmentInformation


def main() -> int:
    orders = json.loads(Path(sys.argv[1]).read_text())
    for order in orders["write"]:
        write(order)
    compared = different = 0
    for claim in orders["read"]:
        for what, found, expected in pairs(claim):
            compared += 1
            if found != expected:
                different += 1
                print(f"{claim['path']}, {what}: {found} instead of {expected}")
    print(f"{compared} compared")
    return 1 if different else 0


def write(order: dict) -> None:
    annotation = wk.Annotation(
        name="annotated", dataset_name=order["dataset"], voxel_size=tuple(order["voxel_size"])
    )
    for number, nodes in enumerate(order["trees"]):
        tree = annotation.skeleton.add_tree(f"merge {number}")
        made = [tree.add_node(position=tuple(place)) for place in nodes]
        for one, other in pairwise(made):
            tree.add_edge(one, other)
    volume = annotation.add_volume_layer(
        order["volume"], dtype=np.dtype(order["dtype"]), fallback_layer=order["fallback"]
    )
    for segment_id, name, color in order["segments"]:
        volume.segments[segment_id] = SegmentInformation(
            name=name, anchor_position=None, color=tuple(color), metadata={}
        )
    with volume.edit() as layer:
        mag = layer.add_mag(order["mag"], chunk_shape=(32, 32, 32), shard_shape=(32, 32, 32))
        for start, file in order["pieces"]:
            voxels = np.load(file).transpose(2, 1, 0)
            mag.write(voxels, absolute_offset=tuple(start), allow_resize=True, allow_unaligned=True)
    annotation.save(order["path"])


def pairs(claim: dict):
    """Yield what is compared, what the library finds, and what is claimed."""
    annotation = wk.Annotation.load(claim["path"])
    trees = [
        [list(node.position) for node in sorted(tree.nodes, key=lambda node: node.id)]
        for tree in annotation.skeleton.flattened_trees()
    ]
    yield "trees", trees, claim["trees"]
    yield "volume layers", sorted(annotation.get_volume_layer_names()), sorted(claim["volumes"])
    for name, stated in claim["volumes"].items():
        yield f"{name}: fallback", annotation.get_volume_layer(name).fallback_layer_name, stated["fallback"]
        with annotation.temporary_volume_layer_copy(name) as layer:
            yield f"{name}: type", np.dtype(layer.dtype).name, stated["dtype"]
            mags = {mag for mag, _, _ in stated["buckets"]}
            yield f"{name}: mags", sorted(mag.to_layer_name() for mag in layer.mags), sorted(mags)
            for mag, start, file in stated["buckets"]:
                expected = np.load(file).transpose(2, 1, 0)
                view = layer.get_mag(mag)
                factor = view.mag.to_np()
                box = wk.BoundingBox(
                    tuple((np.array(start) * factor).tolist()), tuple((expected.shape * factor).tolist())
                )
                found = view.read(absolute_bounding_box=box)[0]
                yield f"{name}: bucket at {start} of mag {mag}", np.array_equal(found, expected), True


if __name__ == "__main__":
    sys.exit(main())
