"""Pure equations: tensors in, tensor out; the student first, the teacher second."""

from limbeck.functional._common import Reduction
from limbeck.functional.calibration import (
    ReliabilityBins,
    adaptive_calibration_error,
    adaptive_expected_calibration_error,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    negative_log_likelihood,
    overconfidence_error,
    reliability_bins,
    underconfidence_error,
)
from limbeck.functional.condensation import (
    cost_aware_score,
    entropy_value,
    keep_schedule,
    mixing_weights,
    online_mean,
    ranking,
)
from limbeck.functional.divergence import (
    kl_divergence,
    kl_from_log_probs,
    kl_to_probs,
    reverse_kl,
    soft_cross_entropy,
)
from limbeck.functional.explanation import (
    explanation_loss,
    explanation_similarity,
    gradcam,
)
from limbeck.functional.feature import hint
from limbeck.functional.logit import dml, kd, kd_multilabel, kd_regression
from limbeck.functional.sparse import kl_sparse
from limbeck.functional.task import (
    binary_cross_entropy,
    cross_entropy,
    label_smoothing_targets,
    squared_error,
)
from limbeck.functional.temperature import TemperatureFit, fit_temperature, fit_temperature_by_ace

__all__ = [
    "Reduction",
    "ReliabilityBins",
    "TemperatureFit",
    "adaptive_calibration_error",
    "adaptive_expected_calibration_error",
    "binary_cross_entropy",
    "brier_score",
    "classwise_calibration_error",
    "cost_aware_score",
    "cross_entropy",
    "dml",
    "entropy_value",
    "expected_calibration_error",
    "explanation_loss",
    "explanation_similarity",
    "fit_temperature",
    "fit_temperature_by_ace",
    "gradcam",
    "hint",
    "kd",
    "kd_multilabel",
    "kd_regression",
    "keep_schedule",
    "kl_divergence",
    "kl_from_log_probs",
    "kl_sparse",
    "kl_to_probs",
    "label_smoothing_targets",
    "mixing_weights",
    "negative_log_likelihood",
    "online_mean",
    "overconfidence_error",
    "ranking",
    "reliability_bins",
    "reverse_kl",
    "soft_cross_entropy",
    "squared_error",
    "underconfidence_error",
]
