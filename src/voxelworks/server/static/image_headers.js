// Headers of TIFF, PNG, JPEG and WebP files, read in the browser before anything is sent: a few hundred bytes of each file.
// Files of other formats are only told from what is surely no image; the conversion looks into them.
"use strict";

const imageHeaders = (() => {
  const PAGES_MAX = 20000; // Beyond this nobody counts pages before the upload.
  const PLAUSIBLE_NM = 20000; // Coarser pixels are the resolution of a printer, not of a microscope.
  const FRAMES = [0xc0, 0xc1, 0xc2, 0xc3, 0xc5, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcd, 0xce, 0xcf];
  const UNITS_NM = { nm: 1, "µm": 1000, um: 1000, micron: 1000, microns: 1000, micrometer: 1000, micrometers: 1000, mm: 1e6, cm: 1e7, m: 1e9, pm: 0.001, "Å": 0.1, inch: 2.54e7, in: 2.54e7 };

  const FIJI = "open it in Fiji (Bio-Formats) and save it as OME-TIFF";
  // What the conversion is known to refuse is not sent: by the first bytes, and by suffix where these say nothing.
  const MAKERS = [["dacebe0a", "an ND2 file (Nikon NIS-Elements)"], ["4f4c594d5055535241", "an OIR file (Olympus, Evident)"], ["d0cf11e0a1b11ae1", "an OLE file, such as .oib or .zvi"]];
  const SLIDES = { vsi: "a VSI file (Olympus, Evident)", mrxs: "an MRXS slide", ndpi: "an NDPI slide", svs: "an SVS slide", scn: "an SCN slide" };
  const NO_IMAGES = [["25504446", "a PDF"], ["47494638", "a GIF"], ["504b0304", "a zip or an office document"]];
  // Formats that begin with text: NRRD, MetaImage, Amira, JSON and XML.
  const TEXT_FORMATS = /^\s*(NRRD|ObjectType|NDims|Comment =|# (Amira|Avizo)|[{<[])/;

  class Unreadable extends Error {}

  async function bytes(file, start, size) {
    return new DataView(await file.slice(start, start + size).arrayBuffer());
  }

  function text(view, start, size) {
    let found = "";
    for (let at = start; at < Math.min(start + size, view.byteLength); at += 1) found += String.fromCharCode(view.getUint8(at));
    return found;
  }

  // What is known of a file: width, height, type and channels, pages, and the voxel size in nm, as far as it says so.
  // Throws Unreadable with a sentence for people.
  async function read(file, name, { countPages = false } = {}) {
    if (file.size === 0) throw new Unreadable(`${name} is empty; copy it again or remove it`);
    const start = await bytes(file, 0, 64);
    const signature = start.byteLength >= 4 ? start.getUint32(0) : 0;
    if (signature === 0x89504e47) return readPng(file, name);
    if (signature >>> 8 === 0xffd8ff) return readJpeg(file, name);
    if (text(start, 0, 4) === "RIFF" && text(start, 8, 4) === "WEBP") return readWebp(start, name);
    if ([0x49492a00, 0x4d4d002a, 0x49492b00, 0x4d4d002b].includes(signature)) return readTiff(file, name, start, countPages);
    throw new Unreadable(`${name} is none of TIFF, BigTIFF, OME-TIFF, PNG, JPEG and WebP; save it as one of them, or correct its suffix`);
  }

  // Tell whether a file of another format may be a volume; "text" if it is surely none, else "unknown".
  // Throws Unreadable for what is known to be refused; files of makers are not, where BioIO may read them.
  async function kind(file, name, { hasBioio }) {
    if (file.size === 0) throw new Unreadable(`${name} is empty; copy it again or remove it`);
    const start = await bytes(file, 0, 512);
    const hex = Array.from(new Uint8Array(start.buffer, 0, Math.min(9, start.byteLength)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    const begins = ([magic]) => hex.startsWith(magic);
    const maker = SLIDES[name.slice(name.lastIndexOf(".") + 1).toLowerCase()] || (MAKERS.find(begins) || [])[1];
    if (maker && !hasBioio) throw new Unreadable(`${name} is ${maker}, which is not read; export it as OME-TIFF in the maker's program, or ${FIJI}`);
    const other = NO_IMAGES.find(begins);
    if (other) throw new Unreadable(`${name} is ${other[1]}, which is not read; save its images as TIFF or PNG`);
    const words = new TextDecoder("utf-8").decode(start);
    const isText = !/[\u0000-\u0008\u000e-\u001f\ufffd]/.test(words.slice(0, -4));
    return isText && !TEXT_FORMATS.test(words) ? "text" : "unknown";
  }

  function readWebp(start, name) {
    const chunk = text(start, 12, 4);
    const found = { type: "uint8", channels: 3, pages: 1 };
    const number24 = (at) => start.getUint16(at, true) + (start.getUint8(at + 2) << 16);
    if (start.byteLength < 30) throw new Unreadable(`${name} is cut short; copy it again`);
    if (chunk === "VP8X") {
      if (start.getUint8(20) & 2) throw new Unreadable(`${name} is an animation; save each section as a file of its own`);
      return { ...found, width: number24(24) + 1, height: number24(27) + 1 };
    }
    if (chunk === "VP8L") {
      const bits = start.getUint32(21, true);
      return { ...found, width: (bits & 0x3fff) + 1, height: (bits >>> 14 & 0x3fff) + 1 };
    }
    if (chunk === "VP8 ") return { ...found, width: start.getUint16(26, true) & 0x3fff, height: start.getUint16(28, true) & 0x3fff };
    throw new Unreadable(`${name} has a damaged WebP header; copy it again`);
  }

  async function readPng(file, name) {
    const head = await bytes(file, 0, 4096);
    if (head.byteLength < 33) throw new Unreadable(`${name} is cut short: it has no image data; copy it again`);
    const [width, height, bits, kind] = [head.getUint32(16), head.getUint32(20), head.getUint8(24), head.getUint8(25)];
    if (!width || !height || ![0, 2, 3, 4, 6].includes(kind)) throw new Unreadable(`${name} has a damaged PNG header; copy it again`);
    const found = { width, height, type: bits === 16 ? "uint16" : "uint8", channels: kind === 2 || kind === 6 ? 3 : 1, pages: 1 };
    if (kind === 3) found.channels = isGreyTable(head) ? 1 : 3;
    for (let at = 8; at + 12 <= head.byteLength; at += 12 + head.getUint32(at)) {
      const chunk = text(head, at + 4, 4);
      if (chunk === "pHYs" && at + 17 <= head.byteLength && head.getUint8(at + 16) === 1) {
        found.pixelNm = plausible([1e9 / head.getUint32(at + 8), 1e9 / head.getUint32(at + 12)]);
      }
      if (chunk === "IDAT") break;
    }
    return found;
  }

  function isGreyTable(head) {
    for (let at = 8; at + 12 <= head.byteLength; at += 12 + head.getUint32(at)) {
      if (text(head, at + 4, 4) !== "PLTE") continue;
      for (let entry = at + 8; entry + 3 <= Math.min(at + 8 + head.getUint32(at), head.byteLength); entry += 3) {
        if (head.getUint8(entry) !== head.getUint8(entry + 1) || head.getUint8(entry) !== head.getUint8(entry + 2)) return false;
      }
      return true;
    }
    return false;
  }

  async function readJpeg(file, name) {
    let at = 2;
    while (at + 9 < file.size) {
      const marker = await bytes(file, at, 10);
      if (marker.getUint8(0) !== 0xff) break;
      if (marker.getUint8(1) === 0xff) {
        at += 1;
      } else if (FRAMES.includes(marker.getUint8(1))) {
        const [bits, height, width, channels] = [marker.getUint8(4), marker.getUint16(5), marker.getUint16(7), marker.getUint8(9)];
        if (bits !== 8) throw new Unreadable(`${name} is JPEG with ${bits} bits; save it as TIFF or PNG`);
        if (channels !== 1 && channels !== 3) throw new Unreadable(`${name} is JPEG with ${channels} colours (CMYK?); save it as grey or RGB`);
        if (!width || !height) throw new Unreadable(`${name} does not state its size; save it anew`);
        return { width, height, type: "uint8", channels, pages: 1 };
      } else {
        at += 2 + marker.getUint16(2);
      }
    }
    throw new Unreadable(`${name} is cut short or damaged: it has no frame header; copy it again`);
  }

  // TIFF: the directory (IFD) of a page is a list of tags; values that do not fit into a tag stand elsewhere in the file.

  async function readTiff(file, name, start, countPages) {
    const layout = { isLittle: start.getUint8(0) === 0x49, isBig: [start.getUint8(2), start.getUint8(3)].includes(0x2b) };
    const first = layout.isBig ? number64(start, 8, layout) : start.getUint32(4, layout.isLittle);
    const page = await directory(file, name, first, layout);
    const [width, height] = [one(page, 256), one(page, 257)];
    if (!width || !height) throw new Unreadable(`${name} has a page without an image; save it anew`);
    const bits = await values(file, page, 258, layout);
    const format = (await values(file, page, 339, layout))[0] || 1;
    const samples = one(page, 277) || 1;
    const alpha = page.has(338) && page.get(338).count === 1 && [1, 2].includes(page.get(338).inline) ? 1 : 0;
    const found = { width, height, type: typeName(bits[0] || 1, format, name), channels: samples - alpha >= 3 ? 3 : 1, pages: 1 };
    const description = await ascii(file, page, 270, layout);
    const resolution = [await ratio(file, page, 282, layout), await ratio(file, page, 283, layout)];
    const isOme = /<OME[\s>]/.test(description);
    if (isOme) Object.assign(found, ome(description, name, samples));
    else if (description.startsWith("ImageJ=")) Object.assign(found, imagej(description, resolution, name, samples));
    else found.pixelNm = printed(resolution, one(page, 296) || 2);
    if (isOme || found.isStack) return found;
    found.pages = await pageCount(file, name, page.next, layout, countPages);
    return found;
  }

  async function pageCount(file, name, next, layout, countAll) {
    let count = 1;
    const seen = new Set();
    for (let at = next; at && !seen.has(at) && seen.size < PAGES_MAX;) {
      seen.add(at);
      const page = await directory(file, name, at, layout);
      if (!((one(page, 254) || 0) & 5)) count += 1; // no thumbnail and no mask
      if (count > 1 && !countAll) return count;
      at = page.next;
    }
    return count;
  }

  async function directory(file, name, offset, layout) {
    const [countSize, entrySize] = layout.isBig ? [8, 20] : [2, 12];
    const head = await bytes(file, offset, 4096);
    if (head.byteLength < countSize) throw new Unreadable(`${name} is cut short or damaged: a page is missing; copy it again`);
    const count = layout.isBig ? number64(head, 0, layout) : head.getUint16(0, layout.isLittle);
    const size = countSize + count * entrySize + 8;
    if (count > 4096) throw new Unreadable(`${name} is damaged: a page has ${count} tags; copy it again`);
    const view = size > head.byteLength ? await bytes(file, offset, size) : head;
    const end = countSize + count * entrySize;
    if (view.byteLength < end + 4) throw new Unreadable(`${name} is cut short or damaged: a page is missing; copy it again`);
    const tags = new Map();
    for (let at = countSize; at < end; at += entrySize) {
      const tag = view.getUint16(at, layout.isLittle);
      const type = view.getUint16(at + 2, layout.isLittle);
      const valueAt = at + (layout.isBig ? 12 : 8);
      tags.set(tag, {
        type, view, valueAt,
        count: layout.isBig ? number64(view, at + 4, layout) : view.getUint32(at + 4, layout.isLittle),
        offset: layout.isBig ? number64(view, valueAt, layout) : view.getUint32(valueAt, layout.isLittle),
        inline: type === 3 ? view.getUint16(valueAt, layout.isLittle) : view.getUint32(valueAt, layout.isLittle),
      });
    }
    tags.next = layout.isBig ? (view.byteLength >= end + 8 ? number64(view, end, layout) : 0) : view.getUint32(end, layout.isLittle);
    return tags;
  }

  function number64(view, at, layout) {
    return Number(view.getBigUint64(at, layout.isLittle));
  }

  function one(page, tag) {
    return page.has(tag) ? page.get(tag).inline : 0;
  }

  async function values(file, page, tag, layout) {
    const entry = page.get(tag);
    if (!entry) return [];
    const count = Math.min(entry.count, 16);
    const isInline = entry.count * 2 <= (layout.isBig ? 8 : 4);
    const [view, start] = isInline ? [entry.view, entry.valueAt] : [await bytes(file, entry.offset, 2 * count), 0];
    return Array.from({ length: count }, (_, index) => view.getUint16(start + 2 * index, layout.isLittle));
  }

  async function ascii(file, page, tag, layout) {
    const entry = page.get(tag);
    if (!entry || entry.type !== 2) return "";
    if (entry.count <= (layout.isBig ? 8 : 4)) return text(entry.view, entry.valueAt, entry.count);
    const found = await file.slice(entry.offset, entry.offset + Math.min(entry.count, 2 ** 22)).arrayBuffer();
    return new TextDecoder().decode(found).replace(/\0+$/, "");
  }

  async function ratio(file, page, tag, layout) {
    const entry = page.get(tag);
    if (!entry || entry.type !== 5) return 0;
    const isInline = layout.isBig;
    const [view, at] = isInline ? [entry.view, entry.valueAt] : [await bytes(file, entry.offset, 8), 0];
    if (view.byteLength < at + 8) return 0;
    return view.getUint32(at, layout.isLittle) / (view.getUint32(at + 4, layout.isLittle) || 1);
  }

  function typeName(bits, format, name) {
    const kind = { 1: "uint", 2: "int", 3: "float" }[format];
    if (kind === "uint" && bits < 8) return "uint8";
    if (kind === "float" && bits === 16) return "float32";
    const isKept = kind === "float" ? bits === 32 : kind && [8, 16, 32, 64].includes(bits);
    if (kind === "float" && bits === 64) throw new Unreadable(`${name} holds float64 values, which no layer can have; save images as float32, labels as uint64`);
    if (!isKept) throw new Unreadable(`${name} has values that are not supported (format ${format}, ${bits} bits); save it as uint8, uint16, uint32 or float32`);
    return kind + bits;
  }

  // Several images, channels and time points are volumes, of which each becomes a layer.
  function ome(description, name, samples) {
    const xml = new DOMParser().parseFromString(description, "application/xml");
    const images = [...xml.getElementsByTagNameNS("*", "Pixels")];
    if (!images.length) return { isStack: true };
    const [pixels] = images;
    const count = (image, axis) => Number(image.getAttribute(axis)) || 1;
    const volumes = images.reduce((sum, image) => sum + count(image, "SizeT") * Math.max(1, Math.floor(count(image, "SizeC") / samples)), 0);
    const sizes = ["X", "Y", "Z"].map((axis) => Number(pixels.getAttribute(`PhysicalSize${axis}`)) * unitNm(pixels.getAttribute(`PhysicalSize${axis}Unit`) || "µm"));
    const found = { isStack: true, pages: count(pixels, "SizeZ"), volumes };
    if (sizes.every((size) => size > 0 && Number.isFinite(size))) found.voxelNm = sizes;
    return found;
  }

  function imagej(description, resolution, name, samples) {
    const facts = Object.fromEntries(description.split("\n").map((line) => line.split("=", 2)).filter((parts) => parts.length === 2));
    const found = { pages: 1 };
    const frames = Number(facts.frames || 1);
    const channels = Number(facts.channels || 1) === samples ? 1 : Number(facts.channels || 1);
    if (frames > 1 && !(facts.slices > 1)) throw new Unreadable(`${name} has ${frames} time points; save the one you need, or, if they are sections, swap frames and slices in Fiji (Image > Properties)`);
    const count = Number(facts.slices || (channels > 1 ? 1 : facts.images) || 1);
    if (count * channels > 1) Object.assign(found, { isStack: true, pages: count, volumes: frames * channels });
    const unit = unitNm((facts.unit || "").replace("\\u00B5", "µ").trim());
    if (!unit || !resolution[0] || !resolution[1]) return found;
    const pixel = [unit / resolution[0], unit / resolution[1]];
    const spacing = Math.abs(Number(facts.spacing)) * unit;
    if (spacing > 0) found.voxelNm = [...pixel, spacing];
    else found.pixelNm = pixel;
    return found;
  }

  function unitNm(unit) {
    return UNITS_NM[unit.replace("μ", "µ")] || UNITS_NM[unit.toLowerCase()] || 0;
  }

  function printed(resolution, unit) {
    const unitSize = { 2: 2.54e7, 3: 1e7 }[unit];
    return unitSize && resolution[0] && resolution[1] ? plausible([unitSize / resolution[0], unitSize / resolution[1]]) : undefined;
  }

  function plausible(pixelNm) {
    return pixelNm.every((size) => size > 0 && size <= PLAUSIBLE_NM) ? pixelNm : undefined;
  }

  // Names of sections, as the conversion reads them: natural order, and gaps in their numbers.

  function naturalCompare(a, b) {
    const [left, right] = [a.toLowerCase().split(/(\d+)/), b.toLowerCase().split(/(\d+)/)];
    for (let index = 0; index < Math.min(left.length, right.length); index += 1) {
      if (index % 2) {
        const [one, other] = [BigInt(left[index]), BigInt(right[index])];
        if (one !== other) return one < other ? -1 : 1;
      } else if (left[index] !== right[index]) {
        return left[index] < right[index] ? -1 : 1;
      }
    }
    return left.length - right.length || (a < b ? -1 : a > b ? 1 : 0);
  }

  // Give a problem with the numbers of the sections, as the conversion words it, or null.
  function gaps(names) {
    if (names.length < 2) return null;
    const split = names.map((name) => name.replace(/\.[^.]*$/, "").split(/(\d+)/));
    const first = split[0];
    if (split.some((parts) => parts.length !== first.length || parts.some((part, index) => index % 2 === 0 && part !== first[index]))) return null;
    const indexes = first.map((_, index) => index).filter((index) => index % 2);
    let varying = indexes.filter((index) => new Set(split.map((parts) => BigInt(parts[index]))).size > 1);
    if (!varying.length) varying = indexes.filter((index) => new Set(split.map((parts) => parts[index])).size > 1);
    if (varying.length !== 1) return null;
    const at = varying[0];
    const numbers = split.map((parts) => Number(parts[at]));
    for (let index = 1; index < numbers.length; index += 1) {
      if (numbers[index] === numbers[index - 1]) return { text: `${names[index - 1]} and ${names[index]} are both section ${numbers[index]}; remove one`, canFill: false };
    }
    const step = numbers.slice(1).map((number, index) => number - numbers[index]).reduce(divisor);
    const count = (numbers[numbers.length - 1] - numbers[0]) / step + 1 - numbers.length;
    if (!count) return null;
    const texts = split.map((parts) => parts[at]);
    const digits = texts.some((part) => part.length > 1 && part.startsWith("0")) ? Math.min(...texts.map((part) => part.length)) : 1;
    const suffix = names[0].match(/\.[^.]*$/)[0];
    const missing = [];
    for (let index = 1; index < numbers.length && missing.length < 10; index += 1) {
      for (let number = numbers[index - 1] + step; number < numbers[index] && missing.length < 10; number += step) {
        missing.push(first.slice(0, at).join("") + String(number).padStart(digits, "0") + first.slice(at + 1).join("") + suffix);
      }
    }
    const more = count > missing.length ? ` and ${count - missing.length} more` : "";
    const canFill = count <= names.length;
    const next = canFill ? "add them, or tick that missing sections are filled" : `only ${names.length} are there: if these are not section numbers, rename the files`;
    return { text: `missing between ${names[0]} and ${names[names.length - 1]}: ${missing.join(", ")}${more}; ${next}`, canFill };
  }

  function divisor(a, b) {
    return b ? divisor(b, a % b) : a;
  }

  // The list of files at the end of a zip: their paths. Nothing is unpacked here.
  async function zipPaths(file, name) {
    const tailAt = Math.max(0, file.size - 65536 - 42);
    const tail = await bytes(file, tailAt, file.size - tailAt);
    let end = tail.byteLength - 22;
    while (end >= 0 && tail.getUint32(end, true) !== 0x06054b50) end -= 1;
    if (end < 0) throw new Unreadable(`${name} is no whole zip file: its end is missing; pack it again`);
    let [size, offset] = [tail.getUint32(end + 12, true), tail.getUint32(end + 16, true)];
    if (offset === 0xffffffff || size === 0xffffffff) {
      const at = end >= 20 ? Number(tail.getBigUint64(end - 12, true)) : file.size;
      const wide = await bytes(file, at, 56);
      if (wide.byteLength < 56 || wide.getUint32(0, true) !== 0x06064b50) throw new Unreadable(`${name} is damaged: its list of files is missing; pack it again`);
      [size, offset] = [Number(wide.getBigUint64(40, true)), Number(wide.getBigUint64(48, true))];
    }
    const list = await bytes(file, offset, size);
    const paths = [];
    for (let at = 0; at + 46 <= list.byteLength;) {
      if (list.getUint32(at, true) !== 0x02014b50) break;
      const length = list.getUint16(at + 28, true);
      const path = new TextDecoder().decode(new Uint8Array(list.buffer, at + 46, Math.min(length, list.byteLength - at - 46)));
      if (!path.endsWith("/")) paths.push(path);
      at += 46 + length + list.getUint16(at + 30, true) + list.getUint16(at + 32, true);
    }
    if (!paths.length) throw new Unreadable(`${name} holds no files; pack the images into it`);
    return paths;
  }

  return { read, kind, Unreadable, naturalCompare, gaps, zipPaths };
})();
