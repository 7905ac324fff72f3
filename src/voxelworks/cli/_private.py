"""What a server and a worker keep to themselves."""

from __future__ import annotations

import ctypes
import sys


def keep_memory_private() -> None:
    """Let no other process of the same user read the memory of this one, where its environment lies too (Linux).

    Jobs run as the user of the worker. They get a clean environment, but without namespaces `/proc` would show them
    ours, with keys and passwords. What this process starts is not affected.
    """
    if sys.platform == "linux":
        set_dumpable = 4
        ctypes.CDLL(None).prctl(set_dumpable, 0, 0, 0, 0)
