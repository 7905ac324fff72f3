"""The network alone: ONNX Runtime on patches of noise, as many as a job gives it.

python benchmarks/floors/predict_floor.py WEIGHTS Z,Y,X PATCHES PROCESSES
"""

import multiprocessing
import os
import sys
from functools import partial

import numpy as np


def main() -> None:
    weights, patch, patches, processes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    shape = tuple(map(int, patch.split(",")))
    share = [patches // processes + (number < patches % processes) for number in range(processes)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        print(sum(pool.imap_unordered(partial(predict, weights, shape), share)))


def predict(weights: str, shape: tuple[int, ...], patches: int) -> int:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((1, 1, *shape), np.float32)
    name = session.get_inputs()[0].name
    return sum(session.run(None, {name: image})[0].size for _ in range(patches))


if __name__ == "__main__":
    main()
