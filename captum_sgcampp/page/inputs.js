// What one does with the page: pointing, clicking, keys, typing, buttons.

/** Says something for a moment. */
function tell(text) {
  element("status").textContent = text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => (element("status").textContent = ""), 4000);
}

// Neurons, by pointer and by keyboard

function neuronAt({ clientX, clientY }) {
  const { left, top, width, height } = element("marks").getBoundingClientRect();
  const place = (offset, length, size) => Math.min(Math.max(Math.floor((offset / length) * size), 0), size - 1);
  return [place(clientY - top, height, layer.rows), place(clientX - left, width, layer.columns)];
}

function pointAt(neuron) {
  if (String(neuron) === String(pointed)) return;
  pointed = neuron;
  const isRegion = corner && pointed && String(corner) !== String(pointed);
  peek = isRegion ? { neurons: [corner, pointed], region: true } : {};
  if (corner) showPicture();
  else showMarks(state);
  showReadout();
}

/** Keeps the neuron that is pointed at, or the region from the corner to it. */
function keep() {
  const isRegion = corner && String(corner) !== String(pointed);
  const changes = isRegion
    ? { neurons: [corner, pointed], region: true }
    : { neurons: toggle(state.region ? [] : state.neurons, pointed), region: false };
  corner = null;
  choose(changes);
}

function leave() {
  corner = null;
  pointed = null;
  peek = {};
  if (!isReady()) return;
  showPicture();
  showReadout();
}

picture.addEventListener("pointerdown", (event) => {
  if (event.button || !isReady()) return;
  picture.setPointerCapture(event.pointerId);
  pointAt(neuronAt(event));
  corner = pointed;
});
picture.addEventListener("pointermove", (event) => isReady() && pointAt(neuronAt(event)));
picture.addEventListener("pointerup", () => isReady() && corner && keep());
for (const name of ["pointercancel", "pointerleave", "blur"]) picture.addEventListener(name, leave);

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

picture.addEventListener("keydown", (event) => {
  if (!isReady() || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in STEPS) {
    const sizes = [layer.rows, layer.columns];
    const from = pointed ?? state.neurons.at(-1) ?? sizes.map((size) => size >> 1);
    const step = STEPS[event.key];
    corner = event.shiftKey ? (corner ?? from) : null;
    pointAt(from.map((place, axis) => Math.min(Math.max(place + step[axis], 0), sizes[axis] - 1)));
  } else if ((event.key === "Enter" || event.key === " ") && pointed) {
    keep();
  } else if (event.key === "Escape") {
    if (corner) leave();
    else if (state.neurons.length) choose({ neurons: [] });
  } else {
    return;
  }
  event.preventDefault();
});

// All other controls

function onTyped(id, pattern, example, read) {
  element(id).addEventListener("change", ({ target }) => {
    const rest = target.value.replace(pattern, "").replace(/[\s,;()[\]]/g, "");
    if (rest) {
      tell(`Not understood: ${rest}. Type numbers such as ${example}.`);
      return;
    }
    const [changes, refused] = read(target.value);
    if (refused.length) tell(`This layer has no ${id === "filters" ? "filter" : "neuron"} ${refused.join(" and no ")}.`);
    choose(changes);
  });
}

const packedLayer = () => photograph().layers.find(({ name }) => name === state.layer);

onTyped("filters", /-?\d+/g, "10, 32", (text) => {
  const filters = filtersFromText(text);
  return [{ filters }, filters.filter((number) => !hasFilter(packedLayer(), number))];
});
onTyped("neurons", /-?\d+\s*,\s*-?\d+/g, "2,4 9,10", (text) => {
  const neurons = neuronsFromText(text);
  return [{ neurons }, neurons.filter((neuron) => !hasNeuron(packedLayer(), neuron))];
});
element("region").addEventListener("change", ({ target }) => choose({ region: target.checked }));
element("opacity").addEventListener("input", ({ target }) => setOpacity(target.value));
element("opacity").addEventListener("change", ({ target }) => choose({ opacity: Number(target.value) }));
element("undo").addEventListener("click", undo);
element("clear").addEventListener("click", () => {
  if (state.filters.length || state.neurons.length) choose({ filters: [], neurons: [] });
});
element("more").addEventListener("click", () => {
  if (!isReady()) return;
  const shown = element("strip").children.length;
  stripLength += IN_STRIP;
  showStrip();
  element("strip").children[shown].focus();
});
element("copy").addEventListener("click", async () => {
  tell((await copyText(element("call").textContent)) ? "Copied." : "The browser does not allow copying here.");
});
element("download").addEventListener("click", () => {
  const { title, classes } = photograph();
  const { name } = classes.find(({ target }) => target === state.target);
  const words = [title, state.layer, name, state.method].join(" ").match(/[\p{L}\p{N}_.+]+/gu) ?? ["map"];
  downloadCanvas(compose(element("photograph"), element("map"), layer, state), `${words.join("-")}.png`);
});
document.addEventListener("keydown", (event) => {
  const isUndo = event.key === "z" && (event.ctrlKey || event.metaKey) && !event.shiftKey;
  if (!isUndo || event.target.matches?.(".typed input")) return;
  event.preventDefault();
  undo();
});
addEventListener("hashchange", () => {
  if (location.hash.slice(1) === toFragment(state)) return;
  past.push(state);
  state = fromFragment(location.hash.slice(1));
  show();
});

element("photographs").hidden = DATA.photographs.length === 1;
const ofPhotographs = DATA.photographs.map(({ title, image }, number) => {
  return { value: number, label: title || `Photograph ${number + 1}`, image: image.url };
});
fillRadios(element("photographs"), ofPhotographs, (number) => choose({ photograph: number }));
drawLegend(element("legend"));
show().catch((error) => (element("title").textContent = `This browser cannot read the page: ${error.message}`));
