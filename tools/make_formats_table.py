"""Measure which files are read, and write docs/formats.md from what was found.

python tools/make_formats_table.py --measure    read every file, write docs/figures/formats.json and the tables
python tools/make_formats_table.py              write the tables
python tools/make_formats_table.py --check      exit with 1 if the page differs from the figures

Measuring reads every file and folder that VOXELWORKS_TEST_DATA/formats/SOURCE.txt lists, converts it, and compares the
voxels with another reader where VOXELWORKS_READERS_PYTHON names a Python that has some: mrcfile, nibabel, pydicom,
h5py, pylibCZIrw, pyklb, cloud-volume, wkw, rosettasciio, pillow, tifffile, zarr. Figures without it are not to be kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "figures" / "formats.json"
PAGE = ROOT / "docs" / "formats.md"
BEGIN, END = "<!-- formats: begin, made by tools/make_formats_table.py -->", "<!-- formats: end -->"
Json = dict[str, Any]
MORE_ENTRIES = ("dicom",)
"""Folders of which SOURCE.txt lists only the files."""
GIVEN: dict[str, Json] = {
    "precomputed/64x64x64-raw-uint64-segmentation.dat": {"raw_size": "64,64,64", "raw_dtype": "uint64"},
    "jpeg_tiles/temca2": {"fill_missing": True},
}
"""What a person has to say beside the name of the file."""
SLAB = 32
"""Sections that are read at a time."""


def main() -> int:
    if sys.argv[1:2] == ["--reference"]:
        print("\n" + json.dumps(reference(Path(sys.argv[2]), sys.argv[3:])))
        return 0
    if "--measure" in sys.argv[1:]:
        FIGURES.write_text(json.dumps(measure(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}\n{tables(json.loads(FIGURES.read_text(encoding='utf-8')))}\n{END}{after}"
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    if made != page:
        print("docs/formats.md differs from its figures: run tools/make_formats_table.py", file=sys.stderr)
    return int(made != page)


# What Voxelworks reads


def measure() -> Json:
    data = Path(os.environ["VOXELWORKS_TEST_DATA"]) / "formats"
    entries = list(_entries(data))
    found = [_read(data, entry) for entry in entries]
    readers = _ask_readers(data, [record["entry"] for record in found if "volumes" in record])
    for record in found:
        answer = readers.get(record["entry"])
        hashes = [volume.pop("hash") for volume in record.get("volumes", ())]
        if answer is None or not hashes:
            continue
        record["reader"] = answer["reader"]
        record["reader_is_ours_too"] = _is_used_here(answer["reader"].split(" ")[0])
        if "error" in answer:
            record["reader_error"] = answer["error"]
        else:
            record["equal"] = sum(value in answer["hashes"] for value in hashes)
    return {"records": found}


def _is_used_here(package: str) -> bool:
    """Whether our readers use a package, which then proves less."""
    module = {"pillow": "PIL", "cloud-volume": "cloudvolume", "rosettasciio": "rsciio"}.get(package, package)
    pattern = re.compile(rf"^\s*(import|from) {module}\b", re.MULTILINE)
    sources = (ROOT / "src" / "voxelworks" / "volumes").rglob("*.py")
    return package != "numpy" and any(pattern.search(path.read_text(encoding="utf-8")) for path in sources)


def _entries(data: Path) -> Iterator[str]:
    for line in (data / "SOURCE.txt").read_text(encoding="utf-8").splitlines():
        match = re.match(r"(\S+)  \d+  \[\w+\]", line)
        if match:
            yield match[1]
    yield from MORE_ENTRIES


def _read(data: Path, entry: str) -> Json:
    """Open one file or folder, read all its voxels, and convert it."""
    from voxelworks.errors import VoxelworksError
    from voxelworks.volumes.formats import RawLayout, format_name, open_volumes

    given = GIVEN.get(entry, {})
    raw = None
    if "raw_size" in given:
        x, y, z = map(int, given["raw_size"].split(","))
        raw = RawLayout((x, y, z), given["raw_dtype"])
    began = time.perf_counter()
    try:
        volumes = open_volumes(data / entry, fill_missing=given.get("fill_missing", False), raw=raw)
        facts: list[Json] = []
        for volume in volumes:
            source = volume.source
            depth, height, width = source.shape_zyx
            facts.append(
                {
                    "part": volume.name, "category": volume.category, "size": [width, height, depth],
                    "dtype": source.dtype.name, "channels": source.channel_count,
                    "voxel_size": None if source.voxel_size is None else str(source.voxel_size),
                    "voxel_size_from": source.voxel_size_from, "notes": list(source.notes),
                    "hash": _hash(_slabs(source)),
                }
            )  # fmt: skip
        name = format_name(data / entry) if raw is None else "raw"
    except VoxelworksError as error:
        return {"entry": entry, "refused": _plain(error.message, data)}
    record: Json = {"entry": entry, "format": name, "volumes": facts}
    if given:
        record["given"] = given
    record |= _converted(data / entry, volumes, [fact["hash"] for fact in facts], data, given)
    print(f"{entry}: {len(facts)} in {time.perf_counter() - began:.1f} s", file=sys.stderr)
    return record


def _slabs(source: Any) -> Iterator[Any]:
    """Give the voxels (c, z, y, x), some sections at a time."""
    from voxelworks.geometry import Box

    depth, height, width = source.shape_zyx
    step = SLAB if source.channel_count == 1 else depth
    for z in range(0, depth, step):
        yield source.read(Box.from_zyx((z, 0, 0), (min(step, depth - z), height, width)))


def _converted(place: Path, volumes: Iterable[Any], hashes: list[str], data: Path, given: Json) -> Json:
    """Convert all volumes to one dataset, and compare its finest level with what was read."""
    import zarr

    import voxelworks
    from voxelworks.errors import VoxelworksError

    layers: list[Json] = []
    sizes = set()
    for number, volume in enumerate(volumes):
        is_wide = volume.source.dtype.itemsize == 8
        category = volume.category or ("segmentation" if is_wide else "color")
        part = volume.name or None
        layer = {"source": str(place), "layer_name": f"v{number}", "category": category, "part": part}
        layers.append(layer | {key: value for key, value in given.items() if key.startswith("raw_")})
        sizes.add(volume.source.voxel_size)
    size = None if len(sizes) == 1 and None not in sizes else "1,1,1"
    fill = given.get("fill_missing", False)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "d"
        try:
            voxelworks.run(
                "convert",
                layers=layers,
                target=str(target),
                voxel_size=size,
                pyramid=False,
                fill_missing=fill,
            )
        except VoxelworksError as error:
            return {"not_converted": _plain(error.message, data)}
        same = 0
        for number, expected in enumerate(hashes):
            array: Any = zarr.open_array(target / f"v{number}" / "1", mode="r")
            step = SLAB if array.shape[0] == 1 else array.shape[1]
            slabs = (array[:, z : z + step] for z in range(0, array.shape[1], step))
            same += _hash(slabs) == expected
    return {"converted": same}


def _plain(message: str, data: Path) -> str:
    return message.replace(f"{data}/", "")


def _hash(slabs: Iterable[Any]) -> str:
    """Hash the values of slabs (c, z, y, x), whatever type they are stored in."""
    import numpy as np

    digest, sections, form = hashlib.sha256(), 0, ()
    for slab in slabs:
        kind = "<f8" if slab.dtype.kind == "f" else "<i8"
        for plane in slab.reshape(-1, *slab.shape[2:]):
            digest.update(np.ascontiguousarray(plane, dtype=kind).tobytes())
            sections += 1
        form = slab.shape[2:]
    return f"{sections}x{form} {digest.hexdigest()}"


# What other programs read. This part is run by a Python of its own, without Voxelworks.


def _ask_readers(data: Path, entries: list[str]) -> Json:
    python = os.environ.get("VOXELWORKS_READERS_PYTHON")
    if not python:
        return {}
    command = [python, __file__, "--reference", str(data), *entries]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    answer: Json = json.loads(said.splitlines()[-1])  # some readers print what they think, too
    return answer


def reference(data: Path, entries: Iterable[str]) -> Json:
    """Read files with the program that is known for their format; give what it is, and hashes of what it read."""
    found = {}
    for entry in entries:
        chosen = _reader(entry)
        if chosen is None:
            continue
        package, read = chosen
        record: Json = {"reader": f"{package} {metadata.version(package)}"}
        try:
            record["hashes"] = sorted(
                {_hash([view]) for array in read(data / entry) for view in _views(array)}
            )
        except Exception as error:  # readers of foreign bytes raise almost anything
            record["error"] = f"{type(error).__name__}: {error}".replace(f"{data}/", "").splitlines()[0][:200]
        found[entry] = record
    return found


def _reader(entry: str) -> tuple[str, Any] | None:
    folder = entry.partition("/")[0]
    if entry.endswith(".dat"):
        return "numpy", _numpy
    by_folder = {
        "czi": ("pylibCZIrw", _czi), "klb": ("pyklb", _klb), "mrc": ("mrcfile", _mrc), "dm": ("rosettasciio", _dm),
        "nifti": ("nibabel", _nifti), "dicom": ("pydicom", _dicom), "hdf5": ("h5py", _hdf5), "wkw": ("wkw", _wkw),
        "precomputed": ("cloud-volume", _precomputed), "png_jpeg": ("pillow", _pillow),
        "tiff": ("pillow", _pillow), "tiff_stack": ("pillow", _pillow), "ome_tiff": ("tifffile", _tifffile),
        "ome_zarr": ("zarr", _zarr), "zarr_v2": ("zarr", _zarr), "zarr_v3": ("zarr", _zarr),
    }  # fmt: skip
    return ("tifffile", _tifffile) if entry.endswith(".ome.tiff") else by_folder.get(folder)


def _views(array: Any) -> Iterator[Any]:
    """Give an array as (c, z, y, x), in every way in which its axes may be meant."""
    import numpy as np

    if array.ndim < 2 or array.dtype.kind not in "biuf":
        return
    if array.ndim > 2 and array.shape[-1] in (3, 4):
        colours = array[..., :3].reshape(-1, *array.shape[-3:-1], 3)
        yield np.moveaxis(colours, -1, 0)
    stack = (
        array.reshape(-1, *array.shape[-3:]) if array.ndim > 3 else array.reshape(1, -1, *array.shape[-2:])
    )
    yield stack
    if len(stack) > 1:
        yield from (volume[None] for volume in stack)
    if array.ndim == 3 and len(array) > 1:
        yield from (plane[None, None] for plane in array)
    if array.ndim == 2:
        yield array.T[None, None]


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())


def _numpy(place: Path) -> Iterator[Any]:
    import numpy as np

    yield np.fromfile(place, "<u8").reshape(64, 64, 64)


def _czi(place: Path) -> Iterator[Any]:
    import numpy as np

    czi = import_module("pylibCZIrw.czi")

    with czi.open_czi(str(place)) as document:
        box = document.total_bounding_box
        scenes: list[Any] = [{"scene": scene} for scene in document.scenes_bounding_rectangle] or [{}]
        for scene in scenes:
            for t in range(*box.get("T", (0, 1))):
                for c in range(*box.get("C", (0, 1))):
                    planes = [{"T": t, "C": c, "Z": z} for z in range(*box.get("Z", (0, 1)))]
                    yield np.stack([document.read(plane=plane, **scene)[..., 0] for plane in planes])


def _klb(place: Path) -> Iterator[Any]:
    pyklb = import_module("pyklb")

    yield pyklb.readfull(str(place))


def _mrc(place: Path) -> Iterator[Any]:
    mrcfile = import_module("mrcfile")

    with mrcfile.open(place, permissive=True) as opened:
        # mrcfile gives sections, rows and columns as they are stored; the header says which axes they are.
        stored = [3 - int(opened.header[name]) for name in ("maps", "mapr", "mapc")]
        yield opened.data.transpose([stored.index(axis) for axis in range(3)])


def _dm(place: Path) -> Iterator[Any]:
    for signal in import_module("rsciio.digitalmicrograph").file_reader(str(place)):
        yield signal["data"]


def _nifti(place: Path) -> Iterator[Any]:
    nibabel = import_module("nibabel")
    import numpy as np

    image: Any = nibabel.load(place)
    yield np.asarray(image.dataobj).T
    yield np.asarray(image.dataobj.get_unscaled()).T


def _dicom(place: Path) -> Iterator[Any]:
    import numpy as np

    pydicom = import_module("pydicom")

    images = [pydicom.dcmread(path) for path in _files(place)]
    images.sort(key=lambda image: float(image.get("ImagePositionPatient", [0, 0, 0])[2]))
    stack = np.stack([image.pixel_array for image in images])
    slope, shift = (
        float(images[0].get(name, value)) for name, value in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    for ordered in (stack, stack[::-1]):
        yield ordered
        yield (ordered * slope + shift).astype("f4")
        yield (ordered * int(slope) + int(shift)).astype("i4")


def _hdf5(place: Path) -> Iterator[Any]:
    h5py = import_module("h5py")

    found: list[Any] = []
    with h5py.File(place) as opened:
        opened.visititems(lambda _, item: found.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    yield from (array for array in found if hasattr(array, "ndim"))


def _wkw(place: Path) -> Iterator[Any]:
    wkw = import_module("wkw")

    properties = json.loads((place / "datasource-properties.json").read_text())
    for layer in properties["dataLayers"]:
        box = layer["boundingBox"]
        header = min((place / layer["name"]).glob("*/header.wkw"), key=lambda path: len(path.parts[-2]))
        with wkw.Dataset.open(str(header.parent)) as opened:
            yield opened.read(box["topLeft"], [box["width"], box["height"], box["depth"]]).transpose(
                0, 3, 2, 1
            )


def _precomputed(place: Path) -> Iterator[Any]:
    cloudvolume = import_module("cloudvolume")

    infos = [path for path in sorted(place.rglob("info")) if path.is_file()]
    for info in infos:
        volume = cloudvolume.CloudVolume(f"file://{info.parent}", mip=0, fill_missing=True, progress=False)
        yield volume[:].transpose(3, 2, 1, 0)


def _pillow(place: Path) -> Iterator[Any]:
    import numpy as np
    from PIL import Image, ImageSequence

    for path in _files(place):
        if path.suffix.lower() in (".tif", ".tiff", ".png", ".jpg", ".jpeg"):
            with Image.open(path) as opened:
                pages = [np.asarray(page) for page in ImageSequence.Iterator(opened)]
            yield from pages if len({page.shape for page in pages}) > 1 else [np.stack(pages)]


def _tifffile(place: Path) -> Iterator[Any]:
    import tifffile

    with tifffile.TiffFile(place) as tiff:
        yield from (series.asarray() for series in tiff.series)


def _zarr(place: Path) -> Iterator[Any]:
    import zarr

    for path in sorted({path.parent for name in (".zarray", "zarr.json") for path in place.rglob(name)}):
        opened: Any = zarr.open(path, mode="r")
        if hasattr(opened, "shape"):
            yield opened[...]
            yield opened[...].T


# The page


def tables(figures: Json) -> str:
    """Give everything that a figures file shows, as Markdown."""
    records = figures["records"]
    read = [record for record in records if "volumes" in record]
    compared = [record for record in read if "equal" in record and not record["reader_is_ours_too"]]
    equal = [record for record in compared if record["equal"] == len(record["volumes"])]
    same = [record for record in read if record.get("converted") == len(record["volumes"])]
    counts = Counter(record["format"] for record in read)
    formats = ", ".join(f"{count} {name}" for name, count in counts.items())
    summary = (
        f"Of {len(records)} files and folders {len(read)} are read ({formats}). {len(same)} were converted, and their "
        f"finest level, read with zarr, equals what was read. {len(compared)} could be compared with a reader that "
        f"Voxelworks does not use to read them; in {len(equal)} of these all volumes are equal."
    )
    head = ["File", "Format", "Size (x, y, z)", "Type", "Voxel size in nm", "Converted", "Compared with"]
    refused = [["File", "Why not"]] + [
        [record["entry"], record["refused"]] for record in records if "refused" in record
    ]
    parts = [summary, _table([head, *map(_row, read)])]
    if len(refused) > 1:
        parts += ["### Refused", _table(refused)]
    return "\n\n".join(["", *parts, ""]).strip("\n")


def _row(record: Json) -> list[str]:
    volumes = record["volumes"]
    converted = record.get("not_converted") or _share(record["converted"], len(volumes))
    compared = "–"
    if "equal" in record:
        also = " (used here too)" if record["reader_is_ours_too"] else ""
        compared = f"{record['reader']}{also}: {_share(record['equal'], len(volumes))}"
    elif "reader_error" in record:
        compared = f"{record['reader']}: cannot read it"
    stated = [
        f"{volume['voxel_size']}, {volume['voxel_size_from']}" if volume["voxel_size"] else "not stated"
        for volume in volumes
    ]
    types = [volume["dtype"] + (" RGB" if volume["channels"] == 3 else "") for volume in volumes]
    said = ", ".join(f"{key}={value}" for key, value in record.get("given", {}).items())
    return [
        record["entry"] + (f" (given: {said})" if said else ""),
        record["format"] + (f", {len(volumes)} volumes" if len(volumes) > 1 else ""),
        _listed(" × ".join(map(str, volume["size"])) for volume in volumes),
        _listed(types),
        _listed(stated),
        converted,
        compared,
    ]


def _share(count: int, total: int) -> str:
    return "equal" if count == total else f"{count} of {total} equal"


def _listed(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
