"""Measure Voxelworks and other open programs side by side.

    python benchmarks/peers.py                                       1024 voxels on each axis, 5 rounds
    python benchmarks/peers.py --edge 256 --rounds 1 --output try.json
    python benchmarks/peers.py --works downsample --kinds labels --output try.json

Writes docs/figures/peers.json and the table of docs/benchmarks.md. The other programs are run as commands in
environments of their own, which benchmarks/peers.sh makes. In every round each program runs once for each case, one
after the other. Before, what they make is compared with what Voxelworks makes, as far as both mean the same.

The figures are written after every run. The same command goes on where an earlier one was stopped, if it is given the
same work folder and output.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import shlex
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import table
import tensorstore as ts
import tifffile
from bench import (
    REPOSITORY,
    VOXEL_SIZE,
    Bench,
    Case,
    Series,
    archive_of,
    convert_command,
    copy_dataset,
    describe_commit,
    describe_machine,
    describe_versions,
    open_array,
    remove,
    run_in_turns,
    take_up,
    tell,
    voxelworks_command,
    write_figures,
)
from measure import Cost
from numpy.typing import NDArray
from volumes import Kind, Volume

ENVIRONMENTS = REPOSITORY / "build" / "peers"
PACKAGES = {"webknossos": "webknossos", "igneous": "igneous-pipeline"}
PROCESSES = 2
MAGS = (2, 4, 8, 16)
CHUNK = 64
BLOCK = 256
FIGURES = table.PEER_FIGURES
ZSTD_LEVELS: dict[Kind, int] = {"image": 1, "labels": 3}

SHRINK = """
import sys
from dataclasses import replace
from cluster_tools import get_executor
from webknossos import Dataset, Mag
path, name, level, mag, processes = sys.argv[1:]
layer = Dataset.open(path).get_layer(name)
info = layer.get_finest_mag().info
zstd = {"name": "zstd", "configuration": {"level": int(level), "checksum": False}}
codecs = tuple(zstd if codec["name"] == "zstd" else codec for codec in info.codecs)
options = dict(
    coarsest_mag=Mag(mag), chunk_shape=info.chunk_shape, shard_shape=info.shard_shape,
    compress=replace(info.zarr3_config, codecs=codecs),
)
with get_executor("multiprocessing", max_workers=int(processes)) as executor:
    layer.downsample(**options, executor=executor)
"""
"""What `webknossos downsample` does, with chunks, shards and a codec for which the command has no options."""

LARGEST_ID = """
import sys
from cluster_tools import get_executor
from webknossos import Dataset
path, name, processes = sys.argv[1:]
layer = Dataset.open(path).get_layer(name)
with get_executor("multiprocessing", max_workers=int(processes)) as executor:
    layer.refresh_largest_segment_id(executor=executor)
print(layer.largest_segment_id)
"""
"""The webknossos library has no command for it."""


@dataclass(frozen=True)
class Pair:
    """Two programs whose costs are compared on one case."""

    work: str
    kind: Kind
    ours: str
    peer: str
    settings: str
    """What both have in common, and what not."""
    law: str
    """How their results are alike: a key of `LAWS`, or empty."""


DEFAULTS = "defaults"
EQUAL = "same chunks, shards and codec"
SAME_BUT_CODEC = "same chunks and shards, zstd 1 and 5"
PAIRS = (
    Pair("convert", "image", "voxelworks", "webknossos", DEFAULTS, "equal sections"),
    Pair("convert", "image", "voxelworks", "webknossos alike", SAME_BUT_CODEC, "equal sections"),
    Pair("downsample", "image", "voxelworks", "webknossos", f"{DEFAULTS}: mean and median", ""),
    Pair("downsample", "image", "voxelworks median", "webknossos alike", f"{EQUAL}, median", "equal"),
    Pair("downsample", "image", "voxelworks", "igneous", f"{DEFAULTS}: zstd and gzip", "mean"),
    Pair("downsample", "image", "voxelworks", "igneous alike", "zstd and no compression", "mean"),
    Pair("downsample", "labels", "voxelworks", "webknossos", DEFAULTS, "mode"),
    Pair("downsample", "labels", "voxelworks", "webknossos alike", EQUAL, "mode"),
    Pair("downsample", "labels", "voxelworks", "igneous", f"{DEFAULTS}: zstd and gzip", "mode"),
    Pair("downsample", "labels", "voxelworks", "igneous alike", "zstd and no compression", "mode"),
    Pair("export", "image", "voxelworks", "webknossos", f"{DEFAULTS}: no compression", "equal files"),
    Pair("largest id", "labels", "voxelworks", "webknossos", DEFAULTS, "equal ids"),
    Pair("largest id", "labels", "voxelworks", "webknossos alike", "same chunks and shards", "equal ids"),
)  # fmt: skip
WORKS = tuple(dict.fromkeys(pair.work for pair in PAIRS))
KINDS = tuple(dict.fromkeys(pair.kind for pair in PAIRS))


class PeerBench(Bench):
    """Runs Voxelworks and its peers, each on the volume in its own format."""

    def run(self, case: Case, program: str) -> Cost:
        """Run a program once; its result stays in the folder of outcomes until its next run."""
        target = self.target(program.replace(" ", "-"))
        source = self.source(case, program)
        if case.work in ("downsample", "largest id"):
            copy_dataset(source, target)
        name, _, variant = program.partition(" ")
        commands = {"voxelworks": self._voxelworks, "webknossos": self._webknossos, "igneous": self._igneous}
        return self.measure(commands[name](case, variant, source, target), PROCESSES)

    def source(self, case: Case, program: str) -> Path:
        """Give the volume in the format of a program; make it if it is not there."""
        name, _, variant = program.partition(" ")
        stack = case.volume.stack
        if case.work == "convert":
            return stack
        if name == "voxelworks":
            return case.dataset
        made = stack.with_name(f"{stack.name}-{name if name == 'igneous' else program.replace(' ', '-')}")
        if not made.exists():
            tell(f"making {made.name}")
            draft = made.with_suffix(".draft")
            remove(draft)
            if name == "igneous":
                write_precomputed(case.dataset / case.volume.kind / "1", draft, case.volume)
            else:
                self.measure(self._webknossos_convert(case, variant, draft), PROCESSES)
            draft.rename(made)
        return made

    def _voxelworks(self, case: Case, variant: str, source: Path, target: Path) -> list[str]:
        layer = f"--layer={case.volume.kind}"
        match case.work:
            case "convert":
                return [*convert_command(case.volume, target, PROCESSES), "--no-pyramid"]
            case "downsample":
                method = [f"--method={variant or 'auto'}", f"--coarsest-mag={MAGS[-1]}"]
                return [*voxelworks_command("downsample", PROCESSES), f"--dataset={target}", layer, *method]
            case "export":
                names = [f"--dataset={source}", layer, f"--file={archive_of(target)}"]
                return [*voxelworks_command("export_tiff", PROCESSES), *names]
            case _:
                command = voxelworks_command("find_largest_segment_id", PROCESSES)
                return [*command, f"--dataset={target}", layer]

    def _webknossos(self, case: Case, variant: str, source: Path, target: Path) -> list[str]:
        python, *program = command_of("webknossos")
        name, jobs = case.volume.kind, str(PROCESSES)
        options = [f"--layer-name={name}", f"--jobs={jobs}"]
        match case.work:
            case "convert":
                return self._webknossos_convert(case, variant, target)
            case "downsample" if variant:
                level = str(ZSTD_LEVELS[case.volume.kind])
                return [python, "-c", SHRINK, str(target), name, level, str(MAGS[-1]), jobs]
            case "downsample":
                mags = f"--coarsest-mag={MAGS[-1]}"
                return [python, *program, "downsample", str(target), mags, *options]
            case "export":
                return [python, *program, "export-as-tiff", str(source), str(target), *options]
            case _:
                return [python, "-c", LARGEST_ID, str(target), name, jobs]

    def _webknossos_convert(self, case: Case, variant: str, target: Path) -> list[str]:
        volume = case.volume
        options = [
            f"--voxel-size={VOXEL_SIZE}", f"--category={volume.category}", f"--layer-name={volume.kind}",
            "--data-format=zarr3", "--no-downsample", f"--jobs={PROCESSES}",
        ]  # fmt: skip
        if variant:
            chunk, shard = ([str(edge)] * 3 for edge in (CHUNK, self._shard(case)))
            options += [f"--chunk-shape={','.join(chunk)}", f"--shard-shape={','.join(shard)}"]
        return [*command_of("webknossos"), "convert", str(volume.stack), str(target), *options]

    def _shard(self, case: Case) -> int:
        """Give the edge of a shard in mag 1 of our dataset."""
        described = json.loads((case.dataset / case.volume.kind / "1" / "zarr.json").read_text())
        return int(described["chunk_grid"]["configuration"]["chunk_shape"][-1])

    def _igneous(self, _case: Case, variant: str, _source: Path, target: Path) -> list[str]:
        options = ["--volumetric", f"--num-mips={len(MAGS)}", f"--compress={'none' if variant else 'gzip'}"]
        return [*command_of("igneous"), "-p", str(PROCESSES), "image", "downsample", str(target), *options]

    def check(self, case: Case, pair: Pair) -> str:
        """Compare what both programs of a pair last made, and say in what they are alike."""
        ours, theirs = (self.outcome / name.replace(" ", "-") for name in (pair.ours, pair.peer))
        if not pair.law:
            return "not compared: both mean something else"
        try:
            return LAWS[pair.law](case, ours, theirs)
        except AssertionError as error:
            raise SystemExit(
                f"error: {pair.work} {pair.kind}, {pair.ours} and {pair.peer}: the results are not as expected "
                f"({pair.law}); nothing was measured"
            ) from error


def command_of(peer: str) -> list[str]:
    """Give the command of a peer. It names the Python, so that its environment may be moved."""
    python = ENVIRONMENTS / peer / "bin" / "python"
    if not python.exists():
        raise SystemExit(
            f"error: there is no {python.relative_to(REPOSITORY)}; run benchmarks/peers.sh, which makes it"
        )
    return [str(python), str(python.with_name(peer))]


def describe_peers() -> dict[str, str]:
    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    return {
        peer: subprocess.run(
            [command_of(peer)[0], "-c", code, package], capture_output=True, text=True, check=True
        ).stdout.strip()
        for peer, package in PACKAGES.items()
    }  # fmt: skip


def write_precomputed(source: Path, target: Path, volume: Volume) -> None:
    """Write a volume as Neuroglancer's precomputed format in chunks of gzip, as igneous reads it fastest unsharded."""
    array = open_zyx(source)
    scale = {
        "key": "8_8_8", "size": volume.size, "resolution": [8, 8, 8], "voxel_offset": [0, 0, 0],
        "chunk_sizes": [[CHUNK] * 3], "encoding": "raw",
    }  # fmt: skip
    info = {
        "type": "image" if volume.kind == "image" else "segmentation", "data_type": volume.dtype.name,
        "num_channels": 1, "scales": [scale],
    }  # fmt: skip
    (target / "8_8_8").mkdir(parents=True)
    (target / "info").write_text(json.dumps(info))
    for block in blocks(array.shape, CHUNK):
        voxels = array[block].read().result()
        # z, y, x in C order is x, y, z in the order of the format: x changes fastest.
        (target / "8_8_8" / f"{precomputed_name(block)}.gz").write_bytes(
            gzip.compress(voxels.tobytes(), 6, mtime=0)
        )


def precomputed_name(block: tuple[slice, ...]) -> str:
    return "_".join(f"{part.start}-{part.stop}" for part in reversed(block))


def blocks(shape: Sequence[int], edge: int) -> Iterator[tuple[slice, ...]]:
    for corner in product(*(range(0, extent, edge) for extent in shape)):
        yield tuple(
            slice(start, min(start + edge, extent)) for start, extent in zip(corner, shape, strict=True)
        )


def open_zyx(path: Path) -> ts.TensorStore:
    """Open the only channel of an array as z, y, x, in whatever order it is stored."""
    array = open_array(path)
    if "c" in array.domain.labels:
        array = array[ts.d["c"][0]]
    return array[ts.d["z", "y", "x"].transpose[:]]


Level = Callable[[tuple[slice, ...]], NDArray[Any]]
"""Gives a block (z, y, x) of one magnification."""


def level_of(outcome: Path, case: Case, mag: int) -> Level:
    if (outcome / "info").exists():
        return partial(_read_precomputed, outcome, mag)
    array = open_zyx(outcome / case.volume.kind / str(mag))
    return lambda block: array[block].read().result()


def _read_precomputed(outcome: Path, mag: int, block: tuple[slice, ...]) -> NDArray[Any]:
    info = json.loads((outcome / "info").read_text())
    (scale,) = (item for item in info["scales"] if item["resolution"] == [8 * mag] * 3)
    voxels = np.empty([part.stop - part.start for part in block], info["data_type"])
    for inside in blocks(voxels.shape, scale["chunk_sizes"][0][0]):
        chunk = tuple(
            slice(whole.start + part.start, whole.start + part.stop)
            for whole, part in zip(block, inside, strict=True)
        )
        file = outcome / scale["key"] / precomputed_name(chunk)
        packed = file.with_name(f"{file.name}.gz")
        content = gzip.decompress(packed.read_bytes()) if packed.exists() else file.read_bytes()
        voxels[inside] = np.frombuffer(content, info["data_type"]).reshape(voxels[inside].shape)
    return voxels


def check_sections(case: Case, *outcomes: Path) -> str:
    sections = case.volume.sections
    arrays = [open_zyx(outcome / case.volume.kind / "1") for outcome in outcomes]
    width, height, _ = case.volume.size
    for start in range(0, len(sections), CHUNK):
        expected = np.stack([tifffile.imread(path) for path in sections[start : start + CHUNK]])
        for array in arrays:
            found = array[start : start + len(expected), :height, :width].read().result()
            assert np.array_equal(found, expected)
    return "equal voxels"


def check_equal(case: Case, ours: Path, theirs: Path) -> str:
    for mag in MAGS:
        levels = [level_of(outcome, case, mag) for outcome in (ours, theirs)]
        for block in blocks([extent // mag for extent in reversed(case.volume.size)], BLOCK):
            assert np.array_equal(*(level(block) for level in levels))
    return "equal voxels"


def check_mean(case: Case, ours: Path, theirs: Path) -> str:
    for voxels, eights in windows(case, ours, theirs):
        total = eights.sum(axis=0, dtype=np.uint16)
        assert np.array_equal(voxels[0], (total + 4) >> 3)
        assert np.array_equal(voxels[1], total >> 3)
    return "ours rounds the mean, the other cuts it off (mag 2)"


def check_mode(case: Case, ours: Path, theirs: Path) -> str:
    unlike = count = 0
    for voxels, eights in windows(case, ours, theirs):
        counts = [(eights == each).sum(axis=0, dtype=np.uint8) for each in voxels]
        most = np.max([(eights == each).sum(axis=0, dtype=np.uint8) for each in eights], axis=0)
        assert np.array_equal(counts[0], most)
        assert np.array_equal(counts[1], most)
        unlike += int(np.count_nonzero(voxels[0] != voxels[1]))
        count += voxels[0].size
    return f"both take a most frequent id (mag 2); ties differ in {100 * unlike / count:.2f} % of the voxels"


def windows(case: Case, *outcomes: Path) -> Iterator[tuple[list[NDArray[Any]], NDArray[Any]]]:
    """Give blocks of mag 2 of all outcomes, and the eight voxels of mag 1 below each, (8, z, y, x)."""
    finest = open_zyx(case.dataset / case.volume.kind / "1")
    levels = [level_of(outcome, case, 2) for outcome in outcomes]
    for block in blocks([extent // 2 for extent in reversed(case.volume.size)], BLOCK // 2):
        below = finest[tuple(slice(2 * part.start, 2 * part.stop) for part in block)].read().result()
        eights = np.stack([below[z::2, y::2, x::2] for z, y, x in product((0, 1), repeat=3)])
        yield [level(block) for level in levels], eights


def check_files(case: Case, ours: Path, theirs: Path) -> str:
    with zipfile.ZipFile(archive_of(ours)) as archive:
        names = sorted(archive.namelist())
        files = sorted(theirs.rglob("*.tif*"))
        assert len(names) == len(files) == len(case.volume.sections)
        for name, file, section in zip(names, files, case.volume.sections, strict=True):
            expected = tifffile.imread(section)
            assert np.array_equal(tifffile.imread(io.BytesIO(archive.read(name))), expected)
            assert np.array_equal(np.squeeze(tifffile.imread(file)), expected)
    return "equal sections"


def check_ids(case: Case, *outcomes: Path) -> str:
    ids = []
    for outcome in outcomes:
        described = json.loads((outcome / "datasource-properties.json").read_text())
        (layer,) = (item for item in described["dataLayers"] if item["name"] == case.volume.kind)
        ids.append(layer["largestSegmentId"])
    assert ids[0] == ids[1]
    return f"equal: {ids[0]}"


LAWS: dict[str, Callable[[Case, Path, Path], str]] = {
    "equal sections": check_sections,
    "equal": check_equal,
    "mean": check_mean,
    "mode": check_mode,
    "equal files": check_files,
    "equal ids": check_ids,
}


def measure_pairs(
    bench: PeerBench,
    pairs: Sequence[Pair],
    size: tuple[int, int, int],
    rounds: int,
    output: Path,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Compare the results, then run all programs in turns."""
    wanted = dict.fromkeys(
        (pair.work, pair.kind, program) for pair in pairs for program in (pair.ours, pair.peer)
    )
    series = [Series(work, kind, size, program, PROCESSES) for work, kind, program in wanted]
    compared = take_up(output, about, series).get("compared", {})
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        bench.case("downsample", kind, size)  # with what all results are compared
    cases = {(pair.work, pair.kind): bench.case(pair.work, pair.kind, size) for pair in pairs}
    about = {**about, "compared": compared}
    keep = partial(write_figures, output, about, series)
    for key, case in cases.items():
        group = [pair for pair in pairs if (pair.work, pair.kind) == key]
        if all(_name(pair) in compared for pair in group):
            continue
        # Compiles, and fills the caches of all: no run of this is counted.
        for program in dict.fromkeys(name for pair in group for name in (pair.ours, pair.peer)):
            bench.run(case, program)
        for pair in group:
            compared[_name(pair)] = bench.check(case, pair)
            tell(f"{_name(pair)}: {compared[_name(pair)]}")
        keep()
    run_in_turns(
        [(item, partial(bench.run, cases[item.work, item.kind], item.program)) for item in series],
        rounds,
        keep,
    )
    return write_figures(output, {**about, "is_complete": True}, series)


def _name(pair: Pair) -> str:
    return f"{pair.work} {pair.kind}: {pair.ours}, {pair.peer}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS, help="what to measure")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="on which volumes")
    parser.add_argument("--edge", type=int, default=1024, help="voxels along each axis; a multiple of 128")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument(
        "--work", type=Path, help="folder for volumes, which stay there; by default a temporary one"
    )
    parser.add_argument(
        "--output", type=Path, help="file to write; by default the one behind docs/benchmarks.md"
    )
    options = parser.parse_args()
    if options.edge % 128 or options.edge <= 0:
        parser.error("--edge must be a multiple of 128: every level has to have an even size")
    pairs = [pair for pair in PAIRS if pair.work in options.works and pair.kind in options.kinds]
    if not pairs:
        parser.error("no peer does this work on such volumes")
    arguments = ["--edge", str(options.edge), "--rounds", str(options.rounds)]
    if len(pairs) < len(PAIRS):
        arguments += ["--works", *options.works, "--kinds", *options.kinds]
    with TemporaryDirectory(prefix="voxelworks-bench-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        about = {
            "command": shlex.join(["python", "benchmarks/peers.py", *arguments]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": describe_commit(),
            "versions": describe_versions() | describe_peers(),
            "machine": describe_machine(work),
            "size": [options.edge] * 3,
            "mags": [1, *MAGS],
            "pairs": [vars(pair) for pair in pairs],
            "is_complete": False,
        }
        bench = PeerBench(work, (PROCESSES,))
        size = (options.edge,) * 3
        figures = measure_pairs(bench, pairs, size, options.rounds, options.output or FIGURES, about)
        shutil.rmtree(bench.outcome)
    print(table.peer_tables(figures))
    if options.output is None:
        table.PAGE.write_text(table.made_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
