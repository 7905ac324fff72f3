"""`voxelworks demo`: server, worker and a real image stack that becomes a multiscale dataset, as jobs."""

from __future__ import annotations

import logging
import socket
import threading
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from voxelworks import __version__
from voxelworks.cli import _show, fail
from voxelworks.cli._embedded import EmbeddedWorker
from voxelworks.cli._private import keep_memory_private
from voxelworks.cli._server import only_server_of
from voxelworks.cli._settings import load_settings
from voxelworks.client import Client, ServerInfo
from voxelworks.errors import SourceNotFound, TargetExists, VoxelworksError
from voxelworks.protocol.messages import Json
from voxelworks.protocol.people import LOCAL_ORGANIZATION_ID
from voxelworks.protocol.views import JobView
from voxelworks.settings import Settings

DATASET = "fly-brain"
VOXEL_SIZE = "10,10,10"
"""Of the sample, in nanometres."""
COARSEST_MAG = "8"
DATASETS_MAX = 1000
DISPLAY_END_S = 5.0
"""How long the display may take to notice that the server has gone."""


@dataclass(frozen=True)
class Step:
    """A job of the demo."""

    workflow: str
    about: str
    params: Json


def steps(dataset: str) -> list[Step]:
    """Give the jobs of the demo, in their order: each needs what the one before has made."""
    layers = [
        {"source": "root:demo/raw", "layer_name": "color", "category": "color"},
        {"source": "root:demo/labels", "layer_name": "segmentation", "category": "segmentation"},
    ]
    made = {"layers": layers, "target": dataset, "voxel_size": VOXEL_SIZE, "pyramid": False}
    shrunk = [
        Step(
            "downsample", f"{dataset}/{layer}",
            {"layer": {"dataset": dataset, "layer": layer}, "coarsest_mag": COARSEST_MAG},
        )
        for layer in ("color", "segmentation")
    ]  # fmt: skip
    labels = {"layer": {"dataset": dataset, "layer": "segmentation"}}
    return [
        Step("convert", f"TIFF sections to {dataset}", made),
        *shrunk,
        Step("find_largest_segment_id", f"{dataset}/segmentation", labels),
    ]


@click.command()
@click.option(
    "--home", type=click.Path(file_okay=False, path_type=Path), default=Path("voxelworks-demo"), show_default=True,
    help="Folder for everything that the demo writes.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on; by default 8440, or a free one."
)
@click.option(
    "--once",
    is_flag=True,
    help="End when the jobs have ended, with exit status 0 if all succeeded, otherwise 1.",
)
def demo(home: Path, port: int | None, once: bool) -> int:
    """Show everything at work, with a real image stack.

    Starts a server and a worker, converts a small stack of TIFF sections (a cube of fly brain, with its neurons
    marked) into a dataset, makes the coarser magnifications and looks up the largest segment id, each as a job. Then
    it goes on serving.
    """
    try:
        return _demo(home, port, is_once=once)
    except VoxelworksError as error:
        if not once:
            raise
        # Whoever asked for one run wants to know whether it succeeded, not what kind of error came before it.
        fail(f"error: {error}", 1)


def _demo(home: Path, port: int | None, *, is_once: bool) -> int:
    keep_memory_private()
    with as_file(files("voxelworks") / "sample") as sample:
        if not (sample / "raw").is_dir():
            raise SourceNotFound(f"the sample images are missing in {sample}; install voxelworks again")
        settings = load_settings(
            home=home,
            data_dir=home / "datasets",
            import_roots={"demo": sample},
            poll_s=0.5,
            port=port if port is not None else _free_port(),
        )
        return Demo(settings, console=_show.output(), is_once=is_once).run()


class Demo:
    """Server in this thread, worker in a process, the jobs in a thread that starts when the server is ready."""

    def __init__(self, settings: Settings, *, console: Console, is_once: bool) -> None:
        self._settings = settings
        self._console = console
        self._is_once = is_once
        self._stop = threading.Event()
        self._is_closing = threading.Event()
        self._is_display_over = threading.Event()
        self._has_run = False
        self._has_succeeded = False

    def run(self) -> int:
        """Serve until stopped; give the exit status."""
        from voxelworks.server import serve  # slow import: only for this command

        home = self._settings.home
        with only_server_of(self._settings):
            self._settings.datasets_dir.mkdir(parents=True, exist_ok=True)
            self._greet()
            _log_to(home / "server.log")
            with (home / "worker.log").open("ab") as log:
                worker = EmbeddedWorker(self._settings, log=log)
                serve(
                    self._settings,
                    on_ready=lambda info: self._on_ready(info, worker),
                    on_stop=lambda: self._on_stop(worker),
                    stop=self._stop,
                )
        self._is_display_over.wait(DISPLAY_END_S)
        if not self._has_run:
            self._console.print(
                "Stopped before all jobs had ended; `voxelworks demo` begins anew.", style="yellow"
            )
        return 0 if self._has_succeeded or (self._has_run and not self._is_once) else 1

    def _on_ready(self, info: ServerInfo, worker: EmbeddedWorker) -> None:
        worker.start()
        facts = {"jobs page": Text(info.entry_url, "bold cyan"), "folder": self._settings.home}
        self._console.print(_show.facts(facts))
        self._console.print()
        try:
            with Client(info.url, info.token) as client:
                self._has_succeeded = self._run_jobs(client)
            self._has_run = True
        except VoxelworksError:
            if not self._is_closing.is_set():
                raise
        finally:
            self._is_display_over.set()
        if self._is_once:
            self._stop.set()
        elif self._has_run:
            self._console.print("\nThe server goes on; Ctrl-C stops it.", style="dim")

    def _on_stop(self, worker: EmbeddedWorker) -> None:
        self._is_closing.set()
        worker.stop()

    def _greet(self) -> None:
        self._console.print(Text.assemble(("Voxelworks ", "bold"), __version__, (" demo", "bold")))
        self._console.print(
            "A cube of fly brain, 160 x 160 x 64 voxels, becomes a multiscale dataset.", style="dim"
        )
        self._console.print()

    def _run_jobs(self, client: Client) -> bool:
        """Submit the jobs one after the other; tell whether all succeeded."""
        dataset, job = self._submit_first(client)
        todo = steps(dataset)
        width = max(len(step.workflow) for step in todo)
        lines = [_show.Line(f"{step.workflow:<{width}}", step.about) for step in todo]
        with _show.LiveLines(self._console, lines):
            for index, (step, line) in enumerate(zip(todo, lines, strict=True)):
                if index > 0:
                    job = client.submit(step.workflow, step.params)
                job = self._follow(client, job, line)
                is_success = job.state == "succeeded" and job.publication != "failed"
                line.end(is_success=is_success, note=_end_note(job))
                if not self._console.is_terminal:
                    self._console.print(
                        f"{'✓' if is_success else '✗'} {line.name}  {line.about}  {line.note}"
                    )
                if not is_success:
                    break
        if not is_success:
            self._tell_failure(job)
            return False
        self._tell_results(dataset)
        return True

    def _follow(self, client: Client, job: JobView, line: _show.Line) -> JobView:
        try:
            for view in client.watch(job.id):
                line.follow(view)
                job = view
        except VoxelworksError:
            line.end(
                is_success=False,
                note="stopped" if self._is_closing.is_set() else "the server does not answer",
            )
            raise
        return job

    def _tell_failure(self, job: JobView) -> None:
        if self._is_closing.is_set():
            return
        message = job.publish_error or job.message or "no reason is known"
        self._console.print(f"{job.workflow} {job.state}: {message}", style="red", markup=False)
        self._console.print(
            f"voxelworks jobs logs {job.id} --home {self._settings.home}", style="dim", markup=False
        )

    def _submit_first(self, client: Client) -> tuple[str, JobView]:
        """Submit the conversion under a name that is free: the demo may have been here before."""
        for name in (DATASET, *(f"{DATASET}-{number}" for number in range(2, DATASETS_MAX))):
            try:
                return name, client.submit("convert", steps(name)[0].params)
            except TargetExists:
                continue
        raise TargetExists(f"all names up to {DATASET}-{DATASETS_MAX - 1} are taken; choose another --home")

    def _tell_results(self, dataset: str) -> None:
        self._console.print()
        self._console.print(
            _show.facts({"dataset": self._settings.datasets_dir / LOCAL_ORGANIZATION_ID / dataset})
        )


def _end_note(job: JobView) -> str:
    """Say what a job has made, and how long it took."""
    if job.result is None or job.started_ms is None or job.ended_ms is None:
        return job.state
    value = job.result.value
    made = [
        *value.get("layers", ()),
        *(f"mag {mag}" for mag in value.get("mags", ()) if job.workflow == "downsample"),
    ]
    if "largest_segment_id" in value:
        made.append(f"largest id {value['largest_segment_id']}")
    return f"{', '.join(made)} in {_show.duration((job.ended_ms - job.started_ms) / 1000)}"


def _free_port() -> int:
    """Give the usual port if it is free, otherwise 0: the system then chooses one."""
    usual = int(Settings.model_fields["port"].default)
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", usual))
        except OSError:
            return 0
    return usual


def _log_to(file: Path) -> None:
    # Standard error belongs to the display.
    logging.basicConfig(filename=file, level=logging.INFO, format="%(asctime)s %(message)s")
