"""Pictures of many groups: looks that differ, and texts that matplotlib does not change or hide."""

import pytest

from kafnets.plots.comparison import Point, plot_clean_against_robust, plot_learned_shapes
from kafnets.plots.marks import marks
from kafnets.plots.pairs import Cell, plot_pairs


def look(mark):
    return mark.color, mark.face, mark.marker, mark.dashes


@pytest.mark.parametrize("grid", [[(f"a{i}",) for i in range(63)], [(f"a{i}", o) for i in range(20) for o in "xyz"]])
def test_every_group_has_a_look_of_its_own(grid):
    axes = [dict(zip(("activation", "objective"), values, strict=False)) for values in grid]
    found, _ = marks(axes, [" ".join(values) for values in grid])
    assert len({look(mark) for mark in found}) == len(grid)
    again, _ = marks(axes[::-1], [" ".join(values) for values in grid][::-1])
    assert {mark.label: look(mark) for mark in again} == {mark.label: look(mark) for mark in found}


def test_texts_stay_as_they_are():
    found, legends = marks([{"a": "_hidden"}, {"a": "$x_1"}], ["_hidden", "$x_1"])
    figure = plot_clean_against_robust([Point(mark, (0.6, 0.7, 0.8), (0.3, 0.4, 0.5)) for mark in found], legends)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text().strip().replace("\\$", "$") for text in legend.get_texts()] == ["a", "_hidden", "$x_1"]


def test_crosses_span_the_intervals():
    found, legends = marks([{}], ["KAF"])
    point = Point(found[0], (0.6, 0.7, 0.8), (0.3, 0.4, 0.5), claimed=(0.75, 0.55), doubted=True)
    (axes,) = plot_clean_against_robust([point], legends).axes
    spans = [tuple(map(tuple, line.get_xydata().round(6).tolist())) for line in axes.lines]
    assert ((60, 40), (80, 40)) in spans and ((70, 30), (70, 50)) in spans and ((75, 55),) in spans


@pytest.mark.parametrize("count", [2, 63])
def test_pairs_of_few_and_of_many_groups_are_drawn(count):
    cells = [Cell(i, j, 0.01 * (j - i), j - i > 1) for i in range(count) for j in range(i + 1, count)]
    figure = plot_pairs([f"group {i}" for i in range(count)], cells)
    figure.draw_without_rendering()
    assert bool(figure.axes[0].images) == (count > 26) and bool(figure.axes[0].texts) == (count <= 26)


def test_no_shapes_are_an_error():
    with pytest.raises(ValueError, match="one layer or more"):
        plot_learned_shapes([])
