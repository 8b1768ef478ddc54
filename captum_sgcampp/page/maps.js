// The arithmetic of the maps: relu(sum_k w_k A_ki), and what single filters and neurons add to it.

/** The weight of a filter, given by its place among the layer's filters, at a position. */
function weightAt(layer, weights, place, position) {
  return weights.length > layer.filters.length ? weights[place * layer.positions + position] : weights[place];
}

function product(layer, weights, place, position) {
  return weightAt(layer, weights, place, position) * layer.activations[place * layer.positions + position];
}

/** The places of filters given by their numbers; of all filters if none are given. */
function placesOf(layer, filters) {
  return filters.length ? filters.map((number) => layer.filters.indexOf(number)) : layer.filters.keys();
}

/** sum_k w_k A_ki at each position, over some filters. */
function weightedSum(layer, weights, filters) {
  const sum = new Float64Array(layer.positions);
  for (const place of placesOf(layer, filters)) {
    for (let i = 0; i < sum.length; i++) sum[i] += product(layer, weights, place, i);
  }
  return sum;
}

const sums = new WeakMap();

/** The weighted sum over all filters, computed once for each set of weights. */
export function wholeSum(layer, weights) {
  if (!sums.has(weights)) sums.set(weights, weightedSum(layer, weights, []));
  return sums.get(weights);
}

/** The positions of the chosen neurons, or null for all: the neurons themselves, or the box between two of them. */
export function positionsOf(layer, neurons, region) {
  if (!neurons.length) return null;
  if (!region) return neurons.map(([row, column]) => row * layer.columns + column);
  const [top, bottom, left, right] = boxOf(neurons);
  const positions = [];
  for (let row = top; row <= bottom; row++) {
    for (let column = left; column <= right; column++) positions.push(row * layer.columns + column);
  }
  return positions;
}

/** The first and last row and the first and last column of a box between two corners. */
export function boxOf([[row, column], [otherRow, otherColumn]]) {
  return [
    Math.min(row, otherRow),
    Math.max(row, otherRow),
    Math.min(column, otherColumn),
    Math.max(column, otherColumn),
  ];
}

/** The map: the rectified sum, zero except at the chosen neurons. */
export function mapOf(layer, weights, filters, neurons, region) {
  const sum = filters.length ? weightedSum(layer, weights, filters) : wholeSum(layer, weights);
  const rectified = sum.map((value) => Math.max(value, 0));
  const chosen = positionsOf(layer, neurons, region);
  if (!chosen) return rectified;
  const map = new Float64Array(layer.positions);
  for (const i of chosen) map[i] = rectified[i];
  return map;
}

export function largest(values) {
  let found = 0;
  for (let i = 0; i < values.length; i++) found = Math.max(found, values[i]);
  return found;
}

/**
 * What each filter adds to the map of all filters, at some positions or at all (null): its mean activation and weight
 * there, and its share. Shares are of the sum over the positions where the map is not zero. They add up to 1, and a
 * filter that lowers the map has a negative one. Where the map is zero, the share is null.
 */
function shares(layer, weights, positions) {
  const sum = wholeSum(layer, weights);
  const chosen = positions ?? [...sum.keys()];
  const positive = chosen.filter((i) => sum[i] > 0);
  let total = 0;
  for (const i of positive) total += sum[i];
  return layer.filters.map((number, place) => {
    let [activation, weight, added, signed] = [0, 0, 0, 0];
    for (const i of chosen) {
      activation += layer.activations[place * layer.positions + i] / chosen.length;
      weight += weightAt(layer, weights, place, i) / chosen.length;
      signed += product(layer, weights, place, i);
    }
    for (const i of positive) added += product(layer, weights, place, i);
    return { number, activation, weight, share: total > 0 ? added / total : null, order: total > 0 ? added : signed };
  });
}

/** The same, from the filter that adds the most to the one that takes away the most. */
export function ranking(layer, weights, positions) {
  return shares(layer, weights, positions).sort((a, b) => b.order - a.order || a.number - b.number);
}
