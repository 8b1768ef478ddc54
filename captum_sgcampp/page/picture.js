// The picture: the map over the photograph, and the marks of neurons.

import { create, digits, element } from "./controls.js";
import { weightsOf } from "./data.js";
import { brightnessBehind, drawSmooth, drawSquares, isSmooth, outlines } from "./drawing.js";
import { largest, mapOf, wholeSum } from "./maps.js";
import { ofFilters } from "./state.js";
import { store } from "./store.js";

/** What is chosen, or pointed at in its place. */
const shownState = () => ({ ...store.now.state, ...store.now.peek });

function shownMap() {
  const { layer } = store.now;
  const shown = shownState();
  return mapOf(layer, weightsOf(layer, shown), shown.filters, shown.neurons, shown.region);
}

/** The value of the brightest color: the map's maximum, or with a shared scale that of it and the maps of all classes. */
function brightest(map, method) {
  const { state, layer } = store.now;
  if (state.scale === "each") return largest(map);
  const wholes = Object.values(layer.weights[method]).map((weights) => largest(wholeSum(layer, weights)));
  return Math.max(largest(map), ...wholes);
}

export function showPicture() {
  const { state, layer } = store.now;
  const shown = shownState();
  const map = shownMap();
  const maximum = brightest(map, shown.method);
  const { image, classes } = store.photograph;
  const enlarged = Math.max(1, Math.ceil(448 / Math.max(image.width, image.height)));
  if (isSmooth(shown)) {
    const size = [enlarged * image.width, enlarged * image.height];
    drawSmooth(element("map"), map, layer.rows, layer.columns, maximum, ...size);
  } else {
    drawSquares(element("map"), map, layer.rows, layer.columns, maximum);
  }
  element("picture").dataset.show = state.show;
  showOpacity(state.opacity);
  const values = maximum ? [0, maximum / 2, maximum].map(digits) : ["0", "zero everywhere"];
  element("legend-values").replaceChildren(...values.map((value) => create("span", "", value)));
  const { name } = classes.find(({ target }) => target === shown.target);
  const what = `${shown.method} map of ${layer.name}${ofFilters(shown)} for ${name}`;
  element("picture").setAttribute("aria-label", `${what}, maximum ${digits(largest(map))}`);
}

/** Lets the photograph shine through the map, the darker the more of the map one sees. */
export function showOpacity(opacity) {
  const isOverlay = store.now.state.show === "overlay";
  element("map").style.opacity = isOverlay ? opacity / 100 : 1;
  element("photograph").style.filter = isOverlay ? `grayscale(1) brightness(${brightnessBehind(opacity)})` : "";
}

export function showMarks() {
  const { layer, pointed, corner } = store.now;
  const { neurons, region } = shownState();
  element("marks").setAttribute("viewBox", `0 0 ${layer.columns} ${layer.rows}`);
  const kept = neurons.length ? outlines(neurons, region) : [];
  const boxes = kept.map((box) => ["kept", box]);
  if (pointed && !corner) boxes.push(["pointed", [...pointed, 1, 1]]);
  const rectangles = boxes.flatMap(([name, [row, column, rows, columns]]) =>
    ["under", "over"].map((line) => {
      const rectangle = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const attributes = { x: column, y: row, width: columns, height: rows, class: `${name} ${line}` };
      for (const [key, value] of Object.entries(attributes)) rectangle.setAttribute(key, value);
      return rectangle;
    }),
  );
  element("marks").replaceChildren(...rectangles);
}
