"""How a running server announces itself to the programs of the same user."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from voxelworks.errors import ServerUnreachable
from voxelworks.settings import Settings


class ServerInfo(BaseModel):
    """How programs of the same user reach a running server: the content of `home/server.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str
    token: str
    pid: int

    @property
    def entry_url(self) -> str:
        """Address that lets a browser in: it carries the token once, and is redirected to one without."""
        return f"{self.url}/?token={self.token}"

    @classmethod
    def read(cls, file: Path) -> ServerInfo | None:
        """Read the file; None if there is none, or an unreadable one."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            return None


def server_file(home: Path) -> Path:
    return home / "server.json"


def worker_key_file(home: Path) -> Path:
    return home / "worker.key"


def find_server(settings: Settings) -> ServerInfo:
    """Find the server that runs with the same `home`.

    Raises
    ------
    ServerUnreachable
        If none has announced itself there.
    """
    info = ServerInfo.read(server_file(settings.home))
    if info is None:
        raise ServerUnreachable(
            f"no server runs in {settings.home}; start one with `voxelworks serve`, or name another"
        )
    return info
