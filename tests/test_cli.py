"""The command line, run as a user would, down to the pixels of the picture."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("torchvision", reason="the command needs the extra demo")

from cli_helpers import center, opened, outlined, panels, photograph
from torchvision import models

from captum_sgcampp import __main__, explanation, picture
from captum_sgcampp.__main__ import main
from captum_sgcampp.cli import arguments, command
from captum_sgcampp.cli.networks import load_classifier
from captum_sgcampp.explanation import METHODS
from captum_sgcampp.formulas import ALPHAS

FAST = ["--n-samples", "1", "--methods", "smooth-grad-cam++"]

pytestmark = pytest.mark.usefixtures("coarse_pictures", "in_empty_folder")


@pytest.mark.parametrize("given", [["--n-samples", "5"], pytest.param([], marks=pytest.mark.slow)])
def test_main_job(given: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "DPI", 200)
    assert main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "camera: efficientnet_lite0, layer _blocks.14"
    assert len(lines) == 7
    assert "tripod (872)" in lines[1]
    probabilities = [float(line.split("%")[0]) for line in lines[1:6]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 90 < probabilities[0] < 98

    assert lines[-1] == "captum-sgcampp-camera.png"
    written = opened(lines[-1])
    assert written.format == "PNG"
    assert written.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    shown, grad_cam, plus_plus, smooth, layer_cam, *_ = panels(lines[-1])
    # The photograph is sharp and as bright as it is; the maps are different from it and from each other.
    frame = load_classifier("efficientnet_lite0", torch.device("cpu")).frame
    assert frame is not None
    expected = frame(opened(photograph("camera.png")).convert("RGB"))
    assert abs(shown.mean() - expected[int(len(expected) * 0.45) :].mean()) < 0.1
    assert shown.std() > 0.15
    for one, other in [(shown, grad_cam), (grad_cam, plus_plus), (plus_plus, smooth), (smooth, layer_cam)]:
        width = min(one.shape[1], other.shape[1])
        assert np.abs(one[:, :width] - other[:, :width]).mean() > 0.01


def test_maps_lie_where_the_object_is() -> None:
    cup = np.asarray(opened(photograph("coffee.png")))
    beside = np.full((400, 400, 3), 128, dtype=np.uint8)
    for name, column in [("left", 0), ("right", 200)]:
        canvas = beside.copy()
        canvas[100:300, column : column + 200] = np.asarray(Image.fromarray(cup[:, 100:500]).resize((200, 200)))
        Image.fromarray(canvas).save(f"{name}.png")
        chosen = ["--target", "espresso", "--layer", "_blocks.15", "--n-samples", "5"]
        assert main([f"{name}.png", *chosen, "--output", f"{name}-map.png"]) == 0
    for left, right in zip(panels("left-map.png")[1:], panels("right-map.png")[1:], strict=True):
        assert center(left) < 0.45
        assert center(right) > 0.55


def test_runs_repeat_with_the_seed() -> None:
    for name, seed in [("first", "3"), ("again", "3"), ("other", "4")]:
        assert main(["--seed", seed, *FAST, "--stdevs", "0.5", "--output", f"{name}.png"]) == 0
    first, again, other = (np.asarray(opened(f"{name}.png")) for name in ("first", "again", "other"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_targets_and_top_k_have_a_row_each(capsys: pytest.CaptureFixture[str]) -> None:
    heights = []
    for chosen in (["--target", "tripod"], ["--target", "872", "--target", "Binoculars"], ["--top-k", "2"]):
        assert main([*chosen, *FAST, "--output", "picture.png"]) == 0
        heights.append(opened("picture.png").height)
    assert heights[1] == heights[2] > 1.8 * heights[0]
    assert "binoculars" in capsys.readouterr().out


def test_a_target_given_twice_has_one_row() -> None:
    for name, targets in [("once", ["872"]), ("twice", ["872", "tripod", "872"])]:
        chosen = [argument for target in targets for argument in ("--target", target)]
        assert main([*chosen, *FAST, "--output", f"{name}.png"]) == 0
    assert np.array_equal(np.asarray(opened("once.png")), np.asarray(opened("twice.png")))


def test_filters_have_a_panel_each_and_regions_an_outline() -> None:
    selection = ["--layer", "_blocks.10", "--n-samples", "2", "--filters", "10", "32", "3"]
    assert main([*selection, "--output", "filters.png"]) == 0
    photo, *maps = panels("filters.png")
    assert len(maps) == 3
    assert not any(outlined(panel).any() for panel in maps)
    assert np.abs(maps[0][:, :150] - maps[1][:, :150]).mean() > 0.01

    assert main([*selection, "--subset", "9,10", "2,4", "--region", "--output", "region.png"]) == 0
    for panel in panels("region.png")[1:]:
        columns = np.flatnonzero(outlined(panel).any(axis=0)) / panel.shape[1]
        assert columns.min() == pytest.approx(4 / 14, abs=0.02)
        assert columns.max() == pytest.approx(11 / 14, abs=0.02)
        assert not outlined(photo).any()
        outside = panel[:, : int(3.5 / 14 * panel.shape[1])]  # nothing but the gray photograph
        assert np.ptp(outside, axis=2).max() < 0.1


def test_neurons_are_marked() -> None:
    assert (
        main(["--n-samples", "1", "--layer", "_blocks.10", "--subset", "12,3", "11,9", "--output", "subset.png"]) == 0
    )
    _, *maps = panels("subset.png")
    assert len(maps) == len(METHODS)
    for panel in maps:
        columns = np.flatnonzero(outlined(panel).any(axis=0)) / panel.shape[1] * 14
        for neuron in (3, 9):
            assert ((columns > neuron - 0.3) & (columns < neuron + 1.3)).any()
        assert not ((columns > 4.4) & (columns < 8.6)).any()


def test_methods_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--methods", "smooth-layer-cam", "grad-cam", "--n-samples", "2", "--output", "two.png"]) == 0
    assert len(panels("two.png")) == 1 + 2
    with pytest.raises(SystemExit):
        main(["--methods", "cam"])
    assert "smooth-layer-cam" in capsys.readouterr().err


def test_scales_can_be_chosen() -> None:
    chosen = ["--target", "tripod", "--target", "harmonica", *FAST]
    for name, scale in [("default", []), ("shared", ["--scale", "shared"]), ("each", ["--scale", "each"])]:
        assert main([*chosen, *scale, "--output", f"{name}.png"]) == 0
    default, shared, each = (np.asarray(opened(f"{name}.png")) for name in ("default", "shared", "each"))
    assert np.array_equal(default, shared)
    assert not np.array_equal(shared, each)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--model", "resnet5"], "unknown model 'resnet5'; the closest: resnet50"),
        (["--layer", "_block.15"], "unknown layer '_block.15'; the closest: _blocks.15"),
        (["--layer", "_fc"], "layer _fc returns (1, 1000), which is not a map"),
        (["--layer", "_avg_pooling"], "layer _avg_pooling has maps of 1 x 1, without positions to show"),
        (["--layer", "_blocks"], "layer _blocks does not run"),
        (["--target", "cat"], "unknown class 'cat'; the closest: tiger cat"),
        (["--target", "1000"], "unknown class 1000; efficientnet_lite0 has the classes 0 to 999"),
        (["--target", "cardigan"], "class 'cardigan' is the name of 264 and 474; give the number"),
        (["--device", "nonsense"], "cannot compute on device 'nonsense'"),
        (["--device", "meta"], "cannot compute on device 'meta'"),
        (["--filters", "192"], "cannot explain camera: --filters: 192 is out of range; layer '_blocks.14' (MBConv"),
        (["--subset", "7,0"], "cannot explain camera: --subset: (7, 0) is out of range; the grid of layer"),
        (["--output", "picture.nonsense"], "cannot write picture.nonsense: the format must be one of"),
    ],
)
def test_errors_are_one_line(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--n-samples", "0"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith(f"captum-sgcampp: {message}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--top-k", "0"], "--top-k: must be at least 1, but is 0"),
        (["--n-samples", "-1"], "--n-samples: must be at least 0, but is -1"),
        (["--stdevs", "nan"], "--stdevs: must be finite and not negative, but is nan"),
        (["--top-k", "2", "--target", "1"], "--target: not allowed with argument --top-k"),
        (["--subset", "a"], "--subset: must be ROW,COLUMN, but is a"),
        (["--subset", "7"], "--subset: must be ROW,COLUMN, but is 7"),
        (["--region"], "--region: needs two opposite corners of a box, such as --subset 2,4 9,10 --region"),
        (["--region", "--subset", "1,1"], "--region: needs two opposite corners"),
        (["--seed", "1" * 23], "--seed: must be from -9223372036854775808 to 18446744073709551615"),
        (["--seed", "abc"], "--seed: must be an integer, but is abc"),
        (["--stdevs", "x"], "--stdevs: must be a number, but is x"),
        (["--top-k", "1.5"], "--top-k: must be an integer, but is 1.5"),
        ([""], "PHOTOGRAPH: must not be empty"),
        (["--output", ""], "--output: must not be empty"),
        (["-", "-"], "PHOTOGRAPH: standard input, -, can be read only once"),
    ],
)
def test_arguments_out_of_range(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(given)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_the_largest_and_the_smallest_seed_work() -> None:
    for seed in (2**64 - 1, -(2**63)):
        assert main(["--seed", str(seed), *FAST]) == 0


@pytest.mark.filterwarnings("default")
def test_a_warning_for_every_photograph_appears_once_and_in_the_commands_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    photographs = [str(photograph("coffee.png")), str(photograph("chelsea.png"))]
    assert main([*photographs, "--layer", "_conv_head", "--n-samples", "2", "--stdevs", "0"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("captum-sgcampp: ")]
    assert len(lines) == 1
    assert lines[0].startswith("captum-sgcampp: --n-samples: smoothing changes nothing at layer '_conv_head'")
    assert lines[0].endswith("or larger --stdevs.")


def test_list_layers_marks_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list-layers"]) == 0
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["_blocks.14"] == ["MBConvBlock", "(1, 192, 7, 7)  <- default"]
    assert rows["_blocks.15"] == ["MBConvBlock", "(1, 320, 7, 7)"]
    assert rows["_fc"] == ["Linear", "(1, 1000)"]
    assert rows["_swish"] == ["ReLU6", "(1, 1280, 7, 7), the last of 2 times"]
    assert rows["_blocks"] == ["ModuleList", "does not run"]
    assert sum(row[-1].endswith("<- default") for row in rows.values()) == 1


def test_a_photograph_that_fails_in_any_way_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    explain = explanation.explain

    def fragile(model: object, inputs: torch.Tensor, *args: object, **kwargs: object) -> object:
        if kwargs["title"] == "astronaut.png":
            raise MemoryError
        return explain(model, inputs, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "explain", fragile)
    photographs = [str(photograph("astronaut.png")), str(photograph("coffee.png"))]
    assert main([*photographs, *FAST]) == 2
    captured = capsys.readouterr()
    assert "captum-sgcampp: cannot explain astronaut.png: MemoryError" in captured.err
    assert "espresso" in captured.out


def run_module(*given: str, **options: object) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-m", "captum_sgcampp", *given]
    return subprocess.run(command_line, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_module_runs_as_a_command() -> None:
    outcome = run_module("--model", "nonsense")
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("captum-sgcampp: unknown model 'nonsense'")
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("given", [["--help"], ["--version"], ["--top-k", "0"]])
def test_help_and_wrong_arguments_do_not_wait_for_torch(given: list[str]) -> None:
    code = (
        "import sys\nfrom captum_sgcampp.__main__ import main\n"
        f"try:\n    main({given})\n"
        "finally:\n    print(sorted({'torch', 'captum', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.stdout.splitlines()[-1] == "[]", outcome.stderr


def test_help_has_examples_and_says_which_layer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "captum-sgcampp cat.jpg --top-k 3" in text
    assert "_blocks.14 for efficientnet_lite0" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_parser_knows_the_alphas_of_the_library() -> None:
    assert tuple(ALPHAS) == arguments.ALPHAS


@pytest.mark.skipif(os.name != "posix", reason="signals as in POSIX")
def test_ctrl_c_is_one_line() -> None:
    command_line = [sys.executable, "-m", "captum_sgcampp", "-"]
    pipe = subprocess.PIPE
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if the tests run in the background
    try:
        process = subprocess.Popen(command_line, stdin=pipe, stdout=pipe, stderr=pipe)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdin is not None
        process.stdin.write(bytes(2**20))  # more than a pipe holds: when this returns, the command is reading
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"captum-sgcampp: interrupted\n")


def closed_pipe() -> TextIO:
    """What nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


@pytest.mark.skipif(os.name != "posix", reason="pipes as in POSIX")
@pytest.mark.parametrize("given", [["--list-layers"], FAST], ids=" ".join)
def test_what_nobody_reads_any_more_is_quiet(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closed_pipe() as pipe, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", pipe)
        assert main(given) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.name != "posix", reason="pipes as in POSIX")
@pytest.mark.parametrize(
    ("given", "status"),
    [
        (["--help"], 0),
        pytest.param(["--list-layers"], 141, marks=pytest.mark.slow),
        pytest.param(FAST, 141, marks=pytest.mark.slow),
    ],
)
def test_a_closed_pipe_is_quiet_also_when_the_process_ends(given: list[str], status: int) -> None:
    with closed_pipe() as pipe:
        outcome = subprocess.run(
            [sys.executable, "-m", "captum_sgcampp", *given],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (outcome.returncode, outcome.stderr) == (status, "")


def test_standard_output_that_cannot_be_written_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

        def fileno(self) -> int:
            return copy

    copy = os.dup(1)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Full())
        assert main(["--list-layers"]) == 2
    os.close(copy)
    assert capsys.readouterr().err == "captum-sgcampp: cannot write to standard output: No space left on device\n"


def test_standard_output_that_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        assert main(FAST) == 0
    assert capsys.readouterr().err == ""
    assert Path("captum-sgcampp-camera.png").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device")
def test_a_full_device_of_a_process() -> None:
    with Path("/dev/full").open("w") as full:
        command_line = [sys.executable, "-m", "captum_sgcampp", *FAST]
        outcome = subprocess.run(command_line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert outcome.returncode == 2
    assert outcome.stderr == "captum-sgcampp: cannot write to standard output: No space left on device\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="descriptors as in POSIX")
def test_standard_output_of_a_process_that_is_closed() -> None:
    line = f"'{sys.executable}' -m captum_sgcampp {' '.join(FAST)} >&-"
    outcome = subprocess.run(["/bin/sh", "-c", line], stderr=subprocess.PIPE, text=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert Path("captum-sgcampp-camera.png").exists()


def test_a_filter_given_twice_has_one_panel() -> None:
    assert main(["--filters", "3", "1", "3", "--n-samples", "1", "--output", "filters.png"]) == 0
    assert len(panels("filters.png")) == 1 + 2


@pytest.mark.filterwarnings("default")
def test_characters_that_the_font_lacks_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    name = "\N{CJK UNIFIED IDEOGRAPH-4E2D}\N{CJK UNIFIED IDEOGRAPH-56FD}.png"
    Path(name).write_bytes(photograph("coffee.png").read_bytes())
    assert main([name, *FAST]) == 0
    assert capsys.readouterr().err == "captum-sgcampp: the picture's font lacks some characters of the names\n"


def test_without_the_extra_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "captum_sgcampp.cli.command", None)
    assert __main__.main([]) == 2
    assert "pip install 'captum-sgcampp[demo]'" in capsys.readouterr().err


@pytest.mark.slow  # 88 million weights; tests/test_cli_from_file.py has small transformers
def test_transformers_are_shown_by_their_patches(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    state = models.vit_b_32(num_classes=3).state_dict()
    state["heads.head.weight"].normal_()  # torchvision's are zero
    torch.save(state, "vit.pt")
    assert main(["--model", "vit_b_32", "--weights", "vit.pt", "--n-samples", "1", "--subset", "0,0", "6,6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "camera: vit_b_32, layer encoder.layers.encoder_layer_11.ln_1"
    assert len(panels(lines[-1])) == 1 + 4
