import pytest

from voxelworks.accounts._tokens import Prefix, make_token
from voxelworks.jobs._masking import mask


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        (b"Authorization: Bearer abc.def-123", b"Authorization: Bearer ***********"),
        (b"authorization=Basic dXNlcg==", b"authorization=Basic ********"),
        (b'{"password": "hunter2!"}', b'{"password": "********"}'),
        (b"AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI", b"AWS_SECRET_ACCESS_KEY=*************"),
        (b"api_key=0123456789", b"api_key=**********"),
        (b"postgresql://ada:lovelace@db/jobs", b"postgresql://ada:********@db/jobs"),
        (b"key AKIAIOSFODNN7EXAMPLE used", b"key ******************** used"),
    ],
)
def test_what_looks_like_a_secret_is_overwritten(line, masked):
    assert mask(line) == masked


@pytest.mark.parametrize("prefix", Prefix)
def test_our_own_tokens_are_overwritten_wherever_they_stand(prefix):
    token = make_token(prefix).encode()
    for line in (b"%s", b"GET /jobs?x=%s&y=1", b"got '%s'.", b"_%s", b"https://host/reset/%s "):
        assert mask(line % token) == line % (b"*" * len(token))


@pytest.mark.parametrize(
    "line",
    [
        b"wrote block 3 of 4",
        b"tokens: 12",
        b"see https://example.org/a:b@c",
        b"secret: ok",
        b"\xff\x00\x80",
        b"vxt_ and vx_tiles",
    ],
)
def test_other_text_stays(line):
    assert mask(line) == line


def test_known_secrets_are_overwritten_wherever_they_stand():
    assert mask(b"id=open-sesame;", ["open-sesame", ""]) == b"id=***********;"


def test_masking_twice_changes_nothing():
    once = mask(b"token=abcdefgh and Bearer abcdefgh12")
    assert mask(once) == once
