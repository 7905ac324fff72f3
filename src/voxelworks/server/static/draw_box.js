// Draws the box of an input on slices of its layer. The text of the input is the truth: the drawing follows it, and
// what is drawn is written into it as if it had been typed.
"use strict";

(() => {
  const AXES = { xy: [0, 1, 2], xz: [0, 2, 1], yz: [1, 2, 0] }; // to the right, downwards, across
  const REACH_PX = { mouse: 7, pen: 10, touch: 18 }; // how far from an edge it is taken hold of
  const SLIP_PX = 3; // what moves less is a click
  const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, -1], ArrowDown: [1, 1] };
  const STEPS = 100; // of an arrow key, over the whole slice
  const FLATTEST = 8; // no more than so many times as wide as high is the space of a slice

  let isFolded = !matchMedia("(min-width: 44rem)").matches; // where fingers scroll, pictures would be in the way
  let drag = null;

  // Boxes: the first voxel of each axis, and the one after the last.

  function read(text) {
    if (!/^\s*[-+]?\d+\s*(,\s*[-+]?\d+\s*){5}$/.test(text)) return null;
    const numbers = text.split(",").map(Number);
    const start = numbers.slice(0, 3), end = start.map((first, axis) => first + numbers[axis + 3]);
    const isUsable = [...start, ...end].every(Number.isSafeInteger) && start.every((first, axis) => first < end[axis]);
    return isUsable ? { start, end } : null;
  }

  const write = ({ start, end }) => [...start, ...end.map((last, axis) => last - start[axis])].join(",");
  const clip = (value, low, high) => Math.min(Math.max(value, low), high);
  const spans = (box, whole, axis) => box.start[axis] <= whole.start[axis] && box.end[axis] >= whole.end[axis];
  const copy = (box) => ({ start: [...box.start], end: [...box.end] });

  const inputOf = (canvas) => document.getElementById(canvas.dataset.draws);
  const layerOf = (canvas) => read(canvas.dataset.layer);

  function boxOf(canvas) {
    const text = inputOf(canvas).value;
    return text.trim() === "" ? layerOf(canvas) : read(text);
  }

  // What a new box keeps on the axis that is not drawn on.
  function within(box, layer) {
    const kept = copy(layer);
    for (const axis of [0, 1, 2]) {
      if (!box || box.start[axis] >= layer.end[axis] || box.end[axis] <= layer.start[axis]) continue;
      kept.start[axis] = Math.max(box.start[axis], layer.start[axis]);
      kept.end[axis] = Math.min(box.end[axis], layer.end[axis]);
    }
    return kept;
  }

  // Showing

  // The part of an axis that a slice shows of a box, counted from the slice: far from 0 drawings are not exact.
  function shownOf(box, slice, axis) {
    if (!box) return [0, 0];
    return [box.start[axis], box.end[axis]].map((at) => clip(at, slice.start[axis], slice.end[axis]) - slice.start[axis]);
  }

  function show(canvas, box = boxOf(canvas)) {
    for (const svg of canvas.querySelectorAll("[data-plane]")) {
      const [right, down, across] = AXES[svg.dataset.plane];
      const slice = read(svg.dataset.extent);
      const width = slice.end[right] - slice.start[right], height = slice.end[down] - slice.start[down];
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const paths = svg.querySelectorAll("path");
      const [left, end] = shownOf(box, slice, right), [top, bottom] = shownOf(box, slice, down);
      if (left >= end || top >= bottom) {
        for (const path of paths) path.removeAttribute("d");
        continue;
      }
      const outline = `M${left} ${top}H${end}V${bottom}H${left}Z`;
      const corners = [[left, top], [end, top], [end, bottom], [left, bottom]];
      paths[0].setAttribute("d", `M0 0H${width}V${height}H0Z${outline}`);
      paths[1].setAttribute("d", outline);
      paths[2].setAttribute("d", outline);
      // Lines of no length: their ends keep their size, whatever the drawing's is.
      paths[3].setAttribute("d", corners.map(([x, y]) => `M${x} ${y}h0`).join(""));
      svg.classList.toggle("is-off", box.start[across] > slice.start[across] || box.end[across] <= slice.start[across]);
    }
  }

  function layOut(slice) {
    const proportion = Number(slice.dataset.proportion);
    const space = clip(proportion, 1, FLATTEST);
    slice.parentElement.style.aspectRatio = space;
    slice.style.width = `${Math.min(1, proportion / space) * 100}%`;
    slice.style.height = `${Math.min(1, space / proportion) * 100}%`;
  }

  function showAll() {
    for (const canvas of document.querySelectorAll("[data-draws]")) {
      if (!layerOf(canvas)) continue;
      canvas.hidden = false;
      canvas.open = !isFolded;
      canvas.querySelectorAll("[data-proportion]").forEach(layOut);
      show(canvas);
    }
  }

  function change(canvas, box) {
    const input = inputOf(canvas);
    input.value = write(box);
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  // Dragging

  // Where on a slice a pointer is, in voxels with fractions, never outside.
  function place(svg, event) {
    const frame = svg.getBoundingClientRect(), slice = read(svg.dataset.extent);
    const shares = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    return AXES[svg.dataset.plane].slice(0, 2).map((axis, index) =>
      slice.start[axis] + clip(shares[index], 0, 1) * (slice.end[axis] - slice.start[axis]));
  }

  // What a pointer takes hold of: for each axis to the right and downwards the first edge (-1), the last (1), neither.
  function gripOf(svg, event, box, layer) {
    const axes = AXES[svg.dataset.plane].slice(0, 2);
    if (!box || axes.every((axis) => spans(box, layer, axis))) return null;
    const frame = svg.getBoundingClientRect(), slice = read(svg.dataset.extent), at = place(svg, event);
    const edges = [];
    for (const [index, axis] of axes.entries()) {
      const voxel_px = (index ? frame.height : frame.width) / (slice.end[axis] - slice.start[axis]);
      const before = (at[index] - box.start[axis]) * voxel_px, after = (box.end[axis] - at[index]) * voxel_px;
      // The middle of a small box can be taken hold of, too.
      const reach = Math.min(REACH_PX[event.pointerType] ?? REACH_PX.mouse, Math.max(3, (before + after) / 4));
      if (before < -reach || after < -reach) return null;
      edges.push(before <= reach && before <= after ? -1 : after <= reach ? 1 : 0);
    }
    return edges;
  }

  function cursorOf(grip) {
    if (!grip) return "crosshair";
    const [right, down] = grip;
    if (!right && !down) return "move";
    return right && down ? (right === down ? "nwse-resize" : "nesw-resize") : right ? "ew-resize" : "ns-resize";
  }

  function dragged({ svg, layer, from, box, grip }, event) {
    const axes = AXES[svg.dataset.plane].slice(0, 2), at = place(svg, event);
    const made = grip ? copy(box) : within(box, layer);
    for (const [index, axis] of axes.entries()) {
      const low = layer.start[axis], high = layer.end[axis];
      if (!grip) {
        const first = clip(Math.floor(Math.min(from[index], at[index])), low, high - 1);
        made.start[axis] = first;
        made.end[axis] = clip(Math.ceil(Math.max(from[index], at[index])), first + 1, high);
      } else if (!grip[0] && !grip[1]) {
        moveBy(made, layer, axis, Math.round(at[index] - from[index]));
      } else if (grip[index] < 0) {
        made.start[axis] = clip(Math.round(box.start[axis] + at[index] - from[index]), low, Math.min(box.end[axis], high) - 1);
      } else if (grip[index] > 0) {
        made.end[axis] = clip(Math.round(box.end[axis] + at[index] - from[index]), Math.max(box.start[axis], low) + 1, high);
      }
    }
    return within(made, layer);
  }

  function moveBy(box, layer, axis, voxels) {
    const by = clip(voxels, Math.min(0, layer.start[axis] - box.start[axis]), Math.max(0, layer.end[axis] - box.end[axis]));
    box.start[axis] += by;
    box.end[axis] += by;
  }

  document.addEventListener("pointerdown", (event) => {
    const svg = event.target.closest("[data-plane]");
    if (!svg || event.button !== 0 || !event.isPrimary) return;
    event.preventDefault(); // It selects no text; the focus is set here.
    svg.focus({ preventScroll: true });
    const canvas = svg.closest("[data-draws]"), box = boxOf(canvas), layer = layerOf(canvas);
    drag = {
      svg, canvas, box, layer, from: place(svg, event), grip: gripOf(svg, event, box, layer), made: null,
      pointer: event.pointerId, x: event.clientX, y: event.clientY, text: inputOf(canvas).value,
    };
    svg.setPointerCapture(event.pointerId);
  });

  document.addEventListener("pointermove", (event) => {
    const svg = event.target.closest?.("[data-plane]");
    if (!drag && svg) {
      const canvas = svg.closest("[data-draws]");
      svg.style.cursor = cursorOf(gripOf(svg, event, boxOf(canvas), layerOf(canvas)));
    }
    if (!drag || event.pointerId !== drag.pointer) return;
    if (!drag.made && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) <= SLIP_PX) return;
    drag.made = dragged(drag, event);
    inputOf(drag.canvas).value = write(drag.made);
    show(drag.canvas, drag.made);
  });

  document.addEventListener("pointerup", (event) => {
    if (!drag || event.pointerId !== drag.pointer) return;
    const { canvas, made } = drag;
    drag = null;
    if (made && canvas.isConnected) change(canvas, made);
  });

  function giveUp() {
    const { canvas, text } = drag;
    drag = null;
    if (!canvas.isConnected) return;
    inputOf(canvas).value = text;
    show(canvas);
  }

  document.addEventListener("pointercancel", (event) => {
    if (drag && event.pointerId === drag.pointer) giveUp();
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && drag) giveUp();
    const svg = event.target.closest?.("[data-plane]"), arrow = ARROWS[event.key];
    if (!svg || !arrow || drag || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault(); // The page stays where it is.
    const canvas = svg.closest("[data-draws]"), layer = layerOf(canvas), slice = read(svg.dataset.extent);
    const axis = AXES[svg.dataset.plane][arrow[0]];
    const by = arrow[1] * Math.max(1, Math.round((slice.end[axis] - slice.start[axis]) / STEPS));
    const box = within(boxOf(canvas), layer);
    if (event.shiftKey) box.end[axis] = clip(box.end[axis] + by, box.start[axis] + 1, layer.end[axis]);
    else moveBy(box, layer, axis, by);
    change(canvas, box);
    canvas.querySelector("[role=status]").textContent = `${"xyz"[axis]} from ${box.start[axis]} to ${box.end[axis]}`;
  });

  // Following the text

  for (const kind of ["input", "change"]) {
    document.addEventListener(kind, (event) => {
      const canvas = event.target.id && document.querySelector(`[data-draws="${CSS.escape(event.target.id)}"]`);
      if (canvas) show(canvas);
    }, true);
  }

  document.addEventListener("toggle", (event) => {
    if (event.target.matches?.("[data-draws]")) isFolded = !event.target.open;
  }, true);
  document.addEventListener("DOMContentLoaded", showAll);
  document.addEventListener("htmx:afterSwap", showAll);
})();
