"""Run parts of a test in processes of their own."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence


def run_forked(actions: Sequence[Callable[[], None]]) -> int:
    """Run each action in a forked child, all at once; give how many of them failed.

    What a child raises is printed where pytest finds it. Connections to databases must be closed before: a child must
    not use those of its parent.
    """
    children = [_fork(action) for action in actions]
    failures = 0
    try:
        while children:
            failures += os.waitpid(children[0], 0)[1] != 0
            del children[0]
    finally:
        for child in children:  # the test was stopped
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return failures


def _fork(action: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # no teardown of the parent's fixtures
