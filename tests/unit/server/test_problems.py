import logging

from starlette.requests import Request

from voxelworks.accounts._tokens import Prefix, make_token
from voxelworks.server.problems import answer_defect


def test_the_log_of_a_defect_does_not_tell_the_token_in_an_address(caplog):
    token = make_token(Prefix.RESET)
    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/api/v1/{token}/x",
        "headers": [],
        "server": ("here", 80),
    }
    with caplog.at_level(logging.ERROR):
        assert answer_defect(Request(scope), ValueError("broken")).status_code == 500
    assert "GET /api/v1/***/x failed" in caplog.text
    assert token not in caplog.text
