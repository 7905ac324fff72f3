"""The scripts of `benchmarks/`: what they measure is what was used, and what they compare with is right."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from reference import shrink

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"

ORPHAN = """
import os, time
ending, end = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        while time.process_time() < 0.5:
            pass
        memory = b"x" * (200 * 2**20)
        time.sleep(1)
    os._exit(0)
os.close(end)
os.read(ending, 1)
"""
"""Its grandchild is waited for by nobody, like a fork server and its workers."""

SERIES = {
    "work": "convert", "kind": "image", "size": [128, 128, 128],
    "user_s": [1.0, 3.0, 2.0], "system_s": [1.0] * 3, "peak_mib": [500.0, 600.0, 550.0], "foreign_cores": [0.0] * 3,
}  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="process trees are measured on Linux only")
def test_what_orphans_of_a_command_use_is_measured(tmp_path):
    cost = json.loads(call(tmp_path, "measure.py", "--", sys.executable, "-c", ORPHAN))

    assert cost["user_s"] + cost["system_s"] >= 0.5
    assert cost["peak_bytes"] >= 200 * 2**20


@pytest.mark.parametrize(("dtype", "method"), [("uint8", "mean"), ("uint32", "mode")])
def test_floors_make_the_pyramid_of_the_reference(tmp_path, dtype, method):
    random = np.random.default_rng(3)
    voxels = (
        random.integers(0, 5, (24, 32, 68))
        .astype(dtype)
        .repeat(3, axis=0)
        .repeat(2, axis=1)
        .repeat(2, axis=2)
    )
    (tmp_path / "stack").mkdir()
    for z, section in enumerate(voxels):
        tifffile.imwrite(tmp_path / f"stack/{z:03d}.tif", section, photometric="minisblack")

    call(tmp_path, "floors/convert_floor.py", tmp_path / "stack", tmp_path / "converted", 4, 2)
    call(tmp_path, "floors/pyramid_floor.py", tmp_path / "converted/1", tmp_path / "shrunk", 4, 2)

    half = shrink(voxels, (2, 2, 2), method)
    quarter = shrink(half, (2, 2, 2), method)
    expected = {
        "converted/1": voxels,
        "converted/2": half,
        "converted/4": quarter,
        "shrunk/2": half,
        "shrunk/4": quarter,
    }
    for place, level in expected.items():
        np.testing.assert_array_equal(zarr.open_array(tmp_path / place, mode="r")[0], level)


def test_the_floor_of_exports_holds_the_sections(tmp_path):
    voxels = np.random.default_rng(4).integers(0, 255, (1, 70, 20, 30), np.uint8)
    zarr.create_array(tmp_path / "array", data=voxels, chunks=(1, 64, 64, 64))
    call(tmp_path, "floors/export_floor.py", tmp_path / "array", tmp_path / "out.zip", 2)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        sections = [tifffile.imread(io.BytesIO(archive.read(name))) for name in sorted(archive.namelist())]
    np.testing.assert_array_equal(sections, voxels[0])


def test_the_floors_of_segments_find_what_is_there(tmp_path):
    random = np.random.default_rng(5)
    voxels = random.integers(0, 4, (5, 4, 5)).astype(np.uint32).repeat(8, 0).repeat(9, 1).repeat(7, 2) * 1000
    zarr.create_array(tmp_path / "array", data=voxels[np.newaxis], chunks=(1, 64, 64, 64))
    plain = {"NUMBA_DISABLE_JIT": "1"}

    largest = call(tmp_path, "floors/read_floor.py", tmp_path / "array", 1)
    call(tmp_path, "floors/index_floor.py", tmp_path / "array", tmp_path / "index", 1, **plain)
    call(tmp_path, "floors/statistics_floor.py", tmp_path / "array", tmp_path / "statistics", 8, 1, **plain)

    ids = [int(number) for number in np.unique(voxels) if number]
    assert int(largest) == ids[-1]
    entries, top_lefts = (
        zarr.open_array(tmp_path / "index" / name, mode="r")[:] for name in ("hash_buckets", "top_lefts")
    )
    found = {
        (int(number), tuple(map(int, corner)))
        for number, start, end in entries
        for corner in top_lefts[start:end]
    }
    places = [np.argwhere(voxels == number) for number in ids]
    assert found == {
        (number, tuple(map(int, corner)))
        for number, place in zip(ids, places, strict=True)
        for corner in np.unique(place[:, ::-1] // 32, axis=0)
    }
    rows = list(csv.DictReader((tmp_path / "statistics/segments.csv").read_text().splitlines()))
    assert [int(row["id"]) for row in rows] == ids
    for row, place in zip(rows, places, strict=True):
        assert int(row["voxels"]) == len(place)
        assert float(row["centroid_y"]) == pytest.approx(place[:, 1].mean())
        assert float(row["covariance_xz"]) == pytest.approx(np.cov(place.T, bias=True)[0, 2])
        assert (int(row["box_x"]), int(row["box_width"])) == (place[:, 2].min(), np.ptp(place[:, 2]) + 1)


def test_the_table_of_segments_compares_with_the_floor_of_each_work(tmp_path):
    work = SERIES | {
        "work": "compute_segment_statistics",
        "kind": "labels",
        "processes": 2,
        "wall_s": [4.0] * 3,
    }
    values = [
        work | {"program": "floor", "user_s": [3.0] * 3},
        work | {"program": "voxelworks", "user_s": [5.0] * 3},
    ]
    start_up = [item | {"size": [64] * 3, "user_s": [1.0 + number]} for number, item in enumerate(values)]
    for item in start_up:
        item["system_s"] = [0.0]
    figures = MEASURED | {
        "command": "python benchmarks/segments.py", "values": values, "start_up": start_up,
    }  # fmt: skip

    lines = table_lines(tmp_path, "segment_tables", figures)

    cpu = "4.00 | 6.00 | 1.50 | 1.00 | 2.00 | 1.33"
    assert (
        lines[-1]
        == f"| compute_segment_statistics | 128 x 128 x 128 | 2 | {cpu} | 4.00 | 4.00 | 600 | 0.00 |"
    )


def test_tables_show_medians_and_name_missed_limits(tmp_path):
    series = [
        SERIES | {"program": program, "processes": count, "wall_s": [wall_s] * 3}
        for program, count, wall_s in [
            ("floor", 1, 4),
            ("floor", 2, 2.5),
            ("voxelworks", 1, 5),
            ("voxelworks", 2, 4),
        ]
    ]
    start_up = [item | {"wall_s": [1], "user_s": [0.5], "system_s": [0.0]} for item in series]
    figures = {
        "command": "python benchmarks/run.py", "date": "2030-01-02T03:04:05+00:00", "commit": "abc", "versions": {},
        "machine": {"processor": "P", "cores": 2, "memory_gib": 4.0, "system": "Linux", "file_system": "ext4"},
        "input": [{"kind": "image", "dtype": "uint8", "size": [128] * 3, "raw_bytes": 128**3, "stored_bytes": 2**20}],
        "mags": [1, 2], "values": series, "start_up": start_up, "other_sizes": [],
    }  # fmt: skip
    (tmp_path / "figures.json").write_text(json.dumps(figures))

    code = "import json, sys, table; print(table.tables(json.load(open(sys.argv[1]))))"
    tables = run(
        [sys.executable, "-c", code, tmp_path / "figures.json"], tmp_path, PYTHONPATH=str(BENCHMARKS)
    )

    lines = tables.splitlines()
    assert "| convert | image | 1.00 | 1.00 | 0.80 (missed) | 0.75 (missed) | 0.62 | 600 |" in lines
    assert "| convert | image | 2 | 2.50 | 4.00 | 3.00 | 3.00 | 1 | 0.00 |" in lines


def test_the_table_of_the_pages_shows_medians_and_names_missed_limits(tmp_path):
    item = {
        "list_ms": [900, 1100, 1001], "filter_ms": {"a": [10, 20, 30], "b": [200, 299, 800]}, "log_ms": [1600, 50, 60],
        "line_ms": [1, 2, 3], "search_ms": [70, 70, 70], "live_share": {"job": 0.051, "list": 0.012},
        "layout_shift": {"list": 0.0, "log": 0.051},
    }  # fmt: skip
    figures = {
        "command": "python benchmarks/pages.py", "date": "2030-01-02T03:04:05+00:00", "commit": "abc", "versions": {},
        "machine": {"processor": "P", "cores": 2, "memory_gib": 4.0, "system": "Linux", "file_system": "ext4"},
        "load": [0.1, 0.2, 0.3], "jobs": 10_000, "lines": 1_000_000, "rounds": 3,
        "values": [item | {"database": "SQLite"}],
    }  # fmt: skip
    (tmp_path / "figures.json").write_text(json.dumps(figures))

    code = "import json, sys, table; print(table.page_tables(json.load(open(sys.argv[1]))))"
    lines = run(
        [sys.executable, "-c", code, tmp_path / "figures.json"], tmp_path, PYTHONPATH=str(BENCHMARKS)
    ).splitlines()

    assert "medians of 3 rounds, with 10,000 jobs and 1,000,000 lines." in lines[0]
    assert [line for line in lines if line.startswith("| ")][2:] == [
        "| First paint of the list | 1000 ms | 1001 ms (missed) |",
        "| Slowest filter, painted | 300 ms | 299 ms |",
        "| A log opens at its end | 1500 ms | 60 ms |",
        "| A log that nobody opened before | 1500 ms | 1600 ms (missed) |",
        "| A line in the middle, by its address | 1500 ms | 2 ms |",
        "| A search through the whole log | – | 70 ms |",
        "| Browser, live page of a job | 5 % of a core | 5.1 (missed) |",
        "| Browser, live list | 5 % of a core | 1.2 |",
        "| Largest layout shift | 0.05 | 0.051 (missed) |",
    ]


MEASURED = {
    "date": "2030-01-02T03:04:05+00:00", "commit": "abc", "versions": {"other": "1.2"}, "is_complete": True,
    "machine": {"processor": "P", "cores": 2, "memory_gib": 4.0, "system": "Linux", "file_system": "ext4"},
}  # fmt: skip


def test_the_table_of_the_peers_shows_ratios_of_paired_rounds_with_their_interval(tmp_path):
    pair = {"work": "convert", "kind": "image", "ours": "voxelworks", "law": "equal"}
    pairs = [pair | {"peer": name, "settings": "defaults"} for name in ("slow", "same alike", "stopped")]
    ours = SERIES | {"program": "voxelworks", "wall_s": [1.0, 2.0, 4.0]}
    values = [
        ours,
        ours | {"program": "slow", "wall_s": [4.0, 4.0, 8.0], "user_s": [3.0, 7.0, 5.0]},
        ours | {"program": "same alike", "user_s": [0.0, 7.0, 2.0], "foreign_cores": [0.5] * 3},
        ours | {"program": "stopped", "wall_s": [], "user_s": []},
    ]
    figures = MEASURED | {
        "command": "python benchmarks/peers.py", "size": [128] * 3, "mags": [1, 2], "pairs": pairs, "values": values,
        "compared": {"convert image: voxelworks, slow": "equal voxels"},
    }  # fmt: skip

    lines = table_lines(tmp_path, "peer_tables", figures)

    start = "| convert | image |"
    slow = "6.0 | 3.0 | 2.00 (2.00 to 2.00) | 4.0 | 2.0 | 2.52 (0.93 to 6.81) | 600 | 600 | 0.00 |"
    same = (
        "3.0 | 3.0 | 1.00 (0.18 to 5.60) | 2.0 | 2.0 | 1.00 (1.00 to 1.00) | 600 | 600 | 0.50 (not clean) |"
    )
    assert [line for line in lines if line.startswith(start)] == [
        f"{start} slow, defaults | {slow}",
        f"{start} same, defaults | {same}",
        f"{start} slow, defaults | equal voxels |",
        f"{start} same, defaults | not compared yet |",
        f"{start} stopped, defaults | not compared yet |",
    ]


def test_the_table_of_growing_volumes_shows_time_for_each_voxel_and_peaks(tmp_path):
    def series(edge: int, cpu_s: float, peak_mib: float) -> dict[str, object]:
        spent = {"user_s": [cpu_s], "system_s": [0.0], "wall_s": [cpu_s], "peak_mib": [peak_mib]}
        return SERIES | {"program": "voxelworks", "size": [edge] * 3} | spent

    values = [
        series(64, 1.0, 300),
        series(100, 1.01, 400),
        series(200, 1.16, 500),
        series(400, 0, 0) | {"wall_s": []},
    ]
    figures = MEASURED | {"command": "python benchmarks/scaling.py", "values": values}

    lines = table_lines(tmp_path, "scaling_tables", figures)

    assert [line for line in lines if line.startswith("| ")] == [
        "| Work | Volume | Start-up, s | 100³ | 200³ | Last / one before |",
        "| :-- | :-- | --: | --: | --: | --: |",
        "| convert | image | 1.00 | 10.0 | 20.0 | 2.00 |",
        "| Work | Volume | 100³ | 200³ | Last / one before |",
        "| :-- | :-- | --: | --: | --: |",
        "| convert | image | 400 | 500 | 1.25 |",
    ]


def test_a_stopped_benchmark_goes_on_with_the_runs_that_it_has(tmp_path):
    code = """
import sys
from pathlib import Path
from bench import Series, run_in_turns, take_up, write_figures
from measure import Cost
output = Path(sys.argv[1])
def go(commit, run_count):
    about = {"command": "c", "commit": commit, "versions": {}, "machine": {}, "is_complete": False}
    all_series = [Series("convert", "image", (64, 64, 64), name, 2) for name in "abc"]
    take_up(output, about, all_series)
    ran = []
    def run(name):
        if len(ran) == run_count:
            raise KeyboardInterrupt
        ran.append(name)
        return Cost(1.0, 1.0, 0.0, 0, 0.0)
    runs = [(series, lambda name=series.program: run(name)) for series in all_series]
    try:
        run_in_turns(runs, 2, lambda: write_figures(output, about, all_series))
        write_figures(output, {**about, "is_complete": True}, all_series)
    except KeyboardInterrupt:
        pass
    print("".join(ran))
for commit, run_count in [("one", 4), ("one", 9), ("one", 1), ("two", 9)]:
    go(commit, run_count)
"""
    command = [sys.executable, "-c", code, tmp_path / "figures.json"]
    stopped, went_on, anew, of_another_commit = run(command, tmp_path, PYTHONPATH=str(BENCHMARKS)).split()

    assert (stopped, went_on) == ("abcc", "ba")
    assert anew == "a", "what was complete is measured anew"
    assert of_another_commit == "abccba"


def table_lines(tmp_path: Path, name: str, figures: dict[str, object]) -> list[str]:
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    code = "import json, sys, table; print(getattr(table, sys.argv[2])(json.load(open(sys.argv[1]))))"
    command = [sys.executable, "-c", code, tmp_path / "figures.json", name]
    return run(command, tmp_path, PYTHONPATH=str(BENCHMARKS)).splitlines()


def call(tmp_path: Path, script: str, *arguments: object, **environment: str) -> str:
    return run([sys.executable, BENCHMARKS / script, *arguments], tmp_path, **environment)


def run(command: list[object], tmp_path: Path, **environment: str) -> str:
    answer = subprocess.run(
        list(map(str, command)),
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "numba")} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout
