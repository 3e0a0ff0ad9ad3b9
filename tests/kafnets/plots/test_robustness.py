import numpy as np
import pytest
import torch

from kafnets.plots import plot_robustness


def share(right, images=100):
    accuracy = right / images
    return {"accuracy": accuracy, "wilson95_low": accuracy * 0.9, "wilson95_high": accuracy * 1.05, "images": images}


def a_record(**changes):
    record = {
        "clean": share(80),
        "worst_case": share(30),
        "attacks": {"white/PGD-50-1": share(32), "black/Square": share(41)},
        "classes": [
            {"class": name, "clean": share(90 - i), "worst_case": share(40 - i)} for i, name in enumerate("abc")
        ],
        "curves": {
            "eps": [{"at": at} | share(right) for at, right in ((0.0, 80), (2 / 255, 60), (8 / 255, 30), (1.0, 0))],
            "steps": [{"at": float(at)} | share(right) for at, right in ((0, 80), (1, 60), (10, 35), (100, 32))],
            "restarts": [{"at": 1.0} | share(34), {"at": 5.0} | share(33)],
        },
        "checks": [{"status": "pass", "name": "noise"}, {"status": "not run", "name": "transfer"}],
    }
    return record | changes


def a_sheet(channels, columns=3):
    images = torch.rand(columns, 2, channels, 4, 4)
    return [(clean, adversarial, (0, 0, i)) for i, (clean, adversarial) in enumerate(images)]


def test_a_long_name_is_wrapped_so_that_the_panels_keep_their_room():
    record = a_record()
    long = "black/PGD-50-1 Linf eps 8/255 (step_size=0.003, random_start=False, loss=margin, estimator=Finite(100))"
    record["attacks"][long] = next(iter(record["attacks"].values()))
    labels = [label.get_text() for label in plot_robustness(record, [], "abc").axes[0].get_yticklabels()]
    assert max(len(line) for label in labels for line in label.split("\n")) <= 52


def test_bars_are_the_attacks_between_clean_and_worst_case():
    axes = plot_robustness(a_record(), [], "abc").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["clean", "PGD-50-1", "Square", "worst case"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([80, 32, 41, 30])


def test_curves_are_those_of_the_record():
    _, radius, effort, _ = plot_robustness(a_record(), [], "abc").axes
    (line,) = radius.get_lines()
    np.testing.assert_allclose(line.get_xydata(), [(0, 80), (2 / 255, 60), (8 / 255, 30), (1, 0)])
    assert [text.get_text() for text in radius.texts] == ["0.0 % at 1"]
    assert [label.get_text() for label in radius.get_xticklabels()] == ["0", "2/255", "8/255", "1"]
    steps, restarts = effort.get_lines()
    np.testing.assert_allclose(steps.get_xydata(), [(1, 60), (10, 35), (100, 32)])
    np.testing.assert_allclose(restarts.get_xydata(), [(1, 34), (5, 33)])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_has_one_column_per_image(channels, is_drawn):
    sheet = a_sheet(channels)
    figure = plot_robustness(a_record(), sheet, ["cat", "dog", "owl"])
    panels = figure.axes[4:]
    assert len(panels) == 9
    titles = [axes.get_title() for axes in panels]
    assert titles == ["cat"] * 3 + ["true: cat"] * 3 + ["cat", "dog", "owl"]
    shown = panels[1].images[0].get_array()
    np.testing.assert_allclose(np.asarray(shown), sheet[1][0].permute(1, 2, 0).squeeze(2).numpy(), rtol=1e-6)
    middle = np.asarray(panels[4].images[0].get_array())
    delta = (sheet[1][1] - sheet[1][0]).permute(1, 2, 0).squeeze(2)
    np.testing.assert_allclose(middle, 0.5 + 0.5 * delta / delta.abs().max(), rtol=1e-5)
    assert is_drawn(figure)


def test_complaints_of_checks_are_the_title():
    calm = plot_robustness(a_record(), [], "abc")
    assert calm.get_suptitle() == "1 checks passed, none complains"
    named = plot_robustness(a_record(), [], "abc", "KafVGG KAF")
    assert named.get_suptitle() == "KafVGG KAF\n1 checks passed, none complains"
    bad = [{"status": "warn", "name": "noise"}, {"status": "fail", "name": "mode"}, {"status": "pass", "name": "x"}]
    assert plot_robustness(a_record(checks=bad), [], "abc").get_suptitle() == "warn: noise\nfail: mode"


def test_a_record_without_curves_says_so(is_drawn):
    figure = plot_robustness(a_record(curves={}, classes=[], attacks={}), [], "abc")
    assert [text.get_text() for axes in figure.axes[1:3] for text in axes.texts] == ["not measured"] * 2
    assert is_drawn(figure)


def test_an_accuracy_of_zero_is_drawn(is_drawn):
    zero = {"eps": [{"at": at} | share(0) for at in (0.0, 0.1, 1.0)]}
    assert is_drawn(plot_robustness(a_record(clean=share(0), worst_case=share(0), curves=zero), a_sheet(3), "abc"))
