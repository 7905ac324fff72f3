/* What the page of the viewer runs: Neuroglancer with its usual controls, in the element `neuroglancer-container`. */

import "neuroglancer";
import { setupDefaultViewer } from "neuroglancer/unstable/ui/default_viewer_setup.js";

setupDefaultViewer();
