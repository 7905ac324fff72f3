"""The price list, and what a quantity costs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from voxelworks.errors import InvalidInput
from voxelworks.settings import Settings

SHIPPED = Path(__file__).with_name("prices.json")
GIGAVOXEL = 10**9

_Price = Annotated[int, Field(ge=0, le=10**12, strict=True)]


class PriceList(BaseModel):
    """Prices by name; a workflow names the one that its quantity is multiplied with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(min_length=1, max_length=100)
    """Of this list; kept with each quote and charge."""
    millicredits_per_gigavoxel: dict[str, _Price] = {}
    millicredits_per_annotated_gigavoxel: dict[str, _Price] = {}

    @model_validator(mode="after")
    def _has_each_price_once(self) -> PriceList:
        twice = self.millicredits_per_gigavoxel.keys() & self.millicredits_per_annotated_gigavoxel.keys()
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} has two prices; keep one")
        return self

    def price(self, price_name: str) -> int:
        """Give the millicredits for a gigavoxel.

        Raises
        ------
        InvalidInput
            If the list has no such price: nothing becomes free by a misspelt name.
        """
        for prices in (self.millicredits_per_gigavoxel, self.millicredits_per_annotated_gigavoxel):
            if price_name in prices:
                return prices[price_name]
        raise InvalidInput(
            f"price list {self.version!r} has no price {price_name!r}; "
            "the operator adds it to the file of the setting price_list"
        )

    def unit(self, price_name: str) -> str:
        """Say what is counted."""
        return "annotated voxels" if price_name in self.millicredits_per_annotated_gigavoxel else "voxels"


def price_list(settings: Settings) -> PriceList:
    """Give the price list of this instance. A file is read once in a process.

    Raises
    ------
    InvalidInput
        If the operator's file cannot be read or understood.
    """
    return _read(settings.price_list or SHIPPED)


def amount(prices: PriceList, price_name: str, quantity: int) -> int:
    """Reckon what a quantity costs, in millicredits: rounded once, at the end, halves up (I19).

    Parameters
    ----------
    quantity
        Voxels.

    Raises
    ------
    InvalidInput
        If the list has no such price.
    """
    assert quantity >= 0, "a quantity counts voxels"
    return (2 * quantity * prices.price(price_name) + GIGAVOXEL) // (2 * GIGAVOXEL)


@lru_cache
def _read(file: Path) -> PriceList:
    try:
        return PriceList.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InvalidInput(
            f"the price list {file} cannot be read ({error.strerror}); correct VOXELWORKS_PRICE_LIST"
        ) from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'the file'}: {item['msg']}"
            for item in error.errors()
        )
        raise InvalidInput(f"the price list {file} cannot be used ({problems}); correct the file") from error
