"""T31: whatever an address looks like, nothing connects to where it must not."""

import ipaddress
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxelworks.addresses import AddressRules, Target, check_address, fetch, is_public, resolve_address
from voxelworks.errors import ForbiddenAddress, InvalidInput, ServerUnreachable
from voxelworks.settings import Settings
from voxelworks.testing.certificates import make_certificate
from voxelworks.testing.listener import answer_with, listener

PUBLIC = "93.184.216.34"
"""Any address of the public internet; nothing here connects to it."""

SPELLINGS = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001",
    "0", "0.0.0.0", "127.0.0.1.", "127.255.255.254", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]",
    "[fe80::1%25lo]", "[fd00::1]", "[fec0::1]", "[ff02::1]", "10.0.0.1", "172.16.0.1", "192.168.1.1",
    "100.64.0.1", "169.254.169.254", "[fd00:ec2::254]", "168.63.129.16", "192.0.0.192", "198.18.0.1",
    "224.0.0.1", "255.255.255.255", "localhost", "LOCALHOST", "localhost.", "ⓛocalhost", "①②⑦.⓪.⓪.①",
    "127。0。0。1", "user@127.0.0.1", "example.org@127.0.0.1", "127.0.0.1\\@example.org", "127.0.0.1%00",
    "127.0.0.1\t", "%31%32%37.0.0.1", "[::1", "[127.0.0.1]", "[::ffff:a9fe:a9fe]", "[2001:0:7f00:1::1]",
    "[64:ff9b:1::7f00:1]",
]  # fmt: skip
"""How this machine and its neighbours can be written."""

LEADING = [
    "127.0.0.1", "::1", "10.1.2.3", "169.254.169.254", "::ffff:192.168.0.1", "fe80::1%lo", "0.0.0.0",
    "100.100.100.200", "64:ff9b::a00:1", "2002:a00:1::1", "fc00::1", "192.0.2.1", "240.0.0.1",
]  # fmt: skip
"""Where a harmless name can lead."""


@pytest.fixture
def victims():
    """Servers of this machine that nobody must reach, on one port."""
    with listener() as first, listener(host="::1", port=first.port) as second:
        yield first, second


def _rules(*ports, **options):
    return AddressRules(allows_http=True, ports=frozenset({443, *ports}), timeout_s=2, **options)


def _leading_to(*answers):
    """A name service that gives one answer after another, and repeats the last; it counts what it is asked."""
    left, asked = list(answers), []

    def resolve(host, port, **_options):
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    resolve.asked = asked
    return resolve


@pytest.mark.faults("T31", "Addresses that lead to this machine or its neighbours, in every spelling")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_spelling_of_a_private_address_is_connected_to(victims, scheme, record_property):
    port = victims[0].port
    refused = 0
    for host in SPELLINGS:
        with pytest.raises((ForbiddenAddress, ServerUnreachable)):
            fetch("POST", f"{scheme}://{host}:{port}/", _rules(port), body=b"x")
        refused += 1
    assert [victim.connections for victim in victims] == [0, 0]
    record_property("jobs", refused)


@pytest.mark.faults("T31", "Names that lead to this machine or its neighbours")
@pytest.mark.parametrize("address", LEADING)
def test_a_name_that_leads_inside_is_refused(victims, address, monkeypatch):
    connected = _watch_connections(monkeypatch)
    port = victims[0].port
    for found in ([address], [PUBLIC, address]):
        with pytest.raises(ForbiddenAddress, match=r"example\.org leads to .* is not on the public internet"):
            fetch("POST", f"http://example.org:{port}/", _rules(port), resolve=_leading_to(found))
    assert connected == []


@pytest.mark.faults("T31", "A name that leads elsewhere when it is asked a second time")
def test_a_name_is_looked_up_once_and_the_connection_goes_there(victims, monkeypatch):
    connected = _watch_connections(monkeypatch)
    port = victims[0].port
    rebinding = _leading_to([PUBLIC], ["127.0.0.1"])
    with pytest.raises(ServerUnreachable, match="no route in this test"):
        fetch("POST", f"http://example.org:{port}/", _rules(port), resolve=rebinding)
    assert rebinding.asked == ["example.org"]
    assert connected == [(PUBLIC, port)]
    assert [victim.connections for victim in victims] == [0, 0]


@pytest.mark.faults("T31", "A redirect to this machine")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(victims, status):
    with listener() as honest:
        where = f"http://127.0.0.1:{victims[0].port}/"
        honest.answer = lambda handler: answer_with(handler, status, Location=where)
        rules = _rules(honest.port, networks=(ipaddress.ip_network("127.0.0.1/32"),))
        assert fetch("POST", f"http://127.0.0.1:{honest.port}/", rules).status == status
    assert [victim.connections for victim in victims] == [0, 0]


def _watch_connections(monkeypatch):
    """Let nothing out, and note where it would have gone."""
    connected = []

    def refuse(address, *_rest, **_options):
        connected.append(address)
        raise OSError(0, "no route in this test")

    monkeypatch.setattr(socket, "create_connection", refuse)
    return connected


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://example.org/", "does not begin with https://"),
        ("file:///etc/passwd", "names no host"),
        ("gopher://example.org/", "does not begin with https://"),
        ("http://example.org/", "does not begin with https://"),
        ("//example.org/", "does not begin with https://"),
        ("example.org", "names no host"),
        ("", "names no host"),
        ("https://", "names no host"),
        ("https://example.org:22/", "names port 22; only 443, 8443 are called"),
        ("https://example.org:99999/", "has no port between 1 and 65535"),
        ("https://example.org:x/", "has no port between 1 and 65535"),
        ("https://ada:secret@example.org/", "example.org: an address must not carry a user name or password"),
        ("https://exa mple.org/", "holds characters that an address cannot have"),
        ("https://example.org/\r\nHost: x", "holds characters that an address cannot have"),
        ("https://exämple.org/", "holds characters that an address cannot have"),
        ("https://exa*mple.org/", "is not the name of a host"),
        ("https://-example.org/", "is not the name of a host"),
        ("https://example..org/", "is not the name of a host"),
        ("https://2130706433/", "is a number, not a name"),
        ("https://0x7f.1/", "is a number, not a name"),
        ("https://[::g]/", "not an IPv6 address|is not an address"),
        ("https://10.0.0.1/", "10.0.0.1 is not on the public internet; the operator may allow its network"),
    ],
)  # fmt: skip
def test_addresses_that_are_none_are_refused_without_looking_them_up(url, problem):
    with pytest.raises(ForbiddenAddress, match=problem):
        check_address(url, AddressRules())


def test_the_password_in_a_refused_address_is_not_repeated():
    with pytest.raises(ForbiddenAddress) as refused:
        check_address("https://ada:secret@example.org/", AddressRules())
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("https://example.org", Target("https", "example.org", 443, "/"), "example.org"),
        (
            "https://Example.org:8443/a?b=c#d",
            Target("https", "example.org", 8443, "/a?b=c"),
            "example.org:8443",
        ),
        (
            "https://xn--exmple-cua.org/",
            Target("https", "xn--exmple-cua.org", 443, "/"),
            "xn--exmple-cua.org",
        ),
        ("https://[2606:4700::1]:8443/x", Target("https", "2606:4700::1", 8443, "/x"), "[2606:4700::1]:8443"),
        (f"https://{PUBLIC}/", Target("https", PUBLIC, 443, "/"), PUBLIC),
    ],
)
def test_addresses_are_taken_apart(url, target, authority):
    found = check_address(url, AddressRules())
    assert found == target
    assert found.authority == authority


def test_a_name_that_leads_outside_is_let_through():
    target = check_address("https://example.org/", AddressRules())
    found = resolve_address(target, AddressRules(), _leading_to([PUBLIC, "2606:4700::1", PUBLIC]))
    assert [str(address) for address in found] == [PUBLIC, "2606:4700::1"]


def test_a_name_that_leads_nowhere_is_told():
    def fail(*_rest, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    target = check_address("https://example.org/", AddressRules())
    with pytest.raises(
        ServerUnreachable, match=r"example.org cannot be looked up \(Name or service not known\)"
    ):
        resolve_address(target, AddressRules(), fail)
    with pytest.raises(ServerUnreachable, match="leads to no address"):
        resolve_address(target, AddressRules(), _leading_to([]))


@given(st.integers(0, 2**32 - 1))
def test_what_is_private_as_ipv4_is_private_inside_ipv6(number):
    address = ipaddress.IPv4Address(number)
    for inside in (f"::ffff:{address}", str(ipaddress.IPv6Address((0x64FF9B << 96) | number))):
        assert is_public(ipaddress.ip_address(inside)) == is_public(address)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_nothing_is_public_that_python_knows_to_be_private(address):
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        assert not is_public(address)


@pytest.mark.parametrize(
    "address", [PUBLIC, "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_the_public_internet_is_public(address):
    assert is_public(ipaddress.ip_address(address))


def test_the_operator_may_allow_networks():
    settings = Settings(
        outgoing_networks={"10.1.0.0/16", "fd00:1::/64"}, outgoing_http=True, outgoing_ports={80, 9000}
    )
    rules = AddressRules.of(settings)
    assert check_address("http://10.1.2.3:9000/", rules).host == "10.1.2.3"
    assert check_address("http://[::ffff:10.1.2.3]/", rules).port == 80
    assert check_address("http://[fd00:1::5]/", rules).host == "fd00:1::5"
    for forbidden in ("http://10.2.0.1/", "http://[fd00:2::5]/", "http://127.0.0.1/"):
        with pytest.raises(ForbiddenAddress):
            check_address(forbidden, rules)


def test_a_network_that_is_none_is_named():
    with pytest.raises(InvalidInput, match=r"'10\.1\.2\.3/8' in outgoing_networks is not a network"):
        AddressRules.of(Settings(outgoing_networks={"10.1.2.3/8"}))


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    made = make_certificate(tmp_path, "example.org")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
    return made


def _allowing(port, **options):
    return _rules(port, networks=(ipaddress.ip_network("127.0.0.1/32"),), **options)


def test_a_request_says_what_it_should_over_tls(certificate):
    with listener(tls=certificate.server_context()) as server:
        server.answer = lambda handler: answer_with(handler, 202, b"thanks")
        url = f"https://example.org:{server.port}/hook?x=1"
        answer = fetch(
            "POST",
            url,
            _allowing(server.port),
            body=b"{}",
            headers={"X-A": "b"},
            resolve=_leading_to(["127.0.0.1"]),
        )
        (request,) = server.requests
    assert (answer.status, answer.body, answer.is_whole) == (202, b"thanks", True)
    assert (request.method, request.path, request.body) == ("POST", "/hook?x=1", b"{}")
    assert request.headers["host"] == f"example.org:{server.port}"
    assert request.headers["x-a"] == "b"


def test_a_server_that_cannot_prove_its_name_is_told_nothing(certificate):
    with listener(tls=certificate.server_context()) as server:
        url = f"https://other.example.org:{server.port}/"
        with pytest.raises(ServerUnreachable, match="certificate"):
            fetch("POST", url, _allowing(server.port), body=b"x", resolve=_leading_to(["127.0.0.1"]))
        assert server.requests == []


def test_the_next_address_is_tried_if_one_does_not_answer():
    with listener() as server:
        found = fetch(
            "GET", f"http://example.org:{server.port}/",
            _rules(server.port, networks=(ipaddress.ip_network("127.0.0.0/8"),)),
            resolve=_leading_to(["127.0.0.2", "127.0.0.1"]),
        )  # fmt: skip
    assert found.status == 200


def test_a_long_answer_is_cut():
    with listener() as server:
        server.answer = lambda handler: answer_with(handler, 200, b"x" * 5000)
        url = f"http://127.0.0.1:{server.port}/"
        answer = fetch("GET", url, _allowing(server.port, answer_bytes_max=1000))
        whole = fetch("GET", url, _allowing(server.port, answer_bytes_max=5000))
    assert (len(answer.body), answer.is_whole) == (1000, False)
    assert (len(whole.body), whole.is_whole) == (5000, True)


@pytest.mark.parametrize("part", ["head", "body"])
def test_an_answer_that_never_ends_is_broken_off(part):
    def drip(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if part == "body" else b""))
        for _ in range(200):
            handler.wfile.write(b"X-A: b\r\n"[: 8 if part == "head" else 1])
            time.sleep(0.05)

    with listener() as server:
        server.answer = drip
        began = time.monotonic()
        rules = AddressRules(
            (ipaddress.ip_network("127.0.0.1/32"),),
            True,
            frozenset({server.port}),
            timeout_s=0.5,
            answer_bytes_max=10**6,
        )
        with pytest.raises(ServerUnreachable, match=r"no answer within 0\.5 s"):
            fetch("GET", f"http://127.0.0.1:{server.port}/", rules)
        assert time.monotonic() - began < 3


def test_a_tls_handshake_that_never_ends_is_broken_off():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        rules = AddressRules((ipaddress.ip_network("127.0.0.1/32"),), ports=frozenset({port}), timeout_s=0.5)
        with pytest.raises(ServerUnreachable, match=r"no answer within 0\.5 s"):
            fetch("GET", f"https://127.0.0.1:{port}/", rules)
        assert time.monotonic() - began < 3
