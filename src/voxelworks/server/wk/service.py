"""What clients ask a WEBKNOSSOS first: its versions, and what it has switched on. Open to everybody."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

import voxelworks
from voxelworks import credits
from voxelworks.protocol.messages import Json
from voxelworks.server.context import Here
from voxelworks.server.wk.paths import API_VERSION, API_VERSION_OLDEST

router = APIRouter()

_COST_KEYS = {
    "neuronInferralCostInMilliCreditsPerGVx": "infer_neurons",
    "nucleiInferralCostInMilliCreditsPerGVx": "infer_nuclei",
    "mitochondriaInferralCostInMilliCreditsPerGVx": "infer_mitochondria",
    "instancesInferralCostInMilliCreditsPerGVx": "infer_instances",
    "alignmentCostInMilliCreditsPerGVx": "align_sections",
}


@router.get("/health", response_class=Response)
def check_health() -> Response:
    """Say that the server answers."""
    return Response()


@router.get("/buildinfo")
def show_build_info() -> Json:
    """Say which versions of WEBKNOSSOS' API the face speaks: clients take the highest that they know."""
    return {
        "webknossos": {"name": "voxelworks", "version": voxelworks.__version__},
        "voxelworks": {"name": "voxelworks", "version": voxelworks.__version__},
        "httpApiVersioning": {
            "currentApiVersion": API_VERSION,
            "oldestSupportedApiVersion": API_VERSION_OLDEST,
        },
        "localDataStoreEnabled": False,
        "localTracingStoreEnabled": False,
    }


@router.get("/features")
def show_features(context: Here) -> Json:
    """Say what is switched on, and what jobs cost."""
    prices = credits.price_list(context.settings).millicredits_per_gigavoxel
    is_charging = context.settings.credits_enabled
    return {
        "jobsEnabled": True,
        "voxelyticsEnabled": False,
        "isWkorgInstance": False,
        **{key: prices.get(name, 0) if is_charging else 0 for key, name in _COST_KEYS.items()},
    }
