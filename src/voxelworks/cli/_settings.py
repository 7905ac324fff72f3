"""Options that set settings: environment first, options over it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import SecretStr, ValidationError

from voxelworks.errors import InvalidInput
from voxelworks.settings import Settings

_F = TypeVar("_F", bound=Callable[..., Any])

SECRETS = tuple(
    name for name, field in Settings.model_fields.items() if field.annotation in (SecretStr, SecretStr | None)
)
"""Settings that only the server may know: the addresses of the database and of alerts, passwords."""

home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the server: database, logs, keys.",
)
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the datasets; by default in --home.",
)
slots_option = click.option(
    "--slots",
    type=click.IntRange(min=1),
    help="Processes that a job computes with; by default one for each core.",
)
job_slots_option = click.option(
    "--job-slots",
    type=click.IntRange(min=0),
    help="Short jobs that run side by side; 1 by default. VOXELWORKS_JOB_SLOTS_LONG says how many long ones.",
)
import_root_option = click.option(
    "--import-root", "import_roots", multiple=True, metavar="NAME=FOLDER",
    help="Let jobs read images below FOLDER as root:NAME/... May be given several times.",
)  # fmt: skip
cluster_option = click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Compute on a Dask cluster: tcp://HOST:PORT of its scheduler, `slurm`, or `dask` for one on this machine.",
)


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment; overrides that are not None count more.

    Raises
    ------
    InvalidInput
        Naming the setting and what is wrong with it.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise InvalidInput(
            "; ".join(_problem(item["loc"], item["msg"]) for item in error.errors())
        ) from error
    # Jobs and workers run in other folders.
    paths = {"home": settings.home.absolute(), "cache_dir": settings.cache_dir.absolute()}
    if settings.data_dir is not None:
        paths["data_dir"] = settings.data_dir.absolute()
    return settings.model_copy(update=paths)


def parse_import_roots(texts: tuple[str, ...]) -> dict[str, Path] | None:
    """Read `NAME=FOLDER` options; None if there are none, so that those of the environment stay."""
    roots: dict[str, Path] = {}
    for text in texts:
        name, separator, folder = text.partition("=")
        if not (separator and name and folder):
            raise InvalidInput(f"{text!r} is not an import root; write NAME=FOLDER, such as scope=/mnt/scope")
        if not Path(folder).is_dir():
            raise InvalidInput(f"import root {name!r}: there is no folder {folder}")
        roots[name] = Path(folder).absolute()
    return roots or None


def environment_of(settings: Settings) -> dict[str, str]:
    """Write settings as the environment variables that they are read from, without any secret."""
    plain = settings.model_dump(mode="json", exclude=set(SECRETS), exclude_none=True)
    return {
        f"VOXELWORKS_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in plain.items()
    }


def _problem(location: tuple[int | str, ...], message: str) -> str:
    name = ".".join(str(part) for part in location)
    return f"setting {name} (VOXELWORKS_{str(location[0]).upper()}): {message}"
