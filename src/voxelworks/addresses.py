"""Requests to addresses that users gave: only to the public internet, and only where the address says.

A name may lead anywhere: to this machine, to its neighbours, to the service that tells cloud machines their passwords.
Therefore it is looked up once, every address it leads to is checked, and the connection goes to a checked address, not
to the name again, which could lead elsewhere by then (DNS rebinding). Redirects are not followed.

`fetch` brings a small answer, `opened` one of any size piece by piece; a `Caller` asks one server many times.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from voxelworks.errors import ForbiddenAddress, InvalidInput, ServerUnreachable
from voxelworks.settings import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[..., Sequence[tuple[Any, ...]]]
"""Looks a name up as `socket.getaddrinfo` does."""
Method = Literal["GET", "HEAD", "POST"]

DEFAULT_PORTS = {"https": 443, "http": 80}
_HOST = re.compile(
    r"(?=.{1,253}\.?\Z)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9-]{1,63}\.?"
)

# Written out after IANA's registries of special addresses: what `ipaddress` calls global differs between the versions
# of Python. Of IPv6 everything outside 2000::/3 is no public address in any case.
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
_SPECIAL: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # behind carriers' NAT; metadata service of Alibaba
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # services of Azure for its own machines: public by number only
        "169.254.0.0/16",  # link-local; metadata services of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocols; metadata service of Oracle
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # multicast tunnels
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "2001::/23",  # protocols, among them Teredo tunnels
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4 tunnels: any IPv4 address inside
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class AddressRules:
    """Where requests may go, and how much they may take."""

    networks: tuple[Network, ...] = ()
    """Networks that are allowed although they are private."""
    allows_http: bool = False
    ports: frozenset[int] = frozenset({443, 8443})
    """With `allows_http` also 80."""
    timeout_s: float = 10.0
    """For the whole request, once the name is looked up."""
    answer_bytes_max: int = 65_536

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take what the operator chose.

        Raises
        ------
        InvalidInput
            If a network cannot be read.
        """
        return cls(
            tuple(_network(text) for text in sorted(settings.outgoing_networks)), settings.outgoing_http,
            settings.outgoing_ports,
        )  # fmt: skip

    def for_listed(self, url: str) -> Self:
        """Allow the scheme and the port of an address that the operator has listed, and no other."""
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        return replace(self, allows_http=parts.scheme == "http", ports=frozenset({port}))


@dataclass(frozen=True)
class Target:
    """An address that was taken apart and looks harmless; its name is not looked up yet."""

    scheme: Literal["https", "http"]
    host: str
    """Name, or address without brackets."""
    port: int
    path: str
    """With the query."""

    @property
    def authority(self) -> str:
        """Host and port as the server is told them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    body: bytes
    is_whole: bool
    """False if the body was longer than the rules allow, and cut off."""


def check_address(url: str, rules: AddressRules) -> Target:
    """Take an address apart, and refuse what can be refused without looking its name up.

    Raises
    ------
    ForbiddenAddress
        Naming what is wrong with it.
    """
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ForbiddenAddress(
            f"{url!r} holds characters that an address cannot have; write other letters in their encoded form (xn--, %)"
        )
    parts = _split(url)
    if parts.scheme not in ("https", "http") or (parts.scheme == "http" and not rules.allows_http):
        raise ForbiddenAddress(f"{url} does not begin with https://, the only kind of address that is called")
    if "@" in parts.netloc:
        raise ForbiddenAddress(f"{parts.hostname}: an address must not carry a user name or password")
    port = _port(parts)
    ports = rules.ports | {80} if rules.allows_http else rules.ports
    if port not in ports:
        allowed = ", ".join(str(number) for number in sorted(ports))
        raise ForbiddenAddress(
            f"{url} names port {port}; only {allowed} are called (the operator may allow others)"
        )
    host = _check_host(parts, rules)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    scheme: Literal["https", "http"] = "https" if parts.scheme == "https" else "http"
    return Target(scheme, host, port, path)


def resolve_address(
    target: Target, rules: AddressRules, resolve: Resolve = socket.getaddrinfo
) -> list[Address]:
    """Look a name up, and refuse it if any address that it leads to is forbidden.

    Raises
    ------
    ForbiddenAddress
    ServerUnreachable
        If the name leads nowhere.
    """
    try:
        found = resolve(target.host, target.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise ServerUnreachable(
            f"{target.host} cannot be looked up ({_reason(error)}); check its name"
        ) from error
    # A scope (fe80::1%eth0) belongs to link-local addresses, which are forbidden in any case.
    addresses = list(
        dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found)
    )
    if not addresses:
        raise ServerUnreachable(f"{target.host} leads to no address; check its name")
    for address in addresses:
        _refuse_private(target.host, address, rules)
    return addresses


def is_public(address: Address) -> bool:
    """Say whether an address belongs to the public internet."""
    inner = _embedded(address)
    if inner is not None:
        return is_public(inner)
    if isinstance(address, ipaddress.IPv6Address) and address not in _PUBLIC_V6:
        return False
    return not any(address in network for network in _SPECIAL if network.version == address.version)


def fetch(
    method: Method,
    url: str,
    rules: AddressRules,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    resolve: Resolve = socket.getaddrinfo,
) -> Answer:
    """Send one request, and give the answer whatever its status; a redirect is an answer like others.

    Raises
    ------
    ForbiddenAddress
        Before anything is sent.
    ServerUnreachable
        If there is no answer in time.
    """
    with opened(url, rules, method=method, body=body, headers=headers, resolve=resolve) as answer:
        content = answer.read(rules.answer_bytes_max + 1)
    limit = rules.answer_bytes_max
    return Answer(answer.status, content[:limit], len(content) <= limit)


class Arriving:
    """An answer whose body is still on its way."""

    def __init__(self, connection: _Connection, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self._connection = connection
        self._answer = answer
        self._read_bytes = 0

    def header(self, name: str) -> str:
        """Give a header; empty if there is none."""
        return self._answer.getheader(name) or ""

    @property
    def size_bytes(self) -> int | None:
        """How long the body is, if the server says so."""
        stated = self.header("Content-Length")
        return int(stated) if re.fullmatch(r"[0-9]{1,18}", stated) else None

    @property
    def is_whole(self) -> bool:
        """Whether all has been read that the server spoke of: what is cut off looks like an answer that ended."""
        return self.size_bytes is None or self._read_bytes == self.size_bytes

    def read(self, size: int) -> bytes:
        """Read on: fewer bytes than asked for only at the end.

        Raises
        ------
        ServerUnreachable
            If the server breaks off.
        """
        with self._connection.explained():
            piece = self._answer.read(size)
            if self._connection.is_late:  # what was broken off looks like an answer that ended
                raise TimeoutError
        self._read_bytes += len(piece)
        return piece


@contextmanager
def opened(
    url: str,
    rules: AddressRules,
    *,
    method: Method = "GET",
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    resolve: Resolve = socket.getaddrinfo,
    whole_s: float | None = None,
) -> Iterator[Arriving]:
    """Send one request, and read the answer piece by piece; errors as of `fetch`.

    Parameters
    ----------
    whole_s
        How long all of it may take; by default no longer than a silence of the server.
    """
    target = check_address(url, rules)
    addresses = resolve_address(target, rules, resolve)
    sent = {"Host": target.authority, "Connection": "close", "Accept-Encoding": "identity", **(headers or {})}
    connection = _Connection(target, addresses, rules.timeout_s, whole_s)
    try:
        with _ended_in_time(connection):
            with connection.explained():
                connection.request(method, target.path, body=body or None, headers=sent)
                answer = connection.getresponse()
            yield Arriving(connection, answer)
    finally:
        connection.close()


class Caller:
    """Asks one server again and again over one connection, which is opened anew when the server has closed it.

    Not for several threads at once.

    Parameters
    ----------
    url
        Address below which is asked; its name is looked up once.
    rules
    headers
        Sent with every request.

    Raises
    ------
    ForbiddenAddress, ServerUnreachable
    """

    def __init__(
        self,
        url: str,
        rules: AddressRules,
        *,
        headers: Mapping[str, str],
        resolve: Resolve = socket.getaddrinfo,
    ) -> None:
        self._target = check_address(url.rstrip("/"), rules)
        self._addresses = resolve_address(self._target, rules, resolve)
        self._rules = rules
        self._headers = {"Host": self._target.authority, "Accept-Encoding": "identity", **headers}
        self._connection: _Connection | None = None

    def get(self, relative: str) -> Answer:
        """Ask for something below the address.

        Raises
        ------
        ServerUnreachable
            If there is no answer in time.
        """
        is_fresh = self._connection is None
        try:
            return self._ask(f"{self._target.path}/{relative}")
        except ServerUnreachable:
            self.close()
            if is_fresh:
                raise
        # The server may have closed a connection that it found idle: that says nothing about the server.
        return self._ask(f"{self._target.path}/{relative}")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, path: str) -> Answer:
        if self._connection is None:
            self._connection = _Connection(self._target, self._addresses, self._rules.timeout_s)
        connection, limit = self._connection, self._rules.answer_bytes_max
        with _ended_in_time(connection), connection.explained():
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
            arriving = Arriving(connection, answer)
            content = arriving.read(limit + 1)
            if not arriving.is_whole and len(content) <= limit:
                raise http.client.IncompleteRead(content)
        if len(content) > limit:
            self.close()
        return Answer(answer.status, content[:limit], len(content) <= limit)


class _Connection(http.client.HTTPConnection):
    """Goes to the addresses that were checked, one after another, and never looks a name up."""

    def __init__(
        self, target: Target, addresses: Sequence[Address], timeout_s: float, whole_s: float | None = None
    ) -> None:
        super().__init__(target.host, target.port, timeout=timeout_s)
        self.whole_s = timeout_s if whole_s is None else whole_s
        """After which `_ended_in_time` ends a request."""
        self._target = target
        self._addresses = addresses
        self.is_late = False
        # `sock` is None again as soon as the head of the answer is there, although the rest is read from it.
        self._held: socket.socket | None = None

    def connect(self) -> None:
        problem: OSError | None = None
        for address in self._addresses:
            try:
                self.sock = socket.create_connection((str(address), self._target.port), self.timeout)
            except OSError as error:
                problem = error
            else:
                break
            if self.is_late:
                break
        if self.sock is None:
            raise problem or OSError("no address is left")
        self._held = self.sock
        if self._target.scheme == "https":
            # Without the handshake at first: whoever ends this in time must find the new socket.
            self.sock = ssl.create_default_context().wrap_socket(
                self.sock, server_hostname=self._target.host.rstrip("."), do_handshake_on_connect=False
            )
            self._held = self.sock
            self.sock.do_handshake()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what goes wrong into one sentence."""
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = f"no answer within {self.whole_s:g} s" if self.is_late else _reason(error)
            raise ServerUnreachable(f"{self._target.authority} did not answer ({reason})") from error

    def end(self) -> None:
        """Break off, from another thread."""
        self.is_late = True
        if self._held is not None:
            with suppress(OSError):  # it has ended by itself
                self._held.shutdown(socket.SHUT_RDWR)


@contextmanager
def _ended_in_time(connection: _Connection) -> Iterator[None]:
    # A timeout of the socket counts from the last byte: a server could answer one byte at a time, for ever.
    timer = threading.Timer(connection.whole_s, connection.end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ForbiddenAddress(f"{url!r} is not an address; write it as https://host/path") from error
    if not parts.hostname:
        raise ForbiddenAddress(f"{url!r} names no host; write it as https://host/path")
    return parts


def _port(parts: SplitResult) -> int:
    try:
        return parts.port or DEFAULT_PORTS[parts.scheme]
    except ValueError as error:
        raise ForbiddenAddress(f"{parts.netloc!r} has no port between 1 and 65535") from error


def _check_host(parts: SplitResult, rules: AddressRules) -> str:
    host = parts.hostname or ""
    if "[" in parts.netloc:
        try:
            literal: Address | None = ipaddress.IPv6Address(host)
        except ValueError as error:
            raise ForbiddenAddress(f"[{host}] is not an IPv6 address") from error
    else:
        literal = _ipv4(host)
    if literal is not None:
        _refuse_private(host, literal, rules)
        return str(literal)
    if not _HOST.fullmatch(host):
        raise ForbiddenAddress(f"{host!r} is not the name of a host")
    # The system would read `127.1`, `2130706433` and `0x7f.1` as addresses; nobody writes them in good faith.
    if re.fullmatch(r"0[xX][0-9A-Fa-f]*|\d+", host.rstrip(".").rpartition(".")[2]):
        raise ForbiddenAddress(f"{host} is a number, not a name; write an address as four numbers: 192.0.2.1")
    return host


def _ipv4(host: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        return None


def _refuse_private(host: str, address: Address, rules: AddressRules) -> None:
    inner = _embedded(address) or address
    if is_public(address) or any(inner in net for net in rules.networks if net.version == inner.version):
        return
    where = host if host == str(address) else f"{host} leads to {address}, which"
    raise ForbiddenAddress(
        f"{where} is not on the public internet; the operator may allow its network with outgoing_networks"
    )


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """Give the IPv4 address that a mapped one, or one translated by NAT64, leads to."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidInput(
            f"{text!r} in outgoing_networks is not a network; write it as 10.1.2.0/24"
        ) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
