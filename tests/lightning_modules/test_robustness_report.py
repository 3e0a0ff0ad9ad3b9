"""The files of a test with the report, also if it is interrupted or resumed."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers.logger import DummyLogger

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.attacks import FGSM, PGD, AutoAttack, Square
from kafnets.attacks.random_noise import UniformNoise
from kafnets.metrics import wilson_interval
from kafnets.threat import ThreatModel
from lightning_modules.callbacks import RobustnessReport
from lightning_modules.callbacks.robustness_files import read_resumable, robustbench

FILES = {"robustness.json", "robustness.md", "robustness.png", "robustbench.json"}


def quick_report(kind=RobustnessReport, **settings):
    attacks = {
        "white_box": [PGD(step_size=0.05, steps=2), PGD(step_size=0.02, steps=6)],
        "black_box": [Square(queries=3)],
        "noise": UniformNoise(),
        "curve_images": 2,
    }
    return kind(**attacks | settings)


@pytest.fixture
def tested(make_module, make_data, make_trainer, tmp_path):
    """Run a test with a report of the first 40 images and return its folder."""

    def run(report=None, name="run", eval_batch_size=15, module=None, callbacks=(), **settings):
        trainer = make_trainer(report or quick_report(), *callbacks, name=name, **settings)
        trainer.test(module or make_module(), make_data(eval_batch_size=eval_batch_size), verbose=False)
        return tmp_path / name / "version_0"

    return run


def read(folder):
    return json.loads((folder / "robustness.json").read_text())


def figures(record):
    """Everything in a record except times and the number of processes."""
    attacks = {name: {k: v for k, v in value.items() if k != "seconds"} for name, value in record["attacks"].items()}
    rest = {name: value for name, value in record.items() if name not in ("seconds", "processes", "curves", "checks")}
    columns = {k: v for k, v in rest.pop("outcomes").items() if not k.startswith(("loss/", "probe/gain"))}
    return rest | {"attacks": attacks, "columns": columns}


def test_a_report_is_complete_and_its_parts_agree(tested, capsys):
    folder = tested()
    assert {path.name for path in folder.iterdir()} >= FILES
    assert not list(folder.glob(".*")), "temporary files are left"
    record = read(folder)
    assert record["complete"] and record["images"] == record["images_wanted"] == 40
    outcomes = PerImageResults.decode(record["outcomes"])
    assert outcomes["index"].tolist() == list(range(40))
    worst = outcomes["clean"].clone()
    for name, attack in record["attacks"].items():
        assert attack["right"] == int(outcomes[name].sum()) >= record["worst_case"]["right"]
        low, high = wilson_interval(attack["right"], 40)
        assert (attack["wilson95_low"], attack["wilson95_high"]) == (low, high)
        worst = torch.minimum(worst, outcomes[name])
    assert record["worst_case"]["right"] == int(worst.sum()) <= record["clean"]["right"]
    assert sum(row["clean"]["images"] for row in record["classes"]) == 40
    assert [row["class"] for row in record["classes"]] == [str(digit) for digit in range(10)]
    assert (record["seed"], record["dtype"], record["device"], record["processes"]) == (0, "float32", "cpu", 1)
    assert record["curves"]["eps"][-1]["at"] == 1.0 and record["curves"]["eps"][0]["images"] == 2
    with open(folder / "metrics.csv") as file:
        logged = [float(row["test/worst_case_accuracy"] or "nan") for row in csv.DictReader(file)]
    assert record["worst_case"]["accuracy"] in logged
    text, printed = (folder / "robustness.md").read_text(), capsys.readouterr().out
    assert (record["data"], record["data_images"], record["data_classes"]) == ("Digits", 359, 10)
    for words in (
        "worst case",
        "Square-3-1 Linf",
        record["data_sha256"],
        "noise is not an attack",
        "checkpoint_sha256",
        '"queries": 3',
    ):
        assert words in text
    assert "robustness: 15 of 40 images, about" in printed and "robustness: 40 of 40 images, done" in printed
    assert re.search(r"worst case +\d", printed) and "Checks: " in printed
    assert (folder / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_attack_gives_the_figure_of_the_test_itself(tested, make_module):
    module = make_module()  # its test attack is the report's first
    record = read(tested(module=module))
    first = next(iter(record["attacks"].values()))
    assert first["accuracy"] == pytest.approx(module.test_results["robust_accuracy"])
    assert record["clean"]["images"] == module.test_results["robust_images"]


def test_the_batch_size_does_not_change_the_figures(tested):
    assert figures(read(tested(name="a", eval_batch_size=7))) == figures(read(tested(name="b", eval_batch_size=300)))


FIELDS = "link name authors additional_data number_forward_passes dataset venue architecture eps clean_acc reported"


def test_the_file_has_robustbench_s_fields(tested, make_module):
    module = make_module()
    folder = tested(module=module)
    claim, record = json.loads((folder / "robustbench.json").read_text()), read(folder)
    assert list(claim) == [*FIELDS.split(), "autoattack_acc", "external", "footnote", "unreliable"]
    assert (claim["eps"], claim["dataset"], claim["number_forward_passes"]) == ("0.1", "digits", 1)
    assert claim["footnote"].startswith("Linf, 40 images, 5 attacks; checkpoint sha256 ")
    assert float(claim["reported"]) == pytest.approx(100 * module.test_results["robust_accuracy"], abs=0.01)
    assert float(claim["external"]) <= float(claim["reported"]) <= float(claim["clean_acc"])
    assert claim["autoattack_acc"] is None, "AutoAttack was not run"
    ball, attacks = PGD(eps=0.1), AutoAttack("standard", eps=0.1).attacks
    record["attacks"] |= {name: {"settings": attack.settings()} for name, attack in attacks.items()}
    record["outcomes"] |= dict.fromkeys(attacks, "1" * 30 + "0" * 10) | {"Square": "0" * 5 + "1" * 35}
    assert robustbench(record, ball, None)["autoattack_acc"] == "62.50"
    record["attacks"]["Square"]["settings"]["queries"] = 100
    assert robustbench(record, ball, None)["autoattack_acc"] is None


class Stops(RobustnessReport):
    """A report that raises in its third batch."""

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 2:
            raise RuntimeError("the power fails")
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def stopped(tested):
    with pytest.raises(RuntimeError, match="power"):
        tested(quick_report(Stops), name="stopped")


def test_a_stopped_test_keeps_its_results_and_can_be_resumed(tested, tmp_path):
    stopped(tested)
    kept = read(tmp_path / "stopped" / "version_0")
    assert (tmp_path / "stopped" / "version_0" / "robustness.png").is_file()
    assert not kept["complete"] and kept["images"] == 30 and kept["images_wanted"] == 40
    assert "**Not finished:** 30 of 40" in (tmp_path / "stopped" / "version_0" / "robustness.md").read_text()
    resume = str(tmp_path / "stopped" / "version_0" / "robustness.json")
    before = Path(resume).read_bytes()
    resumed = read(tested(quick_report(resume=resume), name="resumed"))
    assert figures(resumed) == figures(read(tested(name="whole")))
    assert Path(resume).read_bytes() == before


def test_nothing_is_measured_twice_after_a_stop(tested, tmp_path, capsys):
    stopped(tested)
    capsys.readouterr()
    resume = str(tmp_path / "stopped" / "version_0" / "robustness.json")
    tested(quick_report(resume=resume), name="resumed")
    assert re.findall(r"robustness: (\d+) of", capsys.readouterr().out) == ["40"]


def test_resuming_from_another_test_is_refused(tested, make_module, tmp_path):
    stopped(tested)
    resume = str(tmp_path / "stopped" / "version_0" / "robustness.json")
    with pytest.raises(ValueError, match="differs in settings, attacks_sha256; leave resume out"):
        tested(quick_report(resume=resume, black_box=[]), name="a")
    with pytest.raises(ValueError, match="differs in run, seed"):
        tested(quick_report(resume=resume), name="b", module=make_module(seed=3))
    assert not list(tmp_path.glob("[ab]/version_0/robustness*"))
    with pytest.raises(ValueError, match=r"has image number 29, this test wants the first 20; pass .*test_images=30"):
        tested(quick_report(resume=resume), name="a", module=make_module(test_images=20))
    identity = {"network_sha256": None}
    with pytest.raises(ValueError, match="the network or an attack holds what can't be told from another"):
        read_resumable(resume, identity)


def test_a_report_is_never_overwritten(tested, make_module, make_data, make_trainer, tmp_path):
    trainer, module, data = make_trainer(quick_report()), make_module(), make_data()
    trainer.test(module, data, verbose=False)
    path = tmp_path / "run" / "version_0" / "robustness.json"
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"robustness\.json is there already"):
        trainer.test(module, data, verbose=False)
    assert path.read_bytes() == before


def test_the_picture_is_logged_once(make_module, make_data, make_trainer):
    class Album(DummyLogger):
        pictures = ()

        def log_image(self, key, images):
            self.pictures = (*self.pictures, key)

    trainer, album = make_trainer(quick_report()), Album()
    trainer.loggers = [*trainer.loggers, album]
    trainer.test(make_module(), make_data(eval_batch_size=15), verbose=False)
    assert album.pictures == ("robustness",)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"curve_images": 0}, "curve_images must be >= 1, got 0"),
        ({"surrogate": "last.ckpt"}, "surrogate and transfer go together"),
        ({"transfer": PGD()}, "surrogate and transfer go together"),
        ({"noise": UniformNoise(eps=0.2)}, "share one norm and one eps"),
        ({"single_step": FGSM(eps="8/255")}, "share one norm and one eps"),
        ({"white_box": []}, "white_box needs at least one attack"),
        (
            {"white_box": [PGD(eps=0.2)], "black_box": [], "noise": None},
            "report state Linf eps 0.2, the run Linf eps 0.1",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        quick_report(**settings).study_within(ThreatModel(eps=0.1))
