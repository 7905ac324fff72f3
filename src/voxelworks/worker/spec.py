"""What a worker tells the process of a job: all that it needs, and nothing else."""

from __future__ import annotations

from pydantic import Field

from voxelworks.protocol.messages import Json, Message
from voxelworks.settings import SECRET_NAMES, Settings

CANCEL = b"cancel\n"
"""Written to the job's standard input before SIGTERM, if a person cancelled it; a bare SIGTERM interrupts it."""

TIME_OVER = b"time over\n"
"""Written there if the job has taken all the time that its workflow allows."""

SCRATCH_PREFIX = "voxelworks-job-"
"""How the names of folders for temporary files begin; a job starts in its own."""


VIEW_FOLDER = "view"
"""In the folder for temporary files: where an isolated job's view of the files is built."""


class Confinement(Message):
    """What an isolated job sees of this machine. All paths are full, and lead over no symbolic link."""

    readable: tuple[str, ...] = ()
    """Files and folders."""
    writable: tuple[str, ...] = ()
    """Folders."""
    hidden: tuple[str, ...] = ()
    """Folders that are empty to the job, although they lie in readable ones."""
    folders: tuple[str, ...] = ()
    """Folders that are there, and empty."""
    placeholders: tuple[str, ...] = ()
    """Files that are there, and empty."""
    links: dict[str, str] = {}
    """Symbolic links, and where they lead."""
    has_network: bool = False
    has_own_processes: bool = True
    """Whether it sees no processes but its own."""
    shared_memory_bytes: int = 0
    """Limit of memory shared through `/dev/shm`; 0 leaves it to the system."""


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
    """Limit of this attempt, for all its processes together: enforced, and what it plans with."""
    confinement: Confinement | None = None
    """None for a job that is not isolated."""
    secrets: dict[str, str] = Field(default={}, repr=False)
    """Reference in the params -> token for what its place leads to."""
    settings: Json
    """Settings without secrets: a job must not reach the database, for one."""


def job_settings(settings: Settings) -> Json:
    """Give the settings that a job may know, with all folders as full paths: a job runs in a folder of its own."""
    plain: Json = settings.model_dump(mode="json", exclude=set(SECRET_NAMES))
    for name in ("home", "data_dir", "cache_dir"):
        if plain[name] is not None:
            plain[name] = str(getattr(settings, name).absolute())
    for name, root in settings.import_roots.items():
        plain["import_roots"][name]["path"] = str(root.path.absolute())
    return plain
