"""The WEBKNOSSOS face: its job routes, for clients and workers that were written for it."""
