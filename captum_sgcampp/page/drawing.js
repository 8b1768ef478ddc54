// Maps as pictures.

import { bytesOf, DATA } from "./data.js";
import { boxOf } from "./maps.js";

/** The 256 colors from zero to the maximum, each as the four bytes of a pixel. */
const COLORS = new Uint32Array(bytesOf(DATA.colors).buffer);

function colorOf(value, maximum) {
  return COLORS[maximum > 0 ? Math.round(255 * Math.min(Math.max(value / maximum, 0), 1)) : 0];
}

/** Fills a canvas with pixels, each as its four bytes. */
function fill(canvas, width, height, pixels) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
}

/** Draws values with a color for each square, one pixel a square; the browser enlarges them. */
export function drawSquares(canvas, values, rows, columns, maximum) {
  const pixels = new Uint32Array(values.length);
  for (let i = 0; i < pixels.length; i++) pixels[i] = colorOf(values[i], maximum);
  fill(canvas, columns, rows, pixels);
}

/** Draws values interpolated between the centers of the squares, as LayerAttribution.interpolate with "bilinear". */
export function drawSmooth(canvas, values, rows, columns, maximum, width, height) {
  const pixels = new Uint32Array(width * height);
  const across = between(columns, width);
  const down = between(rows, height);
  for (let y = 0; y < height; y++) {
    const [above, below, v] = [down.before[y] * columns, down.after[y] * columns, down.fraction[y]];
    for (let x = 0; x < width; x++) {
      const left = across.before[x];
      const right = across.after[x];
      const u = across.fraction[x];
      const top = values[above + left] * (1 - u) + values[above + right] * u;
      const bottom = values[below + left] * (1 - u) + values[below + right] * u;
      pixels[y * width + x] = colorOf(top * (1 - v) + bottom * v, maximum);
    }
  }
  fill(canvas, width, height, pixels);
}

/** For each of `length` pixels, the two of `size` squares that it lies between, and how far. */
function between(size, length) {
  const [before, after, fraction] = [new Int32Array(length), new Int32Array(length), new Float64Array(length)];
  for (let pixel = 0; pixel < length; pixel++) {
    const place = Math.min(Math.max(((pixel + 0.5) * size) / length - 0.5, 0), size - 1);
    before[pixel] = Math.floor(place);
    after[pixel] = Math.min(before[pixel] + 1, size - 1);
    fraction[pixel] = place - before[pixel];
  }
  return { before, after, fraction };
}

/** Draws the colors from zero to the maximum. */
export function drawLegend(canvas) {
  drawSquares(canvas, Float64Array.from({ length: 256 }, (_, i) => i), 1, 256, 255);
}

/** The boxes around the chosen neurons, [row, column, height, width]. */
export function outlines(neurons, region) {
  if (!region) return neurons.map(([row, column]) => [row, column, 1, 1]);
  const [top, bottom, left, right] = boxOf(neurons);
  return [[top, left, bottom - top + 1, right - left + 1]];
}

/** How bright the photograph is behind the map: at full opacity, white is no brighter than a third of the maximum. */
export const brightnessBehind = (opacity) => 1 - 0.68 * (opacity / 100);

/** The picture as a canvas of its own: the photograph, or the map with or without it behind and the outlines. */
export function compose(photograph, map, layer, state) {
  const canvas = document.createElement("canvas");
  const factor = Math.max(1, Math.ceil(640 / Math.max(photograph.naturalWidth, photograph.naturalHeight)));
  canvas.width = factor * photograph.naturalWidth;
  canvas.height = factor * photograph.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(photograph, 0, 0, canvas.width, canvas.height);
  if (state.show === "photograph") return canvas;
  const brightness = state.show === "map" ? 0 : brightnessBehind(state.opacity);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const [red, green, blue] = pixels.data.subarray(i, i + 3);
    pixels.data.fill(brightness * (0.2126 * red + 0.7152 * green + 0.0722 * blue), i, i + 3);
  }
  context.putImageData(pixels, 0, 0);
  context.globalCompositeOperation = "screen"; // as light is added to light: nothing gets darker where the map is zero
  context.globalAlpha = state.show === "map" ? 1 : state.opacity / 100;
  context.imageSmoothingEnabled = isSmooth(state);
  context.drawImage(map, 0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = 1;
  const [height, width] = [canvas.height / layer.rows, canvas.width / layer.columns];
  for (const [color, thickness] of [["black", 4], ["white", 2]]) {
    context.strokeStyle = color;
    context.lineWidth = thickness;
    for (const [row, column, rows, columns] of outlines(state.neurons, state.region)) {
      context.strokeRect(column * width, row * height, columns * width, rows * height);
    }
  }
  return canvas;
}

/** Whether the map is interpolated. Chosen neurons are not: that would blur them into those that are not chosen. */
export const isSmooth = (state) => state.drawn === "smooth" && !state.neurons.length;
