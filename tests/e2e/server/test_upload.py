"""Images from the disk of a person to a dataset, in a real browser and with a real worker."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from voxelworks import catalog
from voxelworks.client import Client, ServerInfo
from voxelworks.errors import StorageFailed
from voxelworks.settings import Settings
from voxelworks.testing.independent_writers import CziTile, write_czi
from voxelworks.testing.server import running_server

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")


@dataclass
class UploadSite:
    """A server with a worker that works."""

    info: ServerInfo
    settings: Settings
    client: Client

    def stored(self) -> dict[str, bytes]:
        """Read the files of the latest upload."""
        [latest, *_] = self.client.list_uploads()
        home = self.settings.datasets_dir / "local" / ".uploads" / latest.id / "files"
        return {path.name: path.read_bytes() for path in home.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UploadSite]:
    settings = Settings(home=tmp_path_factory.mktemp("uploads") / "home", port=0)
    with running_server(settings) as info, Client(info.url, info.token) as client:
        command = [sys.executable, "-m", "voxelworks", "worker", "--home", str(settings.home), "--embedded"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as worker:
            yield UploadSite(info, settings, client)
            worker.terminate()


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A folder of 12 sections of 128 x 96 voxels, and what else lies in such folders."""
    folder = tmp_path / "cortex run 1"
    folder.mkdir()
    dice = np.random.default_rng(1)
    for z in range(12):
        tifffile.imwrite(folder / f"s{z}.tif", dice.integers(0, 255, (96, 128), np.uint8))
    (folder / "notes.txt").write_text("not an image")
    (folder / ".DS_Store").write_text("not an image")
    return folder


@pytest.fixture(autouse=True, scope="module")
def patience():
    """Wait longer: here a worker computes on the same machine."""
    playwright.expect.set_options(timeout=60_000)
    yield
    playwright.expect.set_options(timeout=5_000)


def expect(locator):
    return playwright.expect(locator)


def choose(page, path, button="Choose a folder"):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=button).click()
    chooser.value.set_files(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tif")}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """The server of these tests runs in their process: they see what arrives, and may let it fail."""
    gate = Gate()

    def receive(database, upload_id, body, **options):
        with gate.lock:
            if len(gate.passed) >= gate.requests_max:
                raise StorageFailed("the disk is away")
            gate.passed.append(len(body))
        return real(database, upload_id, body, **options)

    real = catalog.receive_pieces
    monkeypatch.setattr(catalog, "receive_pieces", receive)
    return gate


@dataclass
class Gate:
    """What of the pieces of files gets through."""

    requests_max: float = math.inf
    passed: list[int] = field(default_factory=list)
    """Sizes of the requests that were taken."""
    lock: threading.Lock = field(default_factory=threading.Lock)


def test_a_folder_becomes_a_dataset_with_the_keyboard_alone(site, open_page, stack):
    page = open_page("/datasets")
    page.get_by_role("link", name="Upload images").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Upload images")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a folder").press("Enter")
    chooser.value.set_files(stack)
    expect(page.locator("#found")).to_contain_text("12 of 128 × 96 uint8")
    expect(page.locator("#found")).to_contain_text("1 other file")
    expect(page.locator("#looked")).to_have_text("12 files recognised.")
    expect(page.get_by_label("Name").last).to_have_value("cortex-run-1")
    page.get_by_label("Voxel size in nm").focus()
    page.keyboard.type("4,4")
    page.keyboard.press("Enter")
    expect(page.locator("#upload-error")).to_contain_text("'4,4' is not a voxel size")
    expect(page.locator("#upload-error")).to_be_focused()
    expect(page.get_by_label("Voxel size in nm")).to_have_attribute("aria-invalid", "true")
    assert site.client.list_uploads() == ()
    page.get_by_label("Voxel size in nm").focus()
    page.keyboard.press("End")
    page.keyboard.type(",40")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Convert cortex-run-1")
    assert site.stored() == contents(stack)
    expect(page.locator(".status .badge")).to_have_text("Succeeded")
    page.goto(site.info.url + "/datasets/cortex-run-1")
    expect(page.get_by_role("heading", level=1)).to_contain_text("cortex-run-1")
    assert site.client.show_dataset("cortex-run-1").summary.layers[0].box == "0,0,0,128,96,12"


def test_a_closed_tab_costs_only_what_was_under_way(site, open_page, stack, gate):
    for z in range(12):  # so large that they need several requests
        tifffile.imwrite(stack / f"s{z}.tif", np.full((1024, 1024), z, np.uint8))
    page = open_page("/uploads/new")
    gate.requests_max = 1
    choose(page, stack)
    page.get_by_label("Name").last.fill("closed-tab")
    page.get_by_label("Voxel size in nm").fill("4,4,40")
    page.get_by_role("button", name="Upload and convert").click()
    expect(page.locator("#progress-words")).to_contain_text(re.compile("[1-9] MiB of 12 MiB"))
    expect(page.locator("#waiting-words")).to_contain_text("The server does not answer")
    page.close(run_before_unload=False)
    [view] = [view for view in site.client.list_uploads() if view.state == "receiving"]
    [first] = gate.passed
    gate.requests_max = math.inf
    gate.passed.clear()
    again = open_page("/uploads/new")
    expect(again.get_by_text("Choose the same files below to go on")).to_be_visible()
    choose(again, stack)
    again.get_by_label("Name").last.fill("closed-tab")
    again.get_by_label("Voxel size in nm").fill("4,4,40")
    again.get_by_role("button", name="Upload and convert").click()
    expect(again.get_by_role("heading", level=1)).to_have_text("Convert closed-tab")
    assert site.stored() == contents(stack)
    headers_bytes = 1500
    assert 0 <= first + sum(gate.passed) - view.size_bytes <= headers_bytes * (1 + len(gate.passed))


SLOW_DISK = """() => {
    const read = Blob.prototype.arrayBuffer;
    Blob.prototype.arrayBuffer = async function () {
        await new Promise((goOn) => setTimeout(goOn, 300));
        return read.call(this);
    };
}"""


def test_a_name_typed_where_one_is_filled_in_takes_its_place(open_page, stack):
    page = open_page("/uploads/new")
    page.evaluate(SLOW_DISK)  # so that the field is entered before the files are looked at
    choose(page, stack)
    name = page.get_by_label("Name").last
    name.focus()
    expect(name).to_have_value("cortex-run-1")
    page.keyboard.type("mine")
    expect(name).to_have_value("mine")


def test_an_upload_outlives_a_cut_network_a_failing_server_and_an_ended_log_in(site, open_page, stack, gate):
    page = open_page("/uploads/new")
    gate.requests_max = 0
    page.evaluate(SLOW_DISK)  # so that the button is clicked before the files are looked at
    choose(page, stack)
    page.get_by_label("Name").last.fill("patient")
    page.get_by_label("Voxel size in nm").fill("4,4,40")
    page.get_by_role("button", name="Upload and convert").click()
    expect(page.locator("#waiting-words")).to_contain_text("The server does not answer")
    cookies = page.context.cookies()
    page.context.clear_cookies()
    gate.requests_max = math.inf
    expect(page.locator("#waiting-words")).to_contain_text("Your log-in has ended")
    expect(page.get_by_role("link", name="Log in in another tab")).to_be_visible()
    page.context.set_offline(True)
    page.context.add_cookies(cookies)
    page.wait_for_timeout(3500)
    page.context.set_offline(False)
    expect(page.get_by_role("heading", level=1)).to_have_text("Convert patient")
    assert site.stored() == contents(stack)


def test_an_upload_is_paused_and_stopped_and_leaves_nothing(site, open_page, stack, gate):
    page = open_page("/uploads/new")
    choose(page, stack)
    page.get_by_label("Voxel size in nm").fill("4,4,40")
    page.get_by_label("Name").last.fill("stopped")
    before = {view.id for view in site.client.list_uploads()}
    page.route(
        "**/missing", lambda route: (page.get_by_role("button", name="Pause").click(), route.continue_())
    )
    page.get_by_role("button", name="Upload and convert").click()
    expect(page.get_by_role("button", name="Go on")).to_be_visible()
    page.wait_for_timeout(300)
    assert gate.passed == []
    page.get_by_role("button", name="Stop and remove what was sent").click()
    expect(page.get_by_role("status").filter(has_text="are gone")).to_be_visible()
    assert {view.id for view in site.client.list_uploads()} == before


def test_what_cannot_be_converted_is_told_before_anything_is_sent(site, open_page, stack, tmp_path):
    page = open_page("/uploads/new")
    asked = []
    page.on("request", lambda sent: asked.append(sent.url) if "/api/" in sent.url else None)

    def told(folder):
        choose(page, folder)
        expect(page.locator("#looked")).not_to_contain_text("Looking")
        return page.locator("#problems").inner_text()

    (stack / "s5.tif").unlink()
    assert (
        told(stack)
        == "Missing between s0.tif and s11.tif: s5.tif; add them, or tick that missing sections are filled."
    )
    tifffile.imwrite(stack / "s5.tif", np.zeros((10, 20), np.uint8))
    assert "s5.tif is 20 × 10 uint8, but s0.tif is 128 × 96 uint8" in told(stack)
    tifffile.imwrite(stack / "s5.tif", np.zeros((96, 128), np.uint16))
    assert "save all sections with the same kind of values" in told(stack)
    (stack / "s5.tif").write_bytes(b"MM\0*\0\0")
    assert "s5.tif is cut short or damaged" in told(stack)
    (stack / "s5.tif").write_bytes(b"no image")
    assert "s5.tif is none of TIFF" in told(stack)
    tifffile.imwrite(stack / "s5.tif", np.zeros((3, 96, 128), np.uint8), photometric="minisblack")
    assert "s5.tif has several pages" in told(stack)
    page.get_by_label("Voxel size in nm").fill("4,4,40")
    page.get_by_role("button", name="Upload and convert").click()
    expect(page.locator("#upload-error")).to_contain_text("cannot be converted as they are")
    assert asked == []


def test_files_that_the_browser_knows_nothing_of_are_left_to_the_conversion(site, open_page, tmp_path):
    page = open_page("/uploads/new")

    def problems(name, content):
        (tmp_path / name).write_bytes(content)
        choose(page, tmp_path / name, "Choose files")
        expect(page.locator("#problems")).to_contain_text(name)
        return page.locator("#problems").inner_text()

    assert problems("notes.txt", b"section 7 is bad\n" * 9) == (
        "notes.txt is a text, and there is nothing else that could be images; choose images."
    )
    assert problems("empty.czi", b"") == "empty.czi is empty; copy it again or remove it."
    assert problems("s.nd2", b"\xda\xce\xbe\x0a" + bytes(600)) == (
        "s.nd2 is an ND2 file (Nikon NIS-Elements), which is not read; export it as OME-TIFF in the maker's program, "
        "or open it in Fiji (Bio-Formats) and save it as OME-TIFF."
    )
    zarr = tmp_path / "a.zarr"
    (zarr / "0").mkdir(parents=True)
    for name in (".zgroup", ".DS_Store", "0/.zarray", "0/0.0.0"):
        (zarr / name).write_text("{}")
    page = open_page("/uploads/new")
    choose(page, zarr)
    expect(page.locator("#found")).to_contain_text("Zarr, looked into when it has arrived")
    expect(page.locator("#found")).to_contain_text("3, 6")
    expect(page.get_by_label("Name").last).to_have_value("a.zarr")

    pages = np.random.default_rng(3).integers(0, 255, (2, 3, 64, 96), np.uint8)
    tiles = [CziTile(pages[c, z], at={"C": c, "Z": z}) for c in range(2) for z in range(3)]
    scaling = "".join(f'<Distance Id="{axis}"><Value>1e-7</Value></Distance>' for axis in "XYZ")
    write_czi(tmp_path / "scan.czi", tiles, metadata=f"<Scaling><Items>{scaling}</Items></Scaling>")
    page = open_page("/uploads/new")
    choose(page, tmp_path / "scan.czi", "Choose files")
    expect(page.locator("#found")).to_contain_text("scan.czi, looked into when it has arrived")
    expect(page.locator("#looked")).to_have_text("1 file chosen.")
    page.get_by_role("button", name="Upload and convert").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Convert scan")
    expect(page.locator(".status .badge")).to_have_text("Succeeded")
    summary = site.client.show_dataset("scan").summary
    assert [layer.name for layer in summary.layers] == ["color_c0", "color_c1"]
    assert summary.voxel_size == "100,100,100"


OME_SIZES = {"PhysicalSizeX": 1, "PhysicalSizeY": 1, "PhysicalSizeZ": 4}


def test_channels_are_counted_before_the_upload(site, open_page, tmp_path):
    page = open_page("/uploads/new")
    for name, options in {
        "first.ome.tif": {"metadata": {"axes": "TCZYX", **OME_SIZES}},
        "second.tif": {"imagej": True, "metadata": {"axes": "TZCYX"}},
    }.items():
        axes = options["metadata"]["axes"]
        shape = [{"T": 2, "C": 3, "Z": 4, "Y": 32, "X": 64}[axis] for axis in axes]
        tifffile.imwrite(tmp_path / name, np.zeros(shape, np.uint8), photometric="minisblack", **options)
        choose(page, tmp_path / name, "Choose files")
        expect(page.locator("#found")).to_contain_text("4 of 64 × 32 uint8, 6 volumes")
        expect(page.locator(".upload-layer .help").first).to_contain_text("The file holds 6 volumes")
        expect(page.get_by_label("Name").last).to_have_value(name.split(".")[0])
        expect(page.get_by_label("Voxel size in nm")).to_have_value("1000,1000,4000" if "ome" in name else "")
    page.get_by_label("Voxel size in nm").fill("4,4,40")
    Image.fromarray(np.zeros((21, 34, 3), np.uint8)).save(tmp_path / "s.webp", lossless=True)
    choose(page, tmp_path / "s.webp", "Choose files")
    expect(page.locator("#found")).to_contain_text("1 of 34 × 21 uint8 RGB")
    expect(page.get_by_label("Voxel size in nm")).to_have_value("4,4,40")


def test_the_names_in_a_zip_are_looked_at_before_it_is_sent(site, open_page, tmp_path):
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (
            "raw/s1.tif",
            "raw/s2.tif",
            "raw/s4.tif",
            "labels/l1.png",
            "__MACOSX/._s3.tif",
            "raw/.x",
        ):
            archive.writestr(f"run/{name}", b"an image")
    page = open_page("/uploads/new")
    choose(page, packed, "Choose files")
    expect(page.locator("#found")).to_contain_text("3, looked into when they have arrived")
    expect(page.locator("#problems")).to_have_text(
        "Missing between s1.tif and s4.tif: s3.tif; add them, or tick that missing sections are filled."
    )
    expect(page.get_by_label("Category").first).to_have_value("color")
    expect(page.get_by_label("Category").last).to_have_value("segmentation")
    packed.write_bytes(packed.read_bytes()[:-30])
    choose(page, packed, "Choose files")
    expect(page.locator("#problems")).to_contain_text("packed.zip is no whole zip file")


IMAGEJ = {"axes": "ZYX", "spacing": 0.04, "unit": "um"}
OME = {
    "axes": "ZYX",
    "PhysicalSizeX": 0.004,
    "PhysicalSizeY": 4,
    "PhysicalSizeYUnit": "nm",
    "PhysicalSizeZ": 0.04,
}


@pytest.mark.parametrize(
    ("options", "voxel_size"),
    [
        ({"imagej": True, "resolution": (250, 250), "metadata": IMAGEJ}, "4,4,40"),
        ({"ome": True, "metadata": OME}, "4,4,40"),
        (
            {
                "bigtiff": True,
                "byteorder": ">",
                "metadata": None,
                "resolution": (25e5, 25e5),
                "resolutionunit": 3,
            },
            "4,4,",
        ),
        ({"metadata": None, "resolution": (72, 72), "resolutionunit": 2, "compression": "zlib"}, ""),
    ],
    ids=["imagej", "ome", "pixels alone", "dots per inch"],
)
def test_the_voxel_size_that_images_state_is_filled_in(site, open_page, tmp_path, options, voxel_size):
    file = tmp_path / "stack.tif"
    tifffile.imwrite(file, np.zeros((5, 32, 64), np.uint8), photometric="minisblack", **options)
    page = open_page("/uploads/new")
    choose(page, file, "Choose files")
    expect(page.locator("#found")).to_contain_text("5 of 64 × 32 uint8")
    expect(page.get_by_label("Voxel size in nm")).to_have_value(voxel_size)


def test_a_zip_and_two_layers_become_datasets(site, open_page, stack, tmp_path):
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in stack.iterdir():
            archive.write(path, f"run/{path.name}")
    page = open_page("/uploads/new")
    choose(page, packed, "Choose files")
    page.get_by_label("Voxel size in nm").fill("4,4,40")
    page.get_by_role("button", name="Upload and convert").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Convert packed")
    expect(page.locator(".status .badge")).to_have_text("Succeeded")
    both = tmp_path / "both"
    (both / "labels").mkdir(parents=True)
    stack.rename(both / "raw")
    for z in range(12):
        tifffile.imwrite(both / "labels" / f"l{z}.tif", np.full((96, 128), z, np.uint16))
    page.goto(site.info.url + "/uploads/new")
    choose(page, both)
    expect(page.get_by_label("Category")).to_have_count(2)
    page.get_by_label("Voxel size in nm").fill("4,4,40")
    page.get_by_role("button", name="Upload and convert").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Convert both")
    expect(page.locator(".status .badge")).to_have_text("Succeeded")
    layers = {layer.name: layer.category for layer in site.client.show_dataset("both").summary.layers}
    assert layers == {"labels": "segmentation", "raw": "color"}


def test_a_folder_that_is_dropped_is_recognised(site, open_page, stack):
    page = open_page("/uploads/new")
    where = page.locator("#drop").bounding_box()
    session = page.context.new_cdp_session(page)
    at = {"x": where["x"] + 20, "y": where["y"] + 20}
    data = {"items": [], "files": [str(stack)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "data": data, **at})
    expect(page.locator("#looked")).to_have_text("12 files recognised.")
    expect(page.locator("#dataset-name")).to_have_value("cortex-run-1")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_no_barrier_while_files_are_chosen_and_sent(
    site, open_page, barriers, stack, gate, scheme, width
):
    (stack / "s5.tif").unlink()
    page = open_page("/uploads/new", scheme=scheme, width=width, bypass_csp=True)

    def violations():
        is_too_wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        return is_too_wide, barriers(page)

    choose(page, stack)
    page.get_by_label("Fill missing sections with zeros").check()
    page.get_by_role("button", name="Upload and convert").click()
    expect(page.locator("#upload-error")).to_contain_text("The voxel size is missing")
    assert violations() == (False, [])
    gate.requests_max = 0
    page.get_by_label("Name").last.fill(f"barrier_{scheme}")
    page.get_by_label("Voxel size in nm").fill("4,4,40")
    page.get_by_role("button", name="Upload and convert").click()
    expect(page.locator("#waiting-words")).to_contain_text("The server does not answer")
    assert violations() == (False, [])
    page.get_by_role("button", name="Stop and remove what was sent").click()
    expect(page.get_by_role("status").filter(has_text="are gone")).to_be_visible()
