"""What pages with several forms share: an error shows the page again, a success leads back to it with a word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.responses import RedirectResponse, Response

from voxelworks.errors import InvalidInput, NotLetIn, VoxelworksError

_M = TypeVar("_M", bound=BaseModel)

Show = Callable[[str, int], Response]
"""Shows the page again: with a problem, under a status."""


def act(action: Callable[[], object], *, show: Show, back: str, done: str) -> Response:
    """Do what a form asks for.

    Parameters
    ----------
    action
    show
        Called with the sentence of an error that the user can do something about.
    back, done
        Where a success leads: the address gets ``?done=`` with this word, which the page turns into a sentence.
    """
    try:
        action()
    except NotLetIn:
        raise
    except VoxelworksError as error:
        if error.http_status >= 500 or error.http_status == 404:
            raise
        return show(error.message, error.http_status)
    separator = "&" if "?" in back else "?"
    return RedirectResponse(f"{back}{separator}done={done}", status_code=303)


def read(model: type[_M], values: Mapping[str, Any]) -> _M:
    """Check what a form sent, as strictly as what programs send.

    Raises
    ------
    InvalidInput
        Naming the fields that do not fit.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, item['loc'])).replace('_', ' ')}: {item['msg']}" for item in error.errors()
        )
        raise InvalidInput("; ".join(problems)) from error
