"""The arguments of the command. Parsing them imports nothing slow, so that help and errors appear at once."""

import argparse
from collections.abc import Sequence

from captum_sgcampp import __version__
from captum_sgcampp.cli.argument_types import at_least, coordinate, deviation, not_empty, path, seed
from captum_sgcampp.cli.options import (
    DEFAULT_METHOD,
    DEFAULT_MODEL,
    EXAMPLE,
    FROM_STDIN,
    AttributionOptions,
    DatasetOptions,
    NetworkOptions,
    Options,
)
from captum_sgcampp.methods import catalogue

ALPHAS = ("bounded", "eq5", "eq7")
"""The forms of alpha of :class:`captum_sgcampp.LayerGradCamPlusPlus`."""

_EXAMPLES = """\
examples:
  captum-sgcampp                                  the example, and a network that needs no download
  captum-sgcampp cat.jpg --top-k 3                the three most probable classes
  captum-sgcampp photos/ --output maps            all images in a folder, recursively
  captum-sgcampp cat.jpg --model resnet50         a network of torchvision
  captum-sgcampp cat.jpg --model timm:convnext_tiny --layer stages.2
  captum-sgcampp cat.jpg --model hf:google/vit-base-patch16-224
  captum-sgcampp cat.jpg --model resnet18 --weights best.pt --classes names.txt
  captum-sgcampp cat.jpg --model my_model.py:load your own: load() returns the model, its
                                                  preprocessing and the names of its classes
  captum-sgcampp photos/ --maps maps              the maps as numbers, with an index; by several
                                                  processes: torchrun --nproc-per-node 4 -m
                                                  captum_sgcampp photos/ --maps maps
  captum-sgcampp cat.jpg --layer _blocks.10 --filters 10 32 3 --subset 2,4 9,10 --region
  captum-sgcampp cat.jpg dog.jpg --top-k 3 --page pets.html

the default layer, which --list-layers marks, is one below a nonlinearity, because smoothing
changes nothing where everything above a layer is affine:
  convolutional networks         the last block but one, such as _blocks.14 for efficientnet_lite0
                                 and layer4.1 for resnet50
  without blocks, such as VGG    the last maps before the pooling, such as features.29 for vgg16
  vision transformers            the first normalization of the last block
  Swin and its like              the same, in the stage before the last
"""


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Parses the arguments of the command.

    Args:
        arguments: The arguments. None takes those of the process.

    Raises:
        SystemExit: They are wrong, or ask for help or the version.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.region and len(given.subset or ()) != 2:
        parser.error("argument --region: needs two opposite corners of a box, such as --subset 2,4 9,10 --region")
    if given.images.count(FROM_STDIN) > 1:
        parser.error("argument PHOTOGRAPH: standard input, -, can be read only once")
    if given.maps is None:
        _refuse_options_of_maps(parser, given)
    else:
        _refuse_options_beside_maps(parser, given)
    return _options(given)


def _refuse_options_of_maps(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuses what has no meaning without `--maps`."""
    options = {
        "batch-size": given.batch_size,
        "workers": given.workers,
        "retry-failed": given.retry_failed or None,
    }
    for flag in (flag for flag, value in options.items() if value is not None):
        parser.error(f"argument --{flag}: is for --maps")


def _refuse_options_beside_maps(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuses what cannot be combined with `--maps`."""
    if FROM_STDIN in given.images:
        parser.error("argument --maps: needs files, not standard input, -")
    if given.top_k > 1:
        parser.error("argument --maps: is for the most probable class or --target, not for --top-k")
    if len(given.methods or ()) > 1:
        parser.error("argument --maps: is for one method at a time")


def _options(given: argparse.Namespace) -> Options:
    return Options(
        images=tuple(given.images),
        network=NetworkOptions(given.model, given.weights, given.classes, given.device),
        list_layers=given.list_layers,
        layers=tuple(given.layer or ()),
        targets=tuple(given.target),
        top_k=given.top_k,
        attribution=AttributionOptions(
            methods=tuple(given.methods or ()),
            alpha=given.alpha,
            n_samples=given.n_samples,
            stdevs=given.stdevs,
            seed=given.seed,
            filters=tuple(dict.fromkeys(given.filters)) if given.filters else None,
            subset=tuple(given.subset) if given.subset else None,
            region=given.region,
        ),
        scale=given.scale,
        output=given.output,
        page=given.page,
        dataset=DatasetOptions(given.maps, given.batch_size, given.workers, given.retry_failed) if given.maps else None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="captum-sgcampp",
        description="Explain a network's predictions for photographs: the maps of several methods side by side,\n"
        "in one picture per photograph.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="PHOTOGRAPH",
        type=path,
        help="files; folders, for all images in them except earlier results, captum-sgcampp-*; or - for standard "
        f"input; give them before options that take several values; default: an example, {EXAMPLE}",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    _add_network(parser)
    _add_layer(parser)
    _add_explanation(parser)
    _add_picture(parser)
    _add_maps(parser)
    return parser


def _add_network(parser: argparse.ArgumentParser) -> None:
    network = parser.add_argument_group("network")
    network.add_argument(
        "--model",
        metavar="NAME",
        default=DEFAULT_MODEL,
        help="a classifier of torchvision; timm:NAME or hf:NAME (an image classifier of Hugging Face), where NAME may "
        "be a folder; or FILE.py:FUNCTION, your own; default: %(default)s, which needs no download",
    )
    network.add_argument(
        "--weights",
        type=path,
        metavar="FILE",
        help="your weights instead of the pretrained ones: a state dict or a checkpoint with one, from torch.save or "
        "in safetensors",
    )
    network.add_argument("--classes", type=path, metavar="FILE", help="names of the classes, one per line")
    network.add_argument("--device", help="default: cuda if there is one, otherwise cpu")


def _add_layer(parser: argparse.ArgumentParser) -> None:
    layer = parser.add_argument_group("layer")
    layer.add_argument("--layer", nargs="+", metavar="NAME", help="dotted names of layers; default: see below")
    layer.add_argument(
        "--list-layers", action="store_true", help="print the name, type and output shape of each layer, and exit"
    )
    layer.add_argument("--filters", nargs="+", type=at_least(0), metavar="K", help="single channels, one panel each")
    layer.add_argument(
        "--subset",
        nargs="+",
        type=coordinate,
        metavar="ROW,COLUMN",
        help="only these neurons of the layer, counted from 0, such as 2,8 5,3",
    )
    layer.add_argument(
        "--region", action="store_true", help="take --subset as two opposite corners of a box, both included"
    )


def _add_explanation(parser: argparse.ArgumentParser) -> None:
    words = list(catalogue.by_word())
    explanation = parser.add_argument_group("explanation")
    explained = explanation.add_mutually_exclusive_group()
    explained.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="CLASS",
        help="a class to explain, by number or name; repeatable; default: the most probable",
    )
    explained.add_argument(
        "--top-k", type=at_least(1), default=1, metavar="K", help="explain the K most probable classes"
    )
    explanation.add_argument(
        "--methods",
        nargs="+",
        choices=words,
        metavar="METHOD",
        help=f"any of {', '.join(words)}; default: all, or {DEFAULT_METHOD} with --filters",
    )
    explanation.add_argument(
        "--n-samples",
        type=at_least(0),
        default=25,
        metavar="N",
        help="noisy copies of the photograph, 0 for none; the paper's figures use 5; more leave less to chance; "
        "default: %(default)s",
    )
    explanation.add_argument(
        "--stdevs",
        type=deviation,
        default=0.3,
        metavar="SIGMA",
        help="standard deviation of the noise, in units of the normalized image: 0.15 of the range from black to "
        "white is 0.3 where images are normalized by a standard deviation of 0.5, and 0.66 with torchvision's; "
        "default: %(default)s",
    )
    explanation.add_argument("--seed", type=seed, default=0, help="seed of the noise; default: %(default)s")
    explanation.add_argument("--alpha", choices=ALPHAS, default=ALPHAS[0], help="form of alpha; default: %(default)s")


def _add_picture(parser: argparse.ArgumentParser) -> None:
    picture = parser.add_argument_group("picture")
    picture.add_argument(
        "--scale",
        choices=["each", "shared"],
        help="scale each map by its own maximum, or all maps of a method by one, to compare classes or filters; "
        "default: shared for several classes, otherwise each",
    )
    picture.add_argument(
        "--output",
        type=not_empty,
        metavar="PATH",
        help="the picture (PNG unless the name ends otherwise); or a folder: an existing one, a name that ends with "
        "a slash, or any if there are several photographs; default: captum-sgcampp-PHOTOGRAPH.png in the current "
        "folder",
    )
    picture.add_argument(
        "--page",
        type=path,
        metavar="FILE",
        help="write one HTML page to explore all photographs in a browser, and pictures only with --output; its "
        "default layers are the last maps of each resolution and the default layer, with which it opens",
    )


def _add_maps(parser: argparse.ArgumentParser) -> None:
    maps = parser.add_argument_group("maps of many photographs")
    maps.add_argument(
        "--maps",
        type=path,
        metavar="FOLDER",
        help="write the maps as numbers, with an index, instead of pictures (which --output adds); an interrupted "
        f"run is resumed; the method is {DEFAULT_METHOD} unless --methods names another; each photograph has "
        "its own noise",
    )
    maps.add_argument(
        "--batch-size",
        type=at_least(1),
        metavar="N",
        help="photographs that go through the network at once; default: 5 on the CPU, otherwise 32",
    )
    maps.add_argument(
        "--workers",
        type=at_least(0),
        metavar="N",
        help="processes that read photographs in the background; default: 1 where processes are forked, otherwise 0",
    )
    maps.add_argument("--retry-failed", action="store_true", help="retry photographs that failed")
