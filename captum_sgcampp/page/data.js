// What Python packed into the page, and how its tensors are read.

export const DATA = JSON.parse(document.getElementById("data").textContent);

/**
 * The value of each of the 65536 patterns of bits in half precision. Python packs finite values only, so that the entries
 * for infinities and NaN, those with the largest exponent, are never read.
 */
const HALVES = new Float32Array(1 << 16);
for (let bits = 0; bits < HALVES.length; bits++) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  HALVES[bits] = sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

export function bytesOf(base64) {
  const characters = atob(base64);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

/** The values of a packed tensor, in single precision. */
async function unpack(packed) {
  const inflated = new Blob([bytesOf(packed.data)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(inflated).arrayBuffer();
  if (packed.type === "float32") return new Float32Array(buffer);
  const halves = new Uint16Array(buffer);
  const values = new Float32Array(halves.length);
  for (let i = 0; i < values.length; i++) values[i] = HALVES[halves[i]] * packed.scale;
  return values;
}

const loaded = new Map();

export const keyOf = (photograph, name) => `${photograph} ${name}`;

/** A layer of a photograph, read once. */
export function loadLayer(photograph, name) {
  const key = keyOf(photograph, name);
  if (!loaded.has(key)) loaded.set(key, readLayer(photograph, name, key));
  return loaded.get(key);
}

/**
 * A layer, ready to compute with.
 *
 * activations holds the filters one after the other, each with its positions row by row. weights[method][target] holds
 * a weight for each filter, or in the order of the activations one for each position. filters are the numbers of the
 * filters; onlyFilters is null where these are all of the layer.
 */
async function readLayer(photograph, name, key) {
  const packed = DATA.photographs[photograph].layers.find((layer) => layer.name === name);
  const weights = {};
  for (const [method, ofTargets] of Object.entries(packed.weights)) {
    weights[method] = {};
    for (const [target, ofTarget] of Object.entries(ofTargets)) weights[method][target] = await unpack(ofTarget);
  }
  const [rows, columns] = packed.grid;
  return {
    key,
    name,
    named: packed.named,
    rows,
    columns,
    positions: rows * columns,
    filters: packed.filters ?? Array.from({ length: packed.channels }, (_, number) => number),
    onlyFilters: packed.filters,
    activations: await unpack(packed.activations),
    weights,
  };
}

/** The weights of a layer for the method and the target of a state. */
export const weightsOf = (layer, { method, target }) => layer.weights[method][target];
