// The elements of the page, and those that are made from data: lists of choices, filters, numbers.

export const element = (id) => document.getElementById(id);

export function create(tag, className, text) {
  const created = document.createElement(tag);
  if (className) created.className = className;
  if (text !== undefined) created.textContent = text;
  return created;
}

/** A number with three significant digits, or from a thousand to ten thousand with the four before the point. */
export function digits(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 999.5 && size < 1e4) return value.toFixed(0).replace("-", "\u2212");
  const text = size >= 1e-3 && size < 1e4 ? value.toPrecision(3) : value.toExponential(2);
  return text.replace("-", "\u2212").replace("e\u2212", "e-").replace("e+", "e");
}

export function percent(share) {
  if (share === null) return "\u2013";
  return `${(100 * share).toFixed(1).replace(/^-0\.0$/, "0.0")}\u202f%`.replace("-", "\u2212");
}

/**
 * Fills a fieldset with radio buttons.
 *
 * @param choices Each with its value, its label, and what stands beside it.
 * @param choose What to do with the value that is chosen.
 * @param peek What to do with the value that is pointed at, and with null afterwards.
 */
export function fillRadios(fieldset, choices, choose, peek = () => {}) {
  fieldset.querySelectorAll("label").forEach((label) => label.remove());
  for (const { value, label, aside, bar, image } of choices) {
    const row = create("label");
    const input = create("input");
    input.type = "radio";
    input.name = fieldset.id;
    input.value = value;
    input.addEventListener("change", () => choose(value));
    row.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && peek(value));
    row.addEventListener("pointerleave", () => peek(null));
    row.append(input);
    if (image) {
      const small = create("img");
      small.src = image;
      small.alt = "";
      row.append(small);
    }
    row.append(create("span", "name", label));
    if (aside) row.append(create("span", "aside", aside));
    if (bar !== undefined) {
      const meter = create("span", "bar");
      meter.style.setProperty("--filled", `${100 * bar}%`);
      row.append(meter);
    }
    fieldset.append(row);
  }
}

export function checkRadio(fieldset, value) {
  for (const input of fieldset.querySelectorAll("input")) input.checked = input.value === String(value);
}

/**
 * A button with a filter's own map, its number and its share; the caller draws the map.
 *
 * @param peek What to do while it is pointed at, and with null afterwards.
 * @param choose What to do with a click.
 */
export function filterButton(number, share, peek, choose) {
  const button = create("button", "filter");
  button.type = "button";
  button.dataset.filter = number;
  button.setAttribute("aria-label", `Filter ${number}, share ${percent(share)}`);
  button.append(create("canvas"), create("span", "number", number), create("span", "share", percent(share)));
  button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && peek(number));
  button.addEventListener("pointerleave", () => peek(null));
  button.addEventListener("focus", () => button.matches(":focus-visible") && peek(number));
  button.addEventListener("blur", () => peek(null));
  button.addEventListener("click", () => choose(number));
  return button;
}
