import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxelworks.accounts._texts import (
    check_email,
    check_name,
    check_organization_id,
    check_zone,
    network_of,
    same_email,
    shortened,
)
from voxelworks.errors import InvalidInput


@pytest.mark.parametrize(
    ("given_text", "email"),
    [
        ("Ada@Example.ORG", "ada@example.org"),
        ("  ada+tests@example.org\n", "ada+tests@example.org"),
        ("ada@localhost", "ada@localhost"),
        ("ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
    ],
)
def test_an_address_has_one_form(given_text, email):
    assert check_email(given_text) == email
    assert same_email(given_text) == email


@pytest.mark.parametrize(
    "text",
    [
        "", "ada", "@example.org", "ada@", "ada@@example.org", "ada lovelace@example.org", "ada@example..org",
        "ada@-example.org", "ada@example.org\nBcc: eve@example.org", "ada@example.org, eve@example.org",
        "Ada <ada@example.org>", "ädä@example.org", "ada@bücher.example", "ada\u212a@example.org",
        "a" * 65 + "@example.org", "ada@" + "a" * 64 + ".org", "ada@" + "a." * 130 + "org", "ada\0@example.org",
        "\ud800@example.org",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InvalidInput, match=r"is not an e-mail address; write it like ada@example\.org"):
        check_email(text)


@given(st.text())
def test_an_address_that_is_taken_stays_the_same_and_has_no_line_breaks(text):
    try:
        email = check_email(text)
    except InvalidInput:
        return
    assert check_email(email) == email == same_email(email)
    assert email.isprintable()


@given(st.text(st.characters()))
def test_what_is_looked_up_can_always_be_stored(text):
    key = same_email(text)
    assert "\0" not in key
    key.encode()
    assert len(key) <= 3 * 254  # some letters become three when they lose their case


def test_a_name_is_one_line():
    assert check_name("name", "  Ada \t King,\n Countess of Lovelace ") == "Ada King, Countess of Lovelace"
    assert check_name("name", "李 小龙") == "李 小龙"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "the name is empty; give one"),
        (" \n ", "the name is empty; give one"),
        ("a" * 101, "the name has 101 characters; at most 100 are taken"),
        ("Ada\0", "has characters that cannot be shown"),
        ("Ada\u202e", "has characters that cannot be shown"),
    ],
)
def test_other_names_are_refused(name, why):
    with pytest.raises(InvalidInput, match=why):
        check_name("name", name)


@pytest.mark.parametrize("name", ["a", "neuro", "lab-7_b", "0", "a" * 63])
def test_a_short_name_is_a_safe_part_of_a_path(name):
    assert check_organization_id(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "A", "-a", "_a", ".", "..", "a/b", "a.b", "a b", "a\n", "ä", "a" * 64, "a\0"],
)
def test_other_short_names_are_refused(name):
    with pytest.raises(InvalidInput, match="is not a short name of an organization"):
        check_organization_id(name)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Pacific/Auckland"])
def test_time_zones_are_those_of_iana(zone):
    assert check_zone(zone) == zone


@pytest.mark.parametrize(
    "zone", ["", "Berlin", "europe/berlin", "../../etc/passwd", "localtime", "posixrules"]
)
def test_other_time_zones_are_refused(zone):
    with pytest.raises(InvalidInput, match="is not a time zone; write it like Europe/Berlin, or UTC"):
        check_zone(zone)


def test_what_a_browser_says_becomes_one_line():
    assert shortened("Mozilla/5.0\r\nX: y\0" + "z" * 500, 20) == "Mozilla/5.0  X: y zz"


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_tries_are_counted_by_what_one_person_can_have(address, network):
    assert network_of(address) == network
