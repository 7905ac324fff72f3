"""HTTP client of a Voxelworks server, shared by the command line, workers and notebooks.

::

    with Client.found(Settings()) as client:
        job = client.submit("downsample", {"layer": "demo/color"})
        for view in client.watch(job.id):
            print(view.state, view.progress)

An error that the server reports is raised here as the same class; no answer at all is `ServerUnreachable`.

Each module beside this one holds the calls about one kind of thing, on top of `_transport`; `Client` is all of them.
"""

from __future__ import annotations

from typing import Self

from voxelworks.client._account import AccountCalls
from voxelworks.client._annotations import AnnotationCalls
from voxelworks.client._datasets import DatasetCalls, EntryView, FolderView, RootView
from voxelworks.client._found import ServerInfo, find_server, server_file, worker_key_file
from voxelworks.client._jobs import JobCalls, is_settled
from voxelworks.client._models import ModelCalls
from voxelworks.client._organization import OrganizationCalls
from voxelworks.client._params import ParamsCalls
from voxelworks.client._uploads import UploadCalls
from voxelworks.client._worker import WorkerCalls
from voxelworks.settings import Settings


class Client(
    JobCalls,
    ParamsCalls,
    DatasetCalls,
    AnnotationCalls,
    ModelCalls,
    UploadCalls,
    AccountCalls,
    OrganizationCalls,
    WorkerCalls,
):
    """A connection to one server. It may be used by several threads.

    Parameters
    ----------
    url
        Address of the server, such as ``http://127.0.0.1:8440``.
    token
        The start-up token, or the worker key for the calls of workers.
    """

    @classmethod
    def found(cls, settings: Settings) -> Self:
        """Connect to the server that runs with the same `home`; see `find_server`."""
        info = find_server(settings)
        return cls(info.url, info.token)


__all__ = [
    "Client", "EntryView", "FolderView", "RootView", "ServerInfo", "find_server", "is_settled", "server_file",
    "worker_key_file",
]  # fmt: skip
