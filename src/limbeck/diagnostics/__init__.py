"""What a trained student, its teacher and their data say about training."""

from limbeck.diagnostics.explanations import ExplanationFindings, compare_explanations
from limbeck.diagnostics.variance import VarianceEstimate, estimate_variance

__all__ = [
    "ExplanationFindings",
    "VarianceEstimate",
    "compare_explanations",
    "estimate_variance",
]
