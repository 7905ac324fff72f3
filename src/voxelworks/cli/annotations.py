"""`voxelworks annotations ...`: skeletons and volume edits of a server."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import click

from voxelworks.cli import _show
from voxelworks.cli._lists import date, json_option, print_view, print_views
from voxelworks.cli._server import connect, server_options
from voxelworks.errors import InvalidInput
from voxelworks.protocol.views import AnnotationView
from voxelworks.sizes import size_text

LOOK_EVERY_S = 1.0
"""How often the server is asked whether an annotation is fetched."""
dataset_option = click.option("--dataset", help="Dataset of the server that it belongs to.")


@click.group("annotations")
def annotation_commands() -> None:
    """Upload, fetch, download and delete annotations of a server. ANNOTATION is an id of the list."""


@annotation_commands.command("list")
@server_options
@click.option("--trashed", is_flag=True, help="Only those in the trash.")
@json_option
def list_annotations(
    server: str | None, token: str | None, home: Path | None, trashed: bool, as_json: bool
) -> None:
    """List the annotations of your organization."""
    with connect(server=server, token=token, home=home) as client:
        found = client.list_annotations(include_trashed=trashed)
    if trashed:
        found = tuple(annotation for annotation in found if annotation.trashed_ms is not None)
    rows: list[dict[str, object]] = [
        {
            "id": annotation.id, "name": annotation.name, "kind": annotation.kind, "holds": _holds(annotation),
            "size": _size(annotation), "made": date(annotation.created_ms),
            **({"deleted_for_good": date(annotation.purge_ms)} if trashed else {}),
        }
        for annotation in found
    ]  # fmt: skip
    none = "The trash is empty." if trashed else "None. Send one with `voxelworks annotations upload`."
    print_views(found, rows, as_json=as_json, none=none)


@annotation_commands.command()
@click.argument("annotation_id", metavar="ANNOTATION")
@server_options
@json_option
def show(annotation_id: str, server: str | None, token: str | None, home: Path | None, as_json: bool) -> None:
    """Show what an annotation holds."""
    with connect(server=server, token=token, home=home) as client:
        _print(client.show_annotation(annotation_id), as_json=as_json)


@annotation_commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="By default that of the file.")
@dataset_option
@server_options
@json_option
def upload(
    file: Path,
    name: str | None,
    dataset: str | None,
    server: str | None,
    token: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Send an annotation. FILE is an NML, or a zip with one and its volume layers, as WEBKNOSSOS gives it."""
    with connect(server=server, token=token, home=home) as client:
        _print(client.upload_annotation(file, name=name, dataset=dataset), as_json=as_json)


@annotation_commands.command()
@click.argument("address", metavar="ADDRESS")
@click.option("--name", default="", help="By default the one that it has there.")
@dataset_option
@click.option("--ask-token", is_flag=True, help="Ask for a token of an account there that may read it.")
@click.option(
    "--token-file", type=click.Path(path_type=Path), metavar="FILE",
    help="Read that token from a file; `-` is standard input.",
)  # fmt: skip
@click.option("--wait/--no-wait", default=True, help="Wait until the annotation is here.", show_default=True)
@server_options
@json_option
def add(
    address: str,
    name: str,
    dataset: str | None,
    ask_token: bool,
    token_file: Path | None,
    wait: bool,
    server: str | None,
    token: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Fetch an annotation from a WEBKNOSSOS.

    ADDRESS is what the browser shows; the same again fetches it anew. The token for annotations that are not public
    comes from a question, a file or the variable VOXELWORKS_WEBKNOSSOS_TOKEN; the server keeps it encrypted.
    """
    # Not as an option: everybody on a machine sees those of running commands.
    token_there = _token_there(token_file, is_asked=ask_token)
    with connect(server=server, token=token, home=home) as client:
        made = client.link_annotation(name, address, token=token_there, dataset=dataset)
        while wait and made.is_fetching:
            time.sleep(LOOK_EVERY_S)
            made = client.show_annotation(made.id)
    _print(made, as_json=as_json)
    if wait and made.fetch_problem is not None:
        raise InvalidInput(f"the annotation could not be fetched: {made.fetch_problem}")


@annotation_commands.command()
@click.argument("annotation_id", metavar="ANNOTATION")
@click.option(
    "--to", "target", type=click.Path(path_type=Path), metavar="FILE",
    help="By default the name of the annotation, in this folder.",
)  # fmt: skip
@server_options
def download(
    annotation_id: str, target: Path | None, server: str | None, token: str | None, home: Path | None
) -> None:
    """Save an annotation as it came."""
    with connect(server=server, token=token, home=home) as client:
        annotation = client.show_annotation(annotation_id)
        if annotation.kind == "webknossos":
            raise InvalidInput(f"{annotation.name!r} is not fetched yet; see `voxelworks annotations show`")
        target = target or _file_name(annotation)
        client.download_annotation(annotation_id, target)
    _show.output().print(str(target), markup=False)


@annotation_commands.command()
@click.argument("annotation_id", metavar="ANNOTATION")
@server_options
def trash(annotation_id: str, server: str | None, token: str | None, home: Path | None) -> None:
    """Put an annotation into the trash. Until its term has passed, `restore` takes it back."""
    with connect(server=server, token=token, home=home) as client:
        trashed = client.trash_annotation(annotation_id)
    _show.output().print(
        f"{trashed.name} is in the trash; it is deleted for good at {date(trashed.purge_ms)}", markup=False
    )


@annotation_commands.command()
@click.argument("annotation_id", metavar="ANNOTATION")
@server_options
def restore(annotation_id: str, server: str | None, token: str | None, home: Path | None) -> None:
    """Take an annotation back from the trash."""
    with connect(server=server, token=token, home=home) as client:
        restored = client.restore_annotation(annotation_id)
    _show.output().print(f"{restored.name} is back", markup=False)


@annotation_commands.command()
@click.argument("annotation_id", metavar="ANNOTATION")
@server_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(annotation_id: str, server: str | None, token: str | None, home: Path | None, yes: bool) -> None:
    """Delete an annotation in the trash for good. Its term need not have passed."""
    with connect(server=server, token=token, home=home) as client:
        about = f"annotation {annotation_id} is deleted for good"
        _show.confirm(f"{about}. Go on?", is_agreed=yes, about=about)
        client.delete_annotation(annotation_id)
    _show.output().print(f"annotation {annotation_id} is being deleted", markup=False)


def _token_there(file: Path | None, *, is_asked: bool) -> str | None:
    """Read a token for a WEBKNOSSOS; None if there is none."""
    if is_asked:
        return str(click.prompt("Token", hide_input=True)).strip()
    if file is None:
        return os.environ.get("VOXELWORKS_WEBKNOSSOS_TOKEN", "").strip() or None
    try:
        text = sys.stdin.readline() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"no token can be read from {file}; name a file that holds nothing else"
        ) from error
    if not text.strip():
        raise InvalidInput(f"{file} holds no token; make one on your account's page in WEBKNOSSOS")
    return text.strip()


def _print(annotation: AnnotationView, *, as_json: bool) -> None:
    summary = annotation.summary
    facts: dict[str, object] = {
        "id": annotation.id, "name": annotation.name, "kind": annotation.kind, "dataset": annotation.dataset_id,
        "made_in": summary and summary.dataset_name, "holds": _holds(annotation) or None,
        "address": annotation.address, "token": "stored" if annotation.has_token else None,
        "fetched": "under way" if annotation.is_fetching else annotation.fetched_ms and date(annotation.fetched_ms),
        "problem": annotation.fetch_problem,
        "size": _size(annotation) or None, "sha256": annotation.sha256, "made": date(annotation.created_ms),
    }  # fmt: skip
    print_view(annotation, facts, as_json=as_json)


def _holds(annotation: AnnotationView) -> str:
    if annotation.summary is None:
        return ""
    found = annotation.summary
    counts = (
        ("tree", found.tree_count), ("node", found.node_count), ("volume layer", len(found.volume_layers)),
        ("box", len(found.bounding_boxes)),
    )  # fmt: skip
    return ", ".join(_count(name, count) for name, count in counts if count) or "nothing"


def _count(name: str, count: int) -> str:
    return f"1 {name}" if count == 1 else f"{count} {name}{'es' if name.endswith('x') else 's'}"


def _size(annotation: AnnotationView) -> str:
    return "" if annotation.kind == "webknossos" else size_text(annotation.size_bytes)


def _file_name(annotation: AnnotationView) -> Path:
    """Make a file name of the name of an annotation: it leads nowhere else than into this folder."""
    stem = annotation.name.removesuffix(f".{annotation.kind}")
    safe = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or annotation.id
    return Path(f"{safe[:100]}.{annotation.kind}")
