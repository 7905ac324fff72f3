"""How sizes of files are told to people."""

from __future__ import annotations


def size_text(count: int) -> str:
    """Say a size in binary units, with three digits: ``512 B``, ``1.5 GiB``."""
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024 or unit == "PiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.3g} {unit}" if size < 999.5 else f"{size:.0f} {unit}"
