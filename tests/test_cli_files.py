"""The command's files: photographs from anywhere, and pictures that never overwrite one of them or each other."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torchvision", reason="the command needs the extra demo")

from cli_helpers import opened, photograph

from captum_sgcampp.__main__ import main
from captum_sgcampp._files import write_whole
from captum_sgcampp.cli.errors import CommandError
from captum_sgcampp.cli.outputs import page_file, picture_files
from captum_sgcampp.cli.photographs import find

FAST = ["--n-samples", "0", "--methods", "grad-cam"]

pytestmark = pytest.mark.usefixtures("coarse_pictures", "in_empty_folder")


def tiny(*paths: str) -> None:
    """Writes images that nobody looks at."""
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)


def planned(*arguments: str, output: str | None = None, read: Sequence[str] = ()) -> list[str]:
    """The files that the pictures would go to."""
    paths = list(map(Path, arguments))
    photographs = find(paths)
    several = len(photographs) > 1 or any(path.is_dir() for path in paths)
    return list(map(str, picture_files(photographs, output, list(map(Path, read)), several=several)))


def tiny_page(photo: str, page: str) -> str:
    """The file that the page would go to."""
    return str(page_file(Path(page), find([Path(photo)]), []))


# What is read


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_16_bits_and_floats_are_the_same_photograph(dtype: type, capsys: pytest.CaptureFixture[str]) -> None:
    gray = np.asarray(opened(photograph("camera.png")))
    values = gray.astype(np.uint16) * 257 if dtype is np.uint16 else (gray / 255).astype(np.float32)
    Image.fromarray(values).save("other.tif")
    assert main(["camera.png", "other.tif", *FAST]) == 0
    rankings = [line for line in capsys.readouterr().out.splitlines() if "%" in line]
    assert rankings[:5] == rankings[5:]
    assert "94.9%  tripod (872)" in rankings[0]


def test_other_floats_are_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.full((9, 9), 200, dtype=np.float32)).save("float.tif")
    assert main(["float.tif", *FAST]) == 2
    assert (
        "cannot read float.tif: its pixels are from 200.0 to 200.0; they must be from 0 to 1" in capsys.readouterr().err
    )


def test_a_folder_is_searched_recursively_but_not_for_results() -> None:
    tiny("photos/b.jpg", "photos/a.PNG", "photos/deep/er/c.webp", "photos/captum-sgcampp-a.png", "photos/.hidden.png")
    Path("photos/notes.txt").write_text("no image")
    assert [found.name for found in find([Path("photos")])] == ["a.PNG", "b.jpg", "deep/er/c.webp"]
    assert [found.name for found in find([Path("photos/deep"), Path("photos/b.jpg")])] == ["er/c.webp", "b.jpg"]
    Path("linked").mkdir()
    Path("linked/there").symlink_to("../photos/deep")
    Path("linked/loop").symlink_to("../linked")
    tiny("linked/.hidden/d.png")
    assert [found.name for found in find([Path("linked")])] == ["there/er/c.webp"]
    Path("empty").mkdir()
    with pytest.raises(CommandError, match="empty has no images"):
        find([Path("empty")])


def test_standard_input_is_a_photograph(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    content = photograph("coffee.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["-", *FAST]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("standard input: ")
    assert "espresso" in lines[1]
    assert lines[-1] == "captum-sgcampp-stdin.png"

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert main(["-", *FAST]) == 2
    assert capsys.readouterr().err == "captum-sgcampp: standard input is not an image\n"


def test_several_images_are_done_though_some_fail(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("text.png").write_text("no image")
    good, same_name = photograph("coffee.png"), photograph("other/coffee.jpg")
    Path("half.jpg").write_bytes(same_name.read_bytes()[:5000])
    Image.new("L", (1000, 1000)).save("huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400_000)
    images = ["huge.png", "text.png", "missing.png", "half.jpg", str(good), str(same_name)]
    assert main([*images, "--output", "maps", *FAST]) == 2
    captured = capsys.readouterr()
    assert captured.out.count("espresso") == 2
    written = [line for line in captured.out.splitlines() if line.endswith(".png")]
    assert written == ["maps/captum-sgcampp-coffee.png", "maps/captum-sgcampp-coffee-2.png"]
    assert sorted(map(str, Path("maps").iterdir())) == sorted(written)
    assert "cannot read huge.png: DecompressionBombError: Image size (1000000 pixels) exceeds" in captured.err
    assert "text.png is not an image" in captured.err
    assert "cannot read missing.png: No such file or directory" in captured.err
    assert "cannot read half.jpg: image file is truncated" in captured.err
    assert "Images: 100%" in captured.err  # the progress bar


NO_TEXT = b"caf\xe9 $a$\nb.png"


def photograph_whose_name_is_no_text() -> str:
    file = Path(os.fsdecode(NO_TEXT))
    file.write_bytes(photograph("coffee.png").read_bytes())
    return str(file)


def assert_the_picture_is_printed(out: bytes) -> None:
    written = b"captum-sgcampp-" + NO_TEXT
    assert out.endswith(b"\n" + written + b"\n")
    assert out.splitlines()[0].decode().startswith("caf\N{REPLACEMENT CHARACTER} $a$")
    assert Path(os.fsdecode(written)).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="file systems that take any bytes as a name")
def test_names_that_are_not_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    name = photograph_whose_name_is_no_text()
    written = io.BytesIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
        assert main([name, *FAST]) == 0
        sys.stdout.flush()
        assert_the_picture_is_printed(written.getvalue())
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="file systems that take any bytes as a name")
def test_names_that_are_not_text_in_a_process() -> None:
    command_line = [sys.executable, "-m", "captum_sgcampp", photograph_whose_name_is_no_text(), *FAST]
    outcome = subprocess.run(command_line, capture_output=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    assert_the_picture_is_printed(outcome.stdout)


def test_a_photograph_that_is_hardly_wider_than_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (1, 101)).save("line.png")
    assert main(["line.png", *FAST]) == 2
    assert "cannot read line.png: it is 1 x 101, more than 100 times longer than wide" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000])
def test_names_that_are_too_long(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    photo = str(photograph("coffee.png"))
    assert main([f"{name}.png", photo, *FAST]) == 2
    assert main([photo, "--output", name, *FAST]) == 2
    errors = capsys.readouterr().err
    assert errors.count("File name too long") == 2
    assert Path("captum-sgcampp-coffee.png").exists()


@pytest.mark.parametrize("character", ["x", "中"])
def test_a_long_name_of_a_photograph_is_shortened_in_that_of_its_picture(character: str) -> None:
    name = character * (250 // len(character.encode()))
    Path(f"{name}.png").write_bytes(photograph("coffee.png").read_bytes())
    (picture,) = planned(f"{name}.png")
    assert len(picture.encode()) < 255
    write_whole(Path(picture), b"")


# What is written


def test_names_of_pictures() -> None:
    tiny("a.jpg", "b/c.jpg")
    assert planned() == ["captum-sgcampp-camera.png"]
    assert planned("a.jpg") == ["captum-sgcampp-a.png"]
    assert planned("a.jpg", "b") == ["captum-sgcampp-a.png", "captum-sgcampp-c.png"]
    assert planned("b", output="out") == ["out/captum-sgcampp-c.png"]


def test_one_picture_or_a_folder() -> None:
    tiny("a.jpg")
    assert planned("a.jpg", output="x.png") == ["x.png"]
    assert planned("a.jpg", output="x.PDF") == ["x.PDF"]
    assert planned("a.jpg", output="results") == ["results.png"]
    assert planned("a.jpg", output="results/") == ["results/captum-sgcampp-a.png"]
    Path("results").mkdir()
    assert planned("a.jpg", output="results") == ["results/captum-sgcampp-a.png"]
    assert planned("a.jpg", output=".") == ["captum-sgcampp-a.png"]
    assert planned("a.jpg", "-", output="v1.2") == ["v1.2/captum-sgcampp-a.png", "v1.2/captum-sgcampp-stdin.png"]


def test_what_is_printed_is_what_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    Path("results").mkdir()
    for output in ("results", ".", "new/", "picture"):
        assert main([*FAST, "--output", output]) == 0
        printed = Path(capsys.readouterr().out.splitlines()[-1])
        assert opened(printed).format == "PNG"
    assert sorted(map(str, Path().rglob("*.png"))) == [
        "captum-sgcampp-camera.png",
        "new/captum-sgcampp-camera.png",
        "picture.png",
        "results/captum-sgcampp-camera.png",
    ]


def test_a_page_for_several_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    photographs = [str(photograph("coffee.png")), "missing.png", str(photograph("camera.png"))]
    Path("out").mkdir()
    assert main([*photographs, *FAST, "--page", "out/both.html"]) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "out/both.html"
    assert "cannot read missing.png" in captured.err
    page = Path("out/both.html").read_text(encoding="utf-8")
    for name in ("coffee.png", "camera.png", "espresso", "tripod", "_blocks.4", "_blocks.14"):
        assert f'"{name}"' in page
    assert not list(Path().rglob("captum-sgcampp-*"))  # no picture unless asked for

    one = ["coffee.png", *FAST, "--layer", "_blocks.10", "_blocks.14"]
    assert main([*one, "--page", "one.html", "--output", "."]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["captum-sgcampp-coffee.png", "one.html"]
    assert '"_blocks.4"' not in Path("one.html").read_text(encoding="utf-8")


def test_folders_keep_their_structure() -> None:
    tiny("photos/a.jpg", "photos/cats/a.jpg", "photos/dogs/a.jpg")
    assert planned("photos", output="out") == [
        "out/captum-sgcampp-a.png",
        "out/cats/captum-sgcampp-a.png",
        "out/dogs/captum-sgcampp-a.png",
    ]


def test_photographs_of_one_name_have_pictures_of_their_own() -> None:
    tiny("a.png", "o1/a.png", "a-2.png", "o2/A.png")
    names = planned("a.png", "o1/a.png", "a-2.png", "o2/A.png")
    assert names == [
        "captum-sgcampp-a.png",
        "captum-sgcampp-a-2.png",
        "captum-sgcampp-a-2-2.png",
        "captum-sgcampp-A-3.png",  # some file systems ignore case
    ]


def test_a_photograph_is_never_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    photo = photograph("coffee.png")
    before = photo.read_bytes()
    Path("link.png").symlink_to(photo)
    os.link(photo, "hard.png")
    for output in ("coffee.png", "./coffee", "link.png", "hard.png"):
        assert main(["coffee.png", "--output", output, *FAST]) == 2
        assert "would overwrite a file that the command reads" in capsys.readouterr().err
    assert photo.read_bytes() == before

    tiny("x.png", "captum-sgcampp-x.png")
    assert planned("x.png", "captum-sgcampp-x.png")[0] == "captum-sgcampp-x-2.png"
    page = tiny_page("x.png", "x.html")
    assert page == "x.html"
    assert tiny_page("x.png", "page") == "page.html"
    with pytest.raises(CommandError, match=r"--page x.png would overwrite a file that the command reads"):
        tiny_page("x.png", "x.png")
    for folder in (".", "/"):
        with pytest.raises(CommandError, match=f"--page {folder} is a folder"):
            tiny_page("x.png", folder)
    Path("sl").mkdir()
    Path("sl/captum-sgcampp-a.png").symlink_to("captum-sgcampp-b.png")
    tiny("a.png", "b.png")
    assert planned("a.png", "b.png", output="sl/") == ["sl/captum-sgcampp-a.png", "sl/captum-sgcampp-b-2.png"]
    Path("weights.png").touch()
    with pytest.raises(CommandError, match="would overwrite"):
        planned("x.png", output="weights.png", read=["weights.png"])


@pytest.mark.parametrize(
    ("arguments", "output", "message"),
    [
        (["a.jpg"], "x.nonsense", "cannot write x.nonsense: the format must be one of"),
        (["a.jpg", "b.jpg"], "one.png", "--output one.png must be a folder, as there are several photographs"),
        (["a.jpg", "b.jpg"], "a.jpg", "--output a.jpg must be a folder, but is a file"),
    ],
)
def test_outputs_that_cannot_be(arguments: list[str], output: str, message: str) -> None:
    tiny("a.jpg", "b.jpg")
    with pytest.raises(CommandError, match=message):
        planned(*arguments, output=output)


def test_standard_input_is_never_written_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = photograph("coffee.png")
    before = photo.read_bytes()
    with photo.open() as stdin, monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", stdin)
        assert main(["-", *FAST, "--output", "coffee.png"]) == 2
    assert "--output coffee.png would overwrite a file that the command reads" in capsys.readouterr().err
    assert photo.read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="standard input is a file of the system")
def test_standard_input_of_a_process_is_never_written_over() -> None:
    photo = photograph("coffee.png")
    before = photo.read_bytes()
    with photo.open("rb") as stdin:
        command_line = [sys.executable, "-m", "captum_sgcampp", "-", *FAST, "--output", "coffee.png"]
        outcome = subprocess.run(command_line, stdin=stdin, capture_output=True, text=True, check=False)
    assert outcome.returncode == 2
    assert "--output coffee.png would overwrite a file that the command reads" in outcome.stderr
    assert photo.read_bytes() == before


def test_links_that_lead_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    Path("loop.png").symlink_to("loop.png")
    assert main([*FAST, "--output", "loop.png"]) == 2
    assert capsys.readouterr().err.startswith("captum-sgcampp: cannot write loop.png: ")


def test_a_picture_is_written_whole_or_not_at_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out_of_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    Path("out.png").write_text("as it was")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", run_out_of_space)
        assert main([*FAST, "--output", "out.png"]) == 2
    assert capsys.readouterr().err.startswith("captum-sgcampp: cannot write out.png: No space left on device")
    assert Path("out.png").read_text() == "as it was"
    assert not any(file.name.endswith(".tmp") for file in Path().iterdir())


def test_a_folder_that_cannot_be_written_to(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert main([*FAST, "--output", "file/deep/"]) == 2
    assert capsys.readouterr().err.startswith("captum-sgcampp: cannot write file/deep/captum-sgcampp-camera.png: ")
