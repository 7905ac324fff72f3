"""The server: JSON API, pages and the routes of workers."""

from voxelworks.server._serve import serve
from voxelworks.server.app import create_app

__all__ = ["create_app", "serve"]
