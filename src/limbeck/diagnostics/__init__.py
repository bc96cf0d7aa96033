"""What a trained student, its teacher and their data say about training."""

from limbeck.diagnostics.variance import VarianceEstimate, estimate_variance

__all__ = ["VarianceEstimate", "estimate_variance"]
