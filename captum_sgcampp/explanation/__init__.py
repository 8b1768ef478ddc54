"""One input, explained by several methods at once."""

from captum_sgcampp.explanation.compute import METHODS, explain
from captum_sgcampp.explanation.explanation import SCALES, Explanation
from captum_sgcampp.explanation.scores import logits_of

__all__ = ["METHODS", "SCALES", "Explanation", "explain", "logits_of"]
