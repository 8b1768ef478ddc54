"""The HTML document of the page, and how it is written."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable
from importlib import resources
from os import PathLike
from pathlib import Path

from captum_sgcampp._files import write_whole
from captum_sgcampp.page.contents import MAX_BYTES, contents
from captum_sgcampp.page.explained import Explained
from captum_sgcampp.page.scripts import join


def save_page(explanations: Iterable[Explained], path: str | PathLike[str], max_bytes: int = MAX_BYTES) -> None:
    """Writes a page to explore explanations in a browser: one HTML file that needs neither a server nor a network.

    In the page, one chooses the class, the method, the layer, filters and neurons, and sees at once the map, the
    filters that count most, and the Python call that returns this map. The browser computes the maps from the
    activations and the weights, which the page holds in half precision (single, for one weight a filter); its numbers
    are the library's within that rounding. The page opens with the explained filters and neurons, and the last layer.

    Args:
        explanations: What :func:`captum_sgcampp.explain` returned, one for each photograph.
        path: The file to write. It is written whole or not at all.
        max_bytes: The largest size of the layers of one photograph. If they take more, the largest are left out, and
            the page says so. Default: 3 MB

    Raises:
        OSError: The file cannot be written.
        ValueError: There are no explanations; or one has no photograph, or no layer that the page can show: one whose
            maps are two-dimensional, finite, and fit into `max_bytes`.

    Example::

        >>> import torch
        >>> from captum_sgcampp import explain
        >>> from captum_sgcampp.page import save_page
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 6 * 6, 10)
        ... )
        >>> explanations = [explain(model, torch.rand(1, 3, 8, 8), "0", n_samples=5) for _ in range(2)]
        >>> save_page(explanations, "explanations.html")  # doctest: +SKIP
    """
    write_whole(Path(path), document(explanations, max_bytes).encode("utf-8"))


def frame(explanations: Iterable[Explained], max_bytes: int = MAX_BYTES) -> str:
    """The page within a frame, for notebooks. The frame is cut off from the notebook around it.

    Args:
        explanations: As for :func:`save_page`.
        max_bytes: As for :func:`save_page`.

    Raises:
        ValueError: As :func:`save_page`.
    """
    source = html.escape(document(explanations, max_bytes))
    return (
        '<iframe title="Explanation" sandbox="allow-scripts allow-downloads" allow="clipboard-write" width="100%" '
        f'height="920" style="border: 0" srcdoc="{source}"></iframe>'
    )


def document(explanations: Iterable[Explained], max_bytes: int) -> str:
    """The HTML document."""
    explanations = list(explanations)
    files = resources.files(__package__)
    style = files.joinpath("page.css").read_text(encoding="utf-8")
    script = join("main.js", lambda name: files.joinpath(name).read_text(encoding="utf-8"))
    titles = ", ".join(filter(None, (str(explanation.title) for explanation in explanations)))
    parts = {
        "title": html.escape(titles.encode("utf-8", "replace").decode("utf-8") or "Explanation"),
        # The browser refuses every other script and style, and all requests.
        "policy": f"default-src 'none'; img-src data:; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "data": _json(contents(explanations, max_bytes)),
    }
    template = files.joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _hash(text: str) -> str:
    """The hash by which the content security policy knows a script or a style."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _json(value: object) -> str:
    """JSON in which nothing looks like HTML, such as the end of the script element that holds it."""
    escapes = {character: f"\\u{ord(character):04x}" for character in "<>&"}
    return re.sub("[<>&]", lambda match: escapes[match[0]], json.dumps(value, allow_nan=False))
