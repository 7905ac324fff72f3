"""`voxelworks models ...`: the models of a server, and those that are installed on this machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import click
from rich.text import Text

from voxelworks.cli import _show
from voxelworks.cli._lists import date, json_option, print_view, print_views
from voxelworks.cli._server import connect, server_options
from voxelworks.cli._settings import home_option, load_settings
from voxelworks.cli.jobs import announce, wait_option
from voxelworks.client import find_server
from voxelworks.errors import InvalidInput, ModelNotFound, ServerUnreachable, TargetNotWritable
from voxelworks.protocol.installed_models import list_installed
from voxelworks.protocol.messages import Json, Message
from voxelworks.protocol.models import MODEL_FILE, ModelScore, ModelTask
from voxelworks.protocol.places import DATASET_NAME, is_remote
from voxelworks.protocol.views import ModelView
from voxelworks.sizes import size_text
from voxelworks.workflows import get_workflow, run_locally

installed_option = click.option(
    "--installed", is_flag=True, help="Those of this machine, without a server; so it is if none runs here."
)


@click.group()
def models() -> None:
    """List, add, share and delete models. MODEL is a name or an id of the list."""


@models.command("list")
@click.option("--task", type=click.Choice(get_args(ModelTask)), help="Only those that give this.")
@installed_option
@server_options
@json_option
def list_models(
    task: ModelTask | None,
    installed: bool,
    server: str | None,
    token: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """List the models that you can use."""
    found = [item for item in _list(installed, server, token, home) if task in (None, item.facts.task)]
    rows: list[dict[str, object]] = [
        {
            "id": model.id, "name": model.name, "of": model.organization_id or "all",
            "version": None if model.is_installed else model.latest.number, "finds": model.facts.structure,
            "gives": model.facts.task, "voxel_size": str(model.facts.voxel_size), "licence": model.facts.licence,
            "size": size_text(model.latest.size_bytes),
        }
        for model in found
    ]  # fmt: skip
    print_views(found, rows, as_json=as_json, none="None. Add one with `voxelworks models add`.")


@models.command()
@click.argument("model", metavar="MODEL")
@installed_option
@server_options
@json_option
def show(
    model: str, installed: bool, server: str | None, token: str | None, home: Path | None, as_json: bool
) -> None:
    """Show what is known of a model: its card."""
    if _is_here(installed, server, home):
        _print(_find_installed(model, home), as_json=as_json)
        return
    with connect(server=server, token=token, home=home) as client:
        _print(client.show_model(model), as_json=as_json)


@models.command()
@click.argument("source", metavar="FOLDER|ZIP|ADDRESS")
@click.option("--name", help="Name of the model; by default that of the folder or file.")
@home_option
def add(source: str, name: str | None, home: Path | None) -> None:
    """Install a model on this machine.

    It is there for all who use this installation, and for all organizations of a server with this --home. It must be
    whole. What a package from elsewhere does not say of its model is given with
    `voxelworks run import_model`, whose target can then be added.
    """
    settings = load_settings(home=home)
    target = settings.models_dir / _checked(name or _suggested(source))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TargetNotWritable(f"{target.parent} cannot be made: {error.strerror}") from error
    workflow = get_workflow("import_model")
    params = workflow.parse({"source": source, "target": str(target)})
    with _show.RunDisplay(f"add {target.name}", _show.messages()) as display:
        sealed = run_locally(workflow, params, settings=settings, reporter=display)
    _show.output().print(
        f"{target.name} is installed: {sealed.value['title']}, licence {sealed.value['licence'] or 'not stated'}",
        markup=False,
    )


@models.command()
@click.argument("name", metavar="NAME")
@home_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, home: Path | None, yes: bool) -> None:
    """Remove a model that `add` has installed on this machine."""
    folder = load_settings(home=home).models_dir / _checked(name)
    if not (folder / MODEL_FILE).is_file():
        raise ModelNotFound(
            f"no model {name!r} was added to {folder.parent}; see `voxelworks models list --installed`"
        )
    about = f"the model {name} is removed from this machine"
    _show.confirm(f"{about}. Go on?", is_agreed=yes, about=about)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise TargetNotWritable(f"{folder} cannot be removed: {error.strerror}") from error
    _show.output().print(f"{name} is removed", markup=False)


@models.command()
@click.argument("source", metavar="FOLDER|FILE", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the model; by default that of the folder or file.")
@click.option(
    "--fact", "facts", multiple=True, metavar="NAME=VALUE",
    help="What the package does not say, such as --fact structure=mitochondria; as options of import_model.",
)  # fmt: skip
@server_options
@wait_option
@json_option
def upload(
    source: Path,
    name: str | None,
    facts: tuple[str, ...],
    server: str | None,
    token: str | None,
    home: Path | None,
    wait: bool,
    as_json: bool,
) -> int:
    """Send a model to a server.

    If there is one of the name, it becomes its next version.
    """
    told = _facts(facts)
    if source.is_dir():
        files = {
            path.relative_to(source).as_posix(): path for path in sorted(source.rglob("*")) if path.is_file()
        }
    else:
        files = {source.name: source}
    if not source.exists():
        raise InvalidInput(f"there is nothing at {source}; give the folder, zip or ONNX file of a model")
    target = _checked(name or _suggested(str(source)))
    with connect(server=server, token=token, home=home) as client:
        sent = client.upload(files)
        job = client.submit("import_model", {**told, "source": sent.ref, "target": target})
        return announce(client, job, wait=wait, as_json=as_json)


@models.command()
@click.argument("model", metavar="MODEL")
@click.argument("new_name", metavar="NAME")
@server_options
def rename(model: str, new_name: str, server: str | None, token: str | None, home: Path | None) -> None:
    """Give a model of a server another name."""
    with connect(server=server, token=token, home=home) as client:
        changed = client.change_model(model, name=new_name)
    _show.output().print(f"model {changed.id} is named {changed.name} now", markup=False)


@models.command()
@click.argument("model", metavar="MODEL")
@click.argument("text", metavar="TEXT")
@server_options
def comment(model: str, text: str, server: str | None, token: str | None, home: Path | None) -> None:
    """Say something about a model of a server.

    It takes the place of what was said before.
    """
    with connect(server=server, token=token, home=home) as client:
        client.change_model(model, comment=text)
    _show.output().print("noted")


@models.command()
@click.argument("model", metavar="MODEL")
@click.argument("organizations", metavar="[ORGANIZATION]...", nargs=-1)
@click.option("--nobody", is_flag=True, help="End the sharing.")
@server_options
def share(
    model: str,
    organizations: tuple[str, ...],
    nobody: bool,
    server: str | None,
    token: str | None,
    home: Path | None,
) -> None:
    """Let other organizations use a model.

    It is one of a server. Those that are named may use it, and no others.
    """
    if bool(organizations) == nobody:
        raise click.UsageError(
            "Name the organizations that may use it, or give --nobody.", click.get_current_context()
        )
    with connect(server=server, token=token, home=home) as client:
        changed = client.change_model(model, shared_with=organizations)
    who = ", ".join(changed.shared_with) or "nobody"
    _show.output().print(f"{changed.name} is shared with {who}", markup=False)


@models.command()
@click.argument("model", metavar="MODEL")
@click.option("--version", type=click.IntRange(min=1), help="Only this version.")
@server_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(
    model: str, version: int | None, server: str | None, token: str | None, home: Path | None, yes: bool
) -> None:
    """Delete a model of a server for good.

    All its versions go, or with --version one.
    """
    with connect(server=server, token=token, home=home) as client:
        found = client.show_model(model)
        what = f"version {version}" if version else f"{len(found.versions)} version(s)"
        about = f"model {found.name} is deleted for good: {what}"
        _show.confirm(f"{about}. Go on?", is_agreed=yes, about=about)
        client.delete_model(found.id, version=version)
    _show.output().print(f"{found.name}: {what} deleted", markup=False)


def _list(installed: bool, server: str | None, token: str | None, home: Path | None) -> Sequence[ModelView]:
    if _is_here(installed, server, home):
        return [item.view for item in list_installed(load_settings(home=home).model_roots)]
    with connect(server=server, token=token, home=home) as client:
        return client.list_models()


def _is_here(installed: bool, server: str | None, home: Path | None) -> bool:
    """Whether the models of this machine are meant: asked for, or there is no server to ask."""
    if installed or server is not None:
        return installed
    try:
        find_server(load_settings(home=home))
    except ServerUnreachable:
        return True
    return False


def _find_installed(ref: str, home: Path | None) -> ModelView:
    found = [item.view for item in list_installed(load_settings(home=home).model_roots)]
    for model in found:
        if ref in (model.name, model.id):
            return model
    names = ", ".join(model.name for model in found) or "none"
    raise ModelNotFound(f"there is no model {ref!r} on this machine; installed are {names}")


def _suggested(source: str) -> str:
    """Make a name of the name of a folder, file or address."""
    path = urlsplit(source).path if is_remote(source) else str(Path(source).resolve())
    name = Path(path).name
    stem = re.sub(r"\.(zip|onnx|tar|tar\.gz|tgz)$", "", name, flags=re.IGNORECASE)
    return re.sub("[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:128] or "model"


def _checked(name: str) -> str:
    if not DATASET_NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is not a model name; use letters, digits, '-', '_' and '.', beginning with a letter or digit"
        )
    return name


def _facts(given: Sequence[str]) -> Json:
    """Read the facts that the package lacks, and refuse at once what `import_model` does not know."""
    workflow = get_workflow("import_model")
    known = {field.name for field in workflow.fields} - {"source", "target"}
    told: Json = {}
    for text in given:
        name, separator, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not separator or name not in known:
            raise InvalidInput(
                f"{text!r} is no fact; write NAME=VALUE, with one of {', '.join(sorted(known))}"
            )
        told[name] = value.strip()
    workflow.check_some(told)
    return told


def _print(model: ModelView, *, as_json: bool) -> None:
    facts = model.facts
    print_view(
        model,
        {
            "id": model.id, "name": model.name, "title": facts.title, "of": model.organization_id or "all",
            "comment": model.comment or None, "shared_with": ", ".join(model.shared_with) or None,
            "licence": _licence(model), "finds": facts.structure, "gives": f"{facts.task} ({', '.join(facts.outputs)})",
            "modality": facts.modality or None, "tissue": facts.tissue or None, "voxel_size": f"{facts.voxel_size} nm",
            "for_voxels_of": f"{facts.voxel_size_min} to {facts.voxel_size_max} nm",
            "training_data": "; ".join(facts.training_data) or None, "limits": facts.limits or None,
            "started_from": facts.started_from, "size": size_text(model.latest.size_bytes),
            "sha256": facts.weights_sha256,
        },
        as_json=as_json,
    )  # fmt: skip
    if as_json:
        return
    if facts.scores:
        _print_table("Scores", [_score(item) for item in facts.scores])
    if not model.is_installed:
        _print_table(
            "Versions",
            [
                {
                    "version": item.number, "made": date(item.created_ms), "job": item.made_by_job,
                    "size": size_text(item.size_bytes),
                }
                for item in model.versions
            ],
        )  # fmt: skip


def _print_table(title: str, rows: Sequence[dict[str, object]]) -> None:
    views: tuple[Message, ...] = ()
    _show.output().print(Text(f"\n{title}", "bold"))
    print_views(views, rows, as_json=False, none="")


def _score(score: ModelScore) -> dict[str, object]:
    interval = "" if score.low is None or score.high is None else f"{score.low:.3g} to {score.high:.3g}"
    return {
        "data": score.data, "measure": score.measure, "value": f"{score.value:.3g}", "95 %": interval,
        "objects": score.count, "trained_on": score.trained_on,
    }  # fmt: skip


def _licence(model: ModelView) -> str:
    facts = model.facts
    allowed = "" if facts.is_commercial_use_allowed else "Not for commercial use."
    return " ".join(part for part in (facts.licence or "not stated", facts.licence_text, allowed) if part)
