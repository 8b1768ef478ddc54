"""One input, explained by several methods at once."""

from captum_sgcampp.explanation.explanation import METHODS, SCALES, Explanation, explain, logits_of

__all__ = ["METHODS", "SCALES", "Explanation", "explain", "logits_of"]
