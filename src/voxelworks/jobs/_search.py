"""Finding jobs by words, of what they work on, are called, whose they are and why they failed; and by their dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, cast, func, or_, true
from sqlalchemy.orm import Session

from voxelworks import accounts, catalog
from voxelworks.errors import DatasetNotFound, InvalidInput
from voxelworks.jobs._tables import JobRow
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import dataset_place

_TERMS_MAX = 8
_CHARACTERS_MAX = 200


def words_of(workflow: str, params: object, group: str | None) -> str:
    """Give what is looked for in a job besides its id, owner and failure: its workflow, its group, and every text of
    its params, in small letters.
    """
    texts = [workflow, *([group] if group else []), *_texts(params)]
    return " ".join(dict.fromkeys(text.lower() for text in texts))


def found_by(session: Session, text: str) -> ColumnElement[bool]:
    """Match the jobs in which every word of a text is found, in small or capital letters.

    Raises
    ------
    InvalidInput
        If it is too long.
    """
    terms = text.lower().split()
    if len(text) > _CHARACTERS_MAX or len(terms) > _TERMS_MAX:
        raise InvalidInput(
            f"the search text is too long; give at most {_TERMS_MAX} words and {_CHARACTERS_MAX} characters"
        )
    return and_(true(), *(_holds(term, accounts.find_user_ids(session, term)) for term in terms))


def works_on(session: Session, dataset: str, by: Principal) -> ColumnElement[bool]:
    """Match the jobs that read, change or make a dataset, named by its name or id."""
    try:
        place = catalog.find(session, dataset, by=by, include_trashed=True).place
    except DatasetNotFound:  # deleted, or not made yet
        place = dataset_place(by.organization_id, dataset)
    return cast(JobRow.places, Text).contains(json.dumps(place), autoescape=True)


def _holds(term: str, owners: Iterable[str]) -> ColumnElement[bool]:
    return or_(
        JobRow.words.contains(term, autoescape=True),
        JobRow.id.startswith(term, autoescape=True),
        func.lower(JobRow.message).contains(term, autoescape=True),
        JobRow.user_id.in_(list(owners)),
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
