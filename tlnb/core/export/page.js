// Runs the network on photos, here in the browser. Photos go nowhere: no request carries them.
const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);

// ── preprocessing, pixel by pixel as in training ──

const STRIP = 2 ** 20; // pixels read at a time: some browsers limit a canvas to 16 million
const FILTERS = { // weight by distance, and reach; bicubic is Keys' kernel with a = -0.5
  box: [() => 1, 0.5],
  bilinear: [(x) => Math.max(0, 1 - x), 1],
  bicubic: [(x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((2.5 - 0.5 * x) * x - 4) * x + 2), 2],
};

// Antialiased resizing along one axis, of which the middle is kept: for each new pixel the first
// old one that it is made of, and the weights from there on.
function taps(from, to, kind, keep = to, scale = from / to) {
  const wide = Math.max(scale, 1), skipped = margin(to, keep);
  return Array.from({ length: keep }, (_, i) => {
    if (kind === "nearest") return [Math.floor((i + skipped) * scale), [1]];
    const [filter, reach] = FILTERS[kind], centre = (i + skipped + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - reach * wide + 0.5));
    const last = Math.min(from, Math.floor(centre + reach * wide + 0.5));
    const old = Array.from({ length: last - first }, (_, k) => first + k + 0.5);
    const weights = old.map((x) => filter(Math.min(reach, Math.abs(x - centre) / wide)));
    const sum = weights.reduce((a, b) => a + b);
    return [first, weights.map((weight) => weight / sum)];
  });
}

const margin = (all, part) => ((all - part) % 2 ? 2 * Math.round((all - part) / 4) : (all - part) / 2); // as Python rounds

// Weighted sums of RGBA bytes along one axis; lines and pixels are so many bytes apart.
function blend(from, to, taps, lines, [fromLine, fromPixel, toLine, toPixel], offset = 0) {
  for (let line = 0; line < lines; line++) {
    taps.forEach(([first, weights], i) => {
      const start = line * fromLine + first * fromPixel, at = offset + line * toLine + i * toPixel;
      for (let colour = 0; colour < 3; colour++) {
        let sum = 0, place = start + colour;
        for (let k = 0; k < weights.length; k++, place += fromPixel) sum += weights[k] * from[place];
        to[at + colour] = sum; // rounded and clamped to 0..255
      }
    });
  }
}

// An image is a width, a height, and a function that gives the RGBA bytes of some rows.
function resized({ width, height, rows }, across, down) {
  const wide = across.length, high = down.length;
  const narrow = new Uint8ClampedArray(4 * wide * height);
  const data = new Uint8ClampedArray(4 * wide * high).fill(255);
  const strip = Math.max(1, Math.floor(STRIP / width));
  for (let top = 0; top < height; top += strip) {
    const count = Math.min(strip, height - top);
    blend(rows(top, count), narrow, across, count, [4 * width, 4, 4 * wide, 4], 4 * wide * top);
  }
  blend(narrow, data, down, wide, [4, 4 * wide, 4, 4 * wide]);
  return { width: wide, height: high, data, rows: (top, n) => data.subarray(4 * wide * top, 4 * wide * (top + n)) };
}

function decoded(bitmap) { // on white, where it is transparent
  const { width, height } = bitmap, canvas = document.createElement("canvas");
  const rows = (top, count) => {
    Object.assign(canvas, { width, height: count });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, -top);
    return context.getImageData(0, 0, width, count).data;
  };
  return { width, height, rows };
}

function prepared(bitmap, isJpeg) { // what the network sees
  const { edge, finer, longest, middle, size, interpolation } = facts;
  let image = decoded(bitmap);
  const small = (step) => Math.min(image.width, image.height) < step * finer * edge;
  const step = isJpeg && [8, 4, 2].find((each) => !small(each)); // by which decoders shrink
  const block = (length) => taps(length, Math.ceil(length / step), "box", undefined, step);
  if (step) image = resized(image, block(image.width), block(image.height));
  const short = Math.min(image.width, image.height);
  const square = (length) => {
    const part = Math.min(length, longest * short), left = margin(length, part);
    const found = taps(part, Math.floor((edge * part) / short), "bilinear", edge);
    return found.map(([first, weights]) => [left + first, weights]);
  };
  image = resized(image, square(image.width), square(image.height));
  const fit = taps(edge, middle, interpolation, size);
  return resized(image, fit, fit);
}

function normalised({ data }, { mean, std } = facts) { // RGBA bytes → a plane of floats for each colour
  const bytes = [0, 1, 2].map((colour) => data.filter((_, i) => i % 4 === colour));
  return Float32Array.from(bytes.flatMap((plane, c) => Array.from(plane, (x) => (x / 255 - mean[c]) / std[c])));
}

// ── the network ──

async function bytes(id) { // fetched, and the browser checks the hash; or in the page: base64 of gzip
  const { url, integrity } = facts.fetched[id] ?? {};
  if (url) return new Uint8Array(await (await fetch(url, { integrity })).arrayBuffer());
  const text = $(id).textContent, code = (letter) => letter.charCodeAt(0);
  const packed = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), code);
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(plain).arrayBuffer());
}

async function started() { // a function from an image to classes, most probable first, and whether it is like known ones
  const [code, wasm, network] = await Promise.all(["code", "wasm", "network"].map(bytes));
  const ort = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  Object.assign(ort.env.wasm, { wasmBinary: wasm, numThreads: 1 });
  const session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
  return async (image) => {
    const images = new ort.Tensor("float32", normalised(image), [1, 3, image.height, image.width]);
    const given = await session.run({ images }), scores = Array.from(given.scores.data), most = Math.max(...scores);
    const powers = scores.map((score) => Math.exp((score - most) / facts.temperature));
    const sum = powers.reduce((a, b) => a + b);
    const classes = powers.map((power, i) => ({ name: facts.classes[i], share: power / sum }));
    const known = !given.likeness || given.likeness.data[0] >= facts.threshold;
    return { known, classes: classes.sort((a, b) => b.share - a.share) };
  };
}
const ready = started().catch(({ message }) => { throw new Error(`${facts.trouble} (${message})`); });

async function answered(bitmap, isJpeg = false) {
  const network = await ready, image = prepared(bitmap, isJpeg);
  bitmap.close();
  return { image, ...(await network(image)) };
}

// ── the page ──

const SHOWN = 5; // classes in sight; the others are folded
const say = (text) => ($("status").textContent = text);
const percent = (share) => (share > 0.9995 ? "over 99.9%" : `${(100 * share).toFixed(1)}%`);
ready.then(() => say("Ready."), (error) => say(error.message));

const sure = ({ name, share }) => `${name}, ${percent(share)}`;
const headline = ({ known, classes: [best] }) => (known ? sure(best) : `none of these (nearest: ${sure(best)})`);

function filled(template, texts) { // the texts are shown as they are, never read as HTML
  const copy = $(template).content.firstElementChild.cloneNode(true);
  copy.querySelectorAll("[data-text]").forEach((place, i) => (place.textContent = texts[i]));
  return copy;
}

function bar({ name, share }) {
  const row = filled("bar", [name, percent(share)]);
  row.lastElementChild.style.inlineSize = `${100 * share}%`;
  return row;
}

function show(name, answer) {
  const { image, classes } = answer, card = filled("card", [headline(answer), name]), canvas = card.querySelector("canvas");
  Object.assign(canvas, { width: image.width, height: image.height });
  canvas.getContext("2d").putImageData(new ImageData(image.data, image.width), 0, 0);
  const [first, others] = card.querySelectorAll("ul");
  first.append(...classes.slice(0, SHOWN).map(bar));
  others.append(...classes.slice(SHOWN).map(bar));
  card.querySelector("details").hidden = classes.length <= SHOWN;
  $("answers").prepend(card);
  say(`${name}: ${headline(answer)}`);
}

const AS_IT_IS = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
async function read(files) {
  for (const file of files) {
    say(`Looking at ${file.name} …`);
    try {
      const bitmap = await createImageBitmap(file, AS_IT_IS);
      show(file.name, await answered(bitmap, file.type === "image/jpeg"));
    } catch ({ name, message }) {
      const why = name === "InvalidStateError" ? "this browser cannot read it as an image" : message;
      $("answers").prepend(filled("failure", [say(`${file.name}: ${why}`)]));
    }
  }
}

async function camera() { // on, or off again
  const video = $("video"), stream = video.srcObject, wanted = { video: { facingMode: "environment" } };
  stream?.getTracks().forEach((track) => track.stop());
  video.srcObject = stream ? null : await navigator.mediaDevices.getUserMedia(wanted);
  $("live").hidden = Boolean(stream);
  $("camera").textContent = stream ? "Use the camera" : "Stop the camera";
  if (!stream) await video.play();
  while (video.srcObject && !stream) {
    $("now").textContent = headline(await answered(await createImageBitmap(video)));
    await new Promise((later) => setTimeout(later, 100));
  }
}

const shoot = async () => show("Photo", await answered(await createImageBitmap($("video"))));
const failed = ({ message }) => $("video").srcObject || say(`The camera cannot be used: ${message}`);
$("choose").onclick = () => $("files").click();
$("files").onchange = () => read([...$("files").files]).then(() => ($("files").value = ""));
$("camera").onclick = () => camera().catch(failed);
$("shoot").onclick = () => shoot().catch(failed);
$("camera").hidden = !navigator.mediaDevices; // not on pages that come by plain http
ondragover = (event) => event.preventDefault();
ondrop = (event) => { event.preventDefault(); read([...event.dataTransfer.files]); };
document.onpaste = (event) => read([...event.clipboardData.files]);
