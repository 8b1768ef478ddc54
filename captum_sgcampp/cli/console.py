"""What the command prints, and how."""

import io
import sys
from collections.abc import Callable

from tqdm.auto import tqdm

from captum_sgcampp import Explanation
from captum_sgcampp.cli.classifier import Classifier
from captum_sgcampp.cli.errors import in_the_commands_words

N_PRINTED = 5
"""The number of most probable classes that are printed."""


def print_layers(classifier: Classifier) -> None:
    """Prints one layer per line, in columns, and marks the default."""
    layers, default = classifier.layers, classifier.default_layer()
    name_width = max((len(layer.name) for layer in layers), default=0)
    type_width = max((len(type(layer.module).__name__) for layer in layers), default=0)
    for layer in layers:
        mark = "  <- default" if layer.name == default else ""
        print(f"{layer.name:{name_width}}  {type(layer.module).__name__:{type_width}}  {layer.output_summary}{mark}")


def ranking(explanation: Explanation) -> list[str]:
    """The most probable classes, one per line."""
    most_probable = explanation.scores.argsort(descending=True)[:N_PRINTED].tolist()
    return [
        f"{explanation.probability_or_score(index):>7}  {explanation.class_name(index)} ({index})"
        for index in most_probable
    ]


def allow_any_text() -> None:
    """Lets standard output and error take file names of any bytes, and text that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")


def each_once(show: Callable[[str], object]) -> Callable[..., None]:
    """A replacement for `warnings.showwarning` that shows each message once, in the command's words."""
    seen: set[str] = set()

    def show_new(message: object, *_args: object, **_kwargs: object) -> None:
        text = in_the_commands_words(message)
        if text not in seen:
            seen.add(text)
            show(text)

    return show_new


def say(message: object) -> None:
    """Prints a message on standard error, without breaking a progress bar."""
    tqdm.write(f"captum-sgcampp: {message}", file=sys.stderr)


def say_nothing(_message: object) -> None:
    """Prints nothing: of several processes, the first speaks for all."""
