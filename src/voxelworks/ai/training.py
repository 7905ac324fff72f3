"""Train a network on labelled boxes. Needs the extra `train`.

Everything random follows from the seed and the number of the step, so a training that was stopped goes on as if it had
not been, and on a CPU two trainings with the same seed and number of threads give the same network.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from voxelworks.ai.augmentation import Augmentation
from voxelworks.ai.inference import Grid
from voxelworks.ai.networks import Architecture, Probabilities, ResidualUNet
from voxelworks.ai.targets import affinities, distances, foreground
from voxelworks.errors import InvalidGeometry, ResourcesExceeded, TrainingFailed
from voxelworks.geometry import Vec3, VoxelSize, Zyx
from voxelworks.ops.probabilities import to_bytes
from voxelworks.protocol.models import ModelFacts, ModelTask

_EMA_DECAY = 0.998
"""Of the running mean of the weights over some hundred steps, which is what is kept: it jumps about less."""
_MEMORY_FORMAT = torch.channels_last_3d
"""On a CPU seven times as fast as the usual one."""
_EPSILON = 1.0
_BINS = 64
"""Of probabilities, of which the best threshold is chosen."""
_VALIDATION_VOXELS_MAX = 3_000_000
"""Of all boxes for validation together: looking at more would take longer than learning meanwhile."""


@dataclass(frozen=True)
class LabelledBox:
    """An image and what is in it, on the voxel size of the network."""

    image: NDArray[np.float32]
    """(c, Z, Y, X), normalized."""
    labels: NDArray[np.int32]
    """(Z, Y, X); 0 is background."""
    name: str = ""
    weight: float = 1.0
    """How often it is looked at, against others of its size."""


@dataclass(frozen=True)
class TrainingPlan:
    """All that a training depends on beside its images."""

    task: ModelTask
    architecture: Architecture
    voxel_size: VoxelSize
    patch_zyx: Zyx
    batch: int = 2
    offsets: tuple[Vec3, ...] = ()
    distance_scale_nm: float | None = None
    steps: int = 2000
    learning_rate: float = 2e-3
    evaluate_every: int = 100
    patience: int = 20
    """Training ends when so many evaluations in a row were no better."""
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    augmentation: Augmentation | None = None

    @property
    def variation(self) -> Augmentation:
        return self.augmentation or Augmentation(self.voxel_size)


@dataclass(frozen=True)
class Evaluation:
    """How good the network was at one time, on boxes that it does not learn from."""

    step: int
    training_loss: float
    validation_loss: float
    score: float
    """Larger is better: intersection over union of the foreground, or F1 of the membranes between neurons."""
    threshold: float
    """Probability from which on that is best."""


@dataclass(frozen=True)
class Example:
    """One section of a validation box: what the network sees, what it shall give, and what it gives."""

    image: NDArray[np.float32]
    """(Y, X); normalized."""
    wanted: NDArray[np.float32]
    """(Y, X), 0 to 1; of affinities the smallest one to the next voxels in the section."""
    found: NDArray[np.float32]


@dataclass
class Progress:
    """Where a training is: goes into the checkpoint."""

    step: int = 0
    best_step: int = 0
    best_score: float = -math.inf
    running_loss: float = math.nan
    elapsed_s: float = field(default=0.0, compare=False)
    """Of all attempts together, without what a killed one had not saved."""
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def evaluations_since_best(self) -> int:
        return sum(item.step > self.best_step for item in self.evaluations)


class Training:
    """A network that is learning.

    Parameters
    ----------
    plan : TrainingPlan
    boxes : sequence of LabelledBox
        To learn from.
    validation : sequence of LabelledBox
        To measure with.
    folder : Path
        For the checkpoints; what an earlier attempt left there is gone on with.
    start : mapping of str to Tensor, optional
        Weights to begin with. Those that fit by name and shape are taken.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        boxes: Sequence[LabelledBox],
        validation: Sequence[LabelledBox],
        folder: Path,
        start: dict[str, Tensor] | None = None,
    ) -> None:
        self.plan, self._boxes, self._validation, self._folder = plan, boxes, validation, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(plan.threads)
        torch.manual_seed(plan.seed)
        self._device = torch.device(plan.device)
        self.network = ResidualUNet(plan.architecture)
        self.reused = _reuse(self.network, start) if start else 0
        _place(self.network, self._device)
        self.averaged = ResidualUNet(plan.architecture)
        _place(self.averaged, self._device)
        self.averaged.load_state_dict(self.network.state_dict())
        self.averaged.eval()
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=plan.learning_rate, weight_decay=1e-4, foreach=False
        )
        self.progress = Progress()
        self._weights = np.array([box.labels.size * box.weight for box in boxes], float)
        if not self._weights.sum():
            raise InvalidGeometry("there is no box to learn from that holds a patch")
        self._load()

    @property
    def checkpoint(self) -> Path:
        return self._folder / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        return self._folder / "best.safetensors"

    def run(
        self,
        *,
        check: Callable[[], None],
        report: Callable[[Progress], None],
        evaluated: Callable[[Evaluation, Example], None],
        save_every_s: float = 60.0,
    ) -> Progress:
        """Train to the end; give how it went. The best weights are in `best`.

        Parameters
        ----------
        check : callable
            Asked before each step; what it raises ends the training, which then can be gone on with.
        report : callable
            Told after each step.
        evaluated : callable
            Told after each evaluation.
        save_every_s : float
            Seconds between two checkpoints, beside those of each evaluation and of a stop by `check`. What else ends
            a training costs what was done since the last one.

        Raises
        ------
        TrainingFailed
            If the loss is not a number any more.
        """
        saved_s = told_s = time.monotonic()
        progress = self.progress
        try:
            while progress.step < self.plan.steps and progress.evaluations_since_best < self.plan.patience:
                self._ask(check)
                self._step()
                before_s, told_s = told_s, time.monotonic()
                progress.elapsed_s += told_s - before_s
                report(progress)
                is_last = progress.step == self.plan.steps
                if progress.step % self.plan.evaluate_every == 0 or is_last:
                    found = self._evaluate()
                    self._save()
                    saved_s = time.monotonic()
                    evaluated(*found)
                elif time.monotonic() - saved_s > save_every_s:
                    self._save()
                    saved_s = time.monotonic()
        except torch.cuda.OutOfMemoryError as error:
            raise ResourcesExceeded(
                f"{self.plan.batch} patches of {self.plan.patch_zyx[::-1]} voxels do not fit into the memory of the "
                "GPU; choose a smaller network, or end what else runs there"
            ) from error
        return progress

    def _ask(self, check: Callable[[], None]) -> None:
        """Let the training be stopped, and save it then.

        Nowhere else: what ends a step or an evaluation half way leaves a state that no unbroken training has.
        """
        try:
            check()
        except BaseException:
            self._save()
            raise

    # Learning

    def _step(self) -> None:
        plan, progress = self.plan, self.progress
        images, targets, known = self._batch(progress.step)
        for group in self._optimizer.param_groups:
            group["lr"] = plan.learning_rate * _schedule(progress.step, plan.steps)
        self.network.train()
        self._optimizer.zero_grad(set_to_none=True)
        logits = self.network(images)
        loss = loss_of(plan.task, logits, targets, known)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingFailed(
                f"the loss is {value} at step {progress.step + 1}: the network learned nothing that could be used; "
                "train with a smaller learning_rate, and look whether the image holds values that are not numbers"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self._optimizer.step()
        self._average()
        progress.step += 1
        kept = progress.running_loss
        progress.running_loss = value if math.isnan(kept) else 0.98 * kept + 0.02 * value

    def _average(self) -> None:
        decay = min(_EMA_DECAY, (1 + self.progress.step) / (10 + self.progress.step))
        with torch.no_grad():
            for mean, value in zip(
                self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True
            ):
                if mean.dtype.is_floating_point:
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        patches = [
            self._patch(np.random.default_rng([self.plan.seed, step, item]))
            for item in range(self.plan.batch)
        ]
        return self._tensors(patches)

    def _tensors(self, patches: Sequence[LabelledBox]) -> tuple[Tensor, Tensor, Tensor]:
        made = [targets_of(self.plan, patch.labels) for patch in patches]
        images = torch.from_numpy(np.stack([patch.image for patch in patches]))
        targets = torch.from_numpy(np.stack([target for target, _ in made]))
        known = torch.from_numpy(np.stack([is_known for _, is_known in made]))
        images = images.to(self._device, memory_format=_MEMORY_FORMAT)
        return images, targets.to(self._device), known.to(self._device)

    def _patch(self, random: np.random.Generator) -> LabelledBox:
        plan, variation = self.plan, self.plan.variation
        box = self._boxes[random.choice(len(self._boxes), p=self._weights / self._weights.sum())]
        deforms = variation.deforms(random)
        size = variation.cut_size(plan.patch_zyx, deforms=deforms)
        image, labels = _cut(box, size, random)
        image, labels = variation.apply(image, labels, plan.patch_zyx, random, deforms=deforms)
        return LabelledBox(image, labels)

    # Measuring

    def _evaluate(self) -> tuple[Evaluation, Example]:
        losses: list[float] = []
        counts = np.zeros((2, _BINS))
        patches = self._validation_patches()
        shown = max(range(len(patches)), key=lambda index: _liveliness(patches[index].labels))
        for index, patch in enumerate(patches):
            images, targets, known = self._tensors([patch])
            with torch.no_grad():
                logits = self.averaged(images)
                losses.append(float(loss_of(self.plan.task, logits, targets, known)))
            counts += _count(self.plan.task, logits, targets, known)
            if index == shown:
                example = _example(self.plan, images, targets, logits)
        score, threshold = _best(self.plan.task, counts)
        progress = self.progress
        found = Evaluation(progress.step, progress.running_loss, float(np.mean(losses)), score, threshold)
        if not math.isfinite(found.validation_loss):
            raise TrainingFailed(f"the validation loss is {found.validation_loss} at step {progress.step}")
        progress.evaluations.append(found)
        if found.score > progress.best_score:
            progress.best_score, progress.best_step = found.score, found.step
            draft = self.best.with_suffix(".part")
            save_file(_contiguous(self.averaged.state_dict()), draft)
            draft.replace(self.best)
        return found, example

    def _validation_patches(self) -> list[LabelledBox]:
        """Cut the validation boxes into patches: the same ones each time."""
        patches: list[LabelledBox] = []
        for box in self._validation:
            counts = [
                max(1, math.ceil(size / side))
                for size, side in zip(box.labels.shape, self.plan.patch_zyx, strict=True)
            ]
            for index in np.ndindex(*counts):
                starts = [
                    0 if count == 1 else round(i * max(0, size - side) / (count - 1))
                    for i, count, size, side in zip(
                        index, counts, box.labels.shape, self.plan.patch_zyx, strict=True
                    )
                ]
                patches.append(_piece(box, (starts[0], starts[1], starts[2]), self.plan.patch_zyx))
        most = max(1, _VALIDATION_VOXELS_MAX // math.prod(self.plan.patch_zyx))
        chosen = np.linspace(0, len(patches) - 1, min(most, len(patches))).round().astype(int)
        return [patches[item] for item in chosen]

    # Going on

    def _save(self) -> None:
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        draft = self.checkpoint.with_suffix(".part")
        save_file(_contiguous(tensors), draft, {"progress": json.dumps(asdict(self.progress))})
        draft.replace(self.checkpoint)

    def _load(self) -> None:
        if not self.checkpoint.exists():
            return
        with safe_open(self.checkpoint, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            stored = json.loads(file.metadata()["progress"])
        self.network.load_state_dict(_below("network.", tensors))
        self.averaged.load_state_dict(_below("averaged.", tensors))
        state = self._optimizer.state_dict()
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = value
        self._optimizer.load_state_dict({**state, "state": states})
        stored["evaluations"] = [Evaluation(**item) for item in stored["evaluations"]]
        self.progress = Progress(**stored)


class Predictor:
    """A trained network that looks at images in memory, patch by patch as at layers.

    Parameters
    ----------
    plan : TrainingPlan
    weights : mapping of str to Tensor
    facts : ModelFacts
        Say how large patches are.
    check : callable
        Asked before each patch; what it raises ends the work.
    """

    def __init__(
        self, plan: TrainingPlan, weights: Mapping[str, Tensor], facts: ModelFacts, check: Callable[[], None]
    ) -> None:
        self._facts, self._check, self._device = facts, check, torch.device(plan.device)
        network = ResidualUNet(plan.architecture)
        network.load_state_dict(weights)
        self._network = Probabilities(network).eval()
        _place(self._network, self._device)

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Give the probabilities, 255 for 1, as (channels, z, y, x), of a normalized image (c, z, y, x)."""
        z, y, x = image.shape[1:]
        grid = Grid.plan((z, y, x), self._facts)
        # A patch begins before its core, and may end beyond the image.
        edges = zip(grid.border_zyx, grid.patch_zyx, strict=True)
        padded = np.pad(image, [(0, 0), *edges], mode="symmetric")
        found = np.empty((len(self._facts.outputs), z, y, x), np.uint8)
        for core in grid.cores:
            self._check()
            patch = tuple(
                slice(first, first + side) for first, side in zip(core.start_zyx, grid.patch_zyx, strict=True)
            )
            inside = tuple(
                slice(edge, edge + side) for edge, side in zip(grid.border_zyx, core.shape_zyx, strict=True)
            )
            shown = torch.from_numpy(np.ascontiguousarray(padded[(slice(None), *patch)]))[None]
            with torch.no_grad():
                given = self._network(shown.to(self._device, memory_format=_MEMORY_FORMAT))
            given = given[(0, slice(None), *inside)].cpu().numpy()
            for values, kept in zip(given, found[(slice(None), *core.slices_zyx)], strict=True):
                if not to_bytes(values, kept):
                    raise TrainingFailed("the trained network gives values that are not numbers")
        return found


def _place(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device, and lay its weights out as fast as they can be there."""
    network.to(device)
    # The stubs of torch know this argument for tensors alone.
    network.to(memory_format=_MEMORY_FORMAT)  # type: ignore[call-overload]


def targets_of(
    plan: TrainingPlan, labels: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Give what the network shall give for a patch, (channels, Z, Y, X), and where that is known."""
    if plan.task == "affinities":
        return affinities(labels, plan.offsets)
    target = foreground(labels)
    if plan.task == "instances":
        assert plan.distance_scale_nm is not None
        target = np.concatenate([target, distances(labels, plan.voxel_size, plan.distance_scale_nm)])
    return target, np.ones(target.shape, bool)


def loss_of(task: ModelTask, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Give the loss of a batch: cross entropy and Dice of foreground or membranes, and the error of distances."""
    if task == "affinities":
        # Apart is what is rare, and what matters.
        return _balanced(logits, targets, known) + _dice(1 - torch.sigmoid(logits), 1 - targets, known)
    inside, wanted = logits[:, :1], targets[:, :1]
    # Not balanced: what is rare is found by its overlap, and its probability stays what it is.
    loss = functional.binary_cross_entropy_with_logits(inside, wanted) + _dice(
        torch.sigmoid(inside), wanted, known[:, :1]
    )
    if task == "instances":
        error = functional.smooth_l1_loss(
            torch.sigmoid(logits[:, 1:]), targets[:, 1:], beta=0.1, reduction="none"
        )
        weight = 0.1 + targets[:, :1]
        loss = loss + 4 * (error * weight).sum() / weight.sum()
    return loss


def _balanced(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    mask = known.to(logits.dtype)
    share = ((targets * mask).sum((0, 2, 3, 4)) / mask.sum((0, 2, 3, 4)).clamp(min=1)).clamp(0.02, 0.98)
    share = share.reshape(1, -1, 1, 1, 1)
    weight = (targets * (0.5 / share) + (1 - targets) * (0.5 / (1 - share))).clamp(max=5) * mask
    error = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (error * weight).sum() / weight.sum().clamp(min=1)


def _dice(found: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    mask = known.to(found.dtype)
    common = (found * wanted * mask).sum((0, 2, 3, 4))
    squares = ((found * found + wanted * wanted) * mask).sum((0, 2, 3, 4))
    return (1 - (2 * common + _EPSILON) / (squares + _EPSILON)).mean()


def _liveliness(labels: NDArray[np.int32]) -> int:
    """Tell in how many voxels of the middle section another object begins: a picture of it shows most."""
    section = labels[labels.shape[0] // 2]
    return int(np.count_nonzero(section[1:] != section[:-1]))


def _example(plan: TrainingPlan, images: Tensor, targets: Tensor, logits: Tensor) -> Example:
    section = images.shape[2] // 2

    def shown(values: Tensor) -> NDArray[np.float32]:
        part = values[0, :, section]
        next_ones = [index for index, (x, y, z) in enumerate(plan.offsets) if z == 0 and abs(x + y) == 1]
        picked: NDArray[np.float32] = (part[next_ones].amin(0) if next_ones else part[0]).cpu().numpy()
        return picked

    return Example(images[0, 0, section].cpu().numpy(), shown(targets), shown(torch.sigmoid(logits)))


def _count(task: ModelTask, logits: Tensor, targets: Tensor, known: Tensor) -> NDArray[np.int64]:
    """Count voxels by their probability: those that are not foreground, or a membrane, and those that are."""
    if task == "affinities":
        found, wanted = torch.sigmoid(-logits)[known], targets[known] < 0.5
    else:
        found, wanted = torch.sigmoid(logits[:, 0]).flatten(), targets[:, 0].flatten() > 0.5
    bins = (found * _BINS).long().clamp(max=_BINS - 1)
    counts = torch.bincount(bins + _BINS * wanted.long(), minlength=2 * _BINS)
    result: NDArray[np.int64] = counts.reshape(2, _BINS).cpu().numpy()
    return result


def _best(task: ModelTask, counts: NDArray[np.float64]) -> tuple[float, float]:
    """Give the best intersection over union (F1 of membranes), and the threshold at which it is reached."""
    too_much, right = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    missed = right[0] - right
    weight = 2 if task == "affinities" else 1
    scores = weight * right / np.maximum(1, weight * right + too_much + missed)
    best = int(scores.argmax())
    return float(scores[best]), best / _BINS


def _schedule(step: int, steps: int) -> float:
    """Rise for the first steps, then sink to nothing (cosine)."""
    warm = min(200, max(1, steps // 10))
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))


def _cut(
    box: LabelledBox, size: Zyx, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Cut a part out at a random place; a box that is smaller is mirrored at its borders."""
    starts = [
        int(random.integers(0, max(0, length - side) + 1))
        for length, side in zip(box.labels.shape, size, strict=True)
    ]
    piece = _piece(box, (starts[0], starts[1], starts[2]), size)
    return piece.image, piece.labels


def _piece(box: LabelledBox, start: Zyx, size: Zyx) -> LabelledBox:
    where = tuple(slice(first, first + side) for first, side in zip(start, size, strict=True))
    image, labels = box.image[(slice(None), *where)], box.labels[where]
    missing = [side - length for side, length in zip(size, labels.shape, strict=True)]
    if any(missing):
        padding = [(less // 2, less - less // 2) for less in missing]
        image = np.pad(image, [(0, 0), *padding], mode="symmetric")
        labels = np.pad(labels, padding, mode="symmetric")
    return LabelledBox(image, labels, box.name)


def _reuse(network: nn.Module, start: dict[str, Tensor]) -> int:
    """Take over what fits of other weights; give how many parameters that were."""
    own = network.state_dict()
    fitting = {name: value for name, value in start.items() if name in own and own[name].shape == value.shape}
    network.load_state_dict({**own, **fitting})
    # What batch norms have seen is taken over, too, but it is no parameter.
    return sum(value.numel() for name, value in network.named_parameters() if name in fitting)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors as files hold them, in whatever order they lie in memory."""
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
