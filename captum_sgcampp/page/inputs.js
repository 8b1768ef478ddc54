// What one does with the page: pointing, clicking, keys, typing, buttons.

import { element } from "./controls.js";
import { compose } from "./drawing.js";
import { copyText, downloadCanvas } from "./outputs.js";
import { showOpacity } from "./picture.js";
import { filtersFromText, fromFragment, hasFilter, hasNeuron, neuronsFromText, toFragment } from "./state.js";
import { store } from "./store.js";

let timer;

/** Says something for a moment. */
function tell(text) {
  element("status").textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => (element("status").textContent = ""), 4000);
}

// Neurons, by pointer and by keyboard

function neuronAt({ clientX, clientY }) {
  const { layer } = store.now;
  const { left, top, width, height } = element("marks").getBoundingClientRect();
  const place = (offset, length, size) => Math.min(Math.max(Math.floor((offset / length) * size), 0), size - 1);
  return [place(clientY - top, height, layer.rows), place(clientX - left, width, layer.columns)];
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** Points at the neuron beside the one that is pointed at, or chosen, or in the middle. */
function step(direction, draws) {
  const { state, layer, pointed, corner } = store.now;
  const sizes = [layer.rows, layer.columns];
  const from = pointed ?? state.neurons.at(-1) ?? sizes.map((size) => size >> 1);
  store.drawFrom(draws ? (corner ?? from) : null);
  store.pointAt(from.map((place, axis) => Math.min(Math.max(place + direction[axis], 0), sizes[axis] - 1)));
}

function pressKey(event) {
  if (!store.isReady || event.ctrlKey || event.metaKey || event.altKey) return;
  const { state, pointed, corner } = store.now;
  if (event.key in STEPS) {
    step(STEPS[event.key], event.shiftKey);
  } else if ((event.key === "Enter" || event.key === " ") && pointed) {
    store.keep();
  } else if (event.key === "Escape") {
    if (corner) store.leave();
    else if (state.neurons.length) store.choose({ neurons: [] });
  } else {
    return;
  }
  event.preventDefault();
}

function listenToPicture() {
  const picture = element("picture");
  picture.addEventListener("pointerdown", (event) => {
    if (event.button || !store.isReady) return;
    picture.setPointerCapture(event.pointerId);
    store.pointAt(neuronAt(event));
    store.drawFrom(store.now.pointed);
  });
  picture.addEventListener("pointermove", (event) => store.isReady && store.pointAt(neuronAt(event)));
  picture.addEventListener("pointerup", () => store.isReady && store.now.corner && store.keep());
  for (const name of ["pointercancel", "pointerleave", "blur"]) picture.addEventListener(name, () => store.leave());
  picture.addEventListener("keydown", pressKey);
}

// What is typed

function onTyped(id, pattern, example, read) {
  element(id).addEventListener("change", ({ target }) => {
    const rest = target.value.replace(pattern, "").replace(/[\s,;()[\]]/g, "");
    if (rest) {
      tell(`Not understood: ${rest}. Type numbers such as ${example}.`);
      return;
    }
    const [changes, refused] = read(target.value);
    if (refused.length) tell(`This layer has no ${id === "filters" ? "filter" : "neuron"} ${refused.join(" and no ")}.`);
    store.choose(changes);
  });
}

const packedLayer = () => store.photograph.layers.find(({ name }) => name === store.now.state.layer);

function listenToFields() {
  onTyped("filters", /-?\d+/g, "10, 32", (text) => {
    const filters = filtersFromText(text);
    return [{ filters }, filters.filter((number) => !hasFilter(packedLayer(), number))];
  });
  onTyped("neurons", /-?\d+\s*,\s*-?\d+/g, "2,4 9,10", (text) => {
    const neurons = neuronsFromText(text);
    return [{ neurons }, neurons.filter((neuron) => !hasNeuron(packedLayer(), neuron))];
  });
  element("region").addEventListener("change", ({ target }) => store.choose({ region: target.checked }));
  element("opacity").addEventListener("input", ({ target }) => showOpacity(target.value));
  element("opacity").addEventListener("change", ({ target }) => store.choose({ opacity: Number(target.value) }));
}

// Buttons, and what the browser does

function clear() {
  const { filters, neurons } = store.now.state;
  if (filters.length || neurons.length) store.choose({ filters: [], neurons: [] });
}

function showMore() {
  if (!store.isReady) return;
  const before = element("strip").children.length;
  store.showMore();
  element("strip").children[before].focus();
}

async function copy() {
  tell((await copyText(element("call").textContent)) ? "Copied." : "The browser does not allow copying here.");
}

function download() {
  if (!store.isReady) return;
  const { state, layer } = store.now;
  const { title, classes } = store.photograph;
  const { name } = classes.find(({ target }) => target === state.target);
  const words = [title, state.layer, name, state.method].join(" ").match(/[\p{L}\p{N}_.+]+/gu) ?? ["map"];
  downloadCanvas(compose(element("photograph"), element("map"), layer, state), `${words.join("-")}.png`);
}

function listenToButtons() {
  const clicked = { undo: () => store.undo(), clear, more: showMore, copy, download };
  for (const [id, act] of Object.entries(clicked)) element(id).addEventListener("click", act);
}

function listenToBrowser() {
  document.addEventListener("keydown", (event) => {
    const isUndo = event.key === "z" && (event.ctrlKey || event.metaKey) && !event.shiftKey;
    if (!isUndo || event.target.matches?.(".typed input")) return;
    event.preventDefault();
    store.undo();
  });
  addEventListener("hashchange", () => {
    const fragment = location.hash.slice(1);
    if (fragment !== toFragment(store.now.state)) store.open(fromFragment(fragment));
  });
}

export function listen() {
  listenToPicture();
  listenToFields();
  listenToButtons();
  listenToBrowser();
}
