"""Params that are kept under a name: by programs, on the command line, and in the dialog of a job."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator

import httpx
import pytest

from voxelworks.cli import main
from voxelworks.errors import InvalidParams, NotFound

DIALOG = "/workflows/convert/new"
STACK = {
    "source": ["root:scope/run1"], "layer_name": ["em"], "category": ["color"], "target": ["cortex"],
    "voxel_size": ["4,4,40"], "fill_missing": ["false"], "pyramid": ["false"], "rows:layers": ["1"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def none_kept(served) -> Iterator[None]:
    yield
    for kept in served.client.list_params():
        served.client.delete_params(kept.id)


@pytest.fixture
def call(served, capfd) -> Callable[..., tuple[int | str | None, str, str]]:
    """Run a command; give status, output and messages."""

    def run(*arguments: str) -> tuple[int | str | None, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--server", served.info.url, "--token", served.info.token])
        told = capfd.readouterr()
        return ended.value.code, told.out, told.err

    return run


def said(answer: httpx.Response) -> str:
    body = re.sub(r"(?s)<(script|svg)\b.*?</\1>", " ", answer.text)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


def press(served, action: str, **values: str) -> httpx.Response:
    answer: httpx.Response = served.browser.post(DIALOG, data={**STACK, "action": action, **values})
    return answer


def test_a_program_keeps_changes_and_forgets_params(served):
    client = served.client
    made = client.save_params("downsample", "coarse", {"layer": "demo/color", "coarsest_mag": "8"})
    assert (made.params, made.is_shared, made.is_own) == ({"coarsest_mag": "8"}, False, True)
    changed = client.change_params(made.id, name="coarser", is_shared=True)
    assert (changed.name, changed.is_shared, changed.params) == ("coarser", True, made.params)
    assert client.list_params("downsample") == (changed,)
    assert client.list_params("convert") == ()
    with pytest.raises(InvalidParams, match="not a parameter"):
        client.save_params("downsample", "wrong", {"speed": 1})
    client.delete_params(made.id)
    with pytest.raises(NotFound):
        client.change_params(made.id, name="x")


def test_the_command_line_keeps_params_and_submits_with_them(served, call):
    saved = ("params", "save", "convert", "--as", "no pyramid", "--layer-name", "em", "--no-pyramid")
    status, out, _ = call(*saved, "--source", "root:scope/run1", "--target", "x")
    assert (status, out.splitlines()[0]) == (0, "convert: no pyramid (kept to yourself)")
    assert "root:scope" not in out, "what they were used for is not kept"
    assert call(*saved)[0] == 2, "the name is taken"
    assert "convert   no pyramid  you" in re.sub(" {2,}", lambda gap: gap[0], call("params", "list")[1])
    [listed] = json.loads(call("params", "list", "--json")[1])
    assert listed["params"] == {"layers": [{"layer_name": "em"}], "pyramid": "false"}
    assert call("params", "rename", "no pyramid", "flat")[1] == "convert: flat\n"
    assert "em" in call("params", "show", "flat")[1]
    submit = ("jobs", "submit", "convert", "--source", "root:scope/run1", "--json")
    job = json.loads(call(*submit, "--target", "by_name", "--params", "flat")[1])
    assert (job["params"]["pyramid"], job["params"]["layers"][0]["layer_name"]) == (False, "em")
    job = json.loads(call(*submit, "--target", "over", "--params", "flat", "--pyramid")[1])
    assert job["params"]["pyramid"] is True, "what is given goes over what is kept"
    status, _, message = call(*submit, "--params", "flat")
    assert (status, "Missing option '--target'" in message) == (2, True)
    assert "Missing option '--target'" in call(*submit)[2]
    status, _, message = call(*submit, "--target", "x", "--params", "nothing")
    assert "there are no parameters 'nothing' of convert; see `voxelworks params list`" in message
    assert call("params", "delete", "flat")[1] == "convert: flat is deleted\n"
    assert "None. Save one" in call("params", "list")[1]


def test_the_dialog_keeps_what_is_filled_in_and_fills_it_in_again(served):
    kept = press(served, "saved:save", saved_name="flat", saved_shared="true")
    assert "Saved as flat." in said(kept)
    assert 'value="root:scope/run1"' in kept.text, "what was filled in is still there"
    [made] = served.client.list_params("convert")
    assert (made.name, made.is_shared, made.params) == (
        "flat", True,
        {
            "layers": [{"layer_name": "em", "category": "color"}], "voxel_size": "4,4,40", "fill_missing": "false",
            "pyramid": "false",
        },
    )  # fmt: skip
    again = press(served, "saved:use", saved=made.id, pyramid="true", layer_name="other", target="mine")
    assert "Filled in with flat." in said(again)
    assert re.search(r'value="true" id="input-pyramid"[^>]*checked', again.text) is None
    for value in ("em", "mine", "root:scope/run1"):
        assert f'value="{value}"' in again.text
    opened = served.browser.get(f"{DIALOG}?saved={made.id}").text
    assert 'value="em"' in opened
    assert "flat is called thin now." in said(press(served, "saved:rename", saved=made.id, saved_name="thin"))
    assert "thin is deleted." in said(press(served, "saved:delete", saved=made.id))
    assert served.client.list_params() == ()
    assert served.client.list_jobs(text="mine").jobs == (), "nothing was submitted meanwhile"


def test_enter_in_the_name_saves_instead_of_submitting(served):
    answer = press(served, "enter", saved_name="by enter", target="not_submitted")
    assert (answer.status_code, "Saved as by enter." in said(answer)) == (200, True)
    assert served.client.list_jobs(text="not_submitted").jobs == ()
    assert press(served, "enter", saved_name="", target="submitted").status_code == 303


def test_what_is_wrong_with_saved_params_is_said_beside_them(served):
    other = served.client.save_params("downsample", "other", {}).id
    for action, values, problem in (
        ("saved:save", {"saved_name": ""}, "'' is no name for parameters"),
        ("saved:save", {"saved_name": "x", "voxel_size": "4,4"}, "'4,4' is not a voxel size"),
        ("saved:use", {"saved": ""}, "Choose saved parameters first."),
        ("saved:use", {"saved": "gone"}, "There is no set of parameters 'gone'"),
        ("saved:delete", {"saved": other}, "are of downsample, not of convert"),
    ):
        answer = press(served, action, **values)
        assert (answer.status_code, problem in said(answer)) == (200, True), (problem, said(answer)[:900])
    assert served.browser.get(f"{DIALOG}?saved=gone").status_code == 404
    assert [kept.id for kept in served.client.list_params()] == [other]
