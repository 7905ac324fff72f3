// The page on which files are uploaded: they are chosen, looked at, sent piece by piece, and given to a conversion or,
// as they are, to the dialog of another workflow.
"use strict";

(() => {
  const BASE = document.documentElement.dataset.base; // Path of a proxy below which the server is found; mostly empty.
  const SUFFIXES = { tif: "TIFF", tiff: "TIFF", png: "PNG", jpg: "JPEG", jpeg: "JPEG", jpe: "JPEG", webp: "WebP" };
  // Files that stand for a volume, alone or with others beside them. Of other formats nothing is known here.
  const VOLUMES = new Set("czi lif lof klb lsm stk mrc rec map st ali preali mrcs ccp4 nii gz nrrd nhdr hdr dm3 dm4 h5 hdf5 hdf ims npy npz emd hspy nxs mat".split(" "));
  // Files that make a volume of their folder.
  const MARKERS = { ".zarray": "Zarr", ".zgroup": "Zarr", "zarr.json": "Zarr", "attributes.json": "N5", info: "Neuroglancer precomputed", "datasource-properties.json": "WEBKNOSSOS", "header.wkw": "WKW", "knossos.conf": "KNOSSOS" };
  const KEPT_HIDDEN = new Set([".zarray", ".zattrs", ".zgroup", ".zmetadata"]);
  const LAYERS_MAX = 10;
  const LOOKED_AT_MAX = 4000; // Of more files only as many are looked into, evenly spread.
  const LOOKS_AT_ONCE = 8;
  const REQUESTS_AT_ONCE = 3;
  const PAUSES_MS = [500, 1000, 2000, 4000, 8000, 15000];
  const LOGIN_PAUSE_MS = 3000;
  const RATE_OVER_MS = 10000;
  const ROUNDS_MAX = 3;

  const element = (id) => document.getElementById(id);
  const form = element("upload");
  const limits = JSON.parse(form.dataset.limits);
  const then = form.dataset.then; // Address of the dialog that takes what was sent; nothing: it is converted.

  let chosen = null; // What was recognised: layers with their files, or a zip.
  let look = 0; // Counts choices: the look at an earlier one is given up.
  let looking = null; // Ends with the look at the last one.
  let isBeginning = false;
  let upload = null; // What is under way.
  const filled = { name: "", voxel: "" }; // What this page wrote into the fields.

  class Refused extends Error {
    constructor(message, field = "") {
      super(message);
      this.field = field;
    }
  }

  // Choosing files

  for (const [button, input] of [["choose-folder", "folder-input"], ["choose-files", "files-input"]]) {
    element(button).addEventListener("click", () => element(input).click());
    element(input).addEventListener("change", (event) => {
      const files = [...event.target.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
      event.target.value = ""; // the same folder may be chosen again
      if (files.length) looking = recognise(files);
    });
  }

  const drop = element("drop");
  let dragDepth = 0;
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    // All over the page: a file that misses the field must not take the browser away from here.
    document.addEventListener(name, (event) => {
      if (![...(event.dataTransfer ? event.dataTransfer.types : [])].includes("Files")) return;
      event.preventDefault();
      dragDepth = name === "drop" ? 0 : dragDepth + { dragenter: 1, dragleave: -1, dragover: 0 }[name];
      drop.classList.toggle("is-over", dragDepth > 0 && !upload);
      if (name === "drop" && !upload) takeDropped(event.dataTransfer);
    });
  }

  async function takeDropped(transfer) {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
    say("looked", "Listing the files…");
    const files = [];
    try {
      for (const entry of entries) await walk(entry, "", files);
    } catch {
      say("looked", "The folder could not be read; choose it with the button instead.");
      return;
    }
    if (files.length) looking = recognise(files);
    else say("looked", "There are no files in it.");
  }

  async function walk(entry, folder, files) {
    const path = folder ? `${folder}/${entry.name}` : entry.name;
    if (entry.isFile) {
      files.push({ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      // A browser gives a hundred entries at a time.
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const one of some) await walk(one, path, files);
    }
  }

  // Looking at them

  async function recognise(files) {
    look += 1;
    const mine = look;
    chosen = null;
    hideError();
    for (const id of ["found", "problems", "notes", "fill-missing-field"]) element(id).hidden = true;
    element("layers").replaceChildren();
    say("looked", "Looking at the files…");
    let found;
    try {
      found = await inspect(files, (count, all) => {
        if (mine !== look) throw new Refused("another choice");
        say("looked", `Looking at the files: ${number(count)} of ${number(all)}…`);
      });
    } catch (error) {
      if (mine === look) say("looked", `The files could not be read (${error.message}); choose them again.`);
      return;
    }
    if (mine !== look) return;
    chosen = found;
    say("looked", "");
    showFound();
  }

  async function inspect(files, onLooked) {
    const visible = files.filter(isVisible);
    const zips = visible.filter(({ path }) => suffixOf(path) === "zip");
    const images = visible.filter(({ path }) => SUFFIXES[suffixOf(path)]);
    const found = { name: suggestedName(visible), ignored: visible.length - images.length, problems: [], gaps: [], notes: [], layers: [], files: [], voxelNm: null };
    if (then) return withoutLook(visible, zips, found);
    if (zips.length) return inspectZip(visible, zips[0].file, found);
    if (!images.length) return inspectOthers(withoutCommonFolder(visible), found);
    if (images.length > limits.files_max) found.problems.push(`These are ${number(images.length)} files; at most ${number(limits.files_max)} are taken in one upload.`);
    found.layers = layersOf(withoutCommonFolder(images), found);
    let looked = 0;
    const all = Math.min(images.length, LOOKED_AT_MAX);
    for (const layer of found.layers) {
      found.files.push(...layer.files);
      await inspectLayer(layer, found, Math.ceil((all * layer.files.length) / images.length), () => onLooked(looked += 1, all));
    }
    return found;
  }

  // The job that takes them looks into them.
  function withoutLook(visible, zips, found) {
    Object.assign(found, { ignored: 0, isZip: zips.length > 0, files: zips.length ? visible : withoutCommonFolder(visible) });
    if (zips.length && visible.length > 1) found.problems.push("A zip must come alone: choose one zip, or files.");
    if (!visible.length) found.problems.push("There are no files in it; choose others.");
    if (visible.length > limits.files_max) found.problems.push(`These are ${number(visible.length)} files; at most ${number(limits.files_max)} are taken in one upload.`);
    return found;
  }

  // Formats that are not looked into here: folders by the names in them, files by what they surely are not.
  async function inspectOthers(files, found) {
    found.ignored = 0;
    const roots = rootsOf(files);
    const checked = [];
    for (const file of files) {
      if (rootOf(file, roots) !== undefined || checked.length >= LOOKED_AT_MAX) {
        checked.push(file);
        continue;
      }
      try {
        if (await imageHeaders.kind(file.file, file.path, { hasBioio: limits.has_bioio }) !== "text" || VOLUMES.has(suffixOf(file.path))) checked.push(file);
        else found.ignored += 1;
      } catch (error) {
        if (!(error instanceof imageHeaders.Unreadable)) throw error;
        found.problems.push(sentence(error.message));
      }
    }
    if (found.problems.length) return found;
    if (!checked.length) {
      found.problems.push(files.length ? `${files[0].path} is a text, and there is nothing else that could be images; choose images.` : "There are no images in it; choose the folder that holds them.");
      return found;
    }
    if (checked.length > limits.files_max) found.problems.push(`These are ${number(checked.length)} files; at most ${number(limits.files_max)} are taken in one upload.`);
    found.files = checked;
    found.layers = unseenLayers(checked, roots);
    if (found.layers.length > LAYERS_MAX) {
      found.problems.push(`These are ${number(found.layers.length)} volumes, and each becomes a layer; choose at most ${LAYERS_MAX}.`);
      found.layers = [];
    }
    found.notes.push("These are looked into when they have arrived. Leave the voxel size empty if they state it.");
    return found;
  }

  // The folders that are volumes, with the name of their format.
  function rootsOf(files) {
    const roots = new Map();
    for (const { path } of [...files].sort((a, b) => a.path.split("/").length - b.path.split("/").length)) {
      const cut = path.lastIndexOf("/");
      const [folder, name] = [path.slice(0, Math.max(0, cut)), path.slice(cut + 1)];
      const isInside = [...roots.keys()].some((root) => !root || folder === root || folder.startsWith(`${root}/`));
      if (MARKERS[name] && !isInside) roots.set(folder, MARKERS[name]);
    }
    return roots;
  }

  function rootOf({ path }, roots) {
    return [...roots.keys()].find((root) => !root || path.startsWith(`${root}/`));
  }

  function unseenLayers(files, roots) {
    const layers = [...roots].map(([folder, format]) => ({ folder, files: files.filter((file) => rootOf(file, roots) === folder), unseen: format }));
    const loose = files.filter((file) => rootOf(file, roots) === undefined);
    for (const folder of new Set(loose.map(folderOf))) {
      const members = loose.filter((file) => folderOf(file) === folder);
      const heads = members.filter(({ path }) => VOLUMES.has(suffixOf(path)));
      if (heads.length < 2) layers.push({ folder, files: members, unseen: (heads[0] || members[0]).path });
      else for (const head of heads) layers.push({ folder: head.path, files: [head], unseen: head.path });
    }
    return layers;
  }

  function folderOf({ path }) {
    return path.slice(0, Math.max(0, path.lastIndexOf("/")));
  }

  // Each folder becomes a layer.
  function layersOf(images, found) {
    const folders = new Map();
    for (const image of images) {
      const cut = image.path.lastIndexOf("/");
      const folder = image.path.slice(0, Math.max(0, cut));
      if (!folders.has(folder)) folders.set(folder, { folder, files: [] });
      folders.get(folder).files.push({ ...image, name: image.path.slice(cut + 1) });
    }
    for (const { files } of folders.values()) files.sort((a, b) => imageHeaders.naturalCompare(a.name, b.name));
    if (folders.size <= LAYERS_MAX) return [...folders.values()];
    found.problems.push(`The images lie in ${number(folders.size)} folders, and each becomes a layer; choose a folder with at most ${LAYERS_MAX}.`);
    return [];
  }

  // Of a zip only the names of its files are read: the conversion looks into them.
  async function inspectZip(visible, file, found) {
    Object.assign(found, { isZip: true, ignored: 0, files: [{ file, path: file.name }] });
    if (visible.length > 1) {
      found.problems.push("A zip must come alone: choose one zip, or images.");
      return found;
    }
    try {
      const paths = (await imageHeaders.zipPaths(file, file.name)).map((path) => ({ path })).filter(isVisible);
      const images = withoutCommonFolder(paths).filter(({ path }) => SUFFIXES[suffixOf(path)]);
      if (!images.length) {
        const others = withoutCommonFolder(paths);
        found.layers = unseenLayers(others, rootsOf(others)).slice(0, LAYERS_MAX);
        found.notes.push("These are looked into when they have arrived. Leave the voxel size empty if they state it.");
        return found;
      }
      found.layers = layersOf(images, found);
      for (const layer of found.layers) checkNames(layer, found);
    } catch (error) {
      if (!(error instanceof imageHeaders.Unreadable) && !(error instanceof RangeError)) throw error;
      found.problems.push(error instanceof RangeError ? `${file.name} is damaged; pack it again.` : sentence(error.message));
    }
    return found;
  }

  function isVisible({ path }) {
    return !path.split("/").some((part) => (part.startsWith(".") && !KEPT_HIDDEN.has(part)) || part === "__MACOSX");
  }

  // What the names of the files of a layer tell; false if it makes no sense to look into them.
  function checkNames(layer, found) {
    const names = layer.files.map((file) => file.name);
    const firstOf = new Map(names.slice().reverse().map((name) => [SUFFIXES[suffixOf(name)], name]));
    if (firstOf.size > 1) {
      found.problems.push(`${layer.folder || "The choice"} holds images of several formats (${[...firstOf.values()].sort().join(", ")}); keep one.`);
      return false;
    }
    const gap = imageHeaders.gaps(names);
    if (gap) (gap.canFill ? found.gaps : found.problems).push(sentence(gap.text));
    return true;
  }

  async function inspectLayer(layer, found, count, onLooked) {
    if (!checkNames(layer, found)) return;
    const step = layer.files.length / Math.max(1, Math.min(count, layer.files.length));
    const sample = [...new Set([...Array.from({ length: Math.ceil(layer.files.length / step) }, (_, index) => Math.floor(index * step)), layer.files.length - 1])];
    const headers = new Array(sample.length);
    let next = 0;
    await Promise.all(Array.from({ length: LOOKS_AT_ONCE }, async () => {
      while (next < sample.length) {
        const at = next;
        next += 1;
        const { file, name } = layer.files[sample[at]];
        try {
          headers[at] = await imageHeaders.read(file, name, { countPages: layer.files.length === 1 });
        } catch (error) {
          if (!(error instanceof imageHeaders.Unreadable) && !(error instanceof RangeError)) throw error;
          headers[at] = { problem: error instanceof RangeError ? `${name} is cut short or damaged; copy it again` : error.message };
        }
        onLooked();
      }
    }));
    const broken = headers.filter((header) => header.problem);
    for (const header of broken.slice(0, 5)) found.problems.push(sentence(header.problem));
    if (broken.length > 5) found.problems.push(`${number(broken.length - 5)} more files cannot be read.`);
    if (broken.length) return;
    const first = headers[0];
    layer.header = first;
    const others = headers.findIndex((header) => formOf(header) !== formOf(first));
    if (others >= 0) {
      const text = `${layer.files[sample[others]].name} is ${formOf(headers[others])}, but ${layer.files[0].name} is ${formOf(first)}`;
      const isSame = valuesOf(headers[others]) === valuesOf(first) && headers.every((header) => valuesOf(header) === valuesOf(first));
      if (isSame) found.gaps.push(`${text}; correct it, or tick that smaller sections are padded.`);
      else found.problems.push(`${text}; save all sections with the same kind of values.`);
    }
    if (layer.files.length > 1) {
      const many = headers.findIndex((header) => header.pages > 1);
      if (many >= 0) found.problems.push(`${layer.files[sample[many]].name} has several pages; a folder must hold one section per file: choose the file alone, or split it.`);
    }
    found.voxelNm = found.voxelNm || (first.voxelNm ? first.voxelNm : null);
    found.pixelNm = found.pixelNm || first.pixelNm;
    if (sample.length < layer.files.length) found.notes.push(`${number(sample.length)} of ${number(layer.files.length)} files were looked into; the conversion looks into all of them.`);
  }

  function formOf(header) {
    return `${header.width} × ${header.height} ${valuesOf(header)}`;
  }

  function valuesOf(header) {
    return header.type + (header.channels === 3 ? " RGB" : "");
  }

  function withoutCommonFolder(files) {
    const split = files.map((file) => file.path.split("/"));
    let common = 0;
    while (split.every((parts) => parts.length > common + 1 && parts[common] === split[0][common])) common += 1;
    return files.map((file, index) => ({ ...file, path: split[index].slice(common).join("/") }));
  }

  function suggestedName(files) {
    if (!files.length) return "";
    const path = files[0].path;
    const name = path.includes("/") ? path.split("/")[0] : files.length === 1 ? path.split(".")[0] : "";
    return safeName(name);
  }

  function safeName(name) {
    return name.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[-._]+|[-._]+$/g, "").slice(0, 128);
  }

  function suffixOf(path) {
    const cut = path.lastIndexOf(".");
    return cut < 0 ? "" : path.slice(cut + 1).toLowerCase();
  }

  // Telling what was found

  function showFound() {
    const bytes = chosen.files.reduce((sum, { file }) => sum + file.size, 0);
    const facts = [["Files", `${number(chosen.files.length)}, ${size(bytes)}`]];
    for (const layer of chosen.layers) {
      if (layer.unseen) facts.push([layer.folder && layer.folder !== layer.unseen ? `In ${layer.folder}` : "Volume", `${layer.unseen}, looked into when it has arrived`]);
      if (!layer.header) continue;
      const sections = layer.files.length > 1 ? layer.files.length : layer.header.pages;
      facts.push([layer.folder ? `In ${layer.folder}` : "Sections", `${number(sections)} of ${formOf(layer.header)}${layer.header.volumes > 1 ? `, ${number(layer.header.volumes)} volumes` : ""}`]);
    }
    if (chosen.isZip) for (const layer of chosen.layers) if (!layer.unseen) facts.push([layer.folder ? `In ${layer.folder}` : "Images", `${number(layer.files.length)}, looked into when they have arrived`]);
    if (chosen.ignored) facts.push(["Left out", `${number(chosen.ignored)} other file${chosen.ignored === 1 ? "" : "s"}`]);
    const list = element("found");
    list.replaceChildren(...facts.map(([name, value]) => node("div", node("dt", name), node("dd", value))));
    list.hidden = !chosen.files.length;
    showList("problems", [...chosen.problems, ...chosen.gaps]);
    showList("notes", chosen.notes);
    element("fill-missing-field").hidden = !chosen.gaps.length;
    if (then) return;
    element("layers").replaceChildren(...chosen.layers.map(layerFields));
    // What an earlier choice filled in gives way; what somebody typed stays.
    const [name, voxel] = [element("dataset-name"), element("voxel-size")];
    if (!name.value || name.value === filled.name) fill("name", name, chosen.name);
    if (voxel.value === filled.voxel) fill("voxel", voxel, "");
    element("voxel-size-help").textContent = "x,y,z in nanometres, such as 4,4,40.";
    if (!voxel.value && chosen.voxelNm) {
      fill("voxel", voxel, chosen.voxelNm.map(rounded).join(","));
      element("voxel-size-help").textContent = "x,y,z in nanometres; this is what the images state.";
    } else if (!voxel.value && chosen.pixelNm) {
      fill("voxel", voxel, `${chosen.pixelNm.map(rounded).join(",")},`);
      element("voxel-size-help").textContent = "x,y,z in nanometres; x and y are what the images state. Add the distance of the sections.";
    }
    say("looked", chosen.problems.length ? "" : `${number(chosen.files.length)} file${chosen.files.length === 1 ? "" : "s"} ${chosen.layers.some((layer) => layer.unseen) ? "chosen" : "recognised"}.`);
  }

  function fill(what, input, text) {
    input.value = filled[what] = text;
    if (document.activeElement === input) input.select(); // Who is in the field already types over it, not behind it.
  }

  function layerFields(layer, index) {
    const part = element("layer-template").content.cloneNode(true);
    const [name, category] = [part.querySelector(".layer-name"), part.querySelector(".layer-category")];
    const isLabels = /label|segment|mask|seg\b/i.test(layer.folder);
    name.value = safeName(layer.folder.replace(/\//g, "-")) || "color";
    category.value = isLabels ? "segmentation" : "color";
    for (const [input, id] of [[name, `layer-name-${index}`], [category, `layer-category-${index}`]]) {
      input.id = id;
      input.closest(".field").querySelector("label").htmlFor = id;
    }
    part.querySelector("legend").textContent = chosen.layers.length > 1 ? `Layer ${index + 1}` : "Layer";
    const volumes = layer.header && layer.header.volumes > 1 ? ` The file holds ${number(layer.header.volumes)} volumes; each becomes a layer whose name begins with this.` : "";
    part.querySelector(".help").textContent = (layer.folder ? `Images in ${layer.folder}.` : "") + volumes;
    return part;
  }

  function showList(id, texts) {
    const list = element(id);
    list.replaceChildren(...texts.map((text) => node("li", text)));
    list.hidden = !texts.length;
  }

  // Sending

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (upload || isBeginning) return;
    isBeginning = true;
    // Whoever is faster than the look at the files has chosen them all the same.
    try {
      for (let seen; seen !== looking;) await (seen = looking);
    } finally {
      isBeginning = false;
    }
    start();
  });

  async function start() {
    hideError();
    let params;
    try {
      params = readForm();
    } catch (error) {
      showError(error);
      return;
    }
    upload = { isStopped: false, waiters: [], history: [], done: 0, size: 0, announced: -1, jobKey: crypto.randomUUID() };
    setSending(true);
    try {
      const files = chosen.files.map(({ file, path }) => ({ path, size_bytes: file.size, modified_ms: file.lastModified }));
      tell("Looking whether there is room…");
      const begun = await call("POST", "/api/v1/uploads", { files, is_converted: !then });
      upload.id = begun.id;
      upload.size = begun.size_bytes;
      if (!then) await checkParams(params, begun);
      await sendAll(chosen);
      if (then) {
        const source = encodeURIComponent(`upload:${upload.id}`);
        upload = null;
        location.href = `${BASE}${then}${source}`;
        return;
      }
      tell("Starting the conversion…");
      const job = await call("POST", "/api/v1/jobs", { workflow: "convert", params: withSources(params) }, { "Idempotency-Key": upload.jobKey });
      upload = null;
      location.href = `${BASE}/jobs/${job.id}`;
    } catch (error) {
      upload = null;
      setSending(false);
      if (!(error instanceof Refused) || error.message) showError(error);
    }
  }

  function readForm() {
    if (!chosen || !chosen.files.length) throw new Refused(`Choose ${then ? "files" : "images"} first.`);
    if (then && chosen.problems.length) throw new Refused("These files cannot be sent; look at what is said about them above.");
    if (then) return null;
    const isFilled = element("fill-missing").checked;
    if (chosen.problems.length || (chosen.gaps.length && !isFilled)) throw new Refused("These images cannot be converted as they are; look at what is said about them above.");
    const voxelSize = element("voxel-size").value.trim();
    if (!element("dataset-name").value.trim()) throw new Refused("The dataset has no name; give it one.", "dataset-name");
    if (!voxelSize && !chosen.isZip && !chosen.layers.some((layer) => layer.unseen)) throw new Refused("The voxel size is missing; give it as x,y,z in nanometres, such as 4,4,40.", "voxel-size");
    return {
      layers: [...document.querySelectorAll(".upload-layer")].map((fields) => ({
        layer_name: fields.querySelector(".layer-name").value.trim(), category: fields.querySelector(".layer-category").value,
      })),
      target: element("dataset-name").value.trim(),
      fill_missing: isFilled,
      ...(voxelSize ? { voxel_size: voxelSize } : {}),
    };
  }

  function withSources(params) {
    const sourceOf = (layer) => `upload:${upload.id}${layer.folder ? `/${layer.folder}` : ""}`;
    return { ...params, layers: params.layers.map((layer, index) => ({ ...layer, source: sourceOf(chosen.layers[index]) })) };
  }

  // A name that is taken, or a voxel size that is none, is told before the first byte.
  async function checkParams(params, begun) {
    try {
      await call("POST", "/api/v1/jobs/quote", { workflow: "convert", params: withSources(params) });
    } catch (error) {
      // Nothing is lost with it yet, and its room is free again.
      if (begun.received_bytes === 0) await call("DELETE", `/api/v1/uploads/${upload.id}`);
      throw error;
    }
  }

  async function sendAll({ files, isZip }) {
    const byPath = new Map(files.map(({ path, file }) => [path, file]));
    const order = new Map(files.map(({ path }, index) => [path, index]));
    for (let round = 1; ; round += 1) {
      const missing = await call("GET", `/api/v1/uploads/${upload.id}/missing`);
      missing.sort((a, b) => order.get(a.path) - order.get(b.path));
      upload.done = upload.size - missing.reduce((sum, file) => sum + file.size_bytes - file.received_bytes, 0);
      upload.history = [];
      count(0);
      const groups = together(missing);
      let failure = null;
      await Promise.all(Array.from({ length: REQUESTS_AT_ONCE }, async () => {
        try {
          while (groups.length && !failure) await sendTogether(groups.shift(), byPath);
        } catch (error) {
          failure = failure || error; // the others end first: none goes on when the next upload begins
        }
      }));
      if (failure) throw failure;
      try {
        for (;;) {
          tell(isZip ? "Unpacking the zip…" : "Checking that everything has arrived…");
          const finished = await call("POST", `/api/v1/uploads/${upload.id}/finish`);
          if (finished.state === "complete") return;
        }
      } catch (error) {
        if (error.code !== "illegal-transition" || round === ROUNDS_MAX) throw error;
      }
    }
  }

  // Group files that fit into one request; a larger one stands alone, as each piece goes on where its file ends.
  function together(missing) {
    const groups = [];
    let room = 0;
    for (const file of missing) {
      const left = file.size_bytes - file.received_bytes;
      const last = groups[groups.length - 1];
      if (last && left <= room && last.length < limits.pieces_max && left <= limits.piece_bytes) {
        last.push(file);
        room -= left;
      } else {
        groups.push([file]);
        room = limits.request_bytes - left;
      }
    }
    return groups;
  }

  async function sendTogether(group, byPath) {
    const left = new Map(group.map((file) => [file.number, file]));
    while (left.size) {
      await unlessPaused();
      const body = await nextPieces([...left.values()], byPath);
      const answer = await call("PUT", `/api/v1/uploads/${upload.id}/pieces`, body);
      for (const { number: at, received_bytes: received } of answer) {
        const file = left.get(at);
        count(received - file.received_bytes);
        if (received === file.size_bytes) left.delete(at);
        else left.set(at, { ...file, received_bytes: received });
      }
    }
  }

  // Read as much as fits into one request: the length of a list, the list, and the bytes of its pieces.
  async function nextPieces(files, byPath) {
    const pieces = [];
    const contents = [];
    let room = limits.request_bytes;
    for (const file of files) {
      for (let offset = file.received_bytes; offset < file.size_bytes; offset += limits.piece_bytes) {
        const bytes = Math.min(limits.piece_bytes, file.size_bytes - offset);
        if (pieces.length && (bytes > room || pieces.length === limits.pieces_max)) return packed(pieces, contents);
        const content = await readPiece(byPath.get(file.path), file.path, offset, bytes);
        const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
        pieces.push({ number: file.number, offset, size_bytes: bytes, sha256: Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") });
        contents.push(content);
        room -= bytes;
      }
    }
    return packed(pieces, contents);
  }

  async function readPiece(file, path, offset, bytes) {
    try {
      const content = await file.slice(offset, offset + bytes).arrayBuffer();
      if (content.byteLength === bytes) return content;
    } catch {
      // Said below: the browser only knows that it is not the file that was chosen.
    }
    throw new Refused(`${path} was changed or removed since it was chosen; choose the files again.`);
  }

  function packed(pieces, contents) {
    const head = new TextEncoder().encode(JSON.stringify(pieces));
    const length = new DataView(new ArrayBuffer(4));
    length.setUint32(0, head.byteLength);
    return new Blob([length.buffer, head, ...contents], { type: "application/octet-stream" });
  }

  // Asks the server, again and again while it does not answer or somebody has to log in.
  async function call(method, path, body, headers = {}) {
    const isJson = body !== undefined && !(body instanceof Blob);
    const options = { method, body: isJson ? JSON.stringify(body) : body, headers: isJson ? { ...headers, "Content-Type": "application/json" } : headers };
    for (let tries = 0; ; tries += 1) {
      await unlessPaused();
      let answer = null;
      try {
        answer = await fetch(BASE + path, options);
        if (answer.ok) {
          const found = answer.status === 204 ? null : await answer.json();
          waitingFor("");
          return found;
        }
      } catch (error) {
        if (error instanceof Refused) throw error;
        answer = null; // the network, or an answer that was cut off
      }
      const problem = answer ? await answer.json().catch(() => ({ message: `the server answers ${answer.status}` })) : null;
      const pause = pauseAfter(answer, problem, tries);
      if (pause === null) throw Object.assign(new Refused(sentence(problem.message)), { code: problem.code });
      waitingFor(answer && answer.status === 401 ? "login" : "server", pause);
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  // How long to wait before the next try; null if there is no use in it.
  function pauseAfter(answer, problem, tries) {
    if (answer === null) return PAUSES_MS[Math.min(tries, PAUSES_MS.length - 1)];
    if (answer.status === 401) return LOGIN_PAUSE_MS;
    if (answer.status === 429) return 1000 * (Number(answer.headers.get("Retry-After")) || 5);
    if (answer.status >= 500 && problem.code !== "disk-full" && problem.code !== "program-error") return PAUSES_MS[Math.min(tries, PAUSES_MS.length - 1)];
    return null;
  }

  // Pausing and stopping

  element("pause").addEventListener("click", () => {
    upload.isPaused = !upload.isPaused;
    element("pause").textContent = upload.isPaused ? "Go on" : "Pause";
    announce(upload.isPaused ? "Paused." : "Going on.");
    upload.history = [];
    count(0);
    if (!upload.isPaused) for (const wake of upload.waiters.splice(0)) wake();
  });

  element("give-up").addEventListener("click", async () => {
    const stopped = upload;
    stopped.isStopped = true;
    for (const wake of stopped.waiters.splice(0)) wake();
    element("give-up").disabled = true;
    if (stopped.id) await fetch(`${BASE}/api/v1/uploads/${stopped.id}`, { method: "DELETE" }).catch(() => null);
    location.href = `${BASE}/uploads/new?done=removed`;
  });

  async function unlessPaused() {
    const mine = upload;
    while (mine.isPaused && !mine.isStopped) await new Promise((resolve) => mine.waiters.push(resolve));
    if (mine.isStopped) throw new Refused("");
  }

  addEventListener("beforeunload", (event) => {
    if (upload && !upload.isStopped) event.preventDefault();
  });

  // Telling how far it is

  function setSending(isSending) {
    for (const id of ["upload-choice", "layers", ...(then ? [] : ["dataset-fields"])]) element(id).hidden = isSending;
    element("progress").hidden = !isSending;
    element("progress-title").textContent = `Sending ${then ? "the files" : element("dataset-name").value.trim()}`;
    element("upload-start").hidden = isSending;
    element("pause").textContent = "Pause";
    if (!isSending) return;
    element("progress-bar").value = 0;
    element("progress-share").textContent = "";
    element("pause").focus();
  }

  function count(more) {
    const at = performance.now();
    upload.done += more;
    upload.history.push([at, upload.done]);
    while (upload.history.length > 2 && at - upload.history[1][0] > RATE_OVER_MS) upload.history.shift();
    const share = upload.size ? upload.done / upload.size : 1;
    const [since, before] = upload.history[0];
    const rate = at - since > 1000 ? (1000 * (upload.done - before)) / (at - since) : 0;
    const pace = upload.isPaused ? ", paused" : rate ? ` · ${size(rate)}/s · ${left((upload.size - upload.done) / rate)} left` : "";
    tell(`${size(upload.done)} of ${size(upload.size)}${pace}`);
    element("progress-bar").value = Math.round(1000 * share);
    element("progress-share").textContent = `${Math.floor(100 * share)} %`;
    const tenth = Math.floor(10 * share);
    if (tenth !== upload.announced) {
      upload.announced = tenth;
      announce(`${10 * tenth} % is sent.`);
    }
  }

  function waitingFor(what, pause = 0) {
    if (!upload || (what && upload.waitingFor === what)) return;
    if (!what && !upload.waitingFor) return;
    upload.waitingFor = what;
    element("waiting").hidden = !what;
    element("log-in-again").hidden = what !== "login";
    const words = { login: "Your log-in has ended. This page goes on by itself when you are let in again.", server: "The server does not answer. This page tries again by itself." }[what] || "";
    say("waiting-words", words);
    announce(words || "Going on.");
    if (pause) upload.history = [];
  }

  function tell(text) {
    say("progress-words", text);
  }

  function announce(text) {
    say("announced", text);
  }

  function say(id, text) {
    if (element(id).textContent !== text) element(id).textContent = text;
  }

  function showError(error) {
    const box = element("upload-error");
    box.querySelector(".failure").textContent = error.message;
    box.hidden = false;
    box.focus();
    for (const input of inputs()) if (error.field === input.id || (input.value && error.message.includes(`'${input.value.trim()}'`))) input.setAttribute("aria-invalid", "true");
  }

  function hideError() {
    element("upload-error").hidden = true;
    for (const input of inputs()) input.removeAttribute("aria-invalid");
  }

  function inputs() {
    return form.querySelectorAll("input[type=text]");
  }

  function node(name, ...content) {
    const made = document.createElement(name);
    made.append(...content);
    return made;
  }

  function sentence(text) {
    const begins = /^[a-z]+ /.test(text) ? text[0].toUpperCase() : text[0];
    return begins + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
  }

  function number(count_) {
    return String(count_).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  }

  function size(count_) {
    let [found, unit] = [count_, 0];
    while (found >= 1024 && unit < 5) [found, unit] = [found / 1024, unit + 1];
    return `${unit ? Number(found.toPrecision(3)) : Math.round(found)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
  }

  function left(seconds) {
    const whole = Math.max(1, Math.round(seconds));
    if (whole < 60) return `${whole} s`;
    return whole < 3600 ? `${Math.round(whole / 60)} min` : `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
  }

  function rounded(value) {
    return Number(value.toPrecision(6));
  }
})();
