"""Workflows of other packages: what cannot be used is noticed when they are loaded, and said."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
from pydantic import BaseModel

from voxelworks.workflows import FREE, NewDataset, Params, _registry, workflow


class _Part(BaseModel):
    names: tuple[str, ...] = ()


class _Nested(Params):
    parts: tuple[_Part, ...] = ()


class _Table(Params):
    table: dict[str, int] = {}


def _installed(monkeypatch, params_type):
    """Install one workflow of another package."""

    def paint(params, job):
        """Paint."""

    paint.__annotations__ = {"params": params_type, "job": object, "return": NewDataset}
    module = ModuleType("painting")
    module.paint = workflow(version=1, cost=FREE, example={})(paint)
    monkeypatch.setitem(sys.modules, "painting", module)
    entry = EntryPoint("paint", "painting:paint", "voxelworks.workflows")
    monkeypatch.setattr(_registry, "entry_points", lambda group: [entry])
    return _registry.workflows.__wrapped__


def test_a_workflow_of_another_package_is_found(monkeypatch):
    class Plain(Params):
        count: int = 1

    found = _installed(monkeypatch, Plain)()
    assert [(name, [field.name for field in item.fields]) for name, item in found.items()] == [
        ("paint", ["count"])
    ]


@pytest.mark.parametrize(
    ("params_type", "why"),
    [
        (_Nested, "_Part.names: lists of models are supported at the top level only"),
        (_Table, "_Table.table: .* cannot be filled in by a person"),
    ],
)
def test_params_that_no_dialog_can_offer_are_refused_at_once(monkeypatch, params_type, why):
    with pytest.raises(
        RuntimeError, match=f"'paint' of the installed package 'painting' cannot be used: {why}; mend"
    ):
        _installed(monkeypatch, params_type)()


def test_a_package_that_cannot_be_loaded_is_named(monkeypatch):
    entry = EntryPoint("paint", "no_such_module:paint", "voxelworks.workflows")
    monkeypatch.setattr(_registry, "entry_points", lambda group: [entry])
    with pytest.raises(
        RuntimeError, match="'no_such_module' cannot be used: No module named 'no_such_module'"
    ):
        _registry.workflows.__wrapped__()
