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


@pytest.mark.faults(
    "T29", "Schemathesis: every route of the API, valid and invalid requests, and sequences of them"
)
def test_no_request_breaks_the_api_or_its_description(
    site: DrillSite, tmp_path: Path, dice: random.Random, record_property: Callable[[str, object], None]
) -> None:
    program = os.environ.get("VOXELWORKS_TEST_SCHEMATHESIS")
    if not program:
        pytest.skip("VOXELWORKS_TEST_SCHEMATHESIS (.ci/schemathesis installs it) is not set")
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            program, "run", f"http://127.0.0.1:{site.port}/api/v1/openapi.json",
            "--header", f"Authorization: Bearer {site.client_token}",
            "--checks", CHECKS, "--max-examples", "200", "--continue-on-failure", "--seed", str(dice.randrange(10**6)),
            "--phases", "examples,coverage,fuzzing,stateful", "--suppress-health-check", "all",
            "--report", "json", "--report-json-path", str(report), "--no-color",
        ],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    summary = json.loads(report.read_text()) if report.exists() else {}
    record_property("routes", len(json.loads(site.openapi())["paths"]))
    record_property("report", {key: value for key, value in summary.items() if isinstance(value, int)})
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
