import time

import pytest
from argon2 import PasswordHasher

from voxelworks.accounts._passwords import (
    CHARACTERS_MAX,
    check_password,
    hash_password,
    is_outdated,
    is_password,
)
from voxelworks.errors import InvalidInput


def check(password):
    check_password(password, email="ada.lovelace@example.org", name="Ada Lovelace")


@pytest.mark.parametrize(
    "password",
    [
        "only small letters",
        "ünïcödé wörds",
        "日本語の合言葉です",
        "x1 " * 40 + "12345678",
        "  spaces at both ends  ",
        "'; DROP TABLE users; --",
    ],
)
def test_any_password_of_enough_characters_is_taken(password):
    check(password)


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("", "has 0 characters; take at least 8"),
        ("seven77", "has 7 characters; take at least 8"),
        ("a" * 64 + "b" * 65, "has 129 characters; take at most 128"),
        ("x" * 10**7, "take at most 128"),
        ("password", "everybody tries first"),
        ("PassWord", "everybody tries first"),
        ("aaaaaaaaaaaaaaa", "everybody tries first"),
        ("abababababab", "everybody tries first"),
        ("12345678", "everybody tries first"),
        ("ada.lovelace", "your name, your address"),
        ("Ada.Lovelace@example.org", "your name, your address"),
        ("ADA LOVELACE", "your name, your address"),
        ("AdaLovelace", "your name, your address"),
        ("voxelworks", "or that of this program"),
        ("eight\0zeros", "characters that cannot be typed"),
        ("surrogate \ud800", "characters that cannot be typed"),
    ],
)
def test_a_password_that_is_guessed_first_is_refused(password, why):
    with pytest.raises(InvalidInput, match=why):
        check(password)


def test_a_refusal_never_repeats_the_password():
    with pytest.raises(InvalidInput) as refused:
        check("letmein1")
    assert "letmein1" not in str(refused.value)


def test_a_hash_is_argon2id_with_a_salt_of_its_own():
    first, second = hash_password("a password"), hash_password("a password")
    assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert first != second
    assert not is_outdated(first)


def test_only_the_same_password_fits():
    stored = hash_password("Correct horse")
    assert is_password("Correct horse", stored)
    assert not is_password("correct horse", stored)
    assert not is_password("Correct horse ", stored)
    assert not is_password("", stored)


def test_the_longest_password_counts_to_its_last_character():
    longest = "word " * (CHARACTERS_MAX // 5) + "abc"
    assert len(longest) == CHARACTERS_MAX
    stored = hash_password(longest)
    assert is_password(longest, stored)
    assert not is_password(longest[:-1] + "d", stored)
    assert not is_password(longest + "d", stored)


def test_the_same_letters_typed_in_another_way_fit():
    assert is_password("cafe\u0301 sous la pluie", hash_password("caf\u00e9 sous la pluie"))


def test_nobody_has_no_password():
    assert not is_password("nobody has this password", None)
    assert not is_password("", None)


def test_a_broken_hash_fits_nothing():
    assert not is_password("anything", "broken")


def test_an_unknown_user_takes_as_long_as_a_wrong_password():
    stored = hash_password("a password")
    is_password("warm up", None)
    known, unknown = (
        _fastest(lambda: is_password("x" * 12, stored)),
        _fastest(lambda: is_password("x" * 12, None)),
    )
    assert 0.5 < known / unknown < 2


def test_an_enormous_password_costs_no_more_than_a_long_one():
    stored = hash_password("a password")
    long, enormous = "x" * CHARACTERS_MAX, "\u0301" * 10**7
    assert _fastest(lambda: is_password(enormous, stored)) < 3 * _fastest(lambda: is_password(long, stored))


def test_a_hash_with_other_parameters_is_outdated():
    assert is_outdated(PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("a password"))


def _fastest(action):
    def measure():
        start = time.perf_counter()
        action()
        return time.perf_counter() - start

    return min(measure() for _ in range(5))
