"""Makes senders to be killed: `sender_process.py DATABASE`, settings in the environment.

For each line of standard input it forks a process that sends until SIGTERM, and prints its id: everything is imported
already, so that a new sender is there at once.
"""

import os
import signal
import sys
import threading

from voxelworks.db import Database
from voxelworks.notify import Sender
from voxelworks.settings import Settings

REST_S = 0.01


def main():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            _send()
        print(child, flush=True)


def _send():
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    database = Database(sys.argv[1])
    sender = Sender(database, Settings())
    while not stop.is_set():
        sender.run_round(stop.is_set)
        stop.wait(REST_S)
    database.close()
    os._exit(0)


if __name__ == "__main__":
    main()
