"""`voxelworks datasets ...`: the catalog of a server."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from voxelworks.cli import _show
from voxelworks.cli._lists import date, json_option, print_view, print_views
from voxelworks.cli._server import connect, server_options
from voxelworks.client import Client
from voxelworks.errors import DatasetNotFound
from voxelworks.protocol.views import DatasetView, LayerSummary
from voxelworks.sizes import size_text
from voxelworks.volumes.mags import mags_remark


@click.group()
def datasets() -> None:
    """List, link, correct, publish and delete datasets of a server. DATASET is a name or an id."""


@datasets.command("list")
@server_options
@click.option("--trashed", is_flag=True, help="Only those in the trash.")
@click.option("--public", is_flag=True, help="Also the public ones of other organizations.")
@json_option
def list_datasets(
    server: str | None, token: str | None, home: Path | None, trashed: bool, public: bool, as_json: bool
) -> None:
    """List the datasets of your organization by name."""
    with connect(server=server, token=token, home=home) as client:
        found = client.list_datasets(include_trashed=trashed, include_public=public)
    if trashed:
        found = tuple(dataset for dataset in found if dataset.trashed_ms is not None)
    rows: list[dict[str, object]] = [
        {
            "id": dataset.id, "name": dataset.name, "voxel_size": dataset.summary.voxel_size,
            "layers": ", ".join(layer.name for layer in dataset.summary.layers), "size": _size(dataset),
            "public": dataset.is_public, "place": dataset.place,
            **({"deleted_for_good": date(dataset.purge_ms)} if trashed else {}),
        }
        for dataset in found
    ]  # fmt: skip
    none = "The trash is empty." if trashed else "No datasets. Make one with `voxelworks upload`."
    print_views(found, rows, as_json=as_json, none=none)


@datasets.command()
@click.argument("name", metavar="DATASET")
@server_options
@json_option
def show(name: str, server: str | None, token: str | None, home: Path | None, as_json: bool) -> None:
    """Show a dataset and its layers."""
    with connect(server=server, token=token, home=home) as client:
        dataset = client.show_dataset(name)
    _print(dataset, as_json=as_json)
    if not as_json and dataset.summary.layers:
        _show.output().print(Text("\nLayers", "bold"))
        rows = [_about(layer) for layer in dataset.summary.layers]
        print_views(dataset.summary.layers, rows, as_json=False, none="")


@datasets.command()
@click.argument("name", metavar="NAME")
@click.argument("place", metavar="PLACE")
@server_options
@json_option
def link(
    name: str, place: str, server: str | None, token: str | None, home: Path | None, as_json: bool
) -> None:
    """Take a dataset into the catalog where it lies. It is neither copied nor ever written.

    PLACE is root:ROOT/FOLDER below an import root of the server, or an address on a host that its operator allowed.
    """
    with connect(server=server, token=token, home=home) as client:
        _print(client.link_dataset(name, place), as_json=as_json)


@datasets.command()
@click.argument("name", metavar="DATASET")
@click.argument("new_name", metavar="NAME")
@server_options
def rename(name: str, new_name: str, server: str | None, token: str | None, home: Path | None) -> None:
    """Give a dataset another name."""
    with connect(server=server, token=token, home=home) as client:
        changed = client.change_dataset(name, new_name=new_name)
    _show.output().print(f"dataset {changed.id} is named {changed.name} now", markup=False)


@datasets.command("voxel-size")
@click.argument("name", metavar="DATASET")
@click.argument("voxel_size", metavar="X,Y,Z")
@server_options
@json_option
def set_voxel_size(
    name: str, voxel_size: str, server: str | None, token: str | None, home: Path | None, as_json: bool
) -> None:
    """State another voxel size of a dataset. It is in nanometres, such as 4,4,40; voxels and mags stay as they are."""
    with connect(server=server, token=token, home=home) as client:
        changed = client.set_voxel_size(name, voxel_size)
    if as_json:
        click.echo(_show.as_json(changed.model_dump(mode="json")))
        return
    _show.output().print(f"{changed.name}: voxels of {changed.summary.voxel_size} nm", markup=False)
    if remark := mags_remark(changed.summary):
        _show.messages().print(remark, markup=False)


@datasets.command("modality")
@click.argument("name", metavar="DATASET")
@click.argument("modality", metavar="MODALITY")
@server_options
@json_option
def set_modality(
    name: str, modality: str, server: str | None, token: str | None, home: Path | None, as_json: bool
) -> None:
    """State the kind of microscopy of a dataset's images.

    Any words will do, such as FIB-SEM, "light sheet" or "" for what is not known. Who then runs a model that is for
    another kind is warned.
    """
    with connect(server=server, token=token, home=home) as client:
        changed = client.set_modality(name, modality)
    if as_json:
        click.echo(_show.as_json(changed.model_dump(mode="json")))
        return
    images = [layer for layer in changed.summary.layers if layer.category == "color"]
    stated = next((layer.modality for layer in images), None)
    said = f"images from {stated}" if stated else "not known how it was imaged" if images else "no images"
    _show.output().print(f"{changed.name}: {said}", markup=False)


@datasets.command()
@click.argument("name", metavar="DATASET")
@server_options
def publish(name: str, server: str | None, token: str | None, home: Path | None) -> None:
    """Let members of all organizations of the server read a dataset.

    For an address that opens without an account see `voxelworks shares`.
    """
    with connect(server=server, token=token, home=home) as client:
        changed = client.change_dataset(name, is_public=True)
    _show.output().print(f"members of all organizations can read {changed.name} now", markup=False)


@datasets.command()
@click.argument("name", metavar="DATASET")
@server_options
def unpublish(name: str, server: str | None, token: str | None, home: Path | None) -> None:
    """Keep a dataset to your organization again."""
    with connect(server=server, token=token, home=home) as client:
        changed = client.change_dataset(name, is_public=False)
    _show.output().print(f"only your organization can read {changed.name} now", markup=False)


@datasets.command()
@click.argument("name", metavar="DATASET")
@server_options
def trash(name: str, server: str | None, token: str | None, home: Path | None) -> None:
    """Put a dataset into the trash. Until its term has passed, `restore` takes it back."""
    with connect(server=server, token=token, home=home) as client:
        trashed = client.trash_dataset(name)
    _show.output().print(
        f"{trashed.name} is in the trash; it is deleted for good at {date(trashed.purge_ms)}", markup=False
    )


@datasets.command()
@click.argument("name", metavar="DATASET")
@server_options
def restore(name: str, server: str | None, token: str | None, home: Path | None) -> None:
    """Take a dataset back from the trash."""
    with connect(server=server, token=token, home=home) as client:
        restored = client.restore_dataset(_find_trashed(client, name).id)
    _show.output().print(f"{restored.name} is back", markup=False)


@datasets.command()
@click.argument("name", metavar="DATASET")
@server_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(name: str, server: str | None, token: str | None, home: Path | None, yes: bool) -> None:
    """Delete a dataset in the trash for good. Its term need not have passed."""
    with connect(server=server, token=token, home=home) as client:
        dataset = _find_trashed(client, name)
        about = f"{dataset.name} ({_size(dataset) or 'linked'}) is deleted for good"
        _show.confirm(f"{about}. Go on?", is_agreed=yes, about=about)
        client.delete_dataset(dataset.id)
    _show.output().print(f"{dataset.name} is being deleted", markup=False)


def _find_trashed(client: Client, name: str) -> DatasetView:
    for dataset in client.list_datasets(include_trashed=True):
        if dataset.trashed_ms is not None and name in (dataset.name, dataset.id):
            return dataset
    raise DatasetNotFound(
        f"there is no dataset {name!r} in the trash; see `voxelworks datasets list --trashed`"
    )


def _print(dataset: DatasetView, *, as_json: bool) -> None:
    facts: dict[str, object] = {
        "id": dataset.id, "name": dataset.name, "place": dataset.place or None,
        "voxel_size": dataset.summary.voxel_size and f"{dataset.summary.voxel_size} nm",
        "size": _size(dataset) or "linked, not copied", "made": date(dataset.created_ms),
        "by_job": dataset.made_by_job, "public": dataset.is_public,
        "deleted_for_good": date(dataset.purge_ms) or None,
    }  # fmt: skip
    print_view(dataset, facts, as_json=as_json)


def _about(layer: LayerSummary) -> dict[str, object]:
    return {
        "name": layer.name, "category": layer.category, "dtype": layer.dtype, "channels": layer.channel_count,
        "box": layer.box, "mags": ", ".join(layer.mags), "largest_id": layer.largest_segment_id,
        "modality": layer.modality, "attachments": ", ".join(layer.attachments),
    }  # fmt: skip


def _size(dataset: DatasetView) -> str:
    return "" if dataset.is_linked else size_text(dataset.size_bytes)
