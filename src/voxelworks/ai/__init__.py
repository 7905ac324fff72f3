"""Networks: their packages, what they predict, how they are trained."""

import os

# ONNX Runtime tells its makers which networks run where, and keeps a number of this machine in the user's folder,
# unless this is set before it is loaded. Nobody was asked, and jobs are nobody else's business.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# CUDA numbers GPUs as nvidia-smi does, which tells their names: see `devices`.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
