"""Uploads: as a whole, and the steps that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from voxelworks.client._sending import send_files
from voxelworks.client._transport import Transport, json_of, path_part
from voxelworks.protocol.uploads import MissingFile, NewUpload, Piece, ReceivedFile, UploadView, pack


class UploadCalls(Transport):
    """What can be asked about uploads."""

    def upload(
        self,
        files: Mapping[str, Path],
        *,
        is_converted: bool = False,
        on_begun: Callable[[UploadView], object] = lambda _: None,
        on_progress: Callable[[int, int], object] = lambda _done, _total: None,
    ) -> UploadView:
        """Send files, or what is missing of them: the same files sent again go on where it was broken off.

        Parameters
        ----------
        files
            Path in the upload, with `/`, and the file.
        is_converted
            A job shall make a dataset of them: the upload is refused if there is no room for both.
        on_begun
            Called before the first byte is sent; what it raises ends the upload.
        on_progress
            Called with the bytes that are there and all that there will be, from several threads, one at a time.

        Returns
        -------
        UploadView
            Complete: a job reads it as `upload.ref`.

        Raises
        ------
        InvalidInput
            A subclass that says which file or name cannot be sent.
        QuotaExceeded, DiskFull
            Before the first byte.
        NotAllowed
            Also when the token has ended; what has arrived stays.
        ServerUnreachable
            After ten minutes in which it did not answer.
        """
        return send_files(self, files, is_converted=is_converted, on_begun=on_begun, on_progress=on_progress)

    def begin_upload(self, new: NewUpload) -> UploadView:
        """Begin an upload, or find the one of the same files."""
        body = new.model_dump(mode="json")
        return UploadView.model_validate(self._post("uploads", body, is_repeatable=True))

    def list_uploads(self) -> tuple[UploadView, ...]:
        """List the uploads that were not removed, latest first."""
        return TypeAdapter(tuple[UploadView, ...]).validate_python(self._get("uploads"))

    def missing_files(self, upload_id: str) -> tuple[MissingFile, ...]:
        """List the files of an upload that are not there as a whole."""
        found = self._get(f"uploads/{path_part(upload_id)}/missing")
        return TypeAdapter(tuple[MissingFile, ...]).validate_python(found)

    def send_pieces(self, upload_id: str, pieces: list[tuple[Piece, bytes]]) -> tuple[ReceivedFile, ...]:
        """Send pieces of files; hear how much of each of these files is there."""
        response = self._send(
            "PUT",
            f"uploads/{path_part(upload_id)}/pieces",
            content=pack(pieces),
            headers={"Content-Type": "application/octet-stream"},
        )
        return TypeAdapter(tuple[ReceivedFile, ...]).validate_python(json_of(response))

    def finish_upload(self, upload_id: str) -> UploadView:
        """Say that all files are there; repeat it until the state is `complete`."""
        return UploadView.model_validate(self._post(f"uploads/{path_part(upload_id)}/finish", {}))

    def remove_upload(self, upload_id: str) -> None:
        """Remove an upload and its files."""
        self._send("DELETE", f"uploads/{path_part(upload_id)}", is_repeatable=True)
