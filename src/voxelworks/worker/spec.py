"""What a worker tells the process of a job: all that it needs, and nothing else."""

from __future__ import annotations

from voxelworks.protocol.messages import Json, Message
from voxelworks.settings import Settings

CANCEL = b"cancel\n"
"""Written to the job's standard input before SIGTERM, if a person cancelled it; a bare SIGTERM interrupts it."""

SCRATCH_PREFIX = "voxelworks-job-"
"""How the names of folders for temporary files begin; a job starts in its own."""


class JobSpec(Message):
    """One line of JSON on the standard input of the job's process."""

    workflow: str
    version: int
    params: Json
    places: dict[str, str]
    work_key: str
    attempt: int
    cluster: str | None
    memory_bytes_max: int
    settings: Json
    """Settings without the address of the database: a job must not reach it."""


def job_settings(settings: Settings) -> Json:
    """Give the settings that a job may know, with all folders as full paths: a job runs in a folder of its own."""
    plain: Json = settings.model_dump(mode="json", exclude={"database_url"})
    for name in ("home", "data_dir", "cache_dir"):
        if plain[name] is not None:
            plain[name] = str(getattr(settings, name).absolute())
    plain["import_roots"] = {name: str(root.absolute()) for name, root in settings.import_roots.items()}
    return plain
