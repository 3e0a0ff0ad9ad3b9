"""Names hold the class, the headline and every other setting that differs from its default."""

import copy
import functools
import inspect
import pickle

import pytest
from torch import nn

from kafnets.described import Described, arguments_of, in_words, show_units


class Search(Described):
    headline = ("steps",)
    unsaid = ("eps",)

    def __init__(self, steps=10, width=0.5, *, eps=8 / 255, loss=None):
        self.steps, self.width, self.eps, self.loss = steps, width, eps, loss


class Inherited(Search):
    """No ``__init__`` of its own."""


class Longer(Search):
    """Passes ``**kwargs`` on to its base class."""

    def __init__(self, *, rounds=3, **kwargs):
        super().__init__(steps=7, **kwargs)
        self.rounds = rounds


class Closed(Search):
    """Chooses the settings of its base class itself."""

    def __init__(self, *, rounds=3):
        super().__init__(steps=7, width=0.25)
        self.rounds = rounds


class Around(Described):
    def __init__(self, inner, *, names=(), options=None):
        self.inner, self.names, self.options = inner, names, options


class Plain(Described):
    """No ``__init__`` at all."""


class Opaque:
    """Its repr holds an address."""


@pytest.mark.parametrize(
    ("build", "label"),
    [
        (lambda: Search(), "Search-10"),
        (lambda: Search(steps=3), "Search-3"),
        (lambda: Search(width=0.5, loss=None), "Search-10"),
        (lambda: Search(width=0.25), "Search-10(width=0.25)"),
        (lambda: Search(eps=0.1), "Search-10"),
        (lambda: Search(loss=max, width=4 / 255), "Search-10(loss=max, width=4/255)"),
        (lambda: Search(3, 0.25), "Search-3(width=0.25)"),
        (lambda: Search(3, 0.5), "Search-3"),
        (lambda: Search(3, loss=max), "Search-3(loss=max)"),
        (lambda: Inherited(3, 0.25), "Inherited-3(width=0.25)"),
        (lambda: Longer(), "Longer-7"),
        (lambda: Longer(rounds=4, width=0.25), "Longer-7(rounds=4, width=0.25)"),
        (lambda: Longer(rounds=3, width=0.5), "Longer-7"),
        (lambda: Closed(rounds=4), "Closed-7(rounds=4)"),
        (lambda: Around(Search(3, 0.25)), "Around(inner=Search-3(width=0.25))"),
        (lambda: Around(Search()), "Around(inner=Search-10)"),
        (lambda: Plain(), "Plain"),
    ],
)
def test_labels(build, label):
    assert build().label == label


def test_the_parts_of_a_label():
    found = Search(3, 0.25, eps=0.1, loss=max)
    assert (found.short_label, found.other_settings()) == ("Search-3", ["width=0.25", "loss=max"])
    assert (Plain().short_label, Plain().other_settings()) == ("Plain", [])


def test_the_headline_follows_the_attribute_and_other_settings_are_those_of_the_start():
    found = Around(Search(), names=["a"])
    found.names.append("b")
    assert found.label == "Around(inner=Search-10, names=[a])"
    search = Search(3)
    search.steps = 4
    assert search.label == "Search-4"


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda found: pickle.loads(pickle.dumps(found))])
def test_copies_and_pickles_keep_the_name(again):
    for found in (Search(3, 0.25), Longer(rounds=4, width=0.25), Around(Search(3), options={"k": 2})):
        assert again(found).label == found.label


def test_every_object_has_a_record_of_its_own():
    first, second = Search(width=0.25), Search()
    assert (first.label, second.label) == ("Search-10(width=0.25)", "Search-10")


def test_a_refused_setting_is_still_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'height'"):
        Search(height=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'height'"):
        Longer(height=1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'inner'"):
        Around()


def test_the_signature_stays_that_of_the_class():
    assert list(inspect.signature(Search).parameters) == ["steps", "width", "eps", "loss"]
    assert Search.__init__.__name__ == "__init__"


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (Search, ["steps", "width", "eps", "loss"]),
        (Inherited, ["steps", "width", "eps", "loss"]),
        (Longer, ["steps", "width", "eps", "loss", "rounds"]),
        (Closed, ["rounds"]),
        (Plain, []),
    ],
)
def test_arguments_include_those_that_are_passed_on(cls, names):
    found = arguments_of(cls)
    assert sorted(found) == sorted(names)
    assert all(parameter.name == name for name, parameter in found.items())


def test_an_argument_of_the_class_hides_that_of_its_base():
    class Wider(Search):
        def __init__(self, width=2.0, **kwargs):
            super().__init__(width=width, **kwargs)

    assert arguments_of(Wider)["width"].default == 2.0
    assert (Wider().label, Wider(width=0.5).label) == ("Wider-10", "Wider-10(width=0.5)")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (3, "3"),
        ("plus", "plus"),
        (0.25, "0.25"),
        (8 / 255, "8/255"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        (max, "max"),
        (Search, "Search"),
        (Search(3, 0.25), "Search-3(width=0.25)"),
        ([1, None, 8 / 255], "[1, None, 8/255]"),
        ((), "[]"),
        ({0: 100, 20: max}, "{0: 100, 20: max}"),
        ({"inner": Search(3)}, "{inner: Search-3}"),
        (functools.partial(round, ndigits=2), "round(ndigits=2)"),
        (functools.partial(Search, 3, loss=max), "Search(3, loss=max)"),
        (functools.partial(functools.partial(Search, 3), width=[0.25]), "Search(3, width=[0.25])"),
    ],
)
def test_values_in_words(value, text):
    assert in_words(value) == text


def test_values_without_a_text_of_their_own_are_named_by_their_class():
    assert in_words(Opaque()) == "Opaque"
    assert in_words(object()) == "object"
    assert in_words(nn.Sequential(nn.Linear(1, 1), nn.ReLU())) == "Sequential"
    assert in_words(nn.ReLU()) == "ReLU()"


@pytest.mark.parametrize(
    "value",
    [Opaque(), Opaque().__init__, lambda x: x, functools.partial(Opaque().__eq__, object()), [{"k": (Opaque(),)}]],
)
def test_names_hold_no_address(value):
    assert "0x" not in Around(value).label


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.0, "1"), (8 / 255, "8/255"), (0.5 / 255, "0.5/255"), (0.031, "0.031"), (0.05, "0.05"), (12, "12")],
)
def test_sizes_are_written_as_grey_levels_where_they_are_some(value, text):
    assert show_units(value) == text
