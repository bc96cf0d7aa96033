"""Choosing, statistics and verdicts from run folders that pretend to be finished."""

import json
from pathlib import Path

import pytest
import scipy.stats
from tiny_study import pretend, pretend_all, tiny

from limbeck.errors import DataError
from limbeck.files import write_json
from limbeck.studies.choosing import choose, tried, why_none
from limbeck.studies.folder import StudyFolder
from limbeck.studies.loading import load_study
from limbeck.studies.planning import StudyPlan, plan_study
from limbeck.studies.results import study_results

SEEDS = [0, 1, 2, 3, 4]
PLAIN = {0: 0.70, 1: 0.71, 2: 0.69, 3: 0.72, 4: 0.70}


def _plan(**changes: object) -> StudyPlan:
    return plan_study(load_study(tiny(**{"seeds": SEEDS, **changes})))


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")


def _differing(by: list[float]) -> dict[int, float]:
    return {seed: PLAIN[seed] + d for seed, d in zip(SEEDS, by, strict=True)}


# Choosing.


def test_the_best_on_validation_goes_on_and_test_metrics_choose_nothing(
    folder: StudyFolder,
) -> None:
    plan = _plan(tuning={"seeds": [7, 8]})
    arm = plan.arms[0]
    for trial, validation, test in zip(arm.trials, [0.6, 0.7], [0.99, 0.01], strict=True):
        for seed, push in ((7, -0.2), (8, 0.2)):
            run = trial.run(seed)
            pretend(folder, run, {"accuracy": test}, {"accuracy": validation + push})
    assert choose(plan, arm, folder) is arm.trials[1]
    assert [one.mean for one in tried(plan, arm, folder)] == pytest.approx([0.6, 0.7])


def test_lower_is_better_where_the_metric_says_so(folder: StudyFolder) -> None:
    plan = _plan(tuning={"seeds": [7], "metric": "nll"})
    for (_, run), nll in zip(plan.tuning_runs(plan.arms[0]), [1.5, 1.2], strict=True):
        pretend(folder, run, {"nll": 0.0}, {"nll": nll})
    assert choose(plan, plan.arms[0], folder) is plan.arms[0].trials[1]


def test_nothing_is_chosen_while_a_trial_is_missing(folder: StudyFolder) -> None:
    plan = _plan()
    arm = plan.arms[0]
    pretend(folder, arm.trials[0].run(7), {"accuracy": 0.5})
    assert choose(plan, arm, folder) is None
    assert why_none(plan, arm, folder) == ""
    folder.keep_apart(arm.trials[1].run(7), "loss became NaN")
    assert choose(plan, arm, folder) is arm.trials[0]


def test_an_arm_whose_trials_all_failed_says_why(folder: StudyFolder) -> None:
    plan = _plan()
    for _, run in plan.tuning_runs(plan.arms[1]):
        folder.keep_apart(run, "loss became NaN")
    assert choose(plan, plan.arms[1], folder) is None
    assert why_none(plan, plan.arms[1], folder) == "every trial failed; the first: loss became NaN"


def test_a_trial_without_the_metric_is_out(folder: StudyFolder) -> None:
    plan = _plan()
    for (_, run), scores in zip(
        plan.tuning_runs(plan.arms[0]), [{"nll": 1.0}, {"accuracy": 0.4}], strict=True
    ):
        pretend(folder, run, {"accuracy": 0.5}, scores)
    assert tried(plan, plan.arms[0], folder)[0].reason == "validation accuracy was not measured"
    assert choose(plan, plan.arms[0], folder) is plan.arms[0].trials[1]


# Statistics.


def test_the_numbers_are_scipys(folder: StudyFolder) -> None:
    plan = _plan()
    kd = _differing([0.02, 0.03, 0.025, 0.02, 0.04])
    folder.write_down_claims(plan.study)
    pretend_all(plan, folder, {"plain": PLAIN, "kd": kd}, "accuracy")
    results = study_results(plan, folder)
    found = results.judged[0].comparison
    reference = scipy.stats.ttest_rel(list(kd.values()), list(PLAIN.values()))
    low, high = reference.confidence_interval(0.95)
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-9)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), rel=1e-9)
    assert results.judged[0].verdict == "holds"
    written = json.loads(json.dumps(results.as_json()))
    assert written["comparisons"][0]["p_holm"] == pytest.approx(reference.pvalue, rel=1e-5)
    assert written["arms"][1]["test"]["accuracy"]["4"] == pytest.approx(0.74)
    assert written["arms"][1]["chosen"] == {"method.temperature": 1}
    assert str(folder.path) not in json.dumps(written)


def test_holm_is_over_all_comparisons_of_the_study(folder: StudyFolder) -> None:
    axes = {"a": {"x": {}, "y": {"train.epochs": 3}, "z": {"train.epochs": 4}}}
    plan = _plan(axes=axes)
    scores = {}
    for option, by in zip("xyz", ([1, 2, 1, 2, 1], [1, 3, 2, 0, 1], [0, 1, -1, 0, 1]), strict=True):
        scores[f"plain @ {option}"] = PLAIN
        scores[f"kd @ {option}"] = _differing([0.01 * value for value in by])
    pretend_all(plan, folder, scores, "accuracy")
    results = study_results(plan, folder)
    assert [one.arm for one in results.judged] == ["kd @ x", "kd @ y", "kd @ z"]
    p_values = sorted(one.comparison.p_value for one in results.judged)
    by_hand = [
        3 * p_values[0],
        max(3 * p_values[0], 2 * p_values[1]),
        max(3 * p_values[0], 2 * p_values[1], p_values[2]),
    ]
    assert sorted(one.comparison.p_holm for one in results.judged) == pytest.approx(by_hand)


def test_a_comparison_at_one_option_is_made_there_alone(folder: StudyFolder) -> None:
    compare = [{"claim": "kd-helps", "arm": "kd", "baseline": "plain", "at": {"a": "y"}}]
    plan = _plan(axes={"a": {"x": {}, "y": {"train.epochs": 3}}}, compare=compare)
    judged = study_results(plan, folder).judged
    assert [(one.arm, one.baseline) for one in judged] == [("kd @ y", "plain @ y")]


def test_only_seeds_of_both_arms_count_and_the_rest_is_told(folder: StudyFolder) -> None:
    plan = _plan()
    kd = {seed: PLAIN[seed] + 0.02 for seed in (0, 1, 2)}
    pretend_all(plan, folder, {"plain": PLAIN, "kd": kd}, "accuracy")
    folder.keep_apart(plan.arms[1].trials[0].run(3), "loss became NaN")
    results = study_results(plan, folder)
    assert results.judged[0].comparison.seeds == (0, 1, 2)
    assert results.missing == {"kd": (4,)}
    assert results.failed == {"kd, seed 3": "loss became NaN"}


# Verdicts.

VERDICTS = [
    # differences by seed                         direction     verdict
    ([0.020, 0.022, 0.021, 0.019, 0.020], "better", "holds"),
    ([0.004, 0.005, 0.004, 0.005, 0.004], "better", "does not hold"),  # real, and too small
    ([0.000, 0.001, -0.001, 0.002, 0.000], "better", "does not hold"),
    ([-0.02, -0.03, -0.02, -0.02, -0.03], "better", "does not hold"),
    ([0.05, -0.04, 0.03, -0.02, 0.04], "better", "cannot be told"),  # both 0 and the effect
    ([0.000, 0.001, -0.001, 0.002, 0.000], "not worse", "holds"),
    ([-0.004, -0.005, -0.004, -0.005, -0.004], "not worse", "holds"),  # worse, within the margin
    ([-0.02, -0.03, -0.02, -0.02, -0.03], "not worse", "does not hold"),
    ([-0.02, 0.00, -0.01, 0.01, -0.02], "not worse", "cannot be told"),
    ([0.020, 0.022, 0.021, 0.019, 0.020], "not worse", "holds"),
]


@pytest.mark.parametrize(("by", "direction", "verdict"), VERDICTS)
@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_verdicts(
    by: list[float], direction: str, verdict: str, metric: str, folder: StudyFolder
) -> None:
    sign = 1 if metric == "accuracy" else -1  # less nll is better
    claim = {"says": "x", "smallest_effect": 0.01, "direction": direction, "metric": metric}
    plan = _plan(claims={"kd-helps": claim})
    folder.write_down_claims(plan.study)
    kd = _differing([sign * value for value in by])
    pretend_all(plan, folder, {"plain": PLAIN, "kd": kd}, metric)
    assert study_results(plan, folder).judged[0].verdict == verdict


def test_one_seed_tells_nothing(folder: StudyFolder) -> None:
    plan = _plan(seeds=[0])
    folder.write_down_claims(plan.study)
    pretend_all(plan, folder, {"plain": {0: 0.5}, "kd": {0: 0.9}}, "accuracy")
    assert study_results(plan, folder).judged[0].verdict == "cannot be told"


def test_a_claim_changed_after_the_first_run_gets_no_verdict(folder: StudyFolder) -> None:
    plan = _plan()
    folder.write_down_claims(plan.study)
    kd = _differing([0.02, 0.03, 0.025, 0.02, 0.04])
    pretend_all(plan, folder, {"plain": PLAIN, "kd": kd}, "accuracy")
    smaller = _plan(claims={"kd-helps": {"says": "KD helps.", "smallest_effect": 0.001}})
    folder.write_down_claims(smaller.study)  # too late
    assert study_results(smaller, folder).judged[0].verdict == "none: written down after the runs"
    assert study_results(plan, folder).judged[0].verdict == "holds"


def test_the_claims_of_all_scales_are_written_down_by_the_first(folder: StudyFolder) -> None:
    quick = plan_study(load_study(tiny(), "quick"))
    assert quick.study.compare == ()
    folder.write_down_claims(quick.loaded.whole)
    pretend(folder, quick.arms[0].trials[0].run(7), {"accuracy": 0.5})
    whole = plan_study(load_study(tiny()))
    folder.write_down_claims(whole.loaded.whole)
    assert study_results(whole, folder).judged[0].beforehand


def test_claims_may_change_before_the_first_run(folder: StudyFolder) -> None:
    folder.write_down_claims(_plan().study)
    changed = _plan(claims={"kd-helps": {"says": "KD helps.", "smallest_effect": 0.001}})
    folder.write_down_claims(changed.study)
    assert study_results(changed, folder).judged[0].beforehand


def test_other_words_for_the_same_claim_change_nothing(folder: StudyFolder) -> None:
    plan = _plan()
    folder.write_down_claims(plan.study)
    pretend(folder, plan.arms[0].trials[0].run(7), {"accuracy": 0.5})
    again = _plan(claims={"kd-helps": {"says": "It does help.", "smallest_effect": 0.01}})
    assert study_results(again, folder).judged[0].beforehand


def test_a_damaged_record_of_claims_is_one_line(folder: StudyFolder) -> None:
    folder.path.mkdir()
    folder.claims_file.write_text("{")
    with pytest.raises(DataError, match=r"claims\.json is damaged"):
        study_results(_plan(), folder)


def test_a_failure_that_cannot_be_read_is_told(folder: StudyFolder) -> None:
    run = _plan().arms[0].trials[0].run(0)
    place = folder.keep_apart(run, "loss became NaN")
    assert folder.failure(run) == "loss became NaN"
    (place / "reason.json").write_text("{")
    assert (folder.failure(run) or "").startswith("unknown: ")
    folder.forget_failure(run)
    assert folder.failure(run) is None


def test_teachers_stand_in_the_results(folder: StudyFolder) -> None:
    plan = _plan(seeds=[0], arms__kd__trials=[{}], arms__plain__grid=...)
    teachers = {"teacher": {"metrics": {"test": {"accuracy": 0.9}}}}
    pretend(folder, plan.arms[1].trials[0].run(0), {"accuracy": 0.5}, teachers=teachers)
    arms = study_results(plan, folder).arms
    assert [arm.teacher("accuracy") for arm in arms] == [None, 0.9]
    assert arms[1].trials == ()  # nothing was tuned
    assert arms[0].missing == (0,)


def test_environments_of_the_runs_are_named(folder: StudyFolder) -> None:
    plan = _plan(seeds=[0, 1], arms__kd__trials=[{}], arms__plain__grid=...)
    for seed, torch in ((0, "2.12"), (1, "2.13")):
        place = pretend(folder, plan.arms[0].trials[0].run(seed), {"accuracy": 0.5})
        write_json(place / "environment.json", {"torch": torch, "command": "/secret"})
    assert study_results(plan, folder).environment == {"torch": "2.12; 2.13"}
