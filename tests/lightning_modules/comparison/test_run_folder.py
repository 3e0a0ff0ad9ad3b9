"""A tested run folder that belongs to no study becomes a record."""

import json

from fake_members import fake_member

from lightning_modules.comparison.run_folder import read_run_folder
from lightning_modules.studies.collect import _TAKEN


def test_averages_over_other_numbers_of_steps_are_one_kind_of_weights(tmp_path):
    axes = []
    for steps in (1404, 1755):
        folder, record = tmp_path / f"version_{steps}", fake_member()
        record["run"]["weights"] = f"exponential average with decay 0.995 of {steps} steps"
        folder.mkdir()
        results = {name: record[name] for name in _TAKEN} | {"attack": {"attack": "PGD"}, "loss": 1.5}
        (folder / "results.json").write_text(json.dumps(results))
        (folder / "history.csv").write_text("epoch,train/loss\n1,2.0\n")
        axes.append(read_run_folder(folder)[0]["axes"])
    assert axes[0] == axes[1]
    assert axes[0]["weights"] == "exponential average with decay 0.995"
