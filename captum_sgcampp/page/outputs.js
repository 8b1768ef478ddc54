// What leaves the page: text for the clipboard, and a picture as a file.

import { create } from "./controls.js";

/** Copies text, also where the page is in a frame that may not use the clipboard directly; returns whether it could. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = create("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

export function downloadCanvas(canvas, name) {
  canvas.toBlob((blob) => {
    const link = create("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}
