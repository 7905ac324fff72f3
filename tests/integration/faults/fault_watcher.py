"""Looks at the datasets of a folder again and again, as a viewer would, and notes what it sees.

    python fault_watcher.py DATA_FOLDER REPORT_FILE

A process of its own, so that it looks also while the test sleeps. On SIGTERM it writes the report and ends: every
listing that each listed magnification ever had, and everything that was wrong.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

LOOK_EVERY_S = 0.01
SHARE_MAX = 0.25
"""Of the time, that is spent on looking: the watched shall not starve."""
PROPERTIES = "datasource-properties.json"


class Watcher:
    """What was seen so far."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self.look_count = 0
        self.faults: set[str] = set()
        self.listings: dict[str, set[tuple[str, ...]]] = {}
        """Listed magnification, as `dataset/layer/mag` -> every listing of its files, with sizes."""

    def look(self) -> None:
        self.look_count += 1
        with os.scandir(self._data) as entries:
            datasets = [Path(entry.path) for entry in entries if not entry.name.startswith(".")]
        for dataset in datasets:
            self._look_at(dataset)

    def _look_at(self, dataset: Path) -> None:
        try:
            properties = json.loads((dataset / PROPERTIES).read_bytes())
        except FileNotFoundError:
            self.faults.add(f"{dataset.name} is visible without {PROPERTIES}")
            return
        except ValueError:
            self.faults.add(f"{dataset.name}/{PROPERTIES} is half-written")
            return
        for layer in properties["dataLayers"]:
            for mag in layer["mags"]:
                # The listing comes after the properties: what they listed must be there by now, and never change.
                path = f"{dataset.name}/{mag['path'].removeprefix('./')}"
                listing = tuple(_files(self._data / path))
                if not any(line.startswith("zarr.json ") for line in listing):
                    self.faults.add(f"{path} is listed without zarr.json")
                self.listings.setdefault(path, set()).add(listing)


def _files(folder: Path) -> list[str]:
    """List the files below a folder with their sizes and times."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                status = os.stat(path)
                found.append(f"{os.path.relpath(path, folder)} {status.st_size} {status.st_mtime_ns}")
            except FileNotFoundError:
                found.append(f"{os.path.relpath(path, folder)} gone")
    return sorted(found)


def main() -> None:
    data, report = Path(sys.argv[1]), Path(sys.argv[2])
    watcher = Watcher(data)
    is_over = False

    def end(*_: object) -> None:
        nonlocal is_over
        is_over = True

    signal.signal(signal.SIGTERM, end)
    while not is_over:
        began_at = time.monotonic()
        watcher.look()
        time.sleep(max(LOOK_EVERY_S, (time.monotonic() - began_at) / SHARE_MAX))
    watcher.look()
    seen = {"looks": watcher.look_count, "faults": sorted(watcher.faults)}
    seen["listings"] = {path: sorted(listings) for path, listings in watcher.listings.items()}
    report.write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
