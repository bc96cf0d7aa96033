"""Checks across parts: what the Cards say, before anything is trained."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from good_recipes import GOOD, MODEL_TEACHER

from limbeck.data.bundle import bundle_from
from limbeck.errors import LimbeckError, MethodError, RecipeError, TeacherError
from limbeck.methods import Method, all_methods, make_method
from limbeck.methods.card import Card
from limbeck.recipe import check_data, check_recipe, load_recipe
from limbeck.recipe.checks import Setting, can_give, check_methods

TASKS = ("classification", "multilabel", "regression")


@dataclass(frozen=True, kw_only=True)
class Made(Method):
    """A method whose Card a test decides."""

    name: ClassVar[str] = "made"
    card: ClassVar[Card] = Card(title="Made", equation="none")


def _made(**card: Any) -> Method:
    kind = type("Made", (Made,), {"card": dataclasses.replace(Made.card, **card)})
    return kind()  # type: ignore[no-any-return]


FITTING = Setting(
    teachers={"teacher": "module"}, num_students=2, task="classification", num_outputs=10
)


def _fitting(name: str) -> Setting:
    """A setting in which the method called ``name`` can work."""
    if make_method(name).teacher == "peers":
        return dataclasses.replace(FITTING, teachers={"peers": "features"})
    if make_method(name).teacher == "self":
        return dataclasses.replace(FITTING, teachers={"self": "module"})
    return FITTING


def _invalid() -> list[tuple[str, Method, dict[str, Any]]]:
    """Combinations that the Cards of all registered methods rule out, and made-up Cards."""
    cases: list[tuple[str, Method, dict[str, Any]]] = []
    for name, kind in all_methods().items():
        method, card = make_method(name), kind.card
        for task in TASKS:
            if task not in card.tasks:
                cases.append((f"{name} serves", method, {"task": task}))
        if card.min_classes > 1:
            cases.append((f"at least {card.min_classes}", method, {"num_outputs": 1}))
        if card.needs_teacher:
            cases.append(("needs a teacher", method, {"teachers": {}}))
            other = dataclasses.replace(method, teacher="bgi")
            cases.append(("unknown teacher 'bgi'", other, {"teachers": {"big": "module"}}))
            several = dataclasses.replace(method, teacher=None)
            two = {"big": "module", "small": "module"}
            cases.append(("say which teacher", several, {"teachers": two}))
        if card.needs_features:
            for access in ("outputs", "none"):
                line = f"asks for {card.teacher_access}"
                cases.append((line, method, {"teachers": {"teacher": access}}))
        if card.double_backward:
            cases.append(("train.compile", method, {"compile": True}))
        if card.students == "cohort":
            cases.append(("needs a cohort", method, {"num_students": 1}))
        if card.needs_index:
            cases.append(("index of each sample", method, {"has_index": False}))
    accesses = ("none", "outputs", "features", "head", "module")
    for level, access in enumerate(accesses[:-1]):
        for wanted in accesses[level + 1 :]:
            line = f"asks for {wanted} of teacher 'teacher', which gives {access}"
            cases.append((line, _made(teacher_access=wanted), {"teachers": {"teacher": access}}))
    for wanted in ("input_gradients", "parameter_gradients"):
        for access in ("outputs", "features", "head"):
            cases.append((wanted, _made(teacher_access=wanted), {"teachers": {"teacher": access}}))
    cases += [
        ("at most 5 classes", _made(max_classes=5), {}),
        ("at least 11 classes", _made(min_classes=11), {}),
        ("index of each sample", _made(needs_index=True), {"has_index": False}),
        ("nothing to learn", _made(teacher_access="none"), {"task_weight": 0.0}),
        ("nothing to learn", make_method("plain"), {"task_weight": 0.0}),
        ("nothing to learn", make_method("kd", weight=0.0), {"task_weight": 0.0}),
    ]
    return cases


INVALID = _invalid()


def test_there_are_at_least_fifty_invalid_combinations() -> None:
    assert len(INVALID) >= 50


@pytest.mark.parametrize(
    ("line", "method", "changes"),
    INVALID,
    ids=[f"{index}-{method.name}" for index, (_, method, _) in enumerate(INVALID)],
)
def test_what_a_card_rules_out_is_refused(
    line: str, method: Method, changes: dict[str, Any]
) -> None:
    with pytest.raises(LimbeckError, match=line) as caught:
        check_methods([method], dataclasses.replace(FITTING, **changes))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(("method", "train.compile", "task.weight"))


@pytest.mark.parametrize("name", list(all_methods()))
def test_what_a_card_allows_passes(name: str) -> None:
    check_methods([make_method(name)], _fitting(name))
    for task in make_method(name).card.tasks:
        setting = dataclasses.replace(_fitting(name), task=task, num_outputs=10)
        check_methods([make_method(name)], setting)


def test_the_key_names_the_entry_where_there_are_several() -> None:
    methods = [make_method("kd", teacher="big"), make_method("fitnet", teacher="box")]
    setting = Setting(teachers={"big": "module", "box": "outputs"})
    with pytest.raises(MethodError, match=r"^method\.1: fitnet asks for features of teacher 'box'"):
        check_methods(methods, setting)


def test_sums_that_cannot_be() -> None:
    two = [_made(replaces_task=True), make_method("label_smoothing")]
    with pytest.raises(MethodError, match="both redefine the task term"):
        check_methods(two, FITTING)
    with pytest.raises(MethodError, match="stands twice"):
        check_methods([make_method("kd"), make_method("kd", temperature=2.0)], FITTING)


def test_a_teacher_that_nobody_asks_is_a_warning() -> None:
    assert check_methods([make_method("plain")], FITTING) == [
        "teacher 'teacher' is given, but no method asks it"
    ]
    setting = Setting(teachers={"big": "module", "spare": "module"})
    assert check_methods([make_method("kd", teacher="big")], setting) == [
        "teacher 'spare' is given, but no method asks it"
    ]
    assert check_methods([make_method("kd")], Setting(teachers={"big": "module"})) == []


@pytest.mark.parametrize("wanted", ["outputs", "features", "head", "module", "input_gradients"])
def test_a_live_network_gives_everything(wanted: Any) -> None:
    assert can_give("module", wanted)


def _recipe(**changes: Any) -> Any:
    return load_recipe({**GOOD["short"], **changes})


@pytest.mark.parametrize("name", GOOD)
def test_good_recipes_pass(name: str) -> None:
    check_recipe(load_recipe(GOOD[name]))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"method": "kd"}, "method: kd needs a teacher, and the recipe names none"),
        ({"method": "fitnet", "teacher": {"virtual": {}}}, "gives outputs only"),
        ({"method": "fitnet", "teacher": {"sklearn": "GaussianNB"}}, "gives outputs only"),
        ({"method": "fitnet", "teacher": {"calibrated": {"virtual": {}}}}, "gives outputs only"),
        ({"method": "fitnet", "teacher": {"ensemble": [MODEL_TEACHER]}}, "gives outputs only"),
        ({"method": "dml"}, "method: dml needs a cohort of at least two students, got 1"),
        ({"method": "dml", "student": ["cnn"]}, "needs a cohort of at least two students, got 1"),
        ({"method": "kd", "teacher": "peers"}, "teacher: peers need a cohort"),
        (
            {"method": "kd", "teachers": {"a": {"ensemble": ["peers"]}}},
            "teachers.a.ensemble.0: peers need a cohort",
        ),
        (
            {"method": "e2kd", "teacher": MODEL_TEACHER, "train": {"compile": True}},
            "train.compile: e2kd takes second derivatives",
        ),
        (
            {"method": {"name": "kd", "teacher": "bgi"}, "teachers": {"big": MODEL_TEACHER}},
            "method.teacher: unknown teacher 'bgi': did you mean 'big'?",
        ),
        ({"method": "label_smoothing", "task": {"kind": "regression"}}, "the task is regression"),
        ({"task": {"weight": 0}}, "task.weight: 0 leaves nothing to learn with plain"),
        (
            {"method": "kd", "teacher": {"train": {"student": "cnn", "method": "kd"}}},
            "teacher.train.method: kd needs a teacher",
        ),
        (
            {
                "method": "kd",
                "teacher": {
                    "train": {
                        "student": {"models": ["cnn", "cnn"], "deploy": "ensemble"},
                        "method": "dml",
                    }
                },
            },
            "teacher.train.student.deploy: a teacher is one network",
        ),
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(LimbeckError) as caught:
        check_recipe(_recipe(**changes))
    assert line in str(caught.value)


def test_a_cohort_is_its_own_peers() -> None:
    assert check_recipe(_recipe(student=["cnn", "cnn"], method="dml")) == []


def _bundle(task: str, labelled: bool = True) -> Any:
    torch.manual_seed(0)
    inputs = torch.rand(60, 4)
    targets = torch.arange(60) % 3 if task == "classification" else torch.rand(60, 2)
    bundle = bundle_from((inputs, targets), task=task)
    if labelled:
        return bundle
    unlabelled = bundle_from((inputs, targets), task=task, label_fraction=0.0)
    return dataclasses.replace(bundle, splits={**bundle.splits, **unlabelled.splits})


def test_the_task_of_the_data_counts() -> None:
    with pytest.raises(RecipeError, match=r"task\.kind: the data are for regression"):
        check_data(_recipe(task={"kind": "classification"}), _bundle("regression"))
    with pytest.raises(MethodError, match="the task is regression"):
        check_data(_recipe(method="label_smoothing"), _bundle("regression"))
    with pytest.raises(TeacherError, match="no rule for regression"):
        check_data(_recipe(method="kd", teacher={"virtual": {}}), _bundle("regression"))
    assert check_data(_recipe(), _bundle("regression")) == []


def test_labels_are_needed_where_nobody_else_teaches() -> None:
    data = _bundle("classification", labelled=False)
    with pytest.raises(RecipeError, match="no training sample has a label, and no method asks"):
        check_data(_recipe(), data)
    warnings = check_data(_recipe(method="kd", teacher=MODEL_TEACHER), data)
    assert warnings == ["no training sample has a label: the task term counts nothing"]
    both = _recipe(method=["kd", "label_smoothing"], teacher=MODEL_TEACHER)
    with pytest.raises(MethodError, match="label_smoothing: needs labels"):
        check_data(both, data)
