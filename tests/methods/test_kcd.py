"""KCD: values, ranking, sizes and mixtures against loops, and whole runs beside plain KD."""

import dataclasses
import math

import pytest
import torch
from method_runs import digits, log_of, make_cnn, make_plan, run, same_weights, teacher_network

import limbeck
from limbeck import functional
from limbeck.data import View
from limbeck.data.batch import Batch
from limbeck.data.samples import TensorSamples
from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble
from limbeck.errors import MethodError
from limbeck.methods.context import Context
from limbeck.methods.kcd import KCD, KCDRuntime
from limbeck.methods.kd import KD
from limbeck.taps.outputs import Outputs

CONDENSED = {"name": "kcd", "stage_epochs": 1, "tau": 0.5}


def at_work(size: int, inputs: torch.Tensor | None = None, **settings) -> tuple[KCDRuntime, View]:
    images = torch.arange(size, dtype=torch.float64)[:, None] if inputs is None else inputs
    return KCDRuntime(KCD(**settings), size), View.of(TensorSamples(images, torch.arange(size) % 3))


def record(runtime: KCDRuntime, index: list[int], logits: torch.Tensor) -> None:
    """One epoch in which the student says ``logits`` of the samples in ``index``."""
    said = Outputs(logits)
    batch = Batch(inputs=logits, index=torch.tensor(index))
    assert runtime.losses(said, said, batch, Context()) == {}
    runtime.synchronize(Context())


def with_values(runtime: KCDRuntime, values: list[float], uses: list[int]) -> None:
    runtime.mean.copy_(torch.tensor(values))
    runtime.visits.copy_(torch.tensor(uses))


def test_value_is_the_mean_of_all_recorded_entropies():
    runtime, _ = at_work(6)
    seen: dict[int, list[float]] = {i: [] for i in range(6)}
    for epoch, index in enumerate([[0, 1, 2, 3, 4, 5], [5, 3, 1], [3, 0], [1, 2, 3, 4]]):
        logits = torch.randn(len(index), 7, dtype=torch.float64) * (1 + epoch)
        record(runtime, index, logits)
        for row, i in enumerate(index):
            p = logits[row].softmax(0).tolist()
            seen[i].append(-sum(x * math.log(x) for x in p))
    means = [sum(values) / len(values) for values in seen.values()]
    assert runtime.mean.tolist() == pytest.approx(means, rel=1e-12)
    assert runtime.visits.tolist() == [len(values) for values in seen.values()]
    assert runtime.report() == {"value": pytest.approx(sum(means) / 6)}


def test_a_uniform_answer_is_worth_log_c_and_a_certain_one_nothing():
    runtime, _ = at_work(2)
    record(runtime, [0, 1], torch.tensor([[1.0] * 8, [1e4] + [0.0] * 7]))
    assert runtime.mean.tolist() == [pytest.approx(math.log(8)), 0.0]


def test_two_visits_in_one_epoch_count_once():
    """Padding repeats samples at the end of an epoch; the last answer holds."""
    runtime, _ = at_work(2)
    said = Outputs(torch.zeros(1, 4))
    for _ in range(2):
        batch = Batch(inputs=said.logits, index=torch.tensor([1]))
        runtime.losses(said, said, batch, Context())
    runtime.synchronize(Context())
    assert runtime.visits.tolist() == [0, 1]


def stage(runtime: KCDRuntime, view: View, epoch: int, epochs: int) -> View:
    return runtime.examples(view, Context(epoch=epoch, epochs=epochs))


def test_sizes_are_the_papers_sequence_for_its_schedule():
    assert functional.keep_schedule(50_000, 0.7, 240, 40) == (
        50_000, 47_500, 45_000, 42_500, 40_000, 37_500,
    )  # fmt: skip
    runtime, view = at_work(500)
    with_values(runtime, torch.rand(500).tolist(), [1] * 500)
    sizes = []
    for epoch in range(240):
        view = stage(runtime, view, epoch, 240)
        sizes.append(len(view))
    assert sizes[::40] == [500, 475, 450, 425, 400, 375]
    assert sum(sizes) / (240 * 500) == 0.875 == KCD.card.cost.student_steps


def test_one_stage_is_plain_training():
    runtime, view = at_work(20, stage_epochs=6, tau=0.3)
    with_values(runtime, list(range(20)), [1] * 20)
    assert all(stage(runtime, view, epoch, 6) is view for epoch in range(6))


def test_the_most_valuable_are_kept_in_loops():
    values = [0.5, 2.0, 1.0, 1.7, 0.1, 1.2, 0.9, 1.9, 0.3, 0.7]
    uses = [3, 1, 3, 2, 3, 3, 1, 3, 2, 3]
    runtime, view = at_work(10, stage_epochs=3, tau=0.4, alpha=0.5, eps_max=0.0)
    view = stage(runtime, view, 0, 9)
    with_values(runtime, values, uses)
    kept = stage(runtime, view, 3, 9)
    score = {i: values[i] * (uses[i] / 3) ** 0.5 for i in range(10)}
    expected = sorted(score, key=score.__getitem__, reverse=True)[:8]
    assert kept.indices.tolist() == sorted(expected)


def test_alpha_0_ranks_by_value_alone_and_more_use_wins_a_tie():
    def kept(alpha: float, values: list[float]) -> list[int]:
        runtime, view = at_work(4, stage_epochs=1, tau=0.5, alpha=alpha, eps_max=0.0)
        view = stage(runtime, view, 0, 2)
        with_values(runtime, values, [1, 5, 3, 4])
        return stage(runtime, view, 1, 2).indices.tolist()

    assert kept(0.0, [1.0, 1.0, 1.0, 1.1]) == [0, 1, 3]  # equal: in the order of the set
    assert kept(0.03, [1.0, 1.0, 1.0, 1.0]) == [1, 2, 3]  # the least used leaves


def test_dropping_the_highest_is_the_order_turned_round():
    values = [0.5, 2.0, 1.0, 1.7, 0.1, 1.2]
    runtime, view = at_work(6, stage_epochs=1, tau=0.34, drop="highest", alpha=0.0, eps_max=0.0)
    view = stage(runtime, view, 0, 2)
    with_values(runtime, values, [1, 1, 1, 0, 1, 1])  # sample 3 was never used: it stays
    assert stage(runtime, view, 1, 2).indices.tolist() == [0, 2, 3, 4, 5]


def random_choice(seed: int, epoch: int, size: int = 400) -> set[int]:
    runtime, view = at_work(size, stage_epochs=2, tau=0.4, drop="random", eps_max=0.0)
    view = runtime.examples(view, Context(epoch=0, epochs=6, seed=seed))
    with_values(runtime, torch.rand(size).tolist(), [1] * size)  # values have no say
    return set(runtime.examples(view, Context(epoch=epoch, epochs=6, seed=seed)).indices.tolist())


def test_random_dropping_follows_seed_and_epoch_alone():
    second, third = random_choice(1, 2), random_choice(1, 4)
    assert (len(second), len(third)) == functional.keep_schedule(400, 0.4, 6, 2)[1:]
    assert second == random_choice(1, 2) != random_choice(2, 2)
    assert third - second, "drawn anew: some come back"
    shares = torch.zeros(400)
    for seed in range(60):
        shares[list(random_choice(seed, 4, 400))] += 1 / 60
    assert abs(float(shares.mean()) - 0.6) < 1e-6
    # A binomial's spread over samples; were some preferred it would be wider.
    assert float(shares.std()) == pytest.approx((0.6 * 0.4 / 60) ** 0.5, rel=0.2)


@pytest.mark.parametrize("drop", ["highest", "random"])
def test_mixing_goes_by_the_order_of_dropping(drop):
    images = torch.rand(12, 1, 2, 2)
    runtime, view = at_work(12, images, stage_epochs=1, tau=0.5, drop=drop)
    view = stage(runtime, view, 0, 2)
    with_values(runtime, [float(i) for i in range(12)], [1] * 12)
    mixed = stage(runtime, view, 1, 2)
    assert len(mixed) == 9
    assert mixed.changed.sum() == 2  # three leave, three are borderline, the best of them stays
    if drop == "highest":
        assert mixed.indices.tolist() == list(range(9))
        assert mixed.changed[mixed.indices].nonzero().squeeze(1).tolist() == [7, 8]


def test_a_dropped_sample_can_come_back():
    runtime, view = at_work(6, stage_epochs=1, tau=0.5, eps_max=0.0)
    view = stage(runtime, view, 0, 3)
    with_values(runtime, [6, 5, 4, 3, 2, 1], [1] * 6)
    second = stage(runtime, view, 1, 3)
    assert second.indices.tolist() == [0, 1, 2, 3, 4]
    with_values(runtime, [0.1, 0.2, 4, 3, 2, 1], [2, 2, 2, 2, 2, 1])
    third = stage(runtime, second, 2, 3)
    assert third.indices.tolist() == [2, 3, 4, 5]
    assert third.samples is view.samples


@pytest.mark.parametrize("mixing", ["convex", "additive"])
def test_mixtures_against_loops(mixing):
    images = torch.rand(10, 1, 3, 3, dtype=torch.float64)
    runtime, view = at_work(10, images, stage_epochs=1, tau=0.4, mixing=mixing, alpha=0.0)
    view = stage(runtime, view, 0, 2)
    order = [3, 8, 0, 6, 1, 9, 2, 7, 4, 5]  # best first
    with_values(runtime, [10.0 - order.index(i) for i in range(10)], [1] * 10)
    mixed = stage(runtime, view, 1, 2)
    kept, lost = order[:7], order[7:]
    assert mixed.indices.tolist() == sorted(kept)
    borderline = kept[-3:]
    shown = mixed.at(torch.arange(10)).inputs
    for i in set(range(10)) - set(borderline[1:]):
        assert torch.equal(shown[i], images[i])  # all others, the first of the borderline too
    for k in (1, 2):
        weight = 0.7 + 0.3 * (3 - k) / 3
        own = weight if mixing == "convex" else 1.0
        expected = own * images[borderline[k]] + (1 - weight) * images[lost[k]]
        torch.testing.assert_close(shown[borderline[k]], expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(mixed.base_targets, view.base_targets)
    assert mixed.changed.sum() == 2  # |K_0| = 3 pairs, of which the best has eps 0


def test_the_last_of_the_borderline_has_the_papers_weight():
    weights = functional.mixing_weights(2500, 0.3)
    assert float(weights[0]) == 1
    assert float(weights[-1]) == pytest.approx(0.7 + 0.3 / 2500, rel=1e-6)


def test_mixtures_of_bytes_are_rounded_bytes_and_accumulate():
    images = torch.randint(0, 256, (8, 1, 2, 2), dtype=torch.uint8)
    runtime, view = at_work(8, images, stage_epochs=1, tau=0.25, eps_max=0.5, alpha=0.0)
    view = stage(runtime, view, 0, 3)
    with_values(runtime, [8.0 - i for i in range(8)], [1] * 8)
    first = stage(runtime, view, 1, 3)
    assert first.indices.tolist() == [0, 1, 2, 3, 4, 5]
    shown = first.at(torch.arange(8)).inputs
    assert shown.dtype == torch.uint8
    exact = 0.75 * images[5].double() + 0.25 * images[7].double()
    assert (shown[5].double() - exact).abs().max() <= 0.5
    second = stage(runtime, first, 2, 3)
    again = second.at(torch.arange(8)).inputs
    exact = 0.75 * images[3].double() + 0.25 * shown[5].double()  # what 5 became, not what it was
    assert (again[3].double() - exact).abs().max() <= 0.5


def test_eps_max_0_leaves_every_image_untouched():
    images = torch.rand(10, 1, 3, 3)
    runtime, view = at_work(10, images, stage_epochs=1, tau=0.4, eps_max=0.0)
    view = stage(runtime, view, 0, 2)
    with_values(runtime, torch.rand(10).tolist(), [1] * 10)
    mixed = stage(runtime, view, 1, 2)
    assert mixed.changed is None
    assert len(mixed) == 7
    assert torch.equal(mixed.at(torch.arange(10)).inputs, images)


def test_tau_1_is_plain_kd_to_the_bit(tmp_path):
    options = {"data": digits(), "teacher": teacher_network(), "student": make_cnn(4, 8),
               "batch_size": 16, "quiet": True,
               "train": {"deploy": "last", "epochs": 3}}  # fmt: skip
    plain = limbeck.distill(method=KD(), output=tmp_path / "kd", **options)
    same = limbeck.distill(
        method=KD() + KCD(tau=1.0, stage_epochs=1), output=tmp_path / "kcd", **options
    )
    fewer = limbeck.distill(
        method=KD() + KCD(tau=0.5, stage_epochs=1), output=tmp_path / "fewer", **options
    )
    assert same_weights(plain.student, same.student)
    assert not same_weights(plain.student, fewer.student)
    curves = [
        [(r["loss"], r["kd"], r["task"]) for r in log_of(tmp_path / name)] for name in ("kd", "kcd")
    ]
    assert curves[0] == curves[1]


def test_sizes_and_cost_of_a_whole_run(tmp_path):
    outcome = run(make_plan("kd", CONDENSED, epochs=4), tmp_path / "run")
    epochs = log_of(tmp_path / "run", "epoch")
    assert (
        [r["kept"] for r in epochs]
        == [64, 56, 48, 40]
        == [*functional.keep_schedule(64, 0.5, 4, 1)]
    )
    assert outcome.summary["samples_seen"] == 64 + 56 + 48 + 40
    assert outcome.summary["steps"] == 4 + 4 + 3 + 3
    assert all(0 < r["kcd/value"] <= math.log(10) for r in epochs)


def test_unlabelled_samples_can_stay_while_labelled_ones_leave():
    plan = make_plan("kd", CONDENSED)
    view = plan.data.splits["train"]
    assert 0 < int(view.labelled.sum()) < len(view)
    runtime = KCDRuntime(KCD(stage_epochs=1, tau=0.5, eps_max=0.0), len(view.samples))
    view = stage(runtime, view, 0, 2)
    values = torch.zeros(len(view.samples))
    values[view.indices[~view.labelled]] = 1.0
    with_values(runtime, values.tolist(), [1] * len(values))
    kept = stage(runtime, view, 1, 2)
    assert len(kept) == 48
    assert int((~kept.labelled).sum()) == int((~view.labelled).sum())


def test_it_asks_for_an_index_and_one_student():
    runtime, _ = at_work(3)
    said = Outputs(torch.zeros(2, 4))
    with pytest.raises(MethodError, match="needs data whose samples have an index"):
        runtime.losses(said, said, Batch(inputs=said.logits), Context())
    with pytest.raises(MethodError, match="selects samples for one student"):
        assemble(make_plan("dml", "kcd"), World())


@pytest.mark.parametrize(
    ("key", "value"), [("tau", 0.0), ("tau", 1.1), ("stage_epochs", 0), ("eps_max", 2.0),
                       ("mixing", "mixup"), ("drop", "first")]
)  # fmt: skip
def test_values_without_a_meaning_are_refused(key, value):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected"):
        KCD(**{key: value})


def test_defaults_are_those_of_the_authors_readme():
    method = KCD()
    chosen = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    assert chosen == {
        "weight": 1.0, "teacher": None, "tau": 0.7, "stage_epochs": 40, "alpha": 0.03,
        "eps_max": 0.3, "mixing": "convex", "drop": "lowest",
    }  # fmt: skip
