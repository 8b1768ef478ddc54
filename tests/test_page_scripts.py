"""The page's modules, and the one script that they are joined into."""

import re
from pathlib import Path

import pytest

import captum_sgcampp.page
from captum_sgcampp.page.scripts import join

FOLDER = Path(captum_sgcampp.page.__file__).parent
MODULES = {file.name: file.read_text("utf-8") for file in FOLDER.glob("*.js")}

MAPS = "export const SIZE = 3;\nexport async function read(text) {\n  return text; // import and export\n}\n"
MAIN = 'import { read, SIZE } from "./maps.js";\n\nread(SIZE);\n'


def joined(**modules: str) -> str:
    return join("main.js", {f"{name}.js": text for name, text in modules.items()}.__getitem__)


def test_a_module_follows_those_that_it_imports_without_the_words_of_modules() -> None:
    maps = "const SIZE = 3;\nasync function read(text) {\n  return text; // import and export\n}\n"
    assert joined(maps=MAPS, main=MAIN) == f'"use strict";\n{maps}\nread(SIZE);\n'


def test_a_module_that_two_import_is_there_once() -> None:
    page = 'import { SIZE } from "./maps.js";\nexport class Page {}\n'
    main = 'import { Page } from "./page.js";\nimport { SIZE } from "./maps.js";\nnew Page(SIZE);\n'
    script = joined(maps=MAPS, page=page, main=main)
    places = [script.index(part) for part in ("SIZE = 3", "class Page", "new Page")]
    assert places == sorted(places)
    assert script.count("SIZE = 3") == 1


@pytest.mark.parametrize(
    "line",
    [
        'import "./maps.js";',
        'import maps from "./maps.js";',
        'import * as maps from "./maps.js";',
        'import { read as other } from "./maps.js";',
        "import { read } from './maps.js';",
        'import { read } from "https://example.org/maps.js";',
        'import { read } from "./maps.js"; read();',
        '  import { read } from "./maps.js";',
        "import {",
        "import.meta.url;",
        'import("./maps.js");',
        "export default 3;",
        "export { read };",
        'export * from "./maps.js";',
        "export let size = 3;",
        "export var size = 3;",
        "export const { size } = page;",
        "const [first, second] = sizes;",
        "const { size } = page;",
        "var size = 3;",
        'document.title = "</script>";',
        'document.title = "<!-- <script>";',
        "document.title = `",
    ],
)
def test_another_form_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"main\.js, line 2: has a form that is not joined, .*; see scripts\.py\."):
        joined(maps=MAPS, main=f"// The page.\n{line}\n")


def test_what_is_not_exported_is_refused() -> None:
    with pytest.raises(ValueError, match=r"main\.js: imports paint from maps\.js, which does not export it\."):
        joined(maps="const paint = 3;\n", main='import { paint } from "./maps.js";\n')


def test_modules_that_import_one_another_are_refused() -> None:
    page = 'import { SIZE } from "./main.js";\n'
    with pytest.raises(ValueError, match=r"main\.js: imports itself, through page\.js\."):
        joined(page=page, main='import { size } from "./page.js";\nexport const SIZE = 3;\n')
    with pytest.raises(ValueError, match=r"main\.js: imports itself, through main\.js\."):
        joined(main='import { SIZE } from "./main.js";\nexport const SIZE = 3;\n')


@pytest.mark.parametrize("declaration", ["const read = 3;", "let read;", "class read {}", "function read() {}"])
def test_a_name_that_two_modules_declare_is_refused(declaration: str) -> None:
    with pytest.raises(ValueError, match=r"main\.js: declares read, which maps\.js declares too\."):
        joined(maps=MAPS, main=f'import {{ SIZE }} from "./maps.js";\n{declaration}\n')


def test_the_page_needs_each_module_and_each_export() -> None:
    read: list[str] = []
    join("main.js", lambda name: read.append(name) or MODULES[name])  # type: ignore[func-returns-value]
    assert sorted(read) == sorted(MODULES)
    text = "\n".join(MODULES.values())
    imported = {
        name for names in re.findall(r"^import \{ (.*) \} from", text, re.MULTILINE) for name in names.split(", ")
    }
    exported = set(re.findall(r"^export (?:async )?(?:const|function|class) (\w+)", text, re.MULTILINE))
    assert exported == imported
