"""Settings from options and environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxelworks.cli._settings import SECRETS, environment_of, load_settings, parse_import_roots
from voxelworks.errors import InvalidInput


def test_options_count_more_than_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOXELWORKS_SLOTS", "3")
    monkeypatch.setenv("VOXELWORKS_JOB_SLOTS", "2")
    settings = load_settings(slots=5, job_slots=None, home=Path("here"))
    assert (settings.slots, settings.job_slots, settings.home) == (5, 2, tmp_path / "here")


def test_a_wrong_setting_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXELWORKS_PORT", "99999")
    with pytest.raises(InvalidInput, match=r"^setting port \(VOXELWORKS_PORT\): Input should be less than"):
        load_settings()


def test_settings_survive_the_way_through_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = load_settings(
        home=tmp_path, import_roots={"scope": tmp_path / "a b"}, remote_hosts={"data.org"}, lease_s=7.5,
        memory_bytes_max=2**30, database_url="postgresql://name:password@host/x", smtp_password="password",
        oidc_client_secret="password", alert_webhook="https://password",
    )  # fmt: skip
    environment = environment_of(settings)
    assert "password" not in str(environment)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings.model_copy(update=dict.fromkeys(SECRETS))


def test_import_roots_are_read(tmp_path: Path) -> None:
    assert parse_import_roots((f"scope={tmp_path}",)) == {"scope": tmp_path}
    assert parse_import_roots(()) is None


@pytest.mark.parametrize("text", ["scope", "=folder", "scope=", "scope=/does/not/exist"])
def test_a_wrong_import_root_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"scope|folder"):
        parse_import_roots((text,))
