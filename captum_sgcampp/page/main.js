// The page: each part is shown when what it shows has changed in the store.

import { callNotes, pythonCall } from "./call.js";
import { listPhotographs, showChoices } from "./choices.js";
import { element } from "./controls.js";
import { drawLegend } from "./drawing.js";
import { showReadout, showStrip } from "./filters.js";
import { listen } from "./inputs.js";
import { showMarks, showPicture } from "./picture.js";
import { toFragment } from "./state.js";
import { store } from "./store.js";

function showAddress() {
  const fragment = toFragment(store.now.state);
  if (fragment === location.hash.slice(1)) return;
  try {
    history.replaceState(null, "", `${location.href.split("#")[0]}${fragment && `#${fragment}`}`);
  } catch {
    // A frame without an address of its own, as in some notebooks, has none to write.
  }
}

function showCall() {
  const { state, layer } = store.now;
  element("call").textContent = pythonCall(store.photograph.recipe, layer, state);
  element("call-notes").textContent = callNotes(store.photograph.recipe, layer, state);
}

listPhotographs();
drawLegend(element("legend"));
store.subscribe(["state", "layer"], showAddress);
store.subscribe(["state", "layer"], showChoices);
store.subscribe(["state", "layer", "peek"], showPicture);
store.subscribe(["state", "layer", "peek", "pointed"], showMarks);
store.subscribe(["state", "layer", "pointed"], showReadout);
store.subscribe(["state", "layer", "stripLength"], showStrip);
store.subscribe(["state", "layer"], showCall);
listen();
store.start().catch((error) => {
  element("title").textContent = `This browser cannot read the page: ${error.message}`;
});
