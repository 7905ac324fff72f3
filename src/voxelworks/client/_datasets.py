"""Datasets, their shares, and the folders that they may be linked from."""

from __future__ import annotations

from pydantic import TypeAdapter

from voxelworks.client._transport import LOOK_TIMEOUT_S, Transport, json_of, path_part
from voxelworks.protocol.messages import Message
from voxelworks.protocol.people import NewShare, ShareView
from voxelworks.protocol.views import DatasetView


class RootView(Message):
    """A folder that the operator allowed jobs to read from."""

    name: str
    place: str


class EntryView(Message):
    """A file or folder below an import root."""

    name: str
    place: str
    is_folder: bool
    size_bytes: int | None
    """Of a file; None for a folder."""


class FolderView(Message):
    """What lies in a folder below an import root."""

    place: str
    parent: str | None
    """None for the root itself."""
    entries: tuple[EntryView, ...]
    """Folders first, each in natural order."""
    file_count: int
    """All files, also those that `entries` leaves out."""
    folder_count: int


class DatasetCalls(Transport):
    """What can be asked about datasets."""

    def list_datasets(
        self, *, include_trashed: bool = False, include_public: bool = False
    ) -> tuple[DatasetView, ...]:
        """List the datasets of the organization by name; if asked for, also its trash and the public ones of others."""
        query = {"include_trashed": include_trashed, "include_public": include_public}
        wanted = {name: True for name, is_wanted in query.items() if is_wanted}
        return TypeAdapter(tuple[DatasetView, ...]).validate_python(self._get("datasets", wanted or None))

    def show_dataset(self, name: str) -> DatasetView:
        """Show a dataset by its name or id."""
        return DatasetView.model_validate(self._get(f"datasets/{path_part(name)}"))

    def link_dataset(self, name: str, place: str) -> DatasetView:
        """Take a dataset into the catalog where it lies; it is neither copied nor ever written.

        Parameters
        ----------
        name
            It gets here.
        place
            Below an import root, such as ``root:scope/cortex``, or an address on a host that the operator allowed.
        """
        body = {"name": name, "place": place}
        return DatasetView.model_validate(
            json_of(self._send("POST", "datasets", json=body, timeout=LOOK_TIMEOUT_S))
        )

    def change_dataset(
        self, name: str, *, new_name: str | None = None, is_public: bool | None = None
    ) -> DatasetView:
        """Rename a dataset, or let members of all organizations read it, or no longer."""
        changes = {"name": new_name, "is_public": is_public}
        body = {key: value for key, value in changes.items() if value is not None}
        return DatasetView.model_validate(
            json_of(self._send("PATCH", f"datasets/{path_part(name)}", json=body))
        )

    def set_voxel_size(self, name: str, voxel_size: str) -> DatasetView:
        """State another voxel size of a dataset; its voxels and mags stay as they are.

        Parameters
        ----------
        name
            Name or id of the dataset.
        voxel_size
            Nanometres, `x,y,z`.
        """
        body = {"voxel_size": voxel_size}
        answer = self._send("PATCH", f"datasets/{path_part(name)}", json=body, is_repeatable=True)
        return DatasetView.model_validate(json_of(answer))

    def set_modality(self, name: str, modality: str) -> DatasetView:
        """State the kind of microscopy of a dataset's images: models for another kind then warn.

        Parameters
        ----------
        name
            Name or id of the dataset.
        modality
            In words, such as `FIB-SEM`; empty if it is not known.
        """
        body = {"modality": modality}
        answer = self._send("PATCH", f"datasets/{path_part(name)}", json=body, is_repeatable=True)
        return DatasetView.model_validate(json_of(answer))

    def trash_dataset(self, name: str) -> DatasetView:
        """Put a dataset into the trash, until its `purge_ms`."""
        return DatasetView.model_validate(json_of(self._send("DELETE", f"datasets/{path_part(name)}")))

    def restore_dataset(self, dataset_id: str) -> DatasetView:
        """Take a dataset, named by its id, back from the trash."""
        return DatasetView.model_validate(self._post(f"datasets/{path_part(dataset_id)}/restore", {}))

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete a dataset in the trash, named by its id, for good."""
        self._post(f"datasets/{path_part(dataset_id)}/delete-now", {})

    def share_dataset(self, name: str, purpose: str, *, lifetime_days: int = 7) -> NewShare:
        """Make an address under which anybody can read a dataset for a while, without an account.

        Parameters
        ----------
        purpose
            What it is for, as the page of the dataset shows it.
        """
        body = {"name": purpose, "lifetime_days": lifetime_days}
        return NewShare.model_validate(self._post(f"datasets/{path_part(name)}/shares", body))

    def list_shares(self, name: str) -> tuple[ShareView, ...]:
        """List the addresses under which a dataset can be read, without the addresses, newest first."""
        found = self._get(f"datasets/{path_part(name)}/shares")
        return TypeAdapter(tuple[ShareView, ...]).validate_python(found)

    def revoke_share(self, name: str, share_id: str) -> None:
        """End an address of a dataset at once."""
        self._send("DELETE", f"datasets/{path_part(name)}/shares/{path_part(share_id)}")

    def list_roots(self) -> tuple[RootView, ...]:
        return TypeAdapter(tuple[RootView, ...]).validate_python(self._get("roots"))

    def browse(self, place: str) -> FolderView:
        """Look into a folder below an import root, such as ``root:scope/run1``."""
        return FolderView.model_validate(self._get("folders", {"place": place}))
