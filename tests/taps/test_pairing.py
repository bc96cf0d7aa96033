"""Which layers pair with which."""

import pytest
import torch
from torch import nn

from limbeck.errors import ShapeError, TapError
from limbeck.models import Cohort, build_model
from limbeck.taps import align_stages, pair_taps, tap_shapes

IMAGES = torch.randn(2, 3, 16, 16)


def build(name, **arguments):
    return build_model(name, num_classes=4, input_shape=(3, 16, 16), **arguments)


def maps(*sizes):
    return {f"s{i}": (1, 4, size, size) for i, size in enumerate(sizes)}


def test_equal_numbers_pair_one_to_one_whatever_the_sizes():
    assert align_stages(maps(16, 8), maps(4, 2)) == [("s0", "s0"), ("s1", "s1")]


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (maps(16, 8), maps(32, 16, 8), [("s0", "s1"), ("s1", "s2")]),  # by size, from the end
        (maps(32, 8), maps(32, 16, 8), [("s0", "s0"), ("s1", "s2")]),
        (maps(8, 8), maps(8, 8, 8), [("s0", "s1"), ("s1", "s2")]),
        (maps(7, 3), maps(32, 16, 8, 4), [("s0", "s1"), ("s1", "s3")]),  # by relative depth
        (maps(32, 16, 8), maps(16, 8), [("s1", "s0"), ("s2", "s1")]),
        (maps(9), maps(4, 3, 2), [("s0", "s2")]),
        (maps(5, 4, 3), maps(*range(60, 24, -6)), [("s0", "s1"), ("s1", "s3"), ("s2", "s5")]),
        ({}, maps(3), []),
    ],
)
def test_unequal_numbers(student, teacher, expected):
    assert align_stages(student, teacher) == expected


def test_auto_pairs_stages_and_measures_both():
    student, teacher = build("resnet8"), build("cnn", channels=(2, 4, 6))
    student.train()
    pairs = pair_taps(student, teacher, student_example=IMAGES)
    assert [pair.names for pair in pairs] == [(f"stages.{i}",) * 2 for i in range(3)]
    assert [pair.student_shape for pair in pairs] == [
        (2, 16, 16, 16),
        (2, 32, 8, 8),
        (2, 64, 4, 4),
    ]
    assert [pair.teacher_shape[1] for pair in pairs] == [2, 4, 6]
    assert student.training
    assert student.bn1.num_batches_tracked == 0
    assert not [m for m in student.modules() if m._forward_hooks]


def test_auto_with_a_network_that_declares_nothing():
    teacher = nn.Sequential(
        nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 6, 3, 2, 1), nn.ReLU(), nn.Flatten()
    )
    pairs = pair_taps(build("resnet8"), teacher, student_example=IMAGES)
    found = [(p.names, p.student_shape[2], p.teacher_shape[2]) for p in pairs]
    # What the teacher does not declare comes back by its path, which can be tapped as it is.
    assert found == [(("stages.1", "1"), 8, 8), (("stages.2", "3"), 4, 4)]
    assert tap_shapes(teacher, "3", IMAGES) == {"3": (2, 6, 4, 4)}


def test_one_name_for_both_sides():
    student, teacher = build("resnet8"), build("mlp", widths=[7])
    (pair,) = pair_taps(student, teacher, "penultimate", student_example=IMAGES)
    assert pair.names == ("penultimate", "penultimate")
    assert (pair.student_shape, pair.teacher_shape) == ((2, 64), (2, 7))
    (pair,) = pair_taps(student, build("resnet14"), "stages[-1]", student_example=IMAGES)
    assert pair.names == ("stages[-1]", "stages[-1]")


def test_explicit_pairs_and_other_teacher_inputs():
    student, teacher = build("resnet8"), build("resnet8x4")
    pairs = pair_taps(
        student,
        teacher,
        [("layer1", "layer2.0.conv1"), ["penultimate", "linear:in"], "stages[-1]"],
        student_example=IMAGES,
        teacher_example=torch.randn(2, 3, 32, 32),
    )
    assert [pair.names for pair in pairs] == [
        ("layer1", "layer2.0.conv1"),
        ("penultimate", "linear:in"),
        ("stages[-1]", "stages[-1]"),
    ]
    assert pairs[0].teacher_shape == (2, 128, 16, 16)


def test_a_cohort_is_measured_by_its_first_member():
    cohort = Cohort([build("resnet8"), build("resnet8")])
    pairs = pair_taps(cohort, build("resnet14"), student_example=IMAGES)
    assert len(pairs) == 3
    assert tap_shapes(cohort, "penultimate", IMAGES) == {"penultimate": (2, 64)}


def test_refusals():
    student, teacher = build("resnet8"), build("resnet14")
    with pytest.raises(ShapeError, match=r"3 taps of the student .* against 12 of the teacher"):
        pair_taps(student, teacher, [("**.conv1", "**.conv?")][:1], student_example=IMAGES)
    with pytest.raises(TapError, match="unknown tap 'layer9'"):
        pair_taps(student, teacher, [("layer1", "layer9")], student_example=IMAGES)
    with pytest.raises(TapError, match=r"a pair is \(student tap, teacher tap\), got"):
        pair_taps(student, teacher, [("a", "b", "c")], student_example=IMAGES)
    with pytest.raises(TapError, match="pairs is empty"):
        pair_taps(student, teacher, [], student_example=IMAGES)
