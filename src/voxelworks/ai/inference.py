"""Run a network over a layer, patch by patch.

Patches lie on one grid over the box, whatever the blocks of the job are, and each is given to the network by itself:
so predictions are the same bytes for all ways to cut the work. What a voxel near the border of a patch gets is not
used; the patches overlap by that much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from voxelworks.ai.devices import INSTALL, take_gpu
from voxelworks.ai.resampling import apply_matrices, cached_matrix, covered, interpolated
from voxelworks.errors import InvalidInput, InvalidModel, ResourcesExceeded
from voxelworks.geometry import Box, Mag, Vec3, VoxelSize, Zyx, same_length
from voxelworks.ops.probabilities import to_bytes
from voxelworks.protocol.models import ModelFacts, NormalizationMethod
from voxelworks.volumes.arrays import MagArray, create_zarr2_array
from voxelworks.volumes.dataset import Layer

Probabilities = NDArray[np.uint8]
"""0 to 255 for 0 to 1."""
_SAMPLE_EDGE = 64
_SAMPLES_MAX = 64
"""Cubes that the intensities are measured in, evenly over the box."""
READ_VOXELS_MAX = 2**24
"""Of each channel of the array, that are read at once."""
_ALIGNED_NM = 1e-6
_MEMORY_WORDS = (
    "Failed to allocate memory",
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What ONNX Runtime says where a GPU is full."""


@dataclass(frozen=True)
class Intensities:
    """How intensities are changed before the network sees them: the same for all voxels of a job."""

    mean: float
    deviation: float
    is_inverted: bool = False

    def apply(self, voxels: NDArray[Any]) -> NDArray[np.float32]:
        factor = np.float32((-1 if self.is_inverted else 1) / self.deviation)
        return (voxels.astype(np.float32) - np.float32(self.mean)) * factor


def measure_intensities(
    source: MagArray, box: Box, method: NormalizationMethod = "standardize", *, inverted: bool = False
) -> Intensities:
    """Measure mean and standard deviation in cubes that lie evenly over a box, given in voxels of the source.

    Voxels of 0 do not count: that is what is around an image that was turned or stitched.

    Raises
    ------
    InvalidInput
        If voxels are not finite numbers.
    """
    if method == "none":
        return Intensities(0.0, 1.0, inverted)
    count, total, squares = 0, 0.0, 0.0
    for cube in _samples(box):
        voxels = source.read(cube)
        require_finite(voxels, cube, source)
        seen = voxels[voxels != 0].astype(np.float64)
        count += seen.size
        total += float(seen.sum())
        squares += float(np.square(seen).sum())
    mean = total / count if count else 0.0
    deviation = math.sqrt(max(0.0, squares / count - mean**2)) if count else 0.0
    return Intensities(mean, deviation or 1.0, inverted)


def require_finite(voxels: NDArray[Any], box: Box, source: MagArray) -> None:
    """Refuse images with NaN or infinity in them; `InvalidInput` says where."""
    if voxels.dtype.kind != "f" or np.isfinite(voxels).all():
        return
    z, y, x = (int(place[0]) for place in np.nonzero(~np.isfinite(voxels))[1:])
    place = box.moved((x, y, z)).topleft
    raise InvalidInput(
        f"the layer holds {voxels[:, z, y, x][0]} at {','.join(map(str, place))} in mag {source.mag}, and networks "
        "work on finite numbers alone; choose a box without such values"
    )


@dataclass(frozen=True)
class Grid:
    """The patches over a box: where they lie in the voxels of the network, which begin at the corner of the box."""

    size_zyx: Zyx
    """Of the box, in voxels of the network."""
    patch_zyx: Zyx
    border_zyx: Zyx

    @classmethod
    def plan(cls, size_zyx: Zyx, facts: ModelFacts, patch: Vec3 | None = None) -> Grid:
        """Use smaller patches where fewer voxels are predicted twice with them: all reach about as far into the box."""
        sides = []
        border = _reversed(facts.border)
        for size, side, edge, step in zip(
            size_zyx, _reversed(patch or facts.patch), border, _reversed(facts.step), strict=True
        ):
            count = -(-size // (side - 2 * edge))
            needed = -(-(-(-size // count) + 2 * edge) // step) * step
            sides.append(min(side, needed))
        return cls(size_zyx, (sides[0], sides[1], sides[2]), border)

    @property
    def core_zyx(self) -> Zyx:
        """What each patch gives."""
        z, y, x = (side - 2 * edge for side, edge in zip(self.patch_zyx, self.border_zyx, strict=True))
        return z, y, x

    @property
    def cores(self) -> list[Box]:
        """What the patches give, in voxels of the network."""
        z, y, x = self.core_zyx
        return list(Box.from_zyx((0, 0, 0), self.size_zyx).tiles((x, y, z)))


@dataclass(frozen=True)
class Source:
    """A layer as the network sees it."""

    array: MagArray
    layer_box: Box
    """In voxels of the array: beyond it the image is mirrored."""
    origin: Vec3
    """Where the voxels of the network begin, in voxels of the array."""
    scale_zyx: tuple[float, float, float]
    """Length of a voxel of the network, in voxels of the array; 1 where they are the same."""
    intensities: Intensities

    def read(self, start_zyx: Zyx, shape_zyx: Zyx) -> NDArray[np.float32]:
        """Read a part (c, z, y, x), given in voxels of the network; it may reach beyond the layer.

        Where much finer voxels are read than the network sees, that is done in pieces.
        """
        spans = self._spans(start_zyx, shape_zyx)
        lengths = [last - first for first, last in spans]
        if math.prod(lengths) <= READ_VOXELS_MAX or max(shape_zyx) == 1:
            return self._read(start_zyx, shape_zyx, spans)
        found = np.empty((self.array.channel_count, *shape_zyx), np.float32)
        axis = lengths.index(max(length for length, side in zip(lengths, shape_zyx, strict=True) if side > 1))
        middle = shape_zyx[axis] // 2
        for first, last in ((0, middle), (middle, shape_zyx[axis])):
            start, shape, part = list(start_zyx), list(shape_zyx), [slice(None)] * 4
            start[axis] += first
            shape[axis], part[axis + 1] = last - first, slice(first, last)
            found[tuple(part)] = self.read((start[0], start[1], start[2]), (shape[0], shape[1], shape[2]))
        return found

    def read_bytes(self, shape_zyx: Zyx) -> int:
        """Give the memory that reading a part takes beside its result."""
        voxels = math.prod(last - first for first, last in self._spans((0, 0, 0), shape_zyx))
        # As stored, as numbers, and before and after resampling along an axis.
        per_voxel = self.array.dtype.itemsize + 3 * 4
        return min(voxels, READ_VOXELS_MAX) * self.array.channel_count * per_voxel

    def _spans(self, start_zyx: Zyx, shape_zyx: Zyx) -> list[tuple[int, int]]:
        """Give which voxels of the array are needed along each axis, from `origin` on."""
        return [
            (first, first + count) if scale == 1 else covered(first * scale, scale, count)
            for first, scale, count in zip(start_zyx, self.scale_zyx, shape_zyx, strict=True)
        ]

    def _read(self, start_zyx: Zyx, shape_zyx: Zyx, spans: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        origin_zyx = _reversed(self.origin)
        starts = [first * scale for first, scale in zip(start_zyx, self.scale_zyx, strict=True)]
        low = [origin + span[0] for origin, span in zip(origin_zyx, spans, strict=True)]
        shape = [span[1] - span[0] for span in spans]
        voxels = self.intensities.apply(
            self._mirrored((low[0], low[1], low[2]), (shape[0], shape[1], shape[2]))
        )
        matrices = [
            None if scale == 1 else cached_matrix(begin, scale, count, span[0], span[1] - span[0])
            for begin, scale, count, span in zip(starts, self.scale_zyx, shape_zyx, spans, strict=True)
        ]
        return apply_matrices(voxels, matrices)

    def _mirrored(self, start_zyx: Zyx, shape_zyx: Zyx) -> NDArray[Any]:
        wanted = Box.from_zyx(start_zyx, shape_zyx)
        inside = wanted.intersect(self.layer_box)
        voxels = self.array.read(inside)
        require_finite(voxels, inside, self.array)
        padding = [
            (max(0, low - first), max(0, last - high))
            for first, last, low, high in zip(
                wanted.start_zyx, wanted.stop_zyx, inside.start_zyx, inside.stop_zyx, strict=True
            )
        ]
        return np.pad(voxels, [(0, 0), *padding], mode="symmetric") if any(map(any, padding)) else voxels


def open_source(
    layer: Layer,
    box: Box,
    voxel_size: VoxelSize,
    method: NormalizationMethod = "standardize",
    *,
    inverted: bool = False,
) -> tuple[Source, Zyx]:
    """Choose the mag to read for the voxel size of a network, and measure the intensities of the layer.

    Parameters
    ----------
    layer
    box
        What is to be looked at, in mag 1.
    voxel_size
        Of the network.
    method
        How intensities are changed.
    inverted
        Whether they are turned around.

    Returns
    -------
    Source
    size_zyx
        Of the box in voxels of the network; see `VoxelSize.shown_as` for how long they are here.
    """
    array = layer.mag(layer.voxel_size.mag_for(voxel_size, layer.mags))
    size = layer.voxel_size.in_mag(array.mag)
    scale = [
        1.0 if same_length(wanted, own) else wanted / own
        for wanted, own in zip(size.shown_as(voxel_size).zyx, size.zyx, strict=True)
    ]
    inside = box.in_mag(array.mag)
    shape = [math.ceil(extent / step - 1e-6) for extent, step in zip(inside.shape_zyx, scale, strict=True)]
    whole = layer.box.in_mag(array.mag)
    intensities = measure_intensities(array, whole, method, inverted=inverted)
    source = Source(array, whole, inside.topleft, (scale[0], scale[1], scale[2]), intensities)
    return source, (shape[0], shape[1], shape[2])


@dataclass(frozen=True)
class PredictPatches:
    """Predict some patches: read, run and write beside each other. Runs in the processes of the executor."""

    source: Source
    grid: Grid
    weights: str
    channels: tuple[int, ...]
    """Of what the network gives, those that are kept, in this order."""
    output: MagArray
    step_zyx: Zyx = (1, 1, 1)
    """What each side of a patch is a multiple of."""
    gpus: tuple[int, ...] = ()
    """Of which this process takes one; the CPU, if there are none."""
    locks: Path | None = None
    """Folder in which processes say which GPU they have."""
    threads: int = 1

    def __call__(self, cores: Sequence[Box]) -> int:
        """Write what the patches give; give how often a patch, or a part of it, did not fit into the GPU."""
        session = open_session(self.weights, self._device(), self.threads)
        shortages = session.shortages
        with ThreadPoolExecutor(2) as pool:
            ahead: list[Future[NDArray[np.float32]]] = []
            writing: list[Future[None]] = []
            left = iter(cores)
            for core in self._with_reads(left, ahead, pool):
                image = ahead.pop(0).result()
                found = predict_patch(session, image, self.grid.border_zyx, self.step_zyx)
                writing.append(pool.submit(self.output.write, core, self._cropped(found, core)))
                while len(writing) > 2:
                    writing.pop(0).result()
            for write in writing:
                write.result()
        return session.shortages - shortages

    def _device(self) -> str:
        if not self.gpus:
            return "cpu"
        assert self.locks is not None
        return f"cuda:{take_gpu(self.locks, self.gpus)}"

    def _with_reads(
        self, cores: Iterator[Box], ahead: list[Future[NDArray[np.float32]]], pool: ThreadPoolExecutor
    ) -> Iterator[Box]:
        """Yield each core when the read of the next one was begun."""
        waiting: list[Box] = []
        for core in cores:
            ahead.append(pool.submit(self._read, core))
            waiting.append(core)
            if len(waiting) == 2:
                yield waiting.pop(0)
        yield from waiting

    def _read(self, core: Box) -> NDArray[np.float32]:
        start = [first - edge for first, edge in zip(core.start_zyx, self.grid.border_zyx, strict=True)]
        return self.source.read((start[0], start[1], start[2]), self.grid.patch_zyx)

    def _cropped(self, found: NDArray[np.float32], core: Box) -> Probabilities:
        part = tuple(
            slice(edge, edge + count)
            for edge, count in zip(self.grid.border_zyx, core.shape_zyx, strict=True)
        )
        probabilities = np.empty((len(self.channels), *core.shape_zyx), np.uint8)
        kept = zip(self.channels, probabilities, strict=True)
        if not all(to_bytes(found[channel][part], bytes_) for channel, bytes_ in kept):
            raise InvalidModel(
                "the model gives values that are not numbers; it cannot be used with this layer"
            )
        return probabilities


def predict_patch(
    session: Session, image: NDArray[np.float32], border_zyx: Zyx, step_zyx: Zyx
) -> NDArray[np.float32]:
    """Predict a patch, in halves if the GPU has not enough memory for it; they overlap as patches do.

    Parameters
    ----------
    session
    image : (c, z, y, x) float32
    border_zyx
        How much at each side of a patch is not used.
    step_zyx
        What each side of a patch is a multiple of.

    Returns
    -------
    (channels, z, y, x) float32

    Raises
    ------
    ResourcesExceeded
        If not even the smallest part fits.
    """
    try:
        return session.run(image)
    except OutOfGpuMemory:
        cut = _halves(image.shape[1:], border_zyx, step_zyx)
        if cut is None:
            raise
    axis, length, seam = cut
    parts = [slice(None)] * 4
    found = []
    for chosen in (slice(0, length), slice(image.shape[axis + 1] - length, None)):
        parts[axis + 1] = chosen
        part = np.ascontiguousarray(image[tuple(parts)])
        found.append(predict_patch(session, part, border_zyx, step_zyx))
    first, second = found
    parts[axis + 1] = slice(0, seam)
    kept = first[tuple(parts)]
    parts[axis + 1] = slice(seam - (image.shape[axis + 1] - length), None)
    return np.concatenate([kept, second[tuple(parts)]], axis=axis + 1)


def _halves(shape_zyx: Sequence[int], border_zyx: Zyx, step_zyx: Zyx) -> tuple[int, int, int] | None:
    """Choose the axis along which a patch is cut, the length of each half, and where they meet; None: no way."""
    found: tuple[int, int, int] | None = None
    for axis, (side, border, step) in enumerate(zip(shape_zyx, border_zyx, step_zyx, strict=True)):
        core = side - 2 * border
        half = -(-core // 2)
        length = -(-(half + 2 * border) // step) * step
        if core < 2 or length >= side:
            continue
        if found is None or length / side < found[1] / shape_zyx[found[0]]:
            found = axis, length, border + half
    return found


def create_output(folder: Path, grid: Grid, channel_count: int) -> MagArray:
    """Make the array for the probabilities: one chunk for each patch."""
    box = Box.from_zyx((0, 0, 0), grid.size_zyx)
    return create_zarr2_array(
        folder, mag=Mag(1, 1, 1), box=box, dtype=np.uint8, channel_count=channel_count, category="color",
        chunk_zyx=grid.core_zyx,
    )  # fmt: skip


@dataclass(frozen=True)
class Predictions:
    """Probabilities on the voxels of a mag of the layer. Picklable, read when asked."""

    array: MagArray
    """On the voxels of the network."""
    mag: Mag
    box: Box
    """What is predicted, in voxels of `mag`."""
    first_zyx: tuple[float, float, float]
    """Where the middle of the first voxel of `box` lies, in voxels of the network from the middle of the first one."""
    step_zyx: tuple[float, float, float]
    """Length of a voxel of `mag` in voxels of the network."""
    channel_index: int = 0
    """First channel of `array` that is given."""
    channel_count: int = 1

    @classmethod
    def on(cls, array: MagArray, source: Source, layer: Layer, box: Box, mag: Mag) -> Predictions:
        """Put probabilities on a mag of the layer; the box is of mag 1."""
        part = box.in_mag(mag)
        own = layer.voxel_size.in_mag(mag).zyx
        read = layer.voxel_size.in_mag(source.array.mag).zyx
        first, step = [], []
        for axis in range(3):
            network = read[axis] * source.scale_zyx[axis]
            origin = _reversed(source.origin)[axis] * read[axis]
            length = 1.0 if same_length(own[axis], network) else own[axis] / network
            first.append((part.start_zyx[axis] * own[axis] - origin) / network + length / 2 - 0.5)
            step.append(length)
        return cls(
            array, mag, part, (first[0], first[1], first[2]), (step[0], step[1], step[2]),
            channel_count=array.channel_count,
        )  # fmt: skip

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def read(self, box: Box) -> Probabilities:
        """Read a part of `box` as (c, z, y, x)."""
        whole = self.array.box
        spans: list[tuple[int, int]] = []
        places: list[NDArray[np.float64] | None] = []
        offsets = [first - own for first, own in zip(box.start_zyx, self.box.start_zyx, strict=True)]
        for axis in range(3):
            count, limit = box.shape_zyx[axis], whole.shape_zyx[axis]
            first = self.first_zyx[axis] + offsets[axis] * self.step_zyx[axis]
            if (
                self.step_zyx[axis] == 1
                and abs(first - round(first)) < _ALIGNED_NM
                and 0 <= round(first) <= limit - count
            ):
                spans.append((round(first), round(first) + count))
                places.append(None)
                continue
            where = np.clip(first + np.arange(count) * self.step_zyx[axis], 0, limit - 1)
            low, high = int(np.floor(where[0])), min(limit, int(np.floor(where[-1])) + 2)
            spans.append((low, high))
            places.append(where - low)
        part = Box.from_zyx(
            (spans[0][0], spans[1][0], spans[2][0]),
            (spans[0][1] - spans[0][0], spans[1][1] - spans[1][0], spans[2][1] - spans[2][0]),
        )
        array = replace(self.array, channel_index=self.channel_index, channel_count=self.channel_count)
        voxels: Probabilities = array.read(part)
        return voxels if all(place is None for place in places) else interpolated(voxels, places)


class OutOfGpuMemory(ResourcesExceeded):
    """A patch does not fit into the memory of the GPU."""


def require_cuda() -> None:
    """Refuse a GPU if ONNX Runtime was installed without CUDA; `ResourcesExceeded` says what to install."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ResourcesExceeded(
            f"the job shall run on a GPU, and ONNX Runtime is one without CUDA; {INSTALL}"
        )


class Session:
    """A network that is ready to run."""

    def __init__(self, weights: str, device: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads take the core from the other processes of the job.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if device != "cpu":
            require_cuda()
            if hasattr(onnxruntime, "preload_dlls"):  # CUDA's libraries where pip has put them
                onnxruntime.preload_dlls()
            number = int(device.removeprefix("cuda:"))
            # Memory is asked for as it is needed: others may use the GPU, too.
            providers = [
                ("CUDAExecutionProvider", {"device_id": number, "arena_extend_strategy": "kSameAsRequested"})
            ]
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self.device = device
        self.shortages = 0
        """How often the memory of the GPU was not enough."""
        self._session = onnxruntime.InferenceSession(weights, options, providers=providers)
        if device != "cpu" and "CUDAExecutionProvider" not in self._session.get_providers():
            # With a driver or library that does not fit, ONNX Runtime warns and would go on with the CPU.
            raise ResourcesExceeded(
                f"the job shall run on {device}, and ONNX Runtime could not start CUDA there; {INSTALL}"
            )
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give (channels, z, y, x) for an image (c, z, y, x)."""
        try:
            (found,) = self._session.run([self._output], {self._input: image[np.newaxis]})
        except Exception as error:  # ONNX Runtime has no class of its own for it
            if self.device != "cpu" and any(words in str(error) for words in _MEMORY_WORDS):
                self.shortages += 1
                size = ",".join(map(str, image.shape[:0:-1]))
                raise OutOfGpuMemory(
                    f"a patch of {size} voxels does not fit into the memory of {self.device}; end what else runs "
                    "there, or choose device cpu"
                ) from error
            raise
        result: NDArray[np.float32] = found[0]
        return result


@lru_cache(maxsize=2)
def open_session(weights: str, device: str, threads: int) -> Session:
    """Open a network once in a process."""
    return Session(weights, device, threads)


def _samples(box: Box) -> list[Box]:
    counts = [max(1, extent // _SAMPLE_EDGE) for extent in box.size]
    while math.prod(counts) > _SAMPLES_MAX:
        counts[counts.index(max(counts))] -= 1
    found = []
    for index in product(*map(range, counts)):
        start, size = [], []
        for axis in range(3):
            side = min(_SAMPLE_EDGE, box.size[axis])
            step = (box.size[axis] - side) / max(1, counts[axis] - 1)
            offset = round(index[axis] * step) if counts[axis] > 1 else (box.size[axis] - side) // 2
            start.append(box.topleft[axis] + offset)
            size.append(side)
        found.append(Box((start[0], start[1], start[2]), (size[0], size[1], size[2])))
    return found


def _reversed(xyz: Vec3) -> Zyx:
    x, y, z = xyz
    return z, y, x
