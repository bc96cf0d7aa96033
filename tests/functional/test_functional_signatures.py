"""The shapes in the signatures hold at run time, and the package imports torch alone."""

import ast
import inspect
import subprocess
import sys

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError, jaxtyped

from limbeck import functional as lf

LOGITS, OTHERS = torch.randn(4, 3), torch.randn(4, 3)
MAPS = torch.rand(4, 2, 5, 5)
TOKENS = torch.rand(4, 6, 2)
TARGETS = torch.tensor([0, 2, -100, 1])
COUNT = torch.tensor([0, 1, 2, 3])

CALLS = {
    "with_norms_of": [(LOGITS, OTHERS), (MAPS, MAPS)],
    "activation_boundary": [(MAPS, MAPS), (LOGITS, OTHERS)],
    "adaptive_calibration_error": [(LOGITS.softmax(1), TARGETS)],
    "adaptive_expected_calibration_error": [(LOGITS.softmax(1), TARGETS)],
    "assignment_kl": [(TOKENS, TOKENS.softmax(1))],
    "codeword_probabilities": [(TOKENS, torch.rand(3, 6))],
    "nearest_subclass": [(TOKENS, torch.rand(3, 2, 6), COUNT % 3)],
    "subclass_decisions": [(LOGITS, COUNT, 5)],
    "bank_scores": [(LOGITS, MAPS.flatten(2)[:, 0, :3], COUNT.view(4, 1) % 4)],
    "bank_update": [(torch.rand(5, 3), COUNT, LOGITS)],
    "ascend": [(LOGITS, lambda x: x.square().sum(1))],
    "adversarial_targets": [(LOGITS, LOGITS[:, 0].sigmoid())],
    "aggregate_distance": [(MAPS, MAPS), (LOGITS, OTHERS)],
    "attention_map": [(MAPS,)],
    "attention_transfer": [(MAPS, MAPS[:, :1, :4])],
    "base_samples": [(LOGITS, OTHERS, TARGETS)],
    "average_pool": [(MAPS,)],
    "batch_correlation": [(LOGITS, OTHERS)],
    "batch_norm_margin": [(LOGITS[0], OTHERS[0])],
    "binary_cross_entropy": [(LOGITS, OTHERS.sigmoid())],
    "boundary_step": [(MAPS, MAPS, LOGITS[:, 0], COUNT > 1)],
    "brier_score": [(LOGITS.softmax(1), TARGETS)],
    "cakd": [(LOGITS, OTHERS), (TOKENS, TOKENS)],
    "centred_gram": [(MAPS,), (LOGITS,)],
    "channel_correlation": [(MAPS, MAPS[..., :3])],
    "cka": [(MAPS, LOGITS), (LOGITS, TOKENS)],
    "class_correlation": [(LOGITS, OTHERS), (LOGITS[:2], OTHERS[:2])],
    "class_activation_maps": [(MAPS, LOGITS[:, :2])],
    "class_cosines": [(LOGITS,)],
    "class_attention": [(MAPS, MAPS[..., :3])],
    "class_hierarchy": [(COUNT // 2,)],
    "class_similarity": [(LOGITS,)],
    "classwise_calibration_error": [(LOGITS.softmax(1), TARGETS)],
    "confusion": [(LOGITS, OTHERS)],
    "correlation_congruence": [(LOGITS, OTHERS[:, :2])],
    "cosine_similarities": [(LOGITS, OTHERS[:2])],
    "cost_aware_score": [(LOGITS[:, 0], COUNT)],
    "crd_nce": [(LOGITS[:, 0], OTHERS), (LOGITS[:, 0], OTHERS[:, :0])],
    "cross_entropy": [(LOGITS, TARGETS)],
    "decoupled_kl": [(LOGITS, OTHERS, TARGETS)],
    "dist": [(LOGITS, OTHERS)],
    "dkd": [(LOGITS, OTHERS, TARGETS)],
    "dml": [(LOGITS, [OTHERS, OTHERS]), (LOGITS, [])],
    "energy_pointing_game": [(MAPS, MAPS[:, 0] > 0), (MAPS[:, 0], MAPS[:, 1].sigmoid())],
    "entropy_value": [(LOGITS,)],
    "expected_calibration_error": [(LOGITS.softmax(1), TARGETS)],
    "explanation_hessian": [(LOGITS, torch.sin)],
    "explanation_loss": [(MAPS, MAPS[..., :3]), (MAPS[:, 0], MAPS[:, 1])],
    "explanation_similarity": [(MAPS[:, 0], MAPS[:, 1, :2]), (MAPS, MAPS)],
    "factor_transfer": [(MAPS, MAPS[:, :1, :4])],
    "feature_interactions": [(torch.randn(3, 3),)],
    "fit_scaling": [(LOGITS, TARGETS)],
    "fit_temperature": [(LOGITS, TARGETS)],
    "fit_temperature_by_ace": [(LOGITS, TARGETS)],
    "flow_matrix": [(MAPS, MAPS[:, :1, :4])],
    "frequency_attention": [(MAPS, torch.ones(2, 3, 5, 5, dtype=torch.complex64))],
    "fsp": [([MAPS, MAPS], [MAPS, MAPS[..., :3]])],
    "gated_logits": [(TOKENS, TOKENS[..., 0])],
    "gradient_ratio": [(LOGITS, OTHERS, TARGETS)],
    "gradient_rescaling": [(LOGITS, OTHERS, TARGETS)],
    "gradcam": [(MAPS, MAPS), (TOKENS, TOKENS)],
    "hierarchical_context": [(MAPS, MAPS)],
    "highway": [(MAPS, MAPS, MAPS)],
    "hint": [(MAPS, MAPS), (LOGITS, OTHERS)],
    "is_wrong": [(LOGITS, TARGETS)],
    "jensen_shannon": [(LOGITS, OTHERS), (TOKENS, TOKENS)],
    "kd": [(LOGITS, OTHERS), (TOKENS, TOKENS)],
    "kd_at_temperature": [(LOGITS, OTHERS)],
    "kd_cross_entropy": [(LOGITS, OTHERS), (TOKENS, TOKENS)],
    "kd_hard": [(LOGITS, OTHERS), (TOKENS, TOKENS)],
    "kd_multilabel": [(LOGITS, OTHERS)],
    "kd_per_sample": [(LOGITS, OTHERS, LOGITS[:, 0].exp())],
    "kd_regression": [(LOGITS, OTHERS)],
    "kd_standardised": [(LOGITS, OTHERS)],
    "keep_confidence": [(LOGITS.softmax(1), COUNT % 3)],
    "keep_schedule": [(10, 0.5, 4, 2)],
    "keep_top_k": [(LOGITS.softmax(1), 2)],
    "kl_divergence": [(LOGITS, OTHERS), (LOGITS[0], OTHERS[0])],
    "kl_from_log_probs": [(LOGITS.log_softmax(1), OTHERS.log_softmax(1))],
    "kl_sparse": [
        (torch.randn(2, 5), torch.tensor([[0], [4]]), torch.zeros(2, 1)),
        (torch.randn(5), torch.tensor([1]), torch.tensor([-1.0]), torch.tensor(-0.5)),
    ],
    "kl_to_probs": [(LOGITS, OTHERS.softmax(1)), (LOGITS, OTHERS.double().softmax(1))],
    "label_distribution": [(COUNT, 4)],
    "label_smoothing_targets": [(TARGETS, 3, 0.1)],
    "least_wrong": [(LOGITS, TARGETS)],
    "margin_distance": [(MAPS, MAPS[..., :3], -MAPS[0, :, 0, 0])],
    "match_sizes": [(MAPS, MAPS[:, :1, :4])],
    "mixing_weights": [(3,)],
    "native_ensemble": [(TOKENS, TOKENS[:, 0])],
    "multi_teacher_kd": [(LOGITS, torch.stack([OTHERS, LOGITS]), torch.rand(2, 4))],
    "naive_bayes": [(TOKENS, torch.rand(TOKENS.shape[-1])), (TOKENS,)],
    "negative_log_likelihood": [(LOGITS, TARGETS)],
    "neighbour_congruence": [(LOGITS, OTHERS)],
    "neuron_selectivity": [(MAPS, MAPS[:, :1, :4])],
    "nkd": [(LOGITS, OTHERS, TARGETS)],
    "normkd": [(LOGITS, OTHERS)],
    "ofa": [(LOGITS, OTHERS, TARGETS)],
    "online_mean": [(LOGITS[:, 0], COUNT, LOGITS[:, 1])],
    "overconfidence_error": [(LOGITS.softmax(1), TARGETS)],
    "pearson_distance": [(LOGITS, OTHERS)],
    "power_sum": [(LOGITS,)],
    "pkt": [(MAPS, LOGITS), (LOGITS, TOKENS)],
    "ranking": [(LOGITS[:, 0],)],
    "rectify": [(LOGITS.softmax(1), TARGETS)],
    "reliability_bins": [(LOGITS.softmax(1), TARGETS)],
    "replace_by_smoothed_label": [(LOGITS.softmax(1), TARGETS)],
    "reverse_kl": [(LOGITS, OTHERS)],
    "sample_temperatures": [(LOGITS[:, 0],)],
    "rkd_angle": [(MAPS, LOGITS), (LOGITS, TOKENS)],
    "rkd_distance": [(MAPS, LOGITS), (LOGITS, TOKENS)],
    "scale_logits": [(LOGITS, LOGITS[0], OTHERS[0]), (LOGITS, torch.eye(3), OTHERS[0])],
    "scale_of_variance": [(5.0,)],
    "singular_directions": [(MAPS,)],
    "singular_flow": [([MAPS, MAPS], [MAPS, MAPS[..., :3]])],
    "soft_cross_entropy": [(LOGITS, OTHERS.softmax(1))],
    "sp": [(MAPS, LOGITS), (LOGITS, TOKENS)],
    "split_kl": [(LOGITS, OTHERS, LOGITS.amax(1, keepdim=True) == LOGITS)],
    "squared_error": [(LOGITS, OTHERS)],
    "standardise_logits": [(LOGITS,)],
    "superfeature_explanations": [(TOKENS,)],
    "superfeature_kd": [(TOKENS, TOKENS)],
    "swap_with_label": [(LOGITS, TARGETS)],
    "teacher_confidence": [(torch.stack([OTHERS, LOGITS]), TARGETS)],
    "ttm": [(LOGITS, OTHERS)],
    "underconfidence_error": [(LOGITS.softmax(1), TARGETS)],
    "variational_information": [(MAPS, MAPS[..., :3], MAPS[0, :, 0, 0])],
    "direction_distance": [(MAPS, MAPS), (LOGITS, OTHERS)],
    "probability_loyalty": [(LOGITS, OTHERS)],
    "embedding_bridge": [(LOGITS, OTHERS)],
    "row_correlation": [(LOGITS, OTHERS)],
    "top_log_odds": [(LOGITS,)],
    "best_lambda": [()],
    "control_variate": [(LOGITS, OTHERS), (LOGITS, OTHERS, LOGITS)],
    "expected_ratio": [()],
    "neighbourhood": [(0.5,)],
    "tangent_rise": [([MAPS, TARGETS.float()], [MAPS, TARGETS.float()], [MAPS, TARGETS.float()])],
    "virtual_logits": [(TARGETS, 3)],
    "virtual_teacher_loss": [(LOGITS, TARGETS)],
    "wsld": [(LOGITS, OTHERS, TARGETS)],
    "wsld_weight": [(LOGITS, OTHERS, TARGETS)],
}
OPTIONS = {
    "average_pool": {"size": 2},
    "bank_update": {"momentum": 0.5},
    "best_lambda": {"teacher_noise": 1.0, "covariance": 0.5},
    "control_variate": {"lam": 0.5},
    "expected_ratio": {"noise": 1.0, "teacher_noise": 1.0, "covariance": 0.5},
    "neighbourhood": {"noise": 1.0, "teacher_noise": 1.0, "covariance": 0.5},
    "cost_aware_score": {"stage_epochs": 4},
    "crd_nce": {"log_normaliser": 0.0, "num_data": 5},
    "explanation_loss": {"size": (5, 5)},
    "ascend": {"rate": 0.1, "steps": 2},
    "explanation_similarity": {"size": (5, 5)},
    "kd_at_temperature": {"temperature": torch.ones(1)},
    "least_wrong": {"share": 0.5},
    "label_distribution": {"correct": 0.9},
    "power_sum": {"gamma": 0.5},
    "fit_temperature_by_ace": {"grid": (1.0, 2.0)},
}
FUNCTIONS = [name for name in lf.__all__ if inspect.isfunction(getattr(lf, name))]


def test_every_public_function_is_called_here():
    assert sorted(CALLS) == sorted(FUNCTIONS)
    assert list(lf.__all__) == sorted(lf.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_and_results_have_the_shapes_that_the_signature_says(name):
    checked = jaxtyped(typechecker=beartype)(getattr(lf, name))
    for arguments in CALLS[name]:
        checked(*arguments, **OPTIONS.get(name, {}))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("kd", (LOGITS, OTHERS[:, :2])),
        ("cross_entropy", (LOGITS, TARGETS[:2])),
        ("explanation_loss", (MAPS, MAPS[:2])),
        ("ranking", (LOGITS,)),
        ("online_mean", (LOGITS[:, 0], COUNT[:2], LOGITS[:, 0])),
        ("kd", (LOGITS.long(), OTHERS)),
    ],
)
def test_the_signatures_can_fail(name, arguments):
    checked = jaxtyped(typechecker=beartype)(getattr(lf, name))
    with pytest.raises((TypeCheckError, BeartypeCallHintViolation)):
        checked(*arguments)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_keyword_only_and_everything_is_documented(name):
    function = getattr(lf, name)
    assert function.__doc__
    names = list(inspect.signature(function).parameters)
    for first, second in (("student_", "teacher_"), ("student_", "peer_")):
        firsts = [i for i, n in enumerate(names) if n.startswith(first)]
        seconds = [i for i, n in enumerate(names) if n.startswith(second)]
        assert all(i < j for i in firsts for j in seconds)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("reduction", "temperature", "num_bins", "size", "normaliser"):
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY


def test_importing_the_equations_imports_torch_and_shape_names_only():
    code = """
import sys, torch, jaxtyping
before = {name.partition('.')[0] for name in sys.modules}
import limbeck.functional
after = {name.partition('.')[0] for name in sys.modules}
print(sorted(after - before - set(sys.stdlib_module_names)))
print(sorted(name for name in sys.modules if name.startswith('limbeck.')))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    packages, modules = map(ast.literal_eval, result.stdout.splitlines())
    assert packages == ["limbeck"]
    rooms = ("limbeck.functional", "limbeck.kernels", "limbeck._version")
    assert all(name.startswith(rooms) for name in modules)
