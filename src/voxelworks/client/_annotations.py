"""Annotations: uploaded, or linked where they are."""

from __future__ import annotations

import uuid
from pathlib import Path

from pydantic import TypeAdapter

from voxelworks.client._transport import LOOK_TIMEOUT_S, Transport, json_of, path_part
from voxelworks.errors import InvalidInput, StorageFailed, TargetExists, TargetNotWritable
from voxelworks.protocol.views import AnnotationView


class AnnotationCalls(Transport):
    """What can be asked about annotations."""

    def list_annotations(self, *, include_trashed: bool = False) -> tuple[AnnotationView, ...]:
        """List the annotations of the organization; if asked for, also those in its trash."""
        found = self._get("annotations", {"include_trashed": True} if include_trashed else None)
        return TypeAdapter(tuple[AnnotationView, ...]).validate_python(found)

    def show_annotation(self, annotation_id: str) -> AnnotationView:
        return AnnotationView.model_validate(self._get(f"annotations/{path_part(annotation_id)}"))

    def upload_annotation(
        self, file: Path, *, name: str | None = None, dataset: str | None = None
    ) -> AnnotationView:
        """Send an annotation: an NML file, or a zip with one and its volume layers.

        Parameters
        ----------
        file
        name
            By default that of the file.
        dataset
            Name or id of a dataset of the server that it belongs to.

        Raises
        ------
        InvalidInput
            If the file cannot be read or is no annotation.
        """
        try:
            opened = file.open("rb")
        except OSError as error:
            raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error
        fields = {"name": name or file.name} | ({} if dataset is None else {"dataset": dataset})
        with opened:
            response = self._send(
                "POST",
                "annotations",
                data=fields,
                files={"file": (file.name, opened)},
                timeout=LOOK_TIMEOUT_S,
            )
        return AnnotationView.model_validate(json_of(response))

    def link_annotation(
        self, name: str, address: str, *, token: str | None = None, dataset: str | None = None
    ) -> AnnotationView:
        """Let the server fetch an annotation from a WEBKNOSSOS; the same address again fetches it anew.

        That takes its time: ask with `show_annotation` until it is no longer `is_fetching`.

        Parameters
        ----------
        name
        address
            As the browser shows it.
        token
            Of an account there that may read it; not needed if it is public. The server keeps it encrypted.
        dataset
            Name or id of a dataset of the server that it belongs to.
        """
        body = {"name": name, "address": address, "token": token, "dataset": dataset}
        return AnnotationView.model_validate(self._post("annotations/link", body))

    def fetch_annotation(self, annotation_id: str, *, token: str | None = None) -> AnnotationView:
        """Let the server fetch an annotation anew from where it came; with another token, if one is given."""
        body = {} if token is None else {"token": token}
        return AnnotationView.model_validate(
            self._post(f"annotations/{path_part(annotation_id)}/fetch", body)
        )

    def download_annotation(self, annotation_id: str, target: Path) -> None:
        """Save an uploaded annotation as it came.

        Raises
        ------
        TargetExists
            If there is a file already.
        StorageFailed
            If what arrived is not what was uploaded.
        """
        view = self.show_annotation(annotation_id)
        if target.exists():
            raise TargetExists(f"{target} exists; choose another name")
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with part.open("xb") as stream:
                sha256 = self._copy(f"annotations/{path_part(annotation_id)}/file", stream)
            if view.sha256 is not None and sha256 != view.sha256:
                raise StorageFailed(f"annotation {annotation_id} arrived damaged; download it again")
            part.rename(target)
        except OSError as error:
            raise TargetNotWritable(f"{target} cannot be written: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)

    def trash_annotation(self, annotation_id: str) -> AnnotationView:
        """Put an annotation into the trash, until its `purge_ms`."""
        return AnnotationView.model_validate(
            json_of(self._send("DELETE", f"annotations/{path_part(annotation_id)}"))
        )

    def restore_annotation(self, annotation_id: str) -> AnnotationView:
        """Take an annotation back from the trash."""
        return AnnotationView.model_validate(
            self._post(f"annotations/{path_part(annotation_id)}/restore", {})
        )

    def delete_annotation(self, annotation_id: str) -> None:
        """Delete an annotation in the trash for good."""
        self._post(f"annotations/{path_part(annotation_id)}/delete-now", {})
