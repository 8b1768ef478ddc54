// The Python call that returns the shown map.

import { DATA } from "./data.js";
import { boxOf } from "./maps.js";

/** The string as Python writes it; JSON's form is one of Python's. */
const python = (text) => JSON.stringify(text);

const LINE = 80;

/** The row of a method in the table. */
const methodNamed = (method) => DATA.methods.find(({ name }) => name === method);
const methodOf = ({ method }) => methodNamed(method);

/** The row of the method to call, which is another one where a smooth method has no noise. */
const calledOf = (recipe, state) => (isNoisy(recipe, state) ? methodOf(state) : methodNamed(methodOf(state).withoutNoise));

/** The code that returns the map as `attribution`, given `model`, its input `x`, and what `callNotes` names. */
export function pythonCall(recipe, layer, state) {
  const { className, settings } = calledOf(recipe, state);
  const isCaptums = className.startsWith("captum.");
  // The methods take models that return a tensor. Those of Captum have no reshape_transform, and those without the
  // source of the derivatives weight all noisy copies alike.
  const isExplains =
    recipe.scoresWithin ||
    (isCaptums && recipe.reshaped) ||
    (!settings.includes("derivatives") && recipe.derivatives === "exp" && isNoisy(recipe, state));
  if (isExplains) return throughExplain(recipe, layer, state);
  return (isCaptums ? captums : ours)(recipe, layer, state);
}

function ours(recipe, layer, state) {
  const { neurons, region } = state;
  const called = calledOf(recipe, state);
  const noisy = isNoisy(recipe, state);
  const [room, name] = split(called.className);
  const settings = ["model", layer.named ? python(layer.name) : "layer", ...formula(recipe, called.settings)];
  if (recipe.reshaped) settings.push("reshape_transform=reshape_transform");
  const parameters = inputs(recipe, state);
  if (noisy) parameters.push(...noise(recipe));
  const filters = summedFilters(layer, state);
  if (filters.length) parameters.push(`filters=${list(filters)}`);
  if (filters.length > 1) parameters.push("attr_dim_summation=True");
  if (neurons.length) parameters.push(`subset=${list(neurons.map((neuron) => `(${neuron.join(", ")})`))}`);
  if (region) parameters.push("region=True");
  return [
    ...(noisy && recipe.seed !== null ? ["import torch"] : []),
    `from ${room} import ${name}`,
    "",
    `method = ${name}(${settings.join(", ")})`,
    `attribution = method.attribute(${wrapped(parameters)})`,
  ].join("\n");
}

/** The module and the name of a class. */
const split = (path) => [path.slice(0, path.lastIndexOf(".")), path.slice(path.lastIndexOf(".") + 1)];

function captums(recipe, layer, state) {
  const [room, name] = split(calledOf(recipe, state).className);
  const filters = summedFilters(layer, state);
  const parameters = [...inputs(recipe, state), filters.length ? "attr_dim_summation=False" : "relu_attributions=True"];
  const attribution = `method.attribute(${wrapped(parameters)})${filters.length ? sumOf(filters) : ""}`;
  return [
    ...(state.neurons.length ? ["import torch"] : []),
    `from ${room} import ${name}`,
    "",
    `method = ${name}(model, ${layer.named ? `model.get_submodule(${python(layer.name)})` : "layer"})`,
    `attribution = ${attribution}`,
    ...onlyAt(state),
  ].join("\n");
}

function throughExplain(recipe, layer, state) {
  const { smooth, settings } = methodOf(state);
  const parameters = ["model", "x", layer.named ? python(layer.name) : "layer", `targets=[${state.target}]`];
  parameters.push(`methods=[${python(state.method)}]`);
  if (recipe.forwardArgs) parameters.push("additional_forward_args=additional_forward_args");
  if (isNoisy(recipe, state)) parameters.push(...noise(recipe));
  else if (smooth) parameters.push("n_samples=0");
  if (smooth || settings.length) parameters.push(...formula(recipe, ["alpha", "derivatives"]));
  if (recipe.reshaped) parameters.push("reshape_transform=reshape_transform");
  const filters = summedFilters(layer, state);
  const name = python(layer.name);
  const key = `${python(state.method)}, ${name}, ${state.target}`;
  return [
    ...(state.neurons.length || (isNoisy(recipe, state) && recipe.seed !== null) ? ["import torch"] : []),
    "from captum_sgcampp import explain",
    "",
    `explanation = explain(${wrapped(parameters)})`,
    ...(filters.length
      ? [
          `weighted = explanation.weights[${key}] * explanation.activations[${name}]`,
          `attribution = weighted${sumOf(filters)}`,
        ]
      : [`attribution = explanation.maps[${key}]`]),
    ...onlyAt(state),
  ].join("\n");
}

const isNoisy = (recipe, state) => methodOf(state).smooth && recipe.samples > 0;
const list = (items) => `[${items.join(", ")}]`;
const sumOf = (filters) => `[:, ${list(filters)}].sum(dim=1, keepdim=True).relu()`;

/** The filters to add up; none where these are all. */
const summedFilters = (layer, { filters }) => (filters.length ? filters : (layer.onlyFilters ?? []));

function inputs(recipe, { target }) {
  const parameters = ["x", `target=${target}`];
  if (recipe.forwardArgs) parameters.push("additional_forward_args=additional_forward_args");
  return parameters;
}

function noise({ samples, stdevs, seed }) {
  const generator = seed === null ? "generator" : `torch.Generator(x.device).manual_seed(${seed})`;
  return [`n_samples=${samples}`, `stdevs=${stdevs}`, `generator=${generator}`];
}

const DEFAULTS = { alpha: "bounded", derivatives: "powers" };

/** The settings of the formula that are not the default. */
function formula(recipe, settings) {
  const given = settings.filter((key) => recipe[key] !== DEFAULTS[key]);
  return given.map((key) => `${key}=${python(recipe[key])}`);
}

/** The lines that set the other neurons to zero. */
function onlyAt({ neurons, region }) {
  if (!neurons.length) return [];
  const [top, bottom, left, right] = region ? boxOf(neurons) : [];
  const places = region
    ? `${top}:${bottom + 1}, ${left}:${right + 1}`
    : [0, 1].map((axis) => list(neurons.map((neuron) => neuron[axis]))).join(", ");
  return [
    "neurons = torch.zeros_like(attribution)",
    `neurons[:, :, ${places}] = 1`,
    "attribution = attribution * neurons",
  ];
}

/** The parameters in one line, or in as many as they need. */
function wrapped(parameters) {
  const lines = [""];
  for (const parameter of parameters) {
    const line = `${lines.at(-1)}${lines.at(-1) && ", "}${parameter}`;
    if (line.length <= LINE || lines.at(-1) === "") lines[lines.length - 1] = line;
    else lines.push(parameter);
  }
  return lines.length === 1 && lines[0].length <= LINE ? lines[0] : `\n    ${lines.join(",\n    ")},\n`;
}

/** What the names in the call stand for. */
export function callNotes(recipe, layer, state) {
  const given = ["model", "x"];
  if (recipe.forwardArgs) given.push("additional_forward_args");
  if (recipe.reshaped) given.push("reshape_transform");
  const notes = [`Here ${given.slice(0, -1).join(", ")} and ${given.at(-1)} are what explain was given.`];
  if (!layer.named) notes.push(`layer is the module that this page calls ${layer.name}.`);
  if (isNoisy(recipe, state) && recipe.seed === null) {
    notes.push("generator must be in the state that it had before, because its seed is not known.");
  }
  return notes.join(" ");
}
