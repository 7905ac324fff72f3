"""An upload that is broken off in every way arrives as it was sent: thousands of files, gigabytes."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest

from voxelworks.client import Client
from voxelworks.client._sending import REQUESTS_AT_ONCE
from voxelworks.errors import NotAllowed
from voxelworks.protocol.uploads import REQUEST_BYTES, Piece, ReceivedFile, UploadView
from voxelworks.testing.rounds import rounds

from .bad_network import BadNetwork, Weather
from .drill_site import DrillSite, until_answered

FILES = rounds(120, 4000)
FILE_BYTES = rounds(200_000, 1_250_000)
LARGE_BYTES = rounds(9_000_000, 200_000_000)
"""Of the last file, which needs many pieces."""
STRIKES = rounds(
    {"kills": 2, "closed tabs": 2, "ended log-ins": 1}, {"kills": 15, "closed tabs": 15, "ended log-ins": 6}
)
WEATHER = Weather(delay_max_s=0.05, cut=0.05, duplicate=0.05, half_open=rounds(0.0, 0.003))


@pytest.mark.faults(
    "T17", "An upload: server killed, requests cut and sent twice, tabs closed, log-ins ended"
)
def test_an_upload_that_is_broken_off_again_and_again_arrives_as_it_was_sent(
    site: DrillSite, tmp_path: Path, dice: random.Random, record_property: Callable[[str, object], None]
) -> None:
    files = _make_files(tmp_path / "source", dice)
    size = sum(file.stat().st_size for file in files.values())
    plan = [what for what, count in STRIKES.items() for _ in range(count)]
    dice.shuffle(plan)
    login = _Login(site)
    with BadNetwork(site.port, WEATHER, dice.randrange(10**6)) as network:
        person = _Person(network.url, login, files)
        deeds = {
            "kills": lambda: _restart(site, dice),
            "closed tabs": person.close_tab,
            "ended log-ins": login.end,
        }
        with person:
            for number, what in enumerate(plan, start=1):
                person.wait_until_sent(size * number // (len(plan) + 1))
                deeds[what]()
            person.hurry()
        broken = network.happened["cut"] + network.happened["duplicate"] + network.happened["half_open"]
    assert person.upload is not None
    home = site.data / "local" / ".uploads" / person.upload.id / "files"
    wrong = [path for path, file in files.items() if _digest(home / path) != _digest(file)]
    twice = max(0, network.uploaded_bytes - size)
    figures = {
        **STRIKES, "requests cut, doubled or never answered": broken, "files": len(files), "MiB": size >> 20,
        "MiB sent twice": twice >> 20, "files that differ": len(wrong),
    }  # fmt: skip
    for name, value in figures.items():
        record_property(name, value)
    assert (wrong, {path.name for path in home.iterdir()}) == ([], set(files))
    # Only what was under way when something broke is sent again: one request, or all that are sent at once.
    assert twice <= (broken + REQUESTS_AT_ONCE * len(plan)) * REQUEST_BYTES


class _Login:
    """The API token of a person, who makes another one when it has ended."""

    def __init__(self, site: DrillSite) -> None:
        self._site = site
        self._id = self.token = ""
        self.renew()

    def renew(self) -> None:
        made = self._ask("POST", "/api/v1/account/tokens", json={"name": "upload", "scopes": ["submit"]})
        self._id, self.token = made["view"]["id"], made["token"]

    def end(self) -> None:
        self._ask("DELETE", f"/api/v1/account/tokens/{self._id}")

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        def ask() -> Any:
            headers = {"Authorization": f"Bearer {self._site.client_token}"}
            url = f"http://127.0.0.1:{self._site.port}{path}"
            answer = httpx.request(method, url, headers=headers, timeout=30, trust_env=False, **body)
            answer.raise_for_status()
            return answer.json() if answer.content else None

        return until_answered(ask)


class _Person:
    """Sends the files, and sends them again whenever that ends, until they are there."""

    def __init__(self, url: str, login: _Login, files: dict[str, Path]) -> None:
        self.upload: UploadView | None = None
        self._url = url
        self._login = login
        self._files = files
        self._failures: list[Exception] = []
        self._sent_bytes = 0
        self._answered_bytes = 0
        self._may_send_bytes: float = 0
        self._is_closed = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._failures.append(RuntimeError("the drill has ended"))
            self.hurry()
            self.close_tab()
        self._thread.join()
        if error is None and self._failures:
            raise self._failures[0]

    def wait_until_sent(self, count: int) -> None:
        """Let so many bytes be sent, and no more until something has happened: it shall hit an upload under way."""
        with self._changed:
            self._may_send_bytes = count
            self._changed.notify_all()
            is_there = self._changed.wait_for(
                lambda: self._sent_bytes >= count or self._failures, timeout=600
            )
        assert is_there, "nothing is sent any more"
        assert self._failures == []

    def hurry(self) -> None:
        with self._changed:
            self._may_send_bytes = float("inf")
            self._changed.notify_all()

    def close_tab(self) -> None:
        """Close the tab: nothing that it remembers is left."""
        with self._changed:
            self._is_closed.set()
            self._changed.notify_all()

    def begin_request(self, size: int) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._sent_bytes < self._may_send_bytes or self._is_closed.is_set()
            )
            if self._is_closed.is_set():
                raise _Closed
            self._sent_bytes += size
            self._changed.notify_all()

    def _note(self, done_bytes: int, _total_bytes: int) -> None:
        self._answered_bytes = max(self._answered_bytes, done_bytes)

    def _compare(self, begun: UploadView) -> None:
        """What the server has once said that it has is never sent again."""
        assert begun.received_bytes >= self._answered_bytes

    def _send(self) -> None:
        try:
            while self.upload is None and not self._failures:
                self._is_closed.clear()
                with _Tab(self._url, self._login.token, self) as tab:
                    try:
                        self.upload = tab.upload(
                            self._files, is_converted=True, on_begun=self._compare, on_progress=self._note
                        )
                    except NotAllowed:
                        self._login.renew()
                    except _Closed:
                        continue
        except Exception as error:
            with self._changed:
                self._failures.append(error)
                self._changed.notify_all()


class _Closed(Exception):
    """The tab was closed."""


class _Tab(Client):
    """A client that its person may close."""

    def __init__(self, url: str, token: str, person: _Person) -> None:
        super().__init__(url, token)
        self._person = person

    def send_pieces(self, upload_id: str, pieces: list[tuple[Piece, bytes]]) -> tuple[ReceivedFile, ...]:
        self._person.begin_request(sum(piece.size_bytes for piece, _ in pieces))
        return super().send_pieces(upload_id, pieces)


def _restart(site: DrillSite, dice: random.Random) -> None:
    site.kill_server()
    time.sleep(dice.uniform(0, 0.5))
    site.start_server()


def _make_files(folder: Path, dice: random.Random) -> dict[str, Path]:
    folder.mkdir()
    sizes = [*(FILE_BYTES + dice.randrange(100) for _ in range(FILES - 1)), LARGE_BYTES]
    files = {f"s{number:05}.tif": folder / f"s{number:05}.tif" for number in range(FILES)}
    noise = dice.randbytes(2**21)  # making all of it anew would take longer than sending it
    for file, size in zip(files.values(), sizes, strict=True):
        start = dice.randrange(len(noise))
        content = file.name.encode() + noise[start:] + noise[:start]
        file.write_bytes((content * (size // len(content) + 1))[:size])
    return files


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
