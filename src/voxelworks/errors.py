"""Every error that a caller may catch.

::

    VoxelworksError
    ├── InvalidInput                 what the user gave cannot be used: correct it and try again
    │   ├── InvalidGeometry          box, mag or voxel size
    │   ├── InvalidParams            workflow parameters
    │   ├── UnknownWorkflow          no installed workflow has this name
    │   ├── UnsafeReference          a path or address that must not be read from here
    │   ├── ForbiddenAddress         an address that the server must not connect to
    │   ├── SourceNotFound           no file or folder is there
    │   ├── UnsupportedFormat        a file that no reader understands
    │   ├── UnsupportedDtype         voxels of a type that a dataset cannot hold
    │   ├── MixedSections            sections of unequal size or type
    │   ├── MissingSections          gaps in the numbers of the section files
    │   ├── DatasetNotFound          no dataset has this name or place
    │   ├── LayerNotFound            the dataset has no such layer
    │   ├── MagNotFound              the layer has no such magnification
    │   ├── WrongCategory            a colour layer where labels are needed
    │   ├── InvalidDataset           metadata that cannot be understood
    │   ├── TargetExists             something is there already, and nothing is overwritten
    │   ├── TargetNotWritable        the target folder is missing, read-only or full
    │   ├── InvalidArchive           a zip that is broken or would harm whoever unpacks it
    │   ├── InvalidAnnotation        a file that is no annotation
    │   ├── AnnotationNotFound       no annotation has this id
    │   ├── InvalidModel             a model package that cannot be used
    │   ├── ModelNotFound            no model has this name or place
    │   ├── TrainingFailed           a network that learned nothing
    │   ├── QuotaExceeded            the organization has no room left for it
    │   └── NetworkFileSystem        SQLite on a file system without working locks
    ├── ResourcesExceeded            memory or disk
    │   └── DiskFull                 no room is left, and more memory would not help
    ├── TimedOut                     an attempt ran longer than its workflow allows
    ├── StorageFailed                a file or a remote store did not answer
    ├── IsolationFailed              a job could not be shut in, and was not run
    ├── BlockFailed                  a block failed in every try
    │   └── BlockKilled              its process was killed from outside each time
    ├── Cancelled                    somebody cancelled the job
    ├── Interrupted                  the worker was asked to stop; the job goes on elsewhere
    ├── NotAllowed                   the role or token does not allow it, or the request comes from another site
    │   └── NotLetIn                 nobody who is known: log in, or give a token that is valid
    ├── TooManyRequests              more requests or wrong passwords than are taken within some time
    ├── NotFound                     no such job, attempt or dataset on this server
    ├── NotEnoughCredits             the organization cannot pay for the job
    ├── StaleQuote                   the price has changed since it was quoted, or the quote has run out
    ├── IllegalTransition            the job is in a state that does not allow this
    ├── LeaseLost                    another attempt holds the job
    ├── WorkerDrained                the operator asked this worker to take no more jobs
    ├── OutdatedWorker               a worker and its server are too far apart in age
    ├── LogGap                       log bytes were sent at an offset that the server has not reached
    └── ServerUnreachable            no server answers at this address
"""

from __future__ import annotations

from typing import ClassVar, Literal

FailureClass = Literal["user_input", "resources", "infrastructure", "program_error", "cancelled", "timed_out"]
"""Why an attempt failed (rule R13). The class alone decides whether it is tried again."""


class VoxelworksError(Exception):
    """Base of all errors with a message that is meant for a person."""

    code: ClassVar[str] = "error"
    """Stable name, for programs."""
    http_status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 1
    failure_class: ClassVar[FailureClass] = "program_error"

    @property
    def message(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        # Errors cross process borders; subclasses may take several arguments and say one sentence.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(
    kind: type[VoxelworksError], args: tuple[object, ...], state: dict[str, object]
) -> VoxelworksError:
    error = kind.__new__(kind)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


class InvalidInput(VoxelworksError):
    """What the user gave cannot be used."""

    code = "invalid-input"
    http_status = 422
    exit_status = 2
    failure_class = "user_input"


class InvalidGeometry(InvalidInput, ValueError):
    code = "invalid-geometry"


class InvalidParams(InvalidInput, ValueError):
    code = "invalid-params"


class UnknownWorkflow(InvalidInput):
    code = "unknown-workflow"
    http_status = 404


class UnsafeReference(InvalidInput):
    code = "unsafe-reference"


class ForbiddenAddress(InvalidInput):
    code = "forbidden-address"


class SourceNotFound(InvalidInput):
    code = "source-not-found"


class UnsupportedFormat(InvalidInput):
    code = "unsupported-format"


class UnsupportedDtype(InvalidInput):
    code = "unsupported-dtype"


class MixedSections(InvalidInput):
    code = "mixed-sections"


class MissingSections(InvalidInput):
    code = "missing-sections"


class DatasetNotFound(InvalidInput):
    code = "dataset-not-found"
    http_status = 404


class LayerNotFound(InvalidInput):
    code = "layer-not-found"
    http_status = 404


class MagNotFound(InvalidInput):
    code = "mag-not-found"
    http_status = 404


class WrongCategory(InvalidInput):
    code = "wrong-category"


class InvalidDataset(InvalidInput):
    code = "invalid-dataset"


class TargetExists(InvalidInput):
    code = "target-exists"
    http_status = 409


class TargetNotWritable(InvalidInput):
    code = "target-not-writable"


class InvalidArchive(InvalidInput):
    code = "invalid-archive"


class InvalidAnnotation(InvalidInput):
    code = "invalid-annotation"


class AnnotationNotFound(InvalidInput):
    code = "annotation-not-found"
    http_status = 404


class InvalidModel(InvalidInput, ValueError):
    code = "invalid-model"


class ModelNotFound(InvalidInput):
    code = "model-not-found"
    http_status = 404


class TrainingFailed(InvalidInput):
    code = "training-failed"


class QuotaExceeded(InvalidInput):
    """The organization has no room left for it."""

    code = "quota-exceeded"
    http_status = 413


class NetworkFileSystem(InvalidInput):
    code = "network-file-system"


class ResourcesExceeded(VoxelworksError):
    code = "resources-exceeded"
    http_status = 507
    exit_status = 3
    failure_class = "resources"


class DiskFull(ResourcesExceeded):
    code = "disk-full"


class TimedOut(VoxelworksError):
    code = "timed-out"
    http_status = 504
    exit_status = 3
    failure_class = "timed_out"


class StorageFailed(VoxelworksError):
    code = "storage-failed"
    http_status = 503
    exit_status = 4
    failure_class = "infrastructure"


class IsolationFailed(VoxelworksError):
    code = "isolation-failed"
    http_status = 503
    exit_status = 4
    failure_class = "infrastructure"


class BlockFailed(VoxelworksError):
    code = "block-failed"


class BlockKilled(BlockFailed):
    code = "block-killed"
    failure_class = "infrastructure"


class Cancelled(VoxelworksError):
    code = "cancelled"
    http_status = 409
    exit_status = 130
    failure_class = "cancelled"


class Interrupted(VoxelworksError):
    code = "interrupted"
    http_status = 503
    exit_status = 130
    failure_class = "infrastructure"


class NotAllowed(VoxelworksError):
    code = "not-allowed"
    http_status = 403
    exit_status = 2
    failure_class = "user_input"


class NotLetIn(NotAllowed):
    code = "not-let-in"
    http_status = 401


class TooManyRequests(VoxelworksError):
    code = "too-many-requests"
    http_status = 429
    exit_status = 2
    failure_class = "user_input"

    def __init__(self, message: str, *, retry_after_s: float = 60.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """When the next try is taken."""


class NotFound(VoxelworksError):
    code = "not-found"
    http_status = 404
    exit_status = 2
    failure_class = "user_input"


class NotEnoughCredits(VoxelworksError):
    code = "not-enough-credits"
    http_status = 402
    exit_status = 2
    failure_class = "user_input"

    def __init__(self, message: str, *, needed: int = 0, available: int = 0) -> None:
        super().__init__(message)
        self.needed = needed
        """Millicredits that the job costs."""
        self.available = available
        """Millicredits that the organization can spend now."""


class StaleQuote(VoxelworksError):
    code = "stale-quote"
    http_status = 409
    exit_status = 2
    failure_class = "user_input"

    def __init__(self, message: str, *, amount: int = 0) -> None:
        super().__init__(message)
        self.amount = amount
        """What the job costs now, in millicredits."""


class IllegalTransition(VoxelworksError):
    code = "illegal-transition"
    http_status = 409
    exit_status = 2
    failure_class = "user_input"


class LeaseLost(VoxelworksError):
    code = "lease-lost"
    http_status = 409
    failure_class = "infrastructure"


class WorkerDrained(VoxelworksError):
    code = "worker-drained"
    http_status = 409
    failure_class = "infrastructure"


class OutdatedWorker(VoxelworksError):
    code = "outdated-worker"
    http_status = 426
    exit_status = 2
    failure_class = "infrastructure"


class LogGap(VoxelworksError):
    code = "log-gap"
    http_status = 409
    failure_class = "infrastructure"

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset
        """How many bytes the server has: where to go on."""


class ServerUnreachable(VoxelworksError):
    code = "server-unreachable"
    http_status = 503
    exit_status = 4
    failure_class = "infrastructure"
