"""What the page of a job offers to copy submits the same job."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from voxelworks.server.copies import copies_of

PARAMS = {
    "layers": [
        {"source": "root:scope/run1", "layer_name": "raw", "category": "color"},
        {"source": "root:scope/it's $HOME", "layer_name": "second", "category": "color"},
    ],
    "voxel_size": "4,4,40", "fill_missing": True, "pyramid": False,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _odd_folder(served):
    scope = Path(served.settings.import_roots["scope"].path)
    shutil.copytree(scope / "run1", scope / "it's $HOME")


def _copies(served, target):
    job = served.client.submit("convert", {**PARAMS, "target": target}, priority=-2)
    found = copies_of(job, served.info.url)
    page = served.browser.get(f"/jobs/{job.id}").text
    assert [f'id="{copy.id}"' in page for copy in found] == [True] * 3
    return job, {copy.id: copy.text.replace(target, f"{target}-again") for copy in found}


def _newest(served):
    return served.client.list_jobs(limit=1).jobs[0]


@pytest.mark.parametrize("kind", ["command", "python"])
def test_what_is_copied_submits_the_same_job(served, kind, tmp_path):
    job, texts = _copies(served, f"copied-{kind}")
    text = texts[f"copy-{kind}"]
    command = (
        [sys.executable, "-c", text]
        if kind == "python"
        else [sys.executable, "-m", *shlex.split(text.replace("\\\n", ""))]
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VOXELWORKS_")}
    answer = subprocess.run(
        command, env={**environment, "VOXELWORKS_TOKEN": served.info.token, "HOME": str(tmp_path)}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    _assert_same(_newest(served), job)


def test_the_request_that_is_copied_submits_the_same_job(served):
    job, texts = _copies(served, "copied-request")
    words = shlex.split(texts["copy-request"].replace("\\\n", ""))
    assert words[:2] == ["curl", f"{served.info.url}/api/v1/jobs"]
    headers = dict(
        re.fullmatch("([^:]+): (.*)", words[at + 1]).groups() for at, word in enumerate(words) if word == "-H"
    )
    assert headers.pop("Authorization") == "Bearer $VOXELWORKS_TOKEN"
    with served.anonymous(Authorization=f"Bearer {served.info.token}", **headers) as program:
        answer = program.post(words[1], content=words[words.index("-d") + 1].encode())
    assert answer.status_code == 201, answer.text
    _assert_same(_newest(served), job)


def _assert_same(again, job):
    assert again.id != job.id
    assert again.params == {**job.params, "target": f"{job.params['target']}-again"}
    assert (again.workflow, again.priority) == (job.workflow, job.priority)


def test_a_job_of_a_workflow_that_is_gone_offers_nothing(served):
    job = served.client.submit("convert", {**PARAMS, "target": "gone"})
    assert copies_of(job.model_copy(update={"workflow": "gone"}), "http://x") == ()
    assert copies_of(job.model_copy(update={"params": {"layers": 1}}), "http://x") == ()
