"""Uploads: what a client and a server tell each other about files that are sent piece by piece.

A client first *begins* an upload with the list of its files: the same list from the same person finds the upload that
it began before. It asks what is *missing*, sends *pieces*, several in one request, and *finishes* it. Each may be
repeated at any time. A request of pieces is four bytes (big-endian) with the length of a list of `Piece` as JSON, this
list, and then the bytes of each piece.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from voxelworks.protocol.messages import Message

PIECE_BYTES = 4 * 2**20
"""Largest piece; all pieces of a file but the last one are of this size."""
REQUEST_BYTES = 6 * 2**20
"""What clients put into one request at most: the pieces of several small files, or one large piece."""
PIECES_MAX = 32
"""Most pieces in one request."""
FILES_MAX = 50_000
"""Most files in one upload."""
UPLOAD_REF = "upload:"
"""`upload:ID`, or `upload:ID/folder`, names the files of an upload as a source of images."""

UploadState = Literal["receiving", "unpacking", "complete"]
"""Files are missing; all is there and a zip is being unpacked; jobs can read it."""


class NewFile(Message):
    """A file that somebody wants to send."""

    path: str
    """Below the folder that is sent, with `/`."""
    size_bytes: Annotated[int, Field(ge=0, lt=2**53)]
    modified_ms: Annotated[int, Field(ge=-(2**53), lt=2**53)] = 0
    """When it was changed last: a file that was changed since an upload began belongs to another upload."""


class NewUpload(Message):
    """All files that somebody wants to send."""

    files: Annotated[tuple[NewFile, ...], Field(min_length=1, max_length=FILES_MAX)]
    is_converted: bool = False
    """A job will make a dataset of it: there must be room for both."""


class MissingFile(Message):
    """A file of an upload that is not there as a whole."""

    number: int
    """Names it in pieces."""
    path: str
    size_bytes: int
    received_bytes: int
    """How much of its beginning is safe on the disk of the server."""


class Piece(Message):
    """Where bytes belong that follow."""

    number: Annotated[int, Field(ge=0, lt=2**31)]
    """Of the file."""
    offset: Annotated[int, Field(ge=0, lt=2**53)]
    size_bytes: Annotated[int, Field(ge=0, le=PIECE_BYTES)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ReceivedFile(Message):
    """How much of a file the server has after a request of pieces: where to go on."""

    number: int
    received_bytes: int


class UploadView(Message):
    """An upload."""

    id: str
    organization_id: str
    user_id: str
    state: UploadState
    file_count: int
    size_bytes: int
    """Of all its files."""
    received_bytes: int
    created_ms: int
    removal_ms: int | None
    """When its files are removed, if nobody goes on with it; None while a job needs them."""

    @property
    def ref(self) -> str:
        """How params name it."""
        return f"{UPLOAD_REF}{self.id}"


PIECES: TypeAdapter[list[Piece]] = TypeAdapter(list[Piece])
LENGTH_BYTES = 4


def pack(pieces: list[tuple[Piece, bytes]]) -> bytes:
    """Write a request of pieces."""
    head = PIECES.dump_json([piece for piece, _ in pieces])
    return b"".join([len(head).to_bytes(LENGTH_BYTES, "big"), head, *(content for _, content in pieces)])
