"""Secrets that must be read again, such as tokens for other servers: encrypted in the database, the key elsewhere."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from voxelworks.errors import InvalidInput, StorageFailed, TargetNotWritable


class SecretBox:
    """Encrypts and decrypts short texts with the key in a file, which is made when it is missing.

    A stolen copy of the database alone shows no secret. Who loses the file has to enter the secrets anew.
    """

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._fernet = Fernet(_read_or_make(key_file))

    def seal(self, secret: str) -> str:
        return self._fernet.encrypt(secret.encode()).decode()

    def open(self, sealed: str) -> str:
        """Decrypt.

        Raises
        ------
        StorageFailed
            If it was encrypted with another key, or changed.
        """
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken as error:
            raise StorageFailed(
                f"a stored secret cannot be decrypted with {self._key_file.name}; "
                "restore the key file that belongs to this database, or enter the secret again"
            ) from error


def _read_or_make(file: Path) -> bytes:
    scratch = file.with_name(f".{file.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(Fernet.generate_key())
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.link(scratch, file)  # unlike a rename, leaves the key that another process was first with
            except FileExistsError:
                pass
            finally:
                scratch.unlink()
        key = file.read_bytes().strip()
    except OSError as error:
        raise TargetNotWritable(
            f"{file} cannot be read or made ({error.strerror}); set VOXELWORKS_HOME to a folder of yours"
        ) from error
    try:
        Fernet(key)
    except ValueError as error:
        raise InvalidInput(f"{file} holds no key; restore it from a backup") from error
    return key
