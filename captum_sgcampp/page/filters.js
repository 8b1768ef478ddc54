// What counts: the readout with the strongest filters somewhere, and the strip of all filters.

import { create, digits, element, filterButton, percent } from "./controls.js";
import { weightsOf } from "./data.js";
import { drawSquares } from "./drawing.js";
import { boxOf, largest, mapOf, positionsOf, ranking } from "./maps.js";
import { ofFilters, toggle } from "./state.js";
import { store } from "./store.js";

const IN_READOUT = 6;

const scopes = {}; // what the readout and the strip show now

/** Whether a list of filters must be made anew, because it was for another scope; keeps this one in mind. */
function isNew(name, ...scope) {
  const { state, layer } = store.now;
  const text = JSON.stringify([layer.key, state.method, state.target, state.scale, ...scope]);
  if (scopes[name] === text) return false;
  scopes[name] = text;
  return true;
}

export function showReadout() {
  const { state, layer, pointed, corner } = store.now;
  const [neurons, region] = pointed && !corner ? [[pointed], false] : [state.neurons, state.region];
  const positions = positionsOf(layer, neurons, region);
  const sum = mapOf(layer, weightsOf(layer, state), state.filters, [], false);
  const [heading, text] = describe(neurons, region, positions, sum);
  element("place").textContent = heading;
  element("value").textContent = text;
  element("means").style.visibility = positions?.length === 1 ? "hidden" : "visible";
  if (isNew("readout", neurons, region)) {
    const strongest = ranking(layer, weightsOf(layer, state), positions).slice(0, IN_READOUT);
    element("strongest").replaceChildren(...strongest.map(readoutRow));
    drawFilters(element("strongest"));
  }
  markFilters();
}

function readoutRow({ number, activation, weight, share }) {
  const row = create("tr");
  const head = create("th");
  head.scope = "row";
  head.append(filterButton(number, share, peekAtFilter, toggleFilter));
  row.append(head, ...[digits(activation), digits(weight), percent(share)].map((text) => create("td", "", text)));
  return row;
}

/** The heading of the readout and the line below it. */
function describe(neurons, region, positions, map) {
  const { state } = store.now;
  const maximum = largest(map);
  if (!positions) return [`The whole map${ofFilters(state)}`, `maximum ${digits(maximum)}`];
  if (positions.length === 1) {
    const value = map[positions[0]];
    const heading = `Row ${neurons[0][0]}, column ${neurons[0][1]}`;
    const shown = `map${ofFilters(state)} ${digits(value)}, ${percent(value / maximum)} of its maximum`;
    return [heading, value ? shown : `the map${ofFilters(state)} is zero here`];
  }
  const total = (places) => places.reduce((sum, i) => sum + map[i], 0);
  const whole = total([...map.keys()]);
  const part = whole ? `${percent(total(positions) / whole)} of the whole map${ofFilters(state)}` : "the map is zero";
  if (!region) return [`${neurons.length} neurons`, part];
  const [top, bottom, left, right] = boxOf(neurons);
  return [`Rows ${top} to ${bottom}, columns ${left} to ${right}`, part];
}

export function showStrip() {
  const { state, layer, stripLength } = store.now;
  const length = Math.min(stripLength, layer.filters.length);
  element("more").hidden = length === layer.filters.length;
  element("more").textContent = `Show more of the ${layer.filters.length} filters`;
  element("filters-note").textContent =
    `Each filter\u2019s own map, sorted by its share in the map${state.neurons.length ? " at the chosen neurons" : ""}. ` +
    "Shares add up to 100\u2009%; filters that lower the map have negative ones. " +
    "Point to see one alone; click to choose, several are added up.";
  const ranked = ranking(layer, weightsOf(layer, state), positionsOf(layer, state.neurons, state.region));
  const shown = ranked.filter(({ number }, rank) => rank < length || state.filters.includes(number));
  if (isNew("strip", state.neurons, state.region, shown.map(({ number }) => number))) {
    const buttons = shown.map(({ number, share }) => filterButton(number, share, peekAtFilter, toggleFilter));
    element("strip").replaceChildren(...buttons);
    drawFilters(element("strip"));
  }
  markFilters();
}

function drawFilters(parent) {
  const { state, layer } = store.now;
  const weights = weightsOf(layer, state);
  const buttons = [...parent.querySelectorAll("button")];
  const maps = buttons.map(({ dataset }) => mapOf(layer, weights, [Number(dataset.filter)], [], false));
  const shared = largest(maps.map(largest));
  buttons.forEach((button, i) => {
    const maximum = state.scale === "each" ? largest(maps[i]) : shared;
    drawSquares(button.querySelector("canvas"), maps[i], layer.rows, layer.columns, maximum);
  });
}

/** Marks the chosen filters wherever they are shown. */
function markFilters() {
  const { state } = store.now;
  document.body.dataset.drawn = state.drawn;
  for (const button of document.querySelectorAll("button.filter")) {
    button.setAttribute("aria-pressed", state.filters.includes(Number(button.dataset.filter)));
  }
}

const peekAtFilter = (number) => store.peekAt("filters", number === null ? null : [number]);

function toggleFilter(number) {
  store.choose({ filters: toggle(store.now.state.filters, number) });
}
