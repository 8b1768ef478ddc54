"""The scores in what a model returns: a tensor, or an object with logits."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def logits_of(output: Any) -> Any:
    """The scores of a model that returns an object or a mapping with a tensor of `logits`; anything else as it is."""
    scores = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return scores if isinstance(scores, Tensor) else output


class ScoreReader:
    """Reads the scores of a model, and remembers whether they were within an object."""

    within = False
    """Whether the scores were within an object."""

    def __call__(self, output: Any) -> Any:
        """Returns the scores."""
        scores = logits_of(output)
        self.within = scores is not output
        return scores
