"""What a trained student, its teacher and their data say about training."""

from limbeck.diagnostics.class_geometry import ClassGeometry, class_geometry
from limbeck.diagnostics.explanations import compare_explanations
from limbeck.diagnostics.findings import ExplanationFindings, PartFindings
from limbeck.diagnostics.knowledge import Knowledge, measure_knowledge
from limbeck.diagnostics.rescaling import Rescaling
from limbeck.diagnostics.variance import VarianceEstimate, estimate_variance

__all__ = [
    "ClassGeometry",
    "ExplanationFindings",
    "Knowledge",
    "PartFindings",
    "Rescaling",
    "VarianceEstimate",
    "class_geometry",
    "compare_explanations",
    "estimate_variance",
    "measure_knowledge",
]
