"""I19: amounts are whole, and rounding neither gives nor takes more than it must."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from voxelworks.credits import PriceList, amount

quantities = st.integers(0, 10**18)
prices = st.integers(0, 10**12).map(
    lambda price: PriceList(version="1", millicredits_per_gigavoxel={"p": price})
)


@given(prices=prices, quantity=quantities)
def test_an_amount_is_the_nearest_whole_number_halves_up(prices, quantity):
    exact = Fraction(quantity * prices.price("p"), 10**9)
    assert -Fraction(1, 2) < amount(prices, "p", quantity) - exact <= Fraction(1, 2)


@given(prices=prices, one=quantities, other=quantities)
def test_two_halves_cost_about_what_the_whole_costs(prices, one, other):
    whole = amount(prices, "p", one + other)
    parts = amount(prices, "p", one) + amount(prices, "p", other)
    assert abs(whole - parts) <= 1


@given(prices=prices, one=quantities, other=quantities)
def test_more_never_costs_less(prices, one, other):
    less, more = sorted((one, other))
    assert amount(prices, "p", less) <= amount(prices, "p", more)
