/* What the page of the viewer runs: Neuroglancer with its usual controls, in the element `neuroglancer-container`. */

import "neuroglancer";
import { setupDefaultViewer } from "neuroglancer/unstable/ui/default_viewer_setup.js";

const viewer = setupDefaultViewer();

/* Values of an image whose range nobody has stated: Neuroglancer finds it, once there is something on the screen. */

const { contrast } = document.getElementById("viewer-bar")?.dataset ?? {};
const control = () => viewer.layerManager.getLayerByName(contrast)?.layer?.shaderControlState?.value.get("normalized")?.trackable;

function findRange(tries, whole) {
  const found = control();
  const range = found && String(found.value.range);
  if (whole !== undefined && range !== whole) return;
  if (found && viewer.isReady()) found.value = { ...found.value, autoCompute: true };
  if (tries > 0) setTimeout(findRange, 700, tries - 1, whole ?? range);
}

if (contrast) setTimeout(findRange, 1000, 20);
