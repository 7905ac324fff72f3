"""Whatever people write, a mail has the headers and recipients that we gave it, and says what they wrote."""

import unicodedata
from email import message_from_bytes
from email.headerregistry import Address
from email.policy import default

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxelworks.errors import InvalidInput
from voxelworks.notify._messages import MESSAGES, JobEnd
from voxelworks.notify._render import render_mail
from voxelworks.notify._smtp import POLICY, MailRefused, make_mail
from voxelworks.notify._words import check_mail_address, credits_text, many_lines, one_line

HEADERS = [
    "Subject", "From", "To", "Date", "Message-ID", "Auto-Submitted", "X-Auto-Response-Suppress", "List-Unsubscribe",
    "List-Unsubscribe-Post", "MIME-Version", "Content-Type",
]  # fmt: skip
NASTY = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\r\n\x00\x0b\x0c\x1c\x85\u2028\u2029\ud800\u202e:;,<>@\"'=?&{}%\t "),
    ),
    max_size=120,
)
INJECTION = st.sampled_from(
    ["\r\nBcc: eve@example.org", "\nTo: eve@example.org\n\nHello", "=?utf-8?q?=0ABcc:_eve?="]
)
TEXTS = st.one_of(NASTY, st.tuples(NASTY, INJECTION, NASTY).map("".join))


def _job(**given):
    return JobEnd(
        **{
            "job_id": "j1", "workflow": "own", "title": "Own", "organization_id": "lab", "user_id": "ada",
            "user_name": "Ada", "email": "ada@example.org", "state": "failed", **given,
        }
    )  # fmt: skip


@given(title=TEXTS, name=TEXTS, about=TEXTS, message=TEXTS)
def test_no_text_adds_a_header_or_a_recipient(title, name, about, message):
    told = _job(title=title, user_name=name, subject_line=about, message=message)
    rendered = render_mail(told, "job", "https://v.example.org", reason="why", leave_path="/unsubscribe/x")
    mail = make_mail(
        rendered,
        sender=Address("Voxels", "v", "example.org"),
        to="ada@example.org",
        message_id="<1@example.org>",
    )
    seen = message_from_bytes(mail.as_bytes(policy=POLICY), policy=default)
    assert [header for header in seen if header != "Content-Transfer-Encoding"] == HEADERS
    assert [address.addr_spec for address in seen["To"].addresses] == ["ada@example.org"]
    assert [part.get_content_type() for part in seen.iter_parts()] == ["text/plain", "text/html"]
    assert " ".join(seen["Subject"].split()) == one_line(told.subject).replace("=?", "= ?")
    assert many_lines(message).strip() in seen.get_body(("plain",)).get_content().replace("\r\n", "\n")
    assert all(len(line) <= 998 for line in mail.as_bytes(policy=POLICY).split(b"\r\n"))


@given(TEXTS)
def test_one_line_is_one_line(text):
    line = one_line(text)
    assert not {unicodedata.category(character) for character in line} & {"Cc", "Cs", "Zl", "Zp"}
    assert len(line.splitlines()) <= 1
    assert len(line) <= 160
    assert one_line(line) == line
    line.encode()


@given(TEXTS)
def test_many_lines_can_be_stored_and_sent(text):
    lines = many_lines(text)
    assert "\x00" not in lines
    assert "\r" not in lines
    lines.encode()
    assert many_lines(lines) == lines


def test_of_a_very_long_text_the_end_is_shown():
    assert many_lines("a" * 10 + "b" * 5, length=5) == "[…]\nbbbbb"


@given(st.one_of(TEXTS, st.tuples(TEXTS, TEXTS).map("@".join), st.emails()))
def test_whatever_counts_as_an_address_is_one_address(text):
    try:
        check_mail_address(text)
    except InvalidInput:
        return
    rendered = render_mail(MESSAGES["test"](), "test", "https://v.example.org")
    try:
        mail = make_mail(
            rendered, sender=Address("", "v", "example.org"), to=text, message_id="<1@example.org>"
        )
    except MailRefused:
        return
    assert [address.addr_spec for address in mail["To"].addresses] == [text]
    assert mail.as_bytes(policy=POLICY).lower().count(b"\nto:") == 1


@given(st.emails())
def test_a_usual_address_is_taken(address):
    if "/" not in address.rpartition("@")[2] and not set(address) & set("{}|?#%"):
        assert check_mail_address(address) == address


@given(st.integers(-(10**15), 10**15))
def test_an_amount_can_be_read_back(millicredits):
    number, _, unit = credits_text(millicredits).partition(" ")
    whole, _, rest = number.replace(",", "").replace("-", "").partition(".")
    value = int(whole) * 1000 + int(rest.ljust(3, "0") or 0)
    assert value == abs(millicredits)
    assert number.startswith("-") == (millicredits < 0)
    assert unit == ("credit" if value == 1000 else "credits")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ada",
        "@example.org",
        "ada@",
        "a da@example.org",
        "ada@b@c",
        "ada@example.org,bob@example.org",
        "<ada@b.org>",
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InvalidInput, match=r"write it as name@example\.org"):
        check_mail_address(address)
