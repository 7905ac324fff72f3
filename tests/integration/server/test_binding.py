"""Where the server listens, and how others than this machine reach it."""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from voxelworks.client import Client, find_server, worker_key_file
from voxelworks.errors import InvalidInput, NotAllowed
from voxelworks.server import serve
from voxelworks.server.binding import Listeners, check_settings
from voxelworks.settings import Settings
from voxelworks.testing.server import OWNER, free_port, running_server, set_up

_, PASSWORD = OWNER


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a certificate for `vox.example.org` that signs itself; give the files of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vox.example.org")])
    today = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("vox.example.org")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def reached(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[tuple[Settings, httpx.Client]]:
    """Serve with TLS, and give a client that reaches the server by its public name."""
    port = free_port()
    settings = Settings(
        home=tmp_path, host="0.0.0.0", port=port, public_url=f"https://vox.example.org:{port}",
        tls_certificate=certificate[0], tls_key=certificate[1],
    )  # fmt: skip
    set_up(settings)
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    with (
        running_server(settings),
        httpx.Client(
            base_url=f"https://127.0.0.1:{port}", verify=trust, trust_env=False,
            headers={"Host": f"vox.example.org:{port}", "Origin": f"https://vox.example.org:{port}"},
        ) as client,
    ):  # fmt: skip
        # The address is that of this machine, the name that of the certificate.
        client.event_hooks = {
            "request": [lambda request: request.extensions.update(sni_hostname="vox.example.org")]
        }
        yield settings, client


def test_over_tls_the_cookie_is_bound_to_host_and_tls(reached):
    _, browser = reached
    page = browser.get("/jobs")
    assert (page.status_code, page.headers["strict-transport-security"]) == (401, "max-age=31536000")
    answer = browser.post("/login", data={"email": "ada@example.org", "password": PASSWORD})
    [cookie] = answer.headers.get_list("set-cookie")
    assert cookie.startswith("__Host-voxelworks=")
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    value = cookie.partition(";")[0]
    assert browser.get("/jobs", headers={"Cookie": value}).status_code == 200
    assert browser.get("/jobs", headers={"Cookie": value, "Host": "evil.example"}).status_code == 403


def test_the_start_up_token_counts_for_this_machine_only(reached):
    settings, browser = reached
    token = find_server(settings).token
    assert browser.get("/api/v1/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert browser.get("/", params={"token": token}).status_code == 401
    assert browser.post("/login", data={"token": token}).status_code == 401


def test_programs_of_this_machine_need_no_certificate(reached):
    settings, _ = reached
    info = find_server(settings)
    assert info.url.startswith("http://127.0.0.1:")
    with Client(info.url, info.token) as client:
        assert client.list_jobs().jobs == ()
    key = worker_key_file(settings.home).read_text()
    with httpx.Client(
        base_url=info.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False
    ) as worker:
        body = {"name": "w", "version": "1", "workflows": {}}
        assert worker.post("/api/v1/worker/sessions", json=body).status_code == 200
        forwarded = worker.get(
            "/api/v1/jobs", headers={"Authorization": f"Bearer {info.token}", "X-Forwarded-For": "10.0.0.9"}
        )
        assert forwarded.status_code == 401


def test_behind_a_trusted_proxy_the_request_is_what_the_proxy_tells(tmp_path):
    settings = Settings(
        home=tmp_path, port=0, public_url="https://vox.example.org", trusted_proxies=frozenset({"127.0.0.1"})
    )
    set_up(settings)
    headers = {
        "Host": "vox.example.org", "Origin": "https://vox.example.org", "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "203.0.113.9",
    }  # fmt: skip
    with (
        running_server(settings) as info,
        httpx.Client(base_url=info.url, headers=headers, trust_env=False) as browser,
    ):
        answer = browser.post("/login", data={"email": "ada@example.org", "password": PASSWORD})
        [cookie] = answer.headers.get_list("set-cookie")
        assert cookie.startswith("__Host-voxelworks=")
        held = {"Cookie": cookie.partition(";")[0]}
        sessions = browser.get("/api/v1/account/sessions", headers=held).json()
        assert [item["address"] for item in sessions] == ["203.0.113.9"]
        plain = browser.get("/healthz", headers={"X-Forwarded-Proto": "http"})
        assert (plain.status_code, "plain http" in plain.json()["message"]) == (403, True)


def test_without_trusted_proxies_nobody_tells_where_a_request_comes_from(tmp_path):
    with running_server(Settings(home=tmp_path, port=0)) as info:
        answer = httpx.get(f"{info.url}/healthz", headers={"X-Forwarded-Proto": "https"}, trust_env=False)
        assert "strict-transport-security" not in answer.headers


@pytest.mark.parametrize(
    "given",
    [
        {"host": "0.0.0.0"},
        {"host": "0.0.0.0", "public_url": "https://vox.example.org"},
        {"host": "192.0.2.1", "trusted_proxies": frozenset({"10.0.0.1"})},
    ],
)
def test_an_address_that_others_reach_needs_a_name_and_tls(tmp_path, given):
    with pytest.raises(NotAllowed, match=r"VOXELWORKS_PUBLIC_URL=https://NAME.*ssh -L"):
        serve(Settings(home=tmp_path, port=0, **given))


def test_nobody_listens_for_others_before_the_set_up(tmp_path, certificate):
    settings = Settings(
        home=tmp_path, host="0.0.0.0", port=0, public_url="https://vox.example.org",
        tls_certificate=certificate[0], tls_key=certificate[1],
    )  # fmt: skip
    with pytest.raises(NotAllowed, match="voxelworks admin set-up"):
        serve(settings)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"public_url": "http://vox.example.org"}, "is not an address for browsers"),
        ({"public_url": "https://vox.example.org/path?x=1"}, "is not an address for browsers"),
        ({"public_url": "https://vox.example.org/path"}, "only a proxy that takes the path /path off"),
        ({"public_url": "vox.example.org"}, "is not an address for browsers"),
        ({"tls_certificate": "CERT"}, "tls_key .* is missing"),
        ({"tls_key": "KEY"}, "tls_certificate .* is missing"),
        ({"tls_certificate": "KEY", "tls_key": "CERT"}, "cannot be used"),
        ({"tls_certificate": "/nowhere", "tls_key": "KEY"}, "cannot be used"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(tmp_path, certificate, given, expected):
    files = {"CERT": str(certificate[0]), "KEY": str(certificate[1])}
    with pytest.raises(InvalidInput, match=expected):
        check_settings(
            Settings(home=tmp_path, **{name: files.get(value, value) for name, value in given.items()})
        )


def test_small_answers_are_sent_at_once(tmp_path: Path) -> None:
    # asyncio looks at the protocol before it switches off Nagle's algorithm, which holds small pieces back for 40 ms.
    listeners = Listeners.bind(Settings(home=tmp_path, port=0))
    try:
        assert listeners.main.proto == socket.IPPROTO_TCP
    finally:
        listeners.close()
