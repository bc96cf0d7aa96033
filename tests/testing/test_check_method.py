"""Each contract can fail: one broken toy method a contract, and the check names that contract."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch.nn import functional as F

from limbeck import functional
from limbeck.errors import MethodError
from limbeck.methods.base import Method
from limbeck.methods.card import Card
from limbeck.testing import check_method, contracts
from limbeck.testing.scene import make_scene

TOY = Card(title="Toy", equation="none")


@dataclass(frozen=True, kw_only=True)
class Toy(Method):
    name: ClassVar[str] = "toy"
    card: ClassVar[Card] = TOY

    def losses(self, student, teacher, batch, ctx):
        return {"toy": self.value(student.logits.double(), teacher.logits.double(), batch)}

    def value(self, s, t, batch):
        return functional.kd(s, t, temperature=1.0)


class WritesToLogits(Toy):
    def losses(self, student, teacher, batch, ctx):
        teacher.logits.sub_(teacher.logits.mean(dim=1, keepdim=True))
        return super().losses(student, teacher, batch, ctx)


class WritesTheSame(Toy):
    def losses(self, student, teacher, batch, ctx):
        batch.inputs.clamp_(min=0)  # changes nothing here, and something elsewhere
        return super().losses(student, teacher, batch, ctx)


class NotZeroAtEquality(Toy):
    def value(self, s, t, batch):
        return functional.soft_cross_entropy(s, t.softmax(1))


class SteepAtEquality(Toy):
    def value(self, s, t, batch):
        return (s - t.detach()).sum(1).mean()  # 0, not level, and negative elsewhere


class Negative(Toy):
    def value(self, s, t, batch):
        return -super().value(s, t, batch)


class LooksAtNeighbours(Toy):
    def value(self, s, t, batch):
        gap = (s - t.detach()).abs()
        return (gap * gap.roll(1, dims=0)).mean()  # the short form of correlation congruence


class ComparesSamples(Toy):
    def value(self, s, t, batch):
        gap = s - t.detach()
        return (gap - gap.mean(dim=0)).square().mean()


class CountsUnlabelled(Toy):
    card: ClassVar[Card] = Card(title="Toy", equation="none", replaces_task=True)

    def losses(self, student, teacher, batch, ctx):
        return {}

    def task_loss(self, student, batch, ctx):
        return F.cross_entropy(student.logits.double(), batch.targets, reduction="sum") / len(batch)


class PeeksAtLabels(Toy):
    card: ClassVar[Card] = Card(title="Toy", equation="none", supervision="no labels")

    def value(self, s, t, batch):
        rows = functional.kd(s, t, temperature=1.0, reduction="none")
        return (rows * (1 + (batch.targets == s.argmax(1)))).mean()


class ReadsLabelsInSilence(PeeksAtLabels):
    card: ClassVar[Card] = TOY


class ReadsLabelsAndSaysSo(PeeksAtLabels):
    card: ClassVar[Card] = dataclasses.replace(TOY, of_each_sample="counts right answers twice")


class ChokesWithoutLabels(Toy):
    def value(self, s, t, batch):
        return functional.kd(s, t, reduction="none")[batch.targets >= 0].mean()


class TeachesTheTeacher(Toy):
    def value(self, s, t, batch):
        return (s - t).square().mean()


class HalfTheSlope(Toy):
    def value(self, s, t, batch):
        value = super().value(s, t, batch)
        return value / 2 + value.detach() / 2


class SpreadOfTheBatch(Toy):
    def value(self, s, t, batch):
        gap = (s - t.detach()).square().mean(dim=1)
        return gap.mean() * (len(s) - 1) / (s.new_tensor(len(s)) - 1)


class LeavesOneClassOut(Toy):
    def value(self, s, t, batch):
        return super().value(s, t, batch) / (1 - 1 / s.shape[1]) if s.shape[1] > 1 else s.mean() / 0


class SpeechlessRefusal(Toy):
    def value(self, s, t, batch):
        if s.shape[1] == 1:
            raise ValueError
        return super().value(s, t, batch)


class Overflows(Toy):
    def value(self, s, t, batch):
        p, q = (x.exp() / x.exp().sum(1, keepdim=True) for x in (t.detach(), s))
        return (p * (p.log() - q.log())).sum(1).mean()


class FiniteAndWrong(Toy):
    def losses(self, student, teacher, batch, ctx):
        s, t = student.logits, teacher.logits.detach()
        s, t, k = (s.float(), t.float(), 1e3) if s.dtype.itemsize < 4 else (s, t, 1e3)
        return {"toy": ((s + k).square() - (t + k).square() - 2 * k * (s - t)).square().mean()}


class ForgetsSmallClasses(Toy):
    def value(self, s, t, batch):
        noticed = (t.softmax(1) > 1e-4).sum()  # empty where a million share the mass
        return super().value(s, t, batch) * noticed / noticed


BROKEN = {
    "unwritten": (WritesToLogits, WritesTheSame),
    "zero_at_equality": (NotZeroAtEquality, SteepAtEquality),
    "non_negative": (Negative,),
    "permutation": (LooksAtNeighbours,),
    "halves": (ComparesSamples,),
    "ignored": (CountsUnlabelled, PeeksAtLabels, ReadsLabelsInSilence, ChokesWithoutLabels),
    "fixed_teacher": (TeachesTheTeacher,),
    "gradient": (HalfTheSlope,),
    "batch_one": (SpreadOfTheBatch,),
    "one_class": (LeavesOneClassOut, SpeechlessRefusal),
    "extreme_logits": (Overflows, FiniteAndWrong),
    "many_classes": (ForgetsSmallClasses,),
}


def test_the_toy_itself_is_sound():
    report = check_method(Toy())
    assert set(report.held) == set(BROKEN)
    assert report.terms == ("toy",)
    assert "held    gradient" in str(report)


@pytest.mark.parametrize(
    ("contract", "toy"), [(name, toy) for name, toys in BROKEN.items() for toy in toys]
)
def test_a_broken_method_is_caught_by_its_contract(contract, toy):
    with pytest.raises(AssertionError, match=rf"^toy: {contract} \(classification\): ") as caught:
        check_method(toy)
    assert "\n" not in str(caught.value)


def test_a_method_may_read_labels_where_it_says_so():
    contracts.ignored(lambda **more: make_scene(ReadsLabelsAndSaysSo(), **more))


def test_the_card_exempts_with_a_reason():
    class Exempt(TeachesTheTeacher):
        card: ClassVar[Card] = Card(
            title="Toy", equation="none", exempt={"fixed_teacher": "it learns too"}
        )

    report = check_method(Exempt())
    assert report.exempt == {"fixed_teacher": "it learns too"}
    assert "fixed_teacher" not in report.held
    assert "exempt  fixed_teacher: it learns too" in str(report)


def test_a_card_that_is_not_separable_or_bounds_its_classes_says_so():
    class Relational(ComparesSamples):
        card: ClassVar[Card] = Card(title="Toy", equation="none", separable=False, max_classes=100)

    assert set(check_method(Relational()).exempt) == {"halves", "many_classes"}


@pytest.mark.parametrize(
    ("exempt", "message"),
    [
        ({"halfs": "typo"}, "unknown contract 'halfs'.*halves"),
        ({"halves": " "}, "without a reason"),
    ],
)
def test_a_card_that_exempts_nonsense_is_refused(exempt, message):
    class Wrong(Toy):
        card: ClassVar[Card] = Card(title="Toy", equation="none", exempt=exempt)

    with pytest.raises(MethodError, match=message):
        check_method(Wrong())


def test_what_a_method_raises_by_itself_names_the_contract():
    class Raises(Toy):
        def value(self, s, t, batch):
            raise KeyError("stages.7")

    with pytest.raises(KeyError) as caught:
        check_method(Raises)
    assert "unwritten (classification) of method toy" in caught.value.__notes__[0]


def test_global_randomness_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_method("kd")
    assert torch.equal(torch.rand(3), expected)
