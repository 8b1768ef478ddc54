// The choices: class, method, layer, view, and what the fields and buttons beside them show.

import { checkRadio, create, digits, element, fillRadios, percent } from "./controls.js";
import { DATA } from "./data.js";
import { neuronsAsText, VIEWS } from "./state.js";
import { store } from "./store.js";

/** Fills the list of photographs, which stays. */
export function listPhotographs() {
  element("photographs").hidden = DATA.photographs.length === 1;
  const choices = DATA.photographs.map(({ title, image }, number) => {
    return { value: number, label: title || `Photograph ${number + 1}`, image: image.url };
  });
  fillRadios(element("photographs"), choices, (number) => store.choose({ photograph: number }));
}

let listed = null; // the photograph whose choices are listed

function listChoices() {
  const { title, model, image, classes, methods, layers, leftOut, recipe } = store.photograph;
  element("title").textContent = title || "Explanation";
  const samples = recipe.samples ? `, ${recipe.samples} noisy copies with \u03c3 = ${recipe.stdevs}` : "";
  element("model").textContent = model + samples;
  element("photograph").src = image.url;
  element("photograph").width = image.width;
  element("photograph").height = image.height;
  document.body.style.setProperty("--aspect", `${image.width} / ${image.height}`);
  const named = (values) => values.map((value) => ({ value, label: value[0].toUpperCase() + value.slice(1) }));
  const choose = (key) => (value) => store.choose({ [key]: value });
  const peekAt = (key) => (value) => store.peekAt(key, value);
  const ofClasses = classes.map(({ target, name, probability, score }) => {
    const aside = probability === undefined ? `score ${digits(score)}` : percent(probability);
    return { value: target, label: name, aside, bar: probability };
  });
  fillRadios(element("classes"), ofClasses, choose("target"), peekAt("target"));
  fillRadios(element("methods"), named(methods), choose("method"), peekAt("method"));
  const ofLayers = layers.map(({ name, grid, channels }) => {
    return { value: name, label: name, aside: `${grid.join("\u2009\u00d7\u2009")}, ${channels} filters` };
  });
  fillRadios(element("layers"), ofLayers, (name) => store.choose({ layer: name, filters: [], neurons: [] }));
  element("left-out").replaceChildren(...leftOut.map(({ why }) => create("li", "", `Left out: ${why}`)));
  for (const [name, values] of Object.entries(VIEWS)) fillRadios(element(name), named(values), choose(name));
}

export function showChoices() {
  const { state } = store.now;
  if (listed !== state.photograph) listChoices();
  listed = state.photograph;
  checkRadio(element("photographs"), state.photograph);
  checkRadio(element("classes"), state.target);
  checkRadio(element("methods"), state.method);
  checkRadio(element("layers"), state.layer);
  for (const name of Object.keys(VIEWS)) checkRadio(element(name), state[name]);
  element("drawn").disabled = state.neurons.length > 0; // see isSmooth
  element("opacity").value = state.opacity;
  element("opacity").disabled = state.show !== "overlay";
  element("undo").setAttribute("aria-disabled", !store.canUndo);
  element("clear").setAttribute("aria-disabled", !state.filters.length && !state.neurons.length);
  element("filters").value = state.filters.join(", ");
  element("neurons").value = neuronsAsText(state.neurons);
  element("region").checked = state.region;
  element("region").disabled = state.neurons.length !== 2;
}
