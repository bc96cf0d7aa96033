"""Parts of a teacher: its sub-networks, trained together once and found again."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from limbeck.data.bundle import DataBundle
from limbeck.engine.plan import Plan
from limbeck.engine.settings import Train
from limbeck.methods import get_method
from limbeck.models import SharedWidths, parts_of
from limbeck.models.calling import call_model
from limbeck.models.cohort import CohortMean
from limbeck.models.io import WEIGHTS, load_weights
from limbeck.recipe.build import at, maker_of, same_random_numbers
from limbeck.recipe.schema import PartialTeacher, Recipe, TrainTeacher
from limbeck.recipe.teacher_store import obtain_by
from limbeck.teachers import LiveTeacher, Teacher
from limbeck.teachers.examples import example_batch

if TYPE_CHECKING:
    from limbeck.recipe.build_teachers import Making


def refuse_uncut(spec: PartialTeacher, making: Making) -> None:
    """Refuse a network of which no sub-networks can be cut, before it is trained itself.

    Raises:
        RecipeError: with the key.
    """
    if not isinstance(spec.partial, TrainTeacher):
        return  # it is cut at once
    inner, data = _learns(spec, making)
    with at(f"{making.key}.partial"), same_random_numbers():
        network = maker_of(inner.students[0], data, making.workshop.allow_code)()
        SharedWidths(network, spec.shares, example_batch(data).inputs)


def parts_together(spec: PartialTeacher, whole: Teacher, making: Making) -> list[Teacher]:
    """Return the sub-networks of a teacher, smallest first, after they were trained together.

    They learn from the labels of the data that the teacher's own recipe names, by that recipe's
    settings; of a teacher without a recipe, by those of the recipe around it.
    """
    inner, data = _learns(spec, making)
    assert isinstance(whole, LiveTeacher)  # a recipe that says otherwise was refused
    network = copy.deepcopy(whole.module).requires_grad_(True)
    whole.bind(data, torch.device("cpu"))
    try:
        example, print_of_it = whole.inputs_of(example_batch(data)), whole.fingerprint()
    finally:
        whole.close()
    with at(f"{making.key}.partial"):
        shared = SharedWidths(network, spec.shares, example)
    if spec.epochs:
        plan = _plan(spec, inner, data, shared, whole)
        _train(spec, plan, shared, print_of_it, making)
    return [whole.with_module(part) for part in parts_of(shared)]


def _learns(spec: PartialTeacher, making: Making) -> tuple[Recipe, DataBundle]:
    """Return the recipe by whose settings, and the data on which, the parts learn."""
    inner = spec.partial.train if isinstance(spec.partial, TrainTeacher) else making.recipe
    return inner, making.workshop.data(inner)


def _plan(
    spec: PartialTeacher, inner: Recipe, data: DataBundle, shared: SharedWidths, whole: LiveTeacher
) -> Plan:
    train = _settings(spec, inner.train)

    def forward(model: nn.Module, batch: Any) -> Any:  # under the statistics that it learned with
        return call_model(model, whole.inputs_of(batch))

    return Plan(
        name="parts",
        data=data,
        make_student=lambda: copy.deepcopy(shared),
        methods=(get_method("plain")(),),
        train=train,
        seed=spec.seed,
        forward=forward,
        recipe={
            "name": "parts",
            "seed": spec.seed,
            "shares": list(spec.shares),
            "train": json.loads(json.dumps(dataclasses.asdict(train))),
        },
        cohort=shared.deploy,
    )


def _settings(spec: PartialTeacher, train: Train) -> Train:
    rate = train.optimizer.lr if spec.lr is None else spec.lr
    return dataclasses.replace(
        train,
        epochs=spec.epochs,
        optimizer=dataclasses.replace(train.optimizer, lr=rate),
        schedule=dataclasses.replace(train.schedule, cycles=1),
        ema=None,
        deploy="last",
        evaluate_every=spec.epochs,
        measure_train=0,
        measure_saliency=False,
        compile=False,  # one code at several widths would be compiled anew for each
    )


def _train(
    spec: PartialTeacher, plan: Plan, shared: SharedWidths, print_of_it: str, making: Making
) -> None:
    """Fill the sub-networks with what they learn together."""
    key, workshop = f"{making.key}.partial", making.workshop
    what = ["parts", json.dumps(plan.recipe, sort_keys=True), print_of_it, plan.data.fingerprint()]
    folder = obtain_by(plan, what, workshop, key)
    if folder is None:  # only looking
        return
    members = list(shared.members)
    together = members[0] if len(members) == 1 else CohortMean(members)
    load_weights(together, folder / "student" / WEIGHTS)
