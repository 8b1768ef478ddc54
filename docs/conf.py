"""The documentation site: `sphinx-build -c docs . build/site`.

The sources are the repository's own pages where they are, so that every link works in both places.
"""

import io
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import captum_sgcampp
from captum_sgcampp.__main__ import main

project = "captum-sgcampp"
version = release = captum_sgcampp.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/*.md", "docs/*.md", "tutorials/*.ipynb"]
html_theme = "furo"
html_title = project
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
myst_heading_anchors = 3
nb_execution_mode = "off"  # they are committed with their outputs

EXAMPLE = "camera.html"
"""The page to try. The README has the command that writes it; the site has the page itself."""

CONTENTS = """

```{toctree}
:hidden:
:caption: Use
:maxdepth: 1

docs/recipes
docs/command
docs/troubleshooting
docs/reference
docs/api
```

```{toctree}
:hidden:
:caption: Tutorials
:maxdepth: 1
:glob:

tutorials/*
```

```{toctree}
:hidden:
:caption: About
:maxdepth: 1

benchmarks/README
docs/design
docs/citation
CHANGELOG
CONTRIBUTING
```
"""


def adapt(_app: Sphinx, document: str, source: list[str]) -> None:
    """Gives the first page its contents and a link to the example, which it does not have on GitHub.

    Links in notebooks are as Jupyter spells them.
    """
    if document == root_doc:
        command = f"`captum-sgcampp --top-k 3 --page {EXAMPLE}`"
        before, found, after = source[0].partition(command)
        if not found:
            raise ExtensionError(f"{document}: must say how to write a page to try, {command}.")
        source[0] = f'{before}{command} (or take <a href="{EXAMPLE}">this one</a>){after}{CONTENTS}'
    if document.startswith("tutorials/"):
        source[0] = re.sub(r"(?<=\]\()#[^)]*(?=\))", lambda link: "#" + _as_anchor(link[0]), source[0])


def _as_anchor(text: str) -> str:
    """Spells the link to a heading as MyST does."""
    return re.sub(r"[^\w-]", "", text.lower())


def make_index(app: Sphinx, error: Exception | None) -> None:
    """The address of the site shows the README."""
    if not error and app.builder.name == "html":
        shutil.copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def make_example(app: Sphinx, error: Exception | None) -> None:
    """Writes the page to try, as the README's command does."""
    if not error and app.builder.name == "html":
        with redirect_stdout(io.StringIO()):
            status = main(["--top-k", "3", "--page", str(Path(app.outdir, EXAMPLE))])
        if status:
            raise ExtensionError(f"{EXAMPLE}: could not be written.")


def setup(app: Sphinx) -> None:
    """Connects them."""
    app.connect("source-read", adapt)
    app.connect("build-finished", make_index)
    app.connect("build-finished", make_example)
