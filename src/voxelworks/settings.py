"""All settings, with default, unit and a sentence each.

Read from environment variables ``VOXELWORKS_<NAME>`` (lists and maps as JSON); command-line options override them.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from platformdirs import user_cache_path, user_data_path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from voxelworks.errors import UnsafeReference
from voxelworks.origins import allowed_origin

ANNOTATIONS_FOLDER = ".annotations"
"""In the folder of datasets: of uploaded annotations, in a folder for each organization."""


class ImportRoot(BaseModel):
    """A folder that jobs may read from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    path: Path
    """The folder."""
    organizations: frozenset[str] | None = None
    """Short names of the organizations that may read it; by default all may."""

    def is_open_to(self, organization_id: str) -> bool:
        return self.organizations is None or organization_id in self.organizations


def _require_origin(value: str) -> str:
    try:
        allowed_origin(value)
    except UnsafeReference as error:
        raise ValueError(error.message) from error
    return value


_RemoteHost = Annotated[
    str,
    Field(
        pattern=r"^((https?://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[1-9][0-9]{0,4})?"
        r"|s3://[A-Za-z0-9_-]+|gs://[A-Za-z0-9._-]+)$"
    ),
    AfterValidator(_require_origin),
]


def _read_import_root(value: object) -> object:
    """Read a plain path as a folder that is open to all organizations."""
    return {"path": value} if isinstance(value, str | Path) else value


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
    import_roots: dict[str, Annotated[ImportRoot, BeforeValidator(_read_import_root)]] = {}
    """Folders that jobs may read images from, by name: `{"scope": "/mnt/scope"}` allows `root:scope/run1` to all
    organizations, `{"scope": {"path": "/mnt/scope", "organizations": ["neuro"]}}` to one."""
    remote_hosts: frozenset[_RemoteHost] = frozenset()
    """Hosts and buckets that remote data may be read from. None by default. `storage.googleapis.com` allows https on
    its usual port alone, `store.example.org:9000` on this port, `http://store.example.org:9000` http, and `s3://scans`
    or `gs://scans` a bucket."""
    database_url: SecretStr | None = None
    """SQLAlchemy address of a PostgreSQL database (`postgresql+psycopg://...`); by default SQLite in `home`."""

    # Server
    host: str = "127.0.0.1"
    """Address to listen on. Others than loopback addresses need `public_url`, TLS and a finished set-up."""
    port: int = Field(default=8440, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    tls_certificate: Path | None = None
    """File with the certificate (PEM, with its chain) for https; needs `tls_key`."""
    tls_key: Path | None = None
    """File with the private key of the certificate (PEM, without a password)."""
    trusted_proxies: frozenset[str] = frozenset()
    """Addresses or networks of proxies in front of the server that end TLS and tell where a request comes from."""
    rates_per_minute: dict[
        Literal["submission", "estimate", "upload", "door"], Annotated[int, Field(ge=1)]
    ] = {}
    """Calls that one user (`door`: one address that is not let in) may make within a minute, where others than the
    defaults (submission 120, estimate 240, upload 60, door 30) are wanted: `{"submission": 600}`. Each server process
    counts for itself, in memory: with several behind one address as many times the calls get through, and a restart
    forgets. Wrong passwords (`login_tries`) are counted in the database, for all of them together."""
    log_bytes_max: int = Field(default=2**30, gt=0)
    """Largest log of one attempt, in bytes; what comes after is dropped with a notice."""

    # Accounts
    session_idle_s: float = Field(default=7 * 86_400.0, gt=0)
    """A browser that was away for longer must log in again, in seconds."""
    session_max_s: float = Field(default=30 * 86_400.0, gt=0)
    """A browser must log in again after this time, however busy it was, in seconds."""
    invitation_s: float = Field(default=7 * 86_400.0, gt=0)
    """How long an invitation can be accepted, in seconds."""
    password_reset_s: float = Field(default=3_600.0, gt=0)
    """How long the link to a new password works, in seconds."""
    login_tries: int = Field(default=10, ge=1)
    """Wrong passwords that are taken for one account from one address within 15 minutes; from one address for all
    accounts three times, for one account from all addresses ten times as many."""
    oidc_issuer: str | None = None
    """Address of an OpenID Connect provider, through which people may log in; its discovery document lies below it."""
    oidc_client_id: str | None = None
    """Name under which that provider knows this server."""
    oidc_client_secret: SecretStr | None = None
    """Password of this server at that provider; none for public clients."""
    oidc_name: str = "single sign-on"
    """What the log-in page calls that provider."""

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
    """Time between SIGTERM and SIGKILL for a cancelled job whose workflow has no time of its own, in seconds."""
    cancel_stuck_s: float = Field(default=120.0, gt=0)
    """A job that is still cancelling after this many seconds is ended by the server; later if its workflow has more
    time to stop."""
    log_tail_s: float = Field(default=60.0, gt=0)
    """How long the last log lines of an ended attempt are accepted, in seconds."""
    dataset_lease_s: float = Field(default=60.0, gt=0)
    """How long one attempt may hold a dataset while it merges its addition, in seconds."""
    poll_s: float = Field(default=2.0, gt=0)
    """How often an idle worker asks for work, in seconds."""
    retries_infrastructure: int = Field(default=3, ge=0)
    """Automatic retries after lost workers and storage failures."""
    retries_resources: int = Field(default=2, ge=0)
    """Automatic retries after running out of memory or disk."""
    lost_leases_max: int = Field(default=3, ge=1)
    """A job that lost its lease this often is failed as poison."""
    backoff_base_s: float = Field(default=30.0, gt=0)
    """Upper bound of the first wait before a retry, in seconds; doubles with every retry (full jitter)."""
    backoff_cap_s: float = Field(default=900.0, gt=0)
    """Upper bound of any wait before a retry, in seconds."""
    memory_retry_factor: float = Field(default=2.0, ge=1)
    """How many times the memory of an attempt that ran out of it the next one gets, if a worker has that much."""
    worker_failures_max: int = Field(default=5, ge=1)
    """A worker on which this many different jobs failed in a row is paused until the operator resumes it."""

    # Queue: who is next
    jobs_max_per_organization: int | None = Field(default=None, ge=1)
    """Jobs of one organization that run at the same time. No limit by default."""
    jobs_max_of: dict[str, Annotated[int, Field(ge=0)]] = {}
    """The same for organizations with a limit of their own: `{"neuro": 20}`."""
    jobs_max_per_user: int | None = Field(default=None, ge=1)
    """Jobs of one user that run at the same time. No limit by default."""
    jobs_max_per_workflow: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Jobs of a workflow that run at the same time: `{"convert": 4}`. No limit by default."""
    ageing_s: float = Field(default=3600.0, gt=0)
    """An organization that waits this long for its next job counts as if it ran one job fewer, in seconds; a step of
    `priority` counts like having been submitted this much earlier."""
    unrunnable_after_s: float = Field(default=7 * 86_400.0, gt=0)
    """A job that no connected worker could run for this long fails, in seconds."""

    # Compute
    slots: int = Field(
        default_factory=lambda: (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ),
        ge=1,
    )
    """Processes that a job computes with; by default one for each core."""
    job_slots: int = Field(default=1, ge=0)
    """Short jobs (conversions, pyramids, exports) that a worker runs side by side."""
    job_slots_long: int = Field(default=1, ge=0)
    """Long jobs (AI) that a worker runs side by side, beside the short ones."""
    gpus: int | None = Field(default=None, ge=0)
    """GPUs that a worker has for its jobs; by default those that the machine shows."""
    walltime_s: float | None = Field(default=None, gt=0)
    """Time after which a worker must leave, in seconds, such as the end of its cluster job; by default it may stay."""
    memory_bytes_max: int | None = Field(default=None, gt=0)
    """Memory limit of one job, in bytes, over all its processes; by default what the machine has to spare."""
    shard_bytes_max: int = Field(default=128 * 2**20, ge=2**18)
    """Largest uncompressed shard, in bytes."""
    block_tries: int = Field(default=3, ge=1)
    """How often a block is tried before its job fails."""

    # Isolation of jobs
    isolation: Literal["auto", "required", "off"] = "auto"
    """Whether jobs see only their own files and processes, and no network: where the system can, always, or never."""
    isolation_readable: tuple[Path, ...] = ()
    """More files and folders that isolated jobs may read, such as programs and libraries in unusual places."""

    # Monitoring
    log_format: Literal["text", "json"] = "text"
    """How server and workers write their own log: lines for people, or one JSON object per line."""
    metrics_for_loopback: bool = True
    """Whether programs on this machine may read `/metrics` without a token; all others need an operator's."""
    free_bytes_min: int = Field(default=2**30, ge=0)
    """Free disk space below which the server counts as not ready and the operator is alerted, in bytes."""
    alert_again_s: float = Field(default=24 * 3600.0, gt=0)
    """How long an operator is not told of the same trouble again, in seconds."""

    # Storage
    storage_bytes_max: int | None = Field(default=None, ge=0)
    """What the datasets, annotations, uploads and files for download of one organization may take, in bytes, unless it
    has a limit of its own. No limit by default."""
    artifact_term_days: float = Field(default=7.0, gt=0)
    """How long a file that a job has left can be downloaded, in days; then it is removed."""
    artifact_bytes_max: int | None = Field(default=None, gt=0)
    """Largest file that a job may leave for download, in bytes; by default what fits the disk."""
    trash_term_days: float = Field(default=30.0, ge=0)
    """How long a deleted dataset or annotation can be restored, in days."""
    leftover_term_days: float = Field(default=7.0, gt=0)
    """After how many days without a change a file that nothing refers to is removed: of uploads that broke off or that
    no job was given, and of attempts that no job knows."""
    upload_kept_days: float = Field(default=1.0, ge=0)
    """How long the files of an upload stay after a job has made a dataset of them, in days: to convert them again with
    other options."""
    annotation_bytes_max: int = Field(default=4 * 2**30, gt=0)
    """Largest annotation file that is taken, in bytes, also after unpacking."""
    nml_bytes_max: int = Field(default=256 * 2**20, gt=0)
    """Largest skeleton file (NML) that is taken, in bytes."""
    model_bytes_max: int = Field(default=2**30, gt=0, lt=2**31)
    """Largest weights of a model that are taken, in bytes."""

    # Mail and webhooks
    public_url: str | None = None
    """Address of the server as people reach it, such as `https://voxels.example.org`: links in mails begin with it.
    By default that of `host` and `port`. Behind a proxy it may have a path, which the proxy takes off."""
    smtp_host: str | None = None
    """Mail server. Without one nothing is sent, and the operator reads the mails on a page."""
    smtp_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the mail server; by default 587 for `starttls`, 465 for `tls` and 25 for `none`."""
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection to the mail server is encrypted: `starttls` after its greeting, `tls` from the start."""
    smtp_user: str | None = None
    """User name at the mail server, if it asks for one."""
    smtp_password: SecretStr | None = None
    """Password at the mail server."""
    mail_from: str | None = None
    """Sender of the mails, such as `Voxelworks <voxelworks@example.org>`."""
    operator_email: str | None = None
    """Mail address of whoever runs the instance: it gets orders of credits and alerts."""
    support_email: str | None = None
    """Mail address that "ask for help" on a failed job writes to; without one the button is not there."""
    alert_webhook: SecretStr | None = None
    """Slack-compatible address that the alerts of the operator also go to."""
    mail_give_up_days: float = Field(default=3.0, gt=0)
    """How long the sending of a mail or webhook is tried, in days."""
    mail_keep_days: float = Field(default=90.0, gt=0)
    """How long mails and webhooks that are done with stay readable, in days."""
    mail_lease_s: float = Field(default=300.0, gt=0)
    """After how many seconds another process may send what one has begun to send."""
    mail_backoff_base_s: float = Field(default=30.0, gt=0)
    """Upper bound of the first wait before a mail or webhook is tried again, in seconds; doubles (full jitter)."""
    mail_backoff_cap_s: float = Field(default=3600.0, gt=0)
    """Upper bound of any such wait, in seconds."""
    outgoing_networks: frozenset[str] = frozenset()
    """Private networks that webhooks may reach all the same, such as `10.1.2.0/24`. None by default."""
    outgoing_ports: frozenset[int] = frozenset({443, 8443})
    """Ports that webhooks may use."""
    outgoing_http: bool = False
    """Whether webhooks may go to plain `http://` addresses."""

    # Credits
    credits_enabled: bool = False
    """Whether AI workflows cost credits. Off: nothing is priced, and no page speaks of credits."""
    monthly_free_credits: int = Field(default=0, ge=0, le=10**9)
    """Credits that every organization gets each month, and that expire at its end; 0 gives none."""
    price_list: Path | None = None
    """JSON file with the prices, in place of the list that comes with Voxelworks."""

    @cached_property
    def datasets_dir(self) -> Path:
        return self.data_dir if self.data_dir is not None else self.home / "datasets"

    @cached_property
    def annotations_dir(self) -> Path:
        """With the datasets, so that workers on other machines find them too."""
        return self.datasets_dir / ANNOTATIONS_FOLDER

    @cached_property
    def models_dir(self) -> Path:
        """Where `voxelworks models add` puts models for everybody who uses this installation or server."""
        return self.home / "models"

    @cached_property
    def model_roots(self) -> tuple[Path, ...]:
        """Folders whose sub-folders are installed models: added ones, those of a clone, those of the wheel."""
        package = Path(__file__).parent
        clone = package.parents[1]
        of_clone = (clone / "models",) if (clone / "pyproject.toml").is_file() else ()
        return (self.models_dir, *of_clone, package / "models_shipped")

    @cached_property
    def sqlite_path(self) -> Path:
        return self.home / "voxelworks.sqlite3"

    @cached_property
    def secret_key_file(self) -> Path:
        """Key of the secrets that the database holds; keep a copy apart from the database's backup."""
        return self.home / "secret.key"

    @cached_property
    def link_base(self) -> str:
        """What the paths in mails and webhooks are appended to."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @cached_property
    def base_path(self) -> str:
        """The path of `public_url`, without a slash at its end; empty if it has none."""
        return urlsplit(self.public_url).path.rstrip("/") if self.public_url is not None else ""

    @cached_property
    def logs_dir(self) -> Path:
        return self.home / "logs"


SECRET_NAMES = frozenset(
    name for name, field in Settings.model_fields.items() if field.annotation in (SecretStr, SecretStr | None)
)
"""Settings that only the server may know: the addresses of the database and of alerts, passwords."""
