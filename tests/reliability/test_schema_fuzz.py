"""Made-up requests to every route that the API describes (T29)."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .drill_site import DrillSite

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
OF_WORKERS = r"^/api/v1/worker/|^/api/jobs/(request$|\{job_id\}/(status|attach))"


@pytest.mark.parametrize("who", ["a person", "a worker"])
@pytest.mark.faults(
    "T29", "Schemathesis: every route of the API, valid and invalid requests, and sequences of them"
)
def test_no_request_breaks_the_api_or_its_description(
    site: DrillSite,
    tmp_path: Path,
    dice: random.Random,
    record_property: Callable[[str, object], None],
    who: str,
) -> None:
    """Once with the start-up token, for every route; and for those of workers with the key of a worker."""
    program = os.environ.get("VOXELWORKS_TEST_SCHEMATHESIS")
    if not program:
        pytest.skip("VOXELWORKS_TEST_SCHEMATHESIS (.ci/schemathesis installs it) is not set")
    report, config = tmp_path / "report.json", tmp_path / "schemathesis.toml"
    description = tmp_path / "openapi.json"  # workers may not read it
    description.write_text(site.openapi())
    options: list[str] = []
    secret = site.client_token
    if who == "a worker":
        options, secret = ["--include-path-regex", OF_WORKERS], site.worker_key
        # Those of WEBKNOSSOS tell it in the query.
        config.write_text(f'[parameters]\n"query.key" = "{secret}"\n')
    else:
        config.write_text("")
    done = subprocess.run(
        [
            program, "--config-file", str(config), "run", str(description), "--url", f"http://127.0.0.1:{site.port}",
            "--header", f"Authorization: Bearer {secret}", *options,
            "--checks", CHECKS, "--max-examples", "200", "--continue-on-failure", "--seed", str(dice.randrange(10**6)),
            "--phases", "examples,coverage,fuzzing,stateful", "--suppress-health-check", "all",
            "--report", "json", "--report-json-path", str(report), "--no-color",
        ],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    summary = json.loads(report.read_text()) if report.exists() else {}
    record_property("routes", len(json.loads(description.read_text())["paths"]))
    record_property("report", {key: value for key, value in summary.items() if isinstance(value, int)})
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
