"""What organizations keep: datasets, annotations, models, uploads, and the room that they take.

Plain functions that take a session and never commit, except those that take the database itself. Whether somebody's
role allows it is asked before; whose it is, here: what belongs to others is not found.
"""

from voxelworks.catalog._annotations import (
    StoredAnnotation,
    add_annotation_file,
    annotation_file,
    discard_stored,
    find_annotation,
    list_annotations,
    place_of_annotation,
    require_file,
    store_annotation,
)
from voxelworks.catalog._artifacts import (
    find_artifact,
    open_artifact,
    register_artifact,
    remove_artifact,
    remove_expired_artifacts,
)
from voxelworks.catalog._contents import annotation_contents
from voxelworks.catalog._datasets import (
    find,
    find_by_place,
    has_files_at,
    is_changeable,
    link_dataset,
    list_datasets,
    register,
    rename_dataset,
    require_changeable,
    require_own,
    require_readable,
    set_previews,
    set_public,
    why_taken,
)
from voxelworks.catalog._fetching import (
    add_far_annotation,
    annotation_token,
    fetch_annotation,
    fetch_next,
)
from voxelworks.catalog._files import folder_of, open_file, read_metadata
from voxelworks.catalog._layout import adopt_old_annotations, adopt_old_layout
from voxelworks.catalog._leftovers import leftovers, remove_leftovers
from voxelworks.catalog._models import (
    change_model,
    delete_model,
    find_model,
    find_model_by_place,
    find_model_version,
    list_models,
    new_model_place,
    pinned_model,
    purge_models,
    register_model,
    share_model,
)
from voxelworks.catalog._previews import place_of_previews, preview_file
from voxelworks.catalog._storage import check_quota, storage_usage
from voxelworks.catalog._trash import (
    delete_annotation_now,
    delete_now,
    purge_expired,
    restore,
    restore_annotation,
    trash,
    trash_annotation,
)
from voxelworks.catalog._uploads import (
    abandon_upload,
    begin_upload,
    find_upload,
    finish_upload,
    hold_upload,
    list_uploads,
    missing_files,
    note_converted,
    place_of_upload,
    receive_pieces,
    remove_expired_uploads,
    remove_upload_files,
)

__all__ = [
    "StoredAnnotation", "abandon_upload", "add_annotation_file", "add_far_annotation", "adopt_old_annotations",
    "adopt_old_layout", "annotation_contents", "annotation_file", "annotation_token", "begin_upload", "change_model",
    "check_quota", "delete_annotation_now", "delete_model", "delete_now", "discard_stored", "fetch_annotation",
    "fetch_next", "find", "find_annotation", "find_artifact", "find_by_place", "find_model", "find_model_by_place",
    "find_model_version", "find_upload", "finish_upload", "folder_of", "has_files_at", "hold_upload", "is_changeable",
    "leftovers", "link_dataset", "list_annotations", "list_datasets", "list_models", "list_uploads", "missing_files",
    "new_model_place", "note_converted", "open_artifact", "open_file", "pinned_model", "place_of_annotation",
    "place_of_previews", "place_of_upload", "preview_file", "purge_expired", "purge_models", "read_metadata",
    "receive_pieces", "register", "register_artifact", "register_model", "remove_artifact", "remove_expired_artifacts",
    "remove_expired_uploads", "remove_leftovers", "remove_upload_files", "rename_dataset", "require_changeable",
    "require_file", "require_own", "require_readable", "restore", "restore_annotation", "set_previews", "set_public",
    "share_model", "storage_usage", "store_annotation", "trash", "trash_annotation", "why_taken",
]  # fmt: skip
