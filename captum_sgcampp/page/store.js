// The store: what is chosen and pointed at, every change of it, and who is told.

import { DATA, keyOf, loadLayer } from "./data.js";
import { fromFragment, isSame, toggle, valid } from "./state.js";

const IN_STRIP = 36; // the filters that are shown at first, and that "more" adds
const NOTHING = Object.freeze({});

class Store {
  #now;
  #past = []; // the states before, for undo
  #subscriptions = [];

  constructor(state) {
    this.#now = Object.freeze({
      state, // what is chosen
      layer: null, // the chosen one, as loadLayer returns it; before it is read, the last one
      peek: NOTHING, // what is pointed at, in place of what is chosen
      pointed: null, // the neuron that is pointed at
      corner: null, // where a region begins that is being drawn
      stripLength: IN_STRIP,
    });
  }

  /** What holds now. Only the methods below change it, each to an object of its own. */
  get now() {
    return this.#now;
  }

  get photograph() {
    return DATA.photographs[this.#now.state.photograph];
  }

  /** Whether the chosen layer has been read. */
  get isReady() {
    const { state, layer } = this.#now;
    return layer?.key === keyOf(state.photograph, state.layer);
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  /** Calls `show` after a change of one of these keys, once the chosen layer is read. */
  subscribe(keys, show) {
    this.#subscriptions.push({ keys, show });
  }

  /** Reads the layer that is chosen at first. */
  start() {
    return this.#turnTo(this.#now.state);
  }

  /** Changes a part of what is chosen. */
  choose(changes) {
    return this.open(valid({ ...this.#now.state, ...changes }));
  }

  /** Changes all that is chosen. */
  open(state) {
    this.#past.push(this.#now.state);
    return this.#turnTo(state);
  }

  async undo() {
    if (this.canUndo) await this.#turnTo(this.#past.pop());
  }

  /** Shows a value in place of what is chosen while it is pointed at, and what is chosen again with null. */
  peekAt(key, value) {
    this.#change({ peek: value === null ? NOTHING : { [key]: value } });
  }

  /** Points at a neuron, or where a region is being drawn at its other corner. */
  pointAt(pointed) {
    if (isSame(pointed, this.#now.pointed)) return;
    this.#change({ pointed, peek: regionOf({ ...this.#now, pointed }) ?? NOTHING });
  }

  /** Begins to draw a region; with null, draws none. */
  drawFrom(corner) {
    this.#change({ corner });
  }

  /** Keeps the region that is being drawn; or the neuron that is pointed at, or lets it go if it was kept. */
  keep() {
    const { state, pointed } = this.#now;
    const neurons = toggle(state.region ? [] : state.neurons, pointed);
    const changes = regionOf(this.#now) ?? { neurons, region: false };
    this.drawFrom(null);
    return this.choose(changes);
  }

  /** Points at nothing. */
  leave() {
    this.#change({ pointed: null, corner: null, peek: NOTHING });
  }

  showMore() {
    this.#change({ stripLength: this.#now.stripLength + IN_STRIP });
  }

  async #turnTo(state) {
    this.#change({ state, peek: NOTHING });
    const layer = await loadLayer(state.photograph, state.layer);
    if (this.#now.state !== state) return; // something else has been chosen meanwhile
    if (layer === this.#now.layer) return;
    this.#change({ layer, pointed: null, corner: null, stripLength: IN_STRIP }); // neurons and filters of another grid
  }

  #change(changes) {
    const before = this.#now;
    this.#now = Object.freeze({ ...before, ...changes });
    if (!this.isReady) return;
    const changed = Object.keys(changes).filter((key) => changes[key] !== before[key]);
    const told = this.#subscriptions.filter(({ keys }) => keys.some((key) => changed.includes(key)));
    for (const { show } of told) show();
  }
}

/** The region from the corner to the neuron that is pointed at, if there are two. */
function regionOf({ pointed, corner }) {
  return corner && pointed && !isSame(corner, pointed) ? { neurons: [corner, pointed], region: true } : null;
}

export const store = new Store(fromFragment(location.hash.slice(1)));
