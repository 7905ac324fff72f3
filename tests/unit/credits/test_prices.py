import json

import pytest

from voxelworks.credits import PriceList, amount, in_credits, price_list
from voxelworks.errors import InvalidInput
from voxelworks.settings import Settings

PRICES = PriceList(
    version="1",
    millicredits_per_gigavoxel={"infer": 1000, "none": 0},
    millicredits_per_annotated_gigavoxel={"train": 7},
)


@pytest.mark.parametrize(
    ("price_name", "quantity", "millicredits"),
    [
        ("infer", 0, 0),
        ("infer", 499_999, 0),
        ("infer", 500_000, 1),  # half a millicredit: up
        ("infer", 1_499_999, 1),
        ("infer", 1_500_000, 2),
        ("infer", 10**9, 1000),
        ("infer", 10**15, 10**9),
        ("train", 10**9, 7),
        ("train", 10**8, 1),
        ("none", 10**15, 0),
    ],
)
def test_amounts_are_rounded_once_halves_up(price_name, quantity, millicredits):
    assert amount(PRICES, price_name, quantity) == millicredits


def test_an_unknown_price_is_refused_and_not_free():
    with pytest.raises(InvalidInput) as refused:
        amount(PRICES, "infre", 1)
    assert str(refused.value) == (
        "price list '1' has no price 'infre'; the operator adds it to the file of the setting price_list"
    )


def test_what_is_counted_is_said():
    assert (PRICES.unit("infer"), PRICES.unit("train")) == ("voxels", "annotated voxels")


def test_the_shipped_list_prices_every_ai_workflow():
    prices = price_list(Settings())
    names = prices.millicredits_per_gigavoxel | prices.millicredits_per_annotated_gigavoxel
    assert set(names) == {
        "infer_neurons", "infer_nuclei", "infer_mitochondria", "infer_instances", "infer_with_model",
        "align_sections", "align", "train_neuron_model", "train_instance_model",
    }  # fmt: skip
    assert all(price > 0 for price in names.values())


def test_an_operator_has_prices_of_their_own(tmp_path):
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({"version": "ours", "millicredits_per_gigavoxel": {"infer_neurons": 5}}))
    prices = price_list(Settings(price_list=file))
    assert prices == PriceList(version="ours", millicredits_per_gigavoxel={"infer_neurons": 5})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("nonsense", "the file: Invalid JSON"),
        ("{}", "version: Field required"),
        ('{"version": ""}', "version: String should have at least 1 character"),
        (
            '{"version": "1", "millicredits_per_gigavoxel": {"infer": -1}}',
            "millicredits_per_gigavoxel.infer: Input should be greater than or equal to 0",
        ),
        (
            '{"version": "1", "millicredits_per_gigavoxel": {"infer": 1.5}}',
            "millicredits_per_gigavoxel.infer: Input should be a valid integer",
        ),
        ('{"version": "1", "price": {}}', "price: Extra inputs are not permitted"),
        (
            json.dumps(
                {
                    "version": "1",
                    "millicredits_per_gigavoxel": {"a": 1},
                    "millicredits_per_annotated_gigavoxel": {"a": 1},
                }
            ),
            "a has two prices; keep one",
        ),
    ],
)
def test_a_malformed_list_is_named_with_its_problem(tmp_path, content, problem):
    file = tmp_path / "prices.json"
    file.write_text(content)
    with pytest.raises(InvalidInput) as refused:
        price_list(Settings(price_list=file))
    assert str(refused.value).startswith(f"the price list {file} cannot be used (")
    assert problem in str(refused.value)
    assert str(refused.value).endswith("; correct the file")


def test_a_missing_list_is_named(tmp_path):
    file = tmp_path / "none.json"
    with pytest.raises(InvalidInput) as refused:
        price_list(Settings(price_list=file))
    assert str(refused.value) == (
        f"the price list {file} cannot be read (No such file or directory); correct VOXELWORKS_PRICE_LIST"
    )


@pytest.mark.parametrize(
    ("millicredits", "text"),
    [
        (0, "0"),
        (1, "0.001"),
        (250, "0.25"),
        (1000, "1"),
        (-1500, "-1.5"),
        (-1, "-0.001"),
        (10_000, "10"),
        (12_340, "12.34"),
    ],
)
def test_amounts_are_written_in_credits(millicredits, text):
    assert in_credits(millicredits) == text
