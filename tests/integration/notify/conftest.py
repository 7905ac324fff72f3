"""A mail server, settings that lead to it, and an outbox."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from voxelworks.settings import Settings
from voxelworks.testing.mail import HOST, mail_server

sys.path.insert(0, str(Path(__file__).parent))

from notify_helpers import Post


@pytest.fixture
def inbox():
    with mail_server() as server:
        yield server


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path, public_url="https://voxels.example.org", mail_backoff_base_s=0.01)


@pytest.fixture
def post(database, settings, inbox):
    """An outbox whose mails go to `inbox`."""
    way = {
        "smtp_host": HOST,
        "smtp_port": inbox.port,
        "smtp_security": "none",
        "mail_from": "Voxels <v@example.org>",
    }
    return Post(database, settings.model_copy(update=way))


@pytest.fixture
def silent_post(database, settings):
    """An outbox without a mail server."""
    return Post(database, settings)
