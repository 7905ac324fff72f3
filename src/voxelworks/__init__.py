"""Processing jobs for volume microscopy.

`voxelworks.run("downsample", layer="my-dataset/color")` runs a workflow on this machine, without any server.
"""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxelworks.workflows import run

__version__ = _version("voxelworks")
__all__ = ["__version__", "run"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: `import voxelworks` stays cheap for everything that needs only the version.
    if name == "run":
        from voxelworks.workflows import run

        return run
    raise AttributeError(f"module 'voxelworks' has no attribute {name!r}")
