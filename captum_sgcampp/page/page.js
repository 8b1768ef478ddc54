// The page itself: what is chosen and pointed at, and how the rest follows from it.

const IN_STRIP = 36; // the filters that are shown at first, and that "more" adds
const IN_READOUT = 6;

let state = fromFragment(location.hash.slice(1));
let layer = null; // the chosen one, as loadLayer returns it
let peek = {}; // what is pointed at, in place of what is chosen
let pointed = null; // the neuron that is pointed at
let corner = null; // where a region begins that is being drawn
let stripLength = IN_STRIP;
const past = [];
const picture = element("picture");

/** Whether the chosen layer has been read. */
const isReady = () => layer?.key === keyOf(state.photograph, state.layer);
const photograph = () => DATA.photographs[state.photograph];
const weightsOf = ({ method, target }) => layer.weights[method][target];

/** Changes what is chosen. */
function choose(changes) {
  past.push(state);
  state = valid({ ...state, ...changes });
  return show();
}

function undo() {
  if (past.length) state = past.pop();
  return show();
}

/** Shows what is chosen, once its layer is read. */
async function show() {
  const wanted = state;
  peek = {};
  const ready = await loadLayer(wanted.photograph, wanted.layer);
  if (state !== wanted) return; // something else has been chosen meanwhile
  if (ready !== layer) {
    stripLength = IN_STRIP;
    [pointed, corner] = [null, null]; // neurons of another grid
  }
  layer = ready;
  writeAddress();
  showChoices();
  showPicture();
  showReadout();
  showStrip();
  showCall();
}

function writeAddress() {
  const fragment = toFragment(state);
  if (fragment === location.hash.slice(1)) return;
  try {
    history.replaceState(null, "", `${location.href.split("#")[0]}${fragment && `#${fragment}`}`);
  } catch {
    // A frame without an address of its own, as in some notebooks, has none to write.
  }
}

// The choices

let listed = null; // the photograph whose choices are listed

function listChoices() {
  const { title, model, image, classes, methods, layers, leftOut, recipe } = photograph();
  element("title").textContent = title || "Explanation";
  const samples = recipe.samples ? `, ${recipe.samples} noisy copies with \u03c3 = ${recipe.stdevs}` : "";
  element("model").textContent = model + samples;
  element("photograph").src = image.url;
  element("photograph").width = image.width;
  element("photograph").height = image.height;
  document.body.style.setProperty("--aspect", `${image.width} / ${image.height}`);
  const named = (values) => values.map((value) => ({ value, label: value[0].toUpperCase() + value.slice(1) }));
  const ofClasses = classes.map(({ target, name, probability, score }) => {
    const aside = probability === undefined ? `score ${digits(score)}` : percent(probability);
    return { value: target, label: name, aside, bar: probability };
  });
  fillRadios(element("classes"), ofClasses, (target) => choose({ target }), peekAt("target"));
  fillRadios(element("methods"), named(methods), (method) => choose({ method }), peekAt("method"));
  const ofLayers = layers.map(({ name, grid, channels }) => {
    return { value: name, label: name, aside: `${grid.join("\u2009\u00d7\u2009")}, ${channels} filters` };
  });
  fillRadios(element("layers"), ofLayers, (name) => choose({ layer: name, filters: [], neurons: [] }));
  element("left-out").replaceChildren(...leftOut.map(({ why }) => create("li", "", `Left out: ${why}`)));
  for (const [name, values] of Object.entries(VIEWS)) {
    fillRadios(element(name), named(values), (value) => choose({ [name]: value }));
  }
  listed = state.photograph;
}

function showChoices() {
  if (listed !== state.photograph) listChoices();
  checkRadio(element("photographs"), state.photograph);
  checkRadio(element("classes"), state.target);
  checkRadio(element("methods"), state.method);
  checkRadio(element("layers"), state.layer);
  for (const name of Object.keys(VIEWS)) checkRadio(element(name), state[name]);
  element("drawn").disabled = state.neurons.length > 0; // see isSmooth
  element("opacity").value = state.opacity;
  element("opacity").disabled = state.show !== "overlay";
  element("undo").setAttribute("aria-disabled", !past.length);
  element("clear").setAttribute("aria-disabled", !state.filters.length && !state.neurons.length);
  element("filters").value = state.filters.join(", ");
  element("neurons").value = neuronsAsText(state.neurons);
  element("region").checked = state.region;
  element("region").disabled = state.neurons.length !== 2;
}

// The picture

/** The map that is shown: of what is chosen, or pointed at. */
function shownMap() {
  const shown = { ...state, ...peek };
  return mapOf(layer, weightsOf(shown), shown.filters, shown.neurons, shown.region);
}

/** The chosen filters in words, where these are not all. */
function ofFilters({ filters }) {
  return filters.length ? ` of filter${filters.length > 1 ? "s" : ""} ${filters.join(", ")}` : "";
}

/** The value of the brightest color: the map's maximum, or with a shared scale that of the maps of all classes. */
function brightest(map, method) {
  if (state.scale === "each") return largest(map);
  const wholes = Object.values(layer.weights[method]).map((weights) => largest(wholeSum(layer, weights)));
  return Math.max(largest(map), ...wholes);
}

function showPicture() {
  const shown = { ...state, ...peek };
  const map = shownMap();
  const maximum = brightest(map, shown.method);
  const { width, height } = photograph().image;
  const enlarged = Math.max(1, Math.ceil(448 / Math.max(width, height)));
  if (isSmooth(shown)) {
    drawSmooth(element("map"), map, layer.rows, layer.columns, maximum, enlarged * width, enlarged * height);
  } else {
    drawSquares(element("map"), map, layer.rows, layer.columns, maximum);
  }
  picture.dataset.show = state.show;
  setOpacity(state.opacity);
  const values = maximum ? [0, maximum / 2, maximum].map(digits) : ["0", "zero everywhere"];
  element("legend-values").replaceChildren(...values.map((value) => create("span", "", value)));
  const { target, method } = shown;
  const { name } = photograph().classes.find((one) => one.target === target);
  const what = `${method} map of ${layer.name}${ofFilters(shown)} for ${name}`;
  picture.setAttribute("aria-label", `${what}, maximum ${digits(largest(map))}`);
  showMarks(shown);
}

/** Lets the map shine through the photograph, which is the darker the more of the map one sees. */
function setOpacity(opacity) {
  const isOverlay = state.show === "overlay";
  element("map").style.opacity = isOverlay ? opacity / 100 : 1;
  element("photograph").style.filter = isOverlay ? `grayscale(1) brightness(${brightnessBehind(opacity)})` : "";
}

function showMarks({ neurons, region }) {
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

// What counts

const scopes = {}; // what the readout and the strip show now

/** Whether a list of filters must be made anew: for other weights, neurons or filters than before. */
function isNew(list, neurons, region, filters) {
  const scope = JSON.stringify([layer.key, state.method, state.target, state.scale, neurons, region, filters]);
  if (scopes[list] === scope) return false;
  scopes[list] = scope;
  return true;
}

function showReadout() {
  const [neurons, region] = pointed && !corner ? [[pointed], false] : [state.neurons, state.region];
  const positions = positionsOf(layer, neurons, region);
  const sum = mapOf(layer, weightsOf(state), state.filters, [], false);
  const [heading, text] = describe(neurons, region, positions, sum);
  element("place").textContent = heading;
  element("value").textContent = text;
  element("means").style.visibility = positions?.length === 1 ? "hidden" : "visible";
  if (!isNew("readout", neurons, region)) return markFilters();
  const rows = ranking(layer, weightsOf(state), positions)
    .slice(0, IN_READOUT)
    .map(({ number, activation, weight, share }) => {
      const row = create("tr");
      const head = create("th");
      head.scope = "row";
      head.append(filterButton(number, share, peekAtFilter, toggleFilter));
      row.append(head, ...[digits(activation), digits(weight), percent(share)].map((text) => create("td", "", text)));
      return row;
    });
  element("strongest").replaceChildren(...rows);
  drawFilters(element("strongest"));
}

/** The heading of the readout and the line below it. */
function describe(neurons, region, positions, map) {
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

function showStrip() {
  const length = Math.min(stripLength, layer.filters.length);
  element("more").hidden = length === layer.filters.length;
  element("more").textContent = `Show more of the ${layer.filters.length} filters`;
  element("filters-note").textContent =
    `Each filter\u2019s own map, sorted by its share in the map${state.neurons.length ? " at the chosen neurons" : ""}. ` +
    "Shares add up to 100\u2009%; filters that lower the map have negative ones. " +
    "Point to see one alone; click to choose, several are added up.";
  const ranked = ranking(layer, weightsOf(state), positionsOf(layer, state.neurons, state.region));
  const shown = ranked.filter(({ number }, rank) => rank < length || state.filters.includes(number));
  if (!isNew("strip", state.neurons, state.region, shown.map(({ number }) => number))) return markFilters();
  const buttons = shown.map(({ number, share }) => filterButton(number, share, peekAtFilter, toggleFilter));
  element("strip").replaceChildren(...buttons);
  drawFilters(element("strip"));
}

function drawFilters(list) {
  const buttons = [...list.querySelectorAll("button")];
  const maps = buttons.map(({ dataset }) => mapOf(layer, weightsOf(state), [Number(dataset.filter)], [], false));
  const shared = largest(maps.map(largest));
  buttons.forEach((button, i) => {
    const maximum = state.scale === "each" ? largest(maps[i]) : shared;
    drawSquares(button.querySelector("canvas"), maps[i], layer.rows, layer.columns, maximum);
  });
  markFilters();
}

function markFilters() {
  document.body.dataset.drawn = state.drawn;
  for (const button of document.querySelectorAll("button.filter")) {
    button.setAttribute("aria-pressed", state.filters.includes(Number(button.dataset.filter)));
  }
}

/** Shows a value in place of what is chosen while it is pointed at, and what is chosen again with null. */
const peekAt = (key) => (value) => {
  peek = value === null ? {} : { [key]: value };
  if (isReady()) showPicture();
};

const peekAtFilter = (number) => peekAt("filters")(number === null ? null : [number]);

const toggle = (list, one) => {
  const others = list.filter((other) => String(other) !== String(one));
  return others.length < list.length ? others : [...list, one];
};

function toggleFilter(number) {
  choose({ filters: toggle(state.filters, number) });
}

// The call

function showCall() {
  element("call").textContent = pythonCall(photograph().recipe, layer, state);
  element("call-notes").textContent = callNotes(photograph().recipe, layer, state);
}
