"""All settings, with default, unit and a sentence each.

Read from environment variables ``VOXELWORKS_<NAME>`` (lists and maps as JSON); command-line options override them.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from platformdirs import user_cache_path, user_data_path
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator may choose."""

    model_config = SettingsConfigDict(env_prefix="VOXELWORKS_", frozen=True, use_attribute_docstrings=True)

    # Places
    home: Path = Field(default_factory=lambda: user_data_path("voxelworks", appauthor=False))
    """Folder of the server: database, logs, keys and, unless set otherwise, the datasets."""
    data_dir: Path | None = None
    """Folder whose sub-folders are the datasets; by default `datasets` in `home`."""
    cache_dir: Path = Field(default_factory=lambda: user_cache_path("voxelworks", appauthor=False))
    """Folder for compiled kernels. It may be deleted at any time."""
    import_roots: dict[str, Path] = {}
    """Folders that jobs may read images from, by name: `{"scope": "/mnt/scope"}` allows `root:scope/run1`."""
    remote_hosts: frozenset[str] = frozenset()
    """Hosts that jobs may read remote data from, such as `storage.googleapis.com`. None by default."""
    database_url: SecretStr | None = None
    """SQLAlchemy address of a PostgreSQL database (`postgresql+psycopg://...`); by default SQLite in `home`."""

    # Server
    host: str = "127.0.0.1"
    """Address to listen on. Only loopback addresses until there are accounts."""
    port: int = Field(default=8440, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    log_bytes_max: int = Field(default=2**30, gt=0)
    """Largest log of one attempt, in bytes; what comes after is dropped with a notice."""

    # Leases: the defaults suit jobs of minutes to days
    lease_s: float = Field(default=300.0, gt=0)
    """How long a worker keeps a job without being heard from, in seconds."""
    renew_s: float = Field(default=30.0, gt=0)
    """How often a worker renews its leases, in seconds (20 % jitter)."""
    silent_after_s: float = Field(default=90.0, gt=0)
    """After how many seconds the pages say that a worker was not heard from."""
    reap_every_s: float = Field(default=15.0, gt=0)
    """How often expired leases are looked for, in seconds (20 % jitter)."""
    cancel_grace_s: float = Field(default=30.0, gt=0)
    """Time between SIGTERM and SIGKILL for a cancelled job, in seconds."""
    cancel_stuck_s: float = Field(default=120.0, gt=0)
    """A job that is still cancelling after this many seconds is ended by the server."""
    log_tail_s: float = Field(default=60.0, gt=0)
    """How long the last log lines of an ended attempt are accepted, in seconds."""
    dataset_lease_s: float = Field(default=60.0, gt=0)
    """How long one attempt may hold a dataset while it merges its addition, in seconds."""
    poll_s: float = Field(default=2.0, gt=0)
    """How often an idle worker asks for work, in seconds."""
    retries_infrastructure: int = Field(default=3, ge=0)
    """Automatic retries after lost workers and storage failures."""
    retries_resources: int = Field(default=2, ge=0)
    """Automatic retries after running out of memory, disk or time."""
    lost_leases_max: int = Field(default=3, ge=1)
    """A job that lost its lease this often is failed as poison."""
    backoff_base_s: float = Field(default=30.0, gt=0)
    """Upper bound of the first wait before a retry, in seconds; doubles with every retry (full jitter)."""
    backoff_cap_s: float = Field(default=900.0, gt=0)
    """Upper bound of any wait before a retry, in seconds."""

    # Compute
    slots: int = Field(
        default_factory=lambda: (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ),
        ge=1,
    )
    """Processes that a job computes with; by default one for each core."""
    job_slots: int = Field(default=1, ge=1)
    """Jobs that a worker runs side by side."""
    memory_bytes_max: int | None = Field(default=None, gt=0)
    """Memory limit of one job, in bytes, over all its processes; by default what the machine has to spare."""
    shard_bytes_max: int = Field(default=128 * 2**20, ge=2**18)
    """Largest uncompressed shard, in bytes."""
    block_tries: int = Field(default=3, ge=1)
    """How often a block is tried before its job fails."""

    @cached_property
    def datasets_dir(self) -> Path:
        return self.data_dir if self.data_dir is not None else self.home / "datasets"

    @cached_property
    def sqlite_path(self) -> Path:
        return self.home / "voxelworks.sqlite3"

    @cached_property
    def logs_dir(self) -> Path:
        return self.home / "logs"
