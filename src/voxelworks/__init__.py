"""Processing jobs for volume microscopy.

`voxelworks.run("downsample", layer="my-dataset/color")` runs a workflow on this machine, without any server.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxelworks.workflows import run

__version__: str
__all__ = ["__version__", "run"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: every process of a job pays for what stands here.
    if name == "run":
        from voxelworks.workflows import run

        return run
    if name == "__version__":
        from importlib.metadata import version

        globals()[name] = version("voxelworks")
        return globals()[name]
    raise AttributeError(f"module 'voxelworks' has no attribute {name!r}")
