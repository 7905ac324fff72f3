/* Bundles Neuroglancer into src/voxelworks/server/static/vendor, with the licences of all that is in it. See README.md. */

import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const modules = join(here, "node_modules");
const neuroglancer = join(modules, "neuroglancer");
const { version } = JSON.parse(await readFile(join(neuroglancer, "package.json")));
const out = join(here, `../../src/voxelworks/server/static/vendor/neuroglancer-${version}`);

/** The second starts the first. */
const WORKERS = ["async_computation", "chunk_worker"];
/** Sources of data of other services, and the mode that is driven by Python: not needed here. */
const LEFT_OUT = ["python", "boss", "brainmaps", "dvid", "graphene", "nggraph", "render"];
const SETTINGS = [
  "NEUROGLANCER_BUILD_INFO", "NEUROGLANCER_CREDIT_LINK", "NEUROGLANCER_CUSTOM_INPUT_BINDINGS",
  "NEUROGLANCER_DEFAULT_STATE_FRAGMENT", "NEUROGLANCER_GOOGLE_TAG_MANAGER", "NEUROGLANCER_SHOW_LAYER_BAR_EXTRA_BUTTONS",
  "NEUROGLANCER_SHOW_OBJECT_SELECTION_TOOLTIP", "NEUROGLANCER_BRAINMAPS_SERVERS", "NEUROGLANCER_OPTIMIZE", "STATE_SERVERS",
  "NEUROGLANCER_PYTHON_INTEGRATION",
];

/* Three places make functions of texts, which our content policy forbids. These do the same without. */

/** Packs the indexes of a compressed segmentation into words. */
const PACK = `(output, offset, encoding, index, bits, words) => {
  for (let word = 0, element = 0; bits && word < words; ++word) {
    let packed = 0;
    for (let shift = 0; shift < 32; shift += bits) packed |= index[encoding[element++]] << shift;
    output[offset + word] = packed;
  }
}`;
/** Calls a function of a decoder that is compiled to wasm; `names` and `values` are what the text would have used. */
const CALL = `((names, values) => {
  const known = Object.fromEntries(values.map((value, index) => [names[index], value]));
  const types = names.filter((name) => /^argType\\d+$/.test(name)).map((name) => known[name]);
  return (...given) => {
    if (given.length !== types.length) known.throwBindingError(\`\${types.length} arguments are expected\`);
    const destructors = [];
    const answer = known.invoker(known.fn, ...types.map((type, index) => type.toWireType(destructors, given[index])));
    known.runDestructors(destructors);
    return known.retType.fromWireType(answer);
  };
})`;

/** Replaces the one place that looks so; if it does not any more, somebody has to look what it became. */
function patched(path, contents, pattern, replacement) {
  const count = [...contents.matchAll(pattern)].length;
  if (count !== 1) throw new Error(`${path} is not what was known: ${count} places look like ${pattern}`);
  return contents.replace(pattern, replacement);
}

const hash = (bytes) => createHash("sha256").update(bytes).digest("hex").slice(0, 10);
const named = {};

/** Names a file by its content, and keeps it beside the bundle. */
async function keep(file) {
  const bytes = await readFile(file);
  const name = basename(file).replace(/(\.\w+)$/, `-${hash(bytes)}$1`);
  await writeFile(join(out, name), bytes);
  return name;
}

const assets = {
  name: "assets",
  setup(building) {
    building.onResolve({ filter: /^ikonate\/icons\/[\w-]+\.svg(\?raw)?$/ }, async ({ path }) => {
      const [icon] = path.split("?");
      // The release of ikonate lacks three icons that Neuroglancer uses; ours are in `icons`.
      const ours = (await readdir(join(here, "icons"))).includes(basename(icon));
      return { path: ours ? join(here, "icons", basename(icon)) : join(modules, icon) };
    });
    building.onLoad({ filter: /neuroglancer\/lib\/.*\.js$/ }, async ({ path }) => {
      let contents = await readFile(path, "utf8");
      for (const [whole, target] of contents.matchAll(/new URL\(\s*["']([^"']+\.wasm)["'],\s*import\.meta\.url,?\s*\)/g)) {
        contents = contents.replace(whole, `new URL("./${await keep(join(dirname(path), target))}", import.meta.url)`);
      }
      for (const worker of WORKERS) {
        if (!named[worker]) continue;
        contents = contents.replaceAll(new RegExp(`["'][^"']*${worker}\\.bundle\\.js["']`, "g"), `"./${named[worker]}"`);
      }
      if (path.endsWith("/compressed_segmentation/encode_common.js")) {
        const made = /(?<=const writeEncodedRepresentation = )new Function\([^]*?\n\)(?=;)/g;
        contents = patched(path, contents, made, () => PACK);
      }
      if (path.endsWith("/ui/url_hash_binding.js")) {
        // On a slow machine it writes the address while it reads it; a layer that is half there then fails and is lost.
        contents = patched(path, contents, /(?<=\n  setUrlHash\(\) \{)/g, "\n    if (this.isReading) return;");
        contents = patched(path, contents, /(?<=\n  updateFromUrlHash\(\) \{)/g, "\n    this.isReading = true;");
        contents = patched(path, contents, /(?<=this\.parseError\.value = parseError;\n    \})/g, " finally { this.isReading = false; }");
      }
      return { contents };
    });
    building.onLoad({ filter: /numcodecs\/dist\/(blosc|zstd)\.js$/ }, async ({ path }) => {
      const called = /= \w+\((\w+)\)(?:\(\.\.\.|\.apply\(null, )(\w+)\);(?=\s+\w+ = \w+\(\w+, g\);)/g;
      const contents = patched(path, await readFile(path, "utf8"), called, (_, names, values) => `= ${CALL}(${names}, ${values});`);
      return { contents };
    });
  },
};

const common = {
  bundle: true, minify: true, format: "esm", target: "es2022", outdir: out, metafile: true, legalComments: "none",
  loader: { ".svg": "text" },
  conditions: ["production", ...LEFT_OUT.map((name) => (name === "python" ? "neuroglancer/python:disabled" : `neuroglancer/datasource/${name}:disabled`))],
  define: Object.fromEntries(SETTINGS.map((name) => [name, "undefined"])),
  plugins: [assets],
};

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
const built = [];
for (const worker of WORKERS) {
  const result = await build({ ...common, entryPoints: [join(neuroglancer, `lib/${worker}.bundle.js`)], entryNames: `${worker}-[hash]` });
  [named[worker]] = Object.keys(result.metafile.outputs).map((file) => basename(file));
  built.push(result);
}
built.push(await build({ ...common, entryPoints: [join(here, "main.js")], entryNames: "main", chunkNames: "chunk-[hash]", splitting: true }));

/* Licences */

const packages = new Set();
for (const { metafile } of built) {
  for (const [input, { bytes }] of Object.entries(metafile.inputs)) {
    const found = relative(here, input).match(/.*node_modules\/((?:@[^/]+\/)?[^/]+)\//);
    if (found && bytes) packages.add(found[0]);
  }
}
let text = "";
for (const folder of [...packages].sort()) {
  const about = JSON.parse(await readFile(join(here, folder, "package.json")));
  text += `${"=".repeat(80)}\n${about.name} ${about.version}   ${about.license ?? "see below"}\n${"=".repeat(80)}\n\n`;
  const files = (await readdir(join(here, folder))).filter((name) => /^(licen[cs]e|copying|notice)/i.test(name));
  for (const name of files.sort()) text += `${(await readFile(join(here, folder, name), "utf8")).trim()}\n\n`;
  if (!files.length) text += "(The package has no file with the text of its licence.)\n\n";
}
await writeFile(join(out, "LICENSES.txt"), text);
