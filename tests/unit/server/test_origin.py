import pytest
from starlette.requests import Request

from voxelworks.server.origin import is_from_here


def _request(*, host="127.0.0.1:8440", client="127.0.0.1", **headers):
    told = {"host": host, **headers}
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in told.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": pairs, "client": (client, 5)})


def test_programs_on_this_machine_are_from_here():
    assert is_from_here(_request())
    assert is_from_here(_request(host="localhost", client="::1"))


@pytest.mark.parametrize(
    "told",
    [
        {"host": "voxelworks.example.org"},
        {"client": "192.0.2.7"},
        {"host": "localhost", "client": "10.0.0.1"},
    ],
)
def test_others_are_not(told):
    assert not is_from_here(_request(**told))


@pytest.mark.parametrize(
    "name", ["forwarded", "via", "x_forwarded_for", "x_forwarded_host", "x_forwarded_proto"]
)
def test_what_comes_through_a_proxy_on_this_machine_is_not_from_here(name):
    assert not is_from_here(_request(**{name: "127.0.0.1"}))
