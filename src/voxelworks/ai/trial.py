"""One run of a network, before anybody relies on it."""

from __future__ import annotations

import numpy as np

from voxelworks.ai.package import ModelPackage
from voxelworks.errors import InvalidModel, ResourcesExceeded


def try_network(package: ModelPackage, *, threads: int) -> None:
    """Run a network on one patch of noise, and refuse one that does not give what is said of it.

    Parameters
    ----------
    package
    threads
        That it may use.

    Raises
    ------
    InvalidModel
        If it cannot be run, or gives arrays of another shape or values that are no numbers.
    ResourcesExceeded
        If there is not enough memory for one patch.
    """
    import onnxruntime

    facts = package.facts
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what it would say is in the error
    noise = np.random.default_rng(0).standard_normal((1, facts.input_channels, *facts.patch[::-1]), "float32")
    try:
        session = onnxruntime.InferenceSession(package.weights, options, providers=["CPUExecutionProvider"])
        (given,) = session.run(None, {session.get_inputs()[0].name: noise})
    except MemoryError as error:
        raise _too_large(package) from error
    except Exception as error:  # it has a class of its own for each kind of trouble, and no common one
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "allocat" in reason.lower() or "bad_alloc" in reason:
            raise _too_large(package) from error
        raise InvalidModel(
            f"{package.weights.name} cannot be run ({reason[:300]}); export it again"
        ) from error
    wanted = (1, len(facts.outputs), *facts.patch[::-1])
    if given.shape != wanted:
        raise InvalidModel(
            f"{package.weights.name} gives an array of {_text(given.shape)} for a patch, and should give "
            f"{_text(wanted)} (batch, channel, z, y, x); correct patch or outputs"
        )
    if not np.isfinite(given).all():
        raise InvalidModel(f"{package.weights.name} gives values that are no numbers (NaN); train it again")


def _too_large(package: ModelPackage) -> ResourcesExceeded:
    patch = _text(package.facts.patch)
    return ResourcesExceeded(f"a patch of {patch} voxels does not fit into memory; choose a smaller patch")


def _text(extents: tuple[int, ...]) -> str:
    return " x ".join(map(str, extents))
