"""How `make` finds the Python that it makes the environment with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "tools" / "environment.sh"
TOOLS = ("sh", "sed", "tr", "dirname")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the tools of the script; all that PATH names."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    return tmp_path


def put_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def find_python(*folders: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = ":".join(str(folder) for folder in folders)
    return subprocess.run(
        ["sh", str(SCRIPT), "--python"],
        env={"PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_launcher_that_runs_nothing_does_not_hide_a_python_that_works(folder):
    put_program(folder / "shims" / "python3.11", "echo 'python3.11: command not found' >&2; exit 127")
    put_program(folder / "python3.11", f'exec {sys.executable} "$@"')
    answer = find_python(folder / "shims", folder)
    assert (answer.returncode, answer.stdout) == (0, f"{folder}/python3.11\n")


def test_a_path_with_spaces_is_understood(folder):
    put_program(folder / "my programs" / "python3", f'exec {sys.executable} "$@"')
    answer = find_python(folder / "my programs", folder)
    assert (answer.returncode, answer.stdout) == (0, f"{folder}/my programs/python3\n")


def test_a_python_that_cannot_make_environments_is_passed_over(folder):
    put_program(folder / "python3.13", f'case "$*" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"')
    put_program(folder / "python3.11", f'exec {sys.executable} "$@"')
    answer = find_python(folder)
    assert (answer.returncode, answer.stdout) == (0, f"{folder}/python3.11\n")


def test_without_venv_one_sentence_says_what_to_install(folder):
    put_program(folder / "python3", f'case "$*" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"')
    answer = find_python(folder)
    assert answer.returncode == 1
    package = (
        f"run `apt-get install python{VERSION}-venv` as root"
        if Path("/etc/debian_version").exists()
        else f"install the package of your system with venv and ensurepip for Python {VERSION}"
    )
    assert answer.stderr == (
        f"error: {folder}/python3 cannot make virtual environments: {package}, then try again.\n"
    )


@pytest.mark.parametrize(
    ("environment", "where"), [({}, "in PATH"), ({"PYTHON": "python3.9"}, "as python3.9")]
)
def test_without_any_python_of_a_supported_version_one_sentence_says_so(folder, environment, where):
    put_program(folder / "python3.9", "exit 1")
    answer = find_python(folder, **environment)
    assert answer.returncode == 1
    assert answer.stderr == (
        f"error: Voxelworks needs Python 3.11, 3.12 or 3.13, but finds none that runs {where}: "
        "install one, or name it with PYTHON=/path/to/python3.12.\n"
    )
