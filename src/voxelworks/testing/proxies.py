"""Real proxies for tests, Caddy and nginx, with the examples that come with Voxelworks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from voxelworks.testing.certificates import Certificate

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
START_TIMEOUT_S = 30.0
_DEBIAN_FOLDER = "/usr/sbin"
"""Not on the search path of everybody."""


@dataclass(frozen=True)
class Example:
    """A configuration that comes with Voxelworks."""

    program: str
    file: str
    host: str
    """Name of the server in it."""
    path: str = ""
    """Path below which it serves Voxelworks."""


EXAMPLES = (
    Example("caddy", "caddy/Caddyfile", "vox.example.org"),
    Example("caddy", "caddy/Caddyfile.below-a-path", "lab.example.org", "/voxelworks"),
    Example("nginx", "nginx/voxelworks.conf", "vox.example.org"),
    Example("nginx", "nginx/below-a-path.conf", "lab.example.org", "/voxelworks"),
)


def find_program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_DEBIAN_FOLDER)


@contextmanager
def running_proxy(
    example: Example, folder: Path, certificate: Certificate, *, port: int, server_port: int
) -> Iterator[None]:
    """Run a proxy on `port` of this machine, in front of a server on `server_port`.

    Of the example only names, ports and files are changed.
    """
    text = (DEPLOY / example.file).read_text().replace("127.0.0.1:8440", f"127.0.0.1:{server_port}")
    assert example.host in text, f"{example.file} has another name of the server now"
    config = folder / "proxy.conf"
    if example.program == "nginx":
        config.write_text(_nginx(text, example, folder, certificate, port))
        command = ["-e", str(folder / "error.log"), "-p", str(folder), "-c", str(config), "-g", "daemon off;"]
    else:
        config.write_text(_caddy(text, example, certificate, port))
        command = ["run", "--adapter", "caddyfile", "--config", str(config)]
    program = find_program(example.program)
    assert program is not None, f"{example.program} is not installed"
    surroundings = {
        **os.environ,
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    with (folder / "proxy.txt").open("wb") as output:
        process = subprocess.Popen([program, *command], stdout=output, stderr=output, env=surroundings)
    try:
        _wait_for(port, process, folder / "proxy.txt")
        yield
    finally:
        process.terminate()
        process.wait()


def _nginx(text: str, example: Example, folder: Path, certificate: Certificate, port: int) -> str:
    name = example.host.partition(".")[0]
    changed = (
        text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        .replace(f"server_name {example.host}", "server_name localhost")
        .replace(f"/etc/ssl/{name}/fullchain.pem", str(certificate.certificate))
        .replace(f"/etc/ssl/{name}/key.pem", str(certificate.key))
    )
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"pid {folder}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\n{changed}\n}}\n"


def _caddy(text: str, example: Example, certificate: Certificate, port: int) -> str:
    site = f"https://localhost:{port} {{\n\ttls {certificate.certificate} {certificate.key}"
    return "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + text.replace(
        f"\n{example.host} {{", f"\n{site}"
    )


def _wait_for(port: int, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the proxy did not start: {output.read_text()[-2000:]}") from None
            time.sleep(0.05)
