"""What `limbeck methods NAME` says of every method is what the method does."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from limbeck.cli.catalogue import card_text
from limbeck.data import DataBundle, load_data
from limbeck.engine.checking import refuse_mixed
from limbeck.errors import LimbeckError, MethodError
from limbeck.methods import all_methods, make_method

PAGES = {name: card_text(name).plain for name in all_methods()}
RANGE = re.compile(r"at least \d+|above \d+|[\[(]\d+, \d+[\])]")
OUTSIDE = (-1, -1.0, 0, 0.0, 1.0, 1.5, 2, 1e9)
methods = pytest.mark.parametrize("name", list(PAGES))


def described(name: str, parameter: str) -> str:
    """What the page says of a parameter."""
    text = PAGES[name].split(f"\n  {parameter} = ")[1]
    return " ".join(re.split(r"\n(?!      )", text)[0].split())


def ranges(name: str, parameter: str) -> set[str]:
    """The ranges that errors name when a method is made with values outside of them."""
    found = set()
    for value in OUTSIDE:
        try:
            make_method(name, **{parameter: value})
        except LimbeckError as error:
            said = re.match(rf"method\.{parameter}: expected (.*), got", str(error))
            found |= set(RANGE.findall(said[1])) if said else set()
        except TypeError:  # no number
            return set()
    return found


@methods
def test_the_range_that_an_error_names_stands_on_the_page(name: str) -> None:
    for field in dataclasses.fields(all_methods()[name]):
        if field.name == "teacher" or (field.name == "weight" and "no meaning" in PAGES[name]):
            continue
        said = described(name, field.name).replace("At least", "at least")
        for wanted in ranges(name, field.name):
            narrower = {"above 0": "(0, 1]", "(0, 1]": "(1/C, 1]", "at least 1": "from 1 to"}
            assert wanted in said or narrower.get(wanted, "?") in said, (field.name, wanted, said)


@methods
def test_a_page_has_no_markup_and_no_empty_words(name: str) -> None:
    for mark in ("``", ":math:", "\\", "carried by none", "the default of a subclass"):
        assert mark not in PAGES[name]


@pytest.fixture(scope="module")
def data() -> DataBundle:
    return load_data("digits", num_train=8, augment=[{"mixup": 0.5}])


@methods
def test_a_page_says_whether_mixup_is_refused(name: str, data: DataBundle) -> None:
    given: dict[str, Any] = {"dtd": {"adjust": "shift"}, "sskd": {"keep_turned": 0.5}}
    given["ked"] = {"teacher_view": "clean"}  # where an option decides it, the page names that one
    pair = [make_method("kd"), make_method(name, **given.get(name, {}))]
    if "\nmixup        refused: " not in PAGES[name]:
        refuse_mixed(pair, data)
        return
    with pytest.raises(MethodError, match=r"data\.augment: mixup .*; leave"):
        refuse_mixed(pair, data)


def test_a_method_without_terms_is_shown_beside_another() -> None:
    for name in ("backward", "chimeric", "kcd", "mask"):
        assert f"method: [kd, {name}]" in PAGES[name]
        assert "method=lb.KD() + lb." in PAGES[name]
    assert "method: [kd" not in PAGES["kd"]


def test_a_page_shows_several_teachers_where_one_says_nothing_new() -> None:
    assert "teacher: {ensemble: [{train: teacher.yaml}, " in PAGES["camkd"]
    assert "teacher=[big, other]" in PAGES["camkd"]
    assert "teachers     several, the members of an ensemble; sum of div" in PAGES["camkd"]


def test_a_page_says_what_is_done_to_samples_and_what_is_deployed() -> None:
    assert "\ndata         three turned copies of every image\n" in PAGES["sskd"]
    assert "\ndeploys      the student with what the method put into it\n" in PAGES["letkd1"]
    assert "\ndeploys" not in PAGES["kd"]
    assert "the loss of one depends on the others in its batch" in PAGES["btkd"]
