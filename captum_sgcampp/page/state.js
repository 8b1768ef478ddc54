// What can be chosen, and its forms as text: as one types it, and in the address.

import { DATA } from "./data.js";

export const VIEWS = { show: ["overlay", "map", "photograph"], scale: ["each", "shared"], drawn: ["smooth", "squares"] };

/** What the page shows first for a photograph. */
function opening(number) {
  const { classes, layers, opening: selection } = DATA.photographs[number];
  return {
    photograph: number,
    target: classes[0].target,
    method: selection.method,
    layer: layers[layers.length - 1].name,
    filters: selection.filters,
    neurons: selection.neurons,
    region: selection.region,
    show: "overlay",
    opacity: 80,
    scale: "each",
    drawn: "smooth",
  };
}

/** The nearest state that exists: what the photograph or the layer does not have is replaced or left out. */
export function valid(wanted) {
  const first = opening(DATA.photographs[wanted.photograph] ? wanted.photograph : 0);
  const { classes, methods, layers } = DATA.photographs[first.photograph];
  const state = { ...wanted, photograph: first.photograph };
  if (!classes.some(({ target }) => target === state.target)) state.target = first.target;
  if (!methods.includes(state.method)) state.method = first.method;
  if (!layers.some(({ name }) => name === state.layer)) {
    Object.assign(state, { layer: first.layer, filters: [], neurons: [] }); // these are of that layer
  }
  for (const [key, choices] of Object.entries(VIEWS)) if (!choices.includes(state[key])) state[key] = first[key];
  if (!(state.opacity >= 0 && state.opacity <= 100)) state.opacity = first.opacity;
  const layer = layers.find(({ name }) => name === state.layer);
  state.filters = unique(state.filters).filter((number) => hasFilter(layer, number));
  state.neurons = unique(state.neurons).filter((neuron) => hasNeuron(layer, neuron));
  state.region = state.region && state.neurons.length === 2;
  return state;
}

/** The list without one of its items, or with it if it was not there. */
export function toggle(items, one) {
  const others = items.filter((other) => !isSame(other, one));
  return others.length < items.length ? others : [...items, one];
}

/** Whether two neurons or two filters are the same. */
export const isSame = (one, other) => String(one) === String(other);

const unique = (items) => [...new Map(items.map((item) => [String(item), item])).values()];

export function hasFilter({ channels, filters }, number) {
  return filters ? filters.includes(number) : Number.isInteger(number) && number >= 0 && number < channels;
}

export function hasNeuron({ grid }, neuron) {
  return neuron.length === 2 && neuron.every((place, i) => Number.isInteger(place) && place >= 0 && place < grid[i]);
}

/** The chosen neurons as one types them: rows and columns, such as "2,4 9,10". */
export const neuronsAsText = (neurons) => neurons.map((neuron) => neuron.join(",")).join(" ");
export const neuronsFromText = (text) => (text.match(/-?\d+\s*,\s*-?\d+/g) ?? []).map((pair) => pair.split(",").map(Number));
export const filtersFromText = (text) => (text.match(/-?\d+/g) ?? []).map(Number);

/** The chosen filters in words, where these are not all. */
export function ofFilters({ filters }) {
  return filters.length ? ` of filter${filters.length > 1 ? "s" : ""} ${filters.join(", ")}` : "";
}

/** How each choice is written in the address, and read from it. */
const ADDRESS = {
  photograph: [String, Number],
  target: [String, Number],
  method: [String, String],
  layer: [String, String],
  filters: [(filters) => filters.join(","), filtersFromText],
  neurons: [neuronsAsText, neuronsFromText],
  region: [String, (text) => text === "true"],
  show: [String, String],
  opacity: [String, Number],
  scale: [String, String],
  drawn: [String, String],
};

/** The state as a fragment of the address, with what differs from the opening. */
export function toFragment(state) {
  const parameters = new URLSearchParams();
  const first = opening(0);
  for (const [key, [write]] of Object.entries(ADDRESS)) {
    if (write(state[key]) !== write(first[key])) parameters.set(key, write(state[key]));
  }
  return parameters.toString();
}

/** The state that a fragment stands for, or the nearest that exists. */
export function fromFragment(fragment) {
  const state = opening(0);
  for (const [key, text] of new URLSearchParams(fragment)) {
    if (Object.hasOwn(ADDRESS, key)) state[key] = ADDRESS[key][1](text);
  }
  return valid(state);
}
