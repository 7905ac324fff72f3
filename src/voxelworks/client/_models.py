"""What a client asks about models."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import TypeAdapter

from voxelworks.client._transport import Transport, json_of, path_part
from voxelworks.protocol.models import ModelTask
from voxelworks.protocol.views import ModelView


class ModelCalls(Transport):
    """What can be asked about models. To bring one in, submit `import_model`."""

    def list_models(self, *, task: ModelTask | None = None) -> tuple[ModelView, ...]:
        """List the models that the organization can use; if asked for, only those of a task."""
        found = self._get("models", None if task is None else {"task": task})
        return TypeAdapter(tuple[ModelView, ...]).validate_python(found)

    def show_model(self, ref: str) -> ModelView:
        """Show a model by its name or id."""
        return ModelView.model_validate(self._get(f"models/{path_part(ref)}"))

    def change_model(
        self,
        ref: str,
        *,
        name: str | None = None,
        comment: str | None = None,
        shared_with: Sequence[str] | None = None,
    ) -> ModelView:
        """Rename a model, comment on it, or say which other organizations may use it: these and no others."""
        given = {
            "name": name,
            "comment": comment,
            "shared_with": None if shared_with is None else list(shared_with),
        }
        body = {key: value for key, value in given.items() if value is not None}
        return ModelView.model_validate(json_of(self._send("PATCH", f"models/{path_part(ref)}", json=body)))

    def delete_model(self, ref: str, *, version: int | None = None) -> None:
        """Delete a model with all its versions, or one version.

        Raises
        ------
        IllegalTransition
            While a job works with it.
        """
        which = "" if version is None else f"/versions/{version}"
        self._send("DELETE", f"models/{path_part(ref)}{which}")
