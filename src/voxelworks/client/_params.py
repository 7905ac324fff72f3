"""Sets of params that are kept under a name."""

from __future__ import annotations

from pydantic import TypeAdapter

from voxelworks.client._transport import Transport, json_of, path_part
from voxelworks.protocol.messages import Json
from voxelworks.protocol.views import SavedParams


class ParamsCalls(Transport):
    """What can be asked about sets of params."""

    def list_params(self, workflow: str | None = None) -> tuple[SavedParams, ...]:
        """List your own sets of params, and those that others share; of one workflow, or of all."""
        found = self._get("params", None if workflow is None else {"workflow": workflow})
        return TypeAdapter(tuple[SavedParams, ...]).validate_python(found)

    def save_params(
        self, workflow: str, name: str, params: Json, *, is_shared: bool = False, with_data: bool = False
    ) -> SavedParams:
        """Keep some or all params of a workflow under a name.

        Parameters
        ----------
        workflow
        name
        params
        is_shared
            All members of the organization may use them.
        with_data
            Keep datasets, layers, boxes and sources too.
        """
        body = {
            "workflow": workflow,
            "name": name,
            "params": params,
            "is_shared": is_shared,
            "with_data": with_data,
        }
        return SavedParams.model_validate(self._post("params", body))

    def change_params(
        self,
        set_id: str,
        *,
        name: str | None = None,
        is_shared: bool | None = None,
        params: Json | None = None,
    ) -> SavedParams:
        """Rename your set, share it or not, or keep other params in it."""
        body = {"name": name, "is_shared": is_shared, "params": params}
        return SavedParams.model_validate(
            json_of(self._send("PATCH", f"params/{path_part(set_id)}", json=body, is_repeatable=True))
        )

    def delete_params(self, set_id: str) -> None:
        """Forget a set of params."""
        self._send("DELETE", f"params/{path_part(set_id)}")
