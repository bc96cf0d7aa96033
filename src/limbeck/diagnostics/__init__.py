"""What a trained student, its teacher and their data say about training."""

from limbeck.diagnostics.explanations import compare_explanations
from limbeck.diagnostics.findings import ExplanationFindings, PartFindings
from limbeck.diagnostics.variance import VarianceEstimate, estimate_variance

__all__ = [
    "ExplanationFindings",
    "PartFindings",
    "VarianceEstimate",
    "compare_explanations",
    "estimate_variance",
]
