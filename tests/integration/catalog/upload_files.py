"""Files that are uploaded: contents by path, and clients that send pieces of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from voxelworks import catalog
from voxelworks.protocol.people import Principal
from voxelworks.protocol.uploads import PIECE_BYTES, MissingFile, NewFile, NewUpload, Piece, UploadView, pack

from .catalog_stock import ADA, Stock

FILES = {"s1.tif": b"one", "s2.tif": b"", "more/s3.tif": bytes(PIECE_BYTES) + b"end"}


def manifest(files: dict[str, bytes], **options: bool) -> NewUpload:
    described = tuple(
        NewFile(path=path, size_bytes=len(content), modified_ms=7) for path, content in files.items()
    )
    return NewUpload(files=described, **options)


def begin(stock: Stock, files: dict[str, bytes], by: Principal = ADA, **options: bool) -> UploadView:
    return stock.call(
        catalog.begin_upload, manifest(files, **options), by=by, places=stock.places, settings=stock.settings
    )


def missing(stock: Stock, upload: UploadView, by: Principal = ADA) -> tuple[MissingFile, ...]:
    return stock.look(catalog.missing_files, upload.id, by=by)


def pieces_of(file: MissingFile, content: bytes) -> list[tuple[Piece, bytes]]:
    """Cut what is missing of a file into pieces."""
    cut = range(file.received_bytes, file.size_bytes, PIECE_BYTES)
    return [piece_at(file.number, offset, content) for offset in cut]


def piece_at(number: int, offset: int, content: bytes) -> tuple[Piece, bytes]:
    part = content[offset : offset + PIECE_BYTES]
    digest = hashlib.sha256(part).hexdigest()
    return Piece(number=number, offset=offset, size_bytes=len(part), sha256=digest), part


def send(stock: Stock, upload: UploadView, pieces: list[tuple[Piece, bytes]], by: Principal = ADA):
    return catalog.receive_pieces(stock.database, upload.id, pack(pieces), by=by, places=stock.places)


def send_all(stock: Stock, upload: UploadView, files: dict[str, bytes]) -> None:
    for file in missing(stock, upload):
        for piece in pieces_of(file, files[file.path]):
            send(stock, upload, [piece])


def finish(stock: Stock, upload: UploadView, by: Principal = ADA) -> UploadView:
    return catalog.finish_upload(
        stock.database, upload.id, by=by, places=stock.places, settings=stock.settings
    )


def folder(stock: Stock, upload: UploadView) -> Path:
    return stock.places.upload_folder(upload.organization_id, upload.id)


def stored(stock: Stock, upload: UploadView) -> dict[str, bytes]:
    """Read what jobs will read."""
    home = folder(stock, upload) / "files"
    return {
        path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()
    }
