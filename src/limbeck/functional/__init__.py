"""Pure equations: tensors in, tensor out; the student first, the teacher second."""

from limbeck.functional._common import Reduction
from limbeck.functional._maps import match_sizes
from limbeck.functional.activation_maps import class_activation_maps, class_attention
from limbeck.functional.aggregation import aggregate_distance, highway
from limbeck.functional.alignment import centred_gram, cka
from limbeck.functional.ascent import ascend, with_norms_of
from limbeck.functional.attention import attention_map, attention_transfer
from limbeck.functional.boundary import activation_boundary
from limbeck.functional.boundary_samples import adversarial_targets, base_samples, boundary_step
from limbeck.functional.bridge import embedding_bridge
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
from limbeck.functional.channels import channel_correlation
from limbeck.functional.codebook import (
    assignment_kl,
    codeword_probabilities,
    nearest_subclass,
    subclass_decisions,
)
from limbeck.functional.condensation import (
    cost_aware_score,
    entropy_value,
    keep_schedule,
    mixing_weights,
    online_mean,
    ranking,
)
from limbeck.functional.congruence import correlation_congruence, neighbour_congruence
from limbeck.functional.contrastive import bank_scores, bank_update, crd_nce
from limbeck.functional.correlated import cakd, split_kl
from limbeck.functional.correlation import dist, pearson_distance
from limbeck.functional.decoupled import decoupled_kl, dkd
from limbeck.functional.directions import (
    direction_distance,
    probability_loyalty,
    row_correlation,
    top_log_odds,
)
from limbeck.functional.divergence import (
    kl_divergence,
    kl_from_log_probs,
    kl_to_probs,
    reverse_kl,
    soft_cross_entropy,
)
from limbeck.functional.dynamic_temperature import (
    confusion,
    kd_at_temperature,
    kd_per_sample,
    sample_temperatures,
)
from limbeck.functional.enhanced import ofa
from limbeck.functional.ensemble import gated_logits, native_ensemble
from limbeck.functional.explanation import (
    energy_pointing_game,
    explanation_loss,
    explanation_similarity,
    gradcam,
)
from limbeck.functional.factor import factor_transfer
from limbeck.functional.feature import hint
from limbeck.functional.flow import flow_matrix, fsp
from limbeck.functional.frequency import frequency_attention
from limbeck.functional.gradient import (
    best_lambda,
    control_variate,
    expected_ratio,
    neighbourhood,
    tangent_rise,
)
from limbeck.functional.gram import batch_correlation, class_correlation
from limbeck.functional.hard import kd_hard
from limbeck.functional.logit import dml, kd, kd_multilabel, kd_regression
from limbeck.functional.margin import batch_norm_margin, margin_distance
from limbeck.functional.matching import power_sum, ttm
from limbeck.functional.mixture import jensen_shannon
from limbeck.functional.multi_teacher import multi_teacher_kd, teacher_confidence
from limbeck.functional.normalised import nkd
from limbeck.functional.partial import (
    class_cosines,
    class_hierarchy,
    class_similarity,
    keep_confidence,
    keep_top_k,
)
from limbeck.functional.pooling import average_pool
from limbeck.functional.rectification import (
    is_wrong,
    rectify,
    replace_by_smoothed_label,
    swap_with_label,
)
from limbeck.functional.relation import pkt, rkd_angle, rkd_distance, sp
from limbeck.functional.rescaling import gradient_ratio, gradient_rescaling
from limbeck.functional.review import hierarchical_context
from limbeck.functional.scaling import ScalingFit, fit_scaling, scale_logits
from limbeck.functional.selectivity import neuron_selectivity
from limbeck.functional.self_supervision import cosine_similarities, least_wrong
from limbeck.functional.singular import singular_directions, singular_flow
from limbeck.functional.soft_labels import kd_cross_entropy
from limbeck.functional.sparse import kl_sparse
from limbeck.functional.standardised import kd_standardised, normkd, standardise_logits
from limbeck.functional.superfeature import (
    explanation_hessian,
    feature_interactions,
    naive_bayes,
    superfeature_explanations,
    superfeature_kd,
)
from limbeck.functional.task import (
    binary_cross_entropy,
    cross_entropy,
    label_smoothing_targets,
    squared_error,
)
from limbeck.functional.temperature import TemperatureFit, fit_temperature, fit_temperature_by_ace
from limbeck.functional.variational import scale_of_variance, variational_information
from limbeck.functional.virtual import (
    label_distribution,
    virtual_logits,
    virtual_teacher_loss,
)
from limbeck.functional.weighted import wsld, wsld_weight

__all__ = [
    "Reduction",
    "ReliabilityBins",
    "ScalingFit",
    "TemperatureFit",
    "activation_boundary",
    "adaptive_calibration_error",
    "adaptive_expected_calibration_error",
    "adversarial_targets",
    "aggregate_distance",
    "ascend",
    "assignment_kl",
    "attention_map",
    "attention_transfer",
    "average_pool",
    "bank_scores",
    "bank_update",
    "base_samples",
    "batch_correlation",
    "batch_norm_margin",
    "best_lambda",
    "binary_cross_entropy",
    "boundary_step",
    "brier_score",
    "cakd",
    "centred_gram",
    "channel_correlation",
    "cka",
    "class_activation_maps",
    "class_attention",
    "class_correlation",
    "class_cosines",
    "class_hierarchy",
    "class_similarity",
    "classwise_calibration_error",
    "codeword_probabilities",
    "confusion",
    "control_variate",
    "correlation_congruence",
    "cosine_similarities",
    "cost_aware_score",
    "crd_nce",
    "cross_entropy",
    "decoupled_kl",
    "direction_distance",
    "dist",
    "dkd",
    "dml",
    "embedding_bridge",
    "energy_pointing_game",
    "entropy_value",
    "expected_calibration_error",
    "expected_ratio",
    "explanation_hessian",
    "explanation_loss",
    "explanation_similarity",
    "factor_transfer",
    "feature_interactions",
    "fit_scaling",
    "fit_temperature",
    "fit_temperature_by_ace",
    "flow_matrix",
    "frequency_attention",
    "fsp",
    "gated_logits",
    "gradcam",
    "gradient_ratio",
    "gradient_rescaling",
    "hierarchical_context",
    "highway",
    "hint",
    "is_wrong",
    "jensen_shannon",
    "kd",
    "kd_at_temperature",
    "kd_cross_entropy",
    "kd_hard",
    "kd_multilabel",
    "kd_per_sample",
    "kd_regression",
    "kd_standardised",
    "keep_confidence",
    "keep_schedule",
    "keep_top_k",
    "kl_divergence",
    "kl_from_log_probs",
    "kl_sparse",
    "kl_to_probs",
    "label_distribution",
    "label_smoothing_targets",
    "least_wrong",
    "margin_distance",
    "match_sizes",
    "mixing_weights",
    "multi_teacher_kd",
    "naive_bayes",
    "native_ensemble",
    "nearest_subclass",
    "negative_log_likelihood",
    "neighbour_congruence",
    "neighbourhood",
    "neuron_selectivity",
    "nkd",
    "normkd",
    "ofa",
    "online_mean",
    "overconfidence_error",
    "pearson_distance",
    "pkt",
    "power_sum",
    "probability_loyalty",
    "ranking",
    "rectify",
    "reliability_bins",
    "replace_by_smoothed_label",
    "reverse_kl",
    "rkd_angle",
    "rkd_distance",
    "row_correlation",
    "sample_temperatures",
    "scale_logits",
    "scale_of_variance",
    "singular_directions",
    "singular_flow",
    "soft_cross_entropy",
    "sp",
    "split_kl",
    "squared_error",
    "standardise_logits",
    "subclass_decisions",
    "superfeature_explanations",
    "superfeature_kd",
    "swap_with_label",
    "tangent_rise",
    "teacher_confidence",
    "top_log_odds",
    "ttm",
    "underconfidence_error",
    "variational_information",
    "virtual_logits",
    "virtual_teacher_loss",
    "with_norms_of",
    "wsld",
    "wsld_weight",
]
