"""The records of a run: epochs, test results, pictures, configuration."""

import contextlib
import copy
import csv
import hashlib
import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from matplotlib.figure import Figure
from pytorch_lightning import Callback
from pytorch_lightning.loggers.logger import DummyLogger

from cli import main
from datamodules.base import ImageDataModule
from datamodules.image_tensors import ImageTensors
from kafnets.activations import KAF, KWTA
from kafnets.losses import cross_entropy
from kafnets.metrics import wilson_interval
from kafnets.objectives import Objective, Terms
from lightning_modules.callbacks import (
    EpochBar,
    EpochLines,
    History,
    KWTARatio,
    Pictures,
    Predictions,
    Results,
    Throughput,
    pictures,
)
from lightning_modules.callbacks.results import results_table
from lightning_modules.provenance import data_identity

LOGGED = {"train/loss", "train/accuracy", "val/loss", "val/clean_accuracy", "val/robust_accuracy", "lr"}
LOGGED |= {"val/robust_loss", "images_per_second", "epoch_seconds", "peak_memory_mb"}


def run_folder(trainer, tmp_path, name="run"):
    return tmp_path / name / "version_0"


def rows(path):
    return list(csv.DictReader(path.open()))


def check_sensible(row):
    assert 0 < row["train/loss"] < 20 and 0 < row["val/loss"] < 20
    assert 0 <= row["train/accuracy"] <= 1
    assert 0 <= row["val/robust_accuracy"] <= 1 and 0 <= row["val/clean_accuracy"] <= 1
    assert row["lr"] == pytest.approx(0.1)
    assert 1 < row["images_per_second"] < 1e7
    assert 0 < 4 * 32 / row["images_per_second"] <= row["epoch_seconds"] < 100
    assert 50 < row["peak_memory_mb"] < 1e6


def test_every_epoch_is_in_both_tables_with_sensible_values(make_module, make_data, make_trainer, tmp_path):
    trainer = make_trainer(Throughput(), History(), limit_val_batches=1.0)
    trainer.fit(make_module(), make_data())
    folder = run_folder(trainer, tmp_path)
    history = rows(folder / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2"]
    logged = rows(folder / "metrics.csv")
    for epoch, row in enumerate(history):
        assert set(row) == LOGGED | {"epoch"}
        check_sensible({name: float(value) for name, value in row.items()})
        for name in LOGGED:
            values = [line[name] for line in logged if line["epoch"] == str(epoch + 1.0) and line[name]]
            assert [float(value) for value in values] == [float(row[name])]


def test_the_last_checkpoint_holds_the_rows_of_all_epochs(make_module, make_data, make_trainer, tmp_path):
    trainer = make_trainer(History())
    trainer.fit(make_module(), make_data())
    stored = torch.load(trainer.checkpoint_callback.last_model_path, weights_only=True)["callbacks"]["History"]["rows"]
    assert [row["epoch"] for row in stored] == [1, 2]
    assert stored[-1]["val/robust_accuracy"] == trainer.callback_metrics["val/robust_accuracy"].item()


def test_a_longer_resumed_run_has_the_history_of_all_epochs(make_module, make_data, make_trainer, tmp_path):
    first = make_trainer(History(), max_epochs=2, name="first")
    first.fit(make_module(), make_data())
    before = (run_folder(first, tmp_path, "first") / "history.csv").read_text()
    second = make_trainer(History(), max_epochs=4, name="second")
    second.fit(make_module(), make_data(), ckpt_path=first.checkpoint_callback.last_model_path)
    after = (run_folder(second, tmp_path, "second") / "history.csv").read_text()
    assert after.startswith(before) and len(after.splitlines()) == 5
    assert (run_folder(first, tmp_path, "first") / "history.csv").read_text() == before


def test_epochs_are_lines_of_text_where_there_is_no_terminal(make_module, make_data, make_trainer, capsys):
    make_trainer(Throughput(), EpochLines(), EpochBar(), quiet=False).fit(make_module(), make_data())
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("epoch ")]
    assert [line.split("|")[0].strip() for line in lines] == ["epoch   1/2", "epoch   2/2"]
    for word in ("loss ", "clean ", "robust ", "lr 0.1", "images/s"):
        assert word in lines[0]
    assert "\r" not in printed.out + printed.err


def test_an_epoch_without_a_validation_has_no_figures_of_an_earlier_one(
    make_module, make_data, make_trainer, tmp_path, capsys
):
    trainer = make_trainer(History(), EpochLines(), max_epochs=3, check_val_every_n_epoch=2)
    trainer.fit(make_module(), make_data())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert ["robust " in line for line in lines] == [False, True, False]
    table = rows(run_folder(trainer, tmp_path) / "history.csv")
    assert [bool(row["val/robust_accuracy"]) for row in table] == [False, True, False]
    assert all(row["train/loss"] for row in table)


class WeightedLoss(Objective):
    """An objective as a user would write one."""

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def craft(self, net, batch):
        return batch.x

    def loss(self, net, batch, inputs):
        logits = net(inputs)
        return Terms(self.weight * cross_entropy(logits, batch.y).mean(), logits, inputs, {})


def test_epochs_count_from_one_and_a_custom_objective_is_named(
    make_module, make_data, make_trainer, tmp_path, capsys, monkeypatch
):
    drawn = []
    monkeypatch.setattr(pictures, "plot_curves", lambda *args, **settings: drawn.append(settings) or Figure())
    trainer = make_trainer(History(), EpochLines(), Pictures())
    trainer.fit(make_module(objective=WeightedLoss(weight=2.0)), make_data())
    best = trainer.checkpoint_callback.best_model_path
    stored = torch.load(best, weights_only=True)["callbacks"]["History"]["rows"]
    assert best.endswith(f"best-epoch={stored[-1]['epoch']:03d}.ckpt") and "epoch   2/2" in capsys.readouterr().out
    assert {row["epoch"] for row in rows(run_folder(trainer, tmp_path) / "metrics.csv")} == {"1.0", "2.0"}
    assert drawn == [{"objective": "WeightedLoss(weight=2)"}]


def test_the_record_of_a_test_is_complete(make_module, make_data, make_trainer, tmp_path):
    module, data = make_module(seed=7), make_data()
    speaker = Callback()
    speaker.events = [{"kind": "collapse", "text": "one class"}]
    history = History()
    trainer = make_trainer(Throughput(), history, speaker, Results())
    trainer.fit(module, data)
    trainer.test(module, data, ckpt_path="best", verbose=False)
    record = json.loads((run_folder(trainer, tmp_path) / "results.json").read_text())
    assert (record["clean"]["images"], record["robust"]["images"]) == (359, 40)
    for part in (record["clean"], record["robust"]):
        right = round(part["accuracy"] * part["images"])
        assert part["accuracy"] == pytest.approx(right / part["images"])
        assert [part["wilson95_low"], part["wilson95_high"]] == pytest.approx(wilson_interval(right, part["images"]))
    settings = {"attack": "PGD", "eps": 0.1, "steps": 2, "step_size": 0.05, "restarts": 1, "norm": "Linf"}
    assert record["attack"] | settings == record["attack"]
    run = {"activation": "ReLU", "backbone": "KafVGG(width=4, hidden=8, image_size=8, in_channels=1)"}
    run |= {"objective": "Adversarial-FGSM", "loss": "cross_entropy", "weights": "of the last step"}
    run |= {"norm": "Linf", "eps": 0.1, "seed": 7}
    assert record["run"] == run
    assert (record["seed"], record["dtype"], record["device"], record["data"]) == (7, "float32", "cpu", "Digits")
    best = trainer.checkpoint_callback.best_model_path
    assert record["checkpoint"] == best
    with open(best, "rb") as file:
        assert record["checkpoint_sha256"] == hashlib.sha256(file.read()).hexdigest()
    assert record["events"] == speaker.events
    assert record["parameters"] == sum(parameter.numel() for parameter in module.net.parameters())
    assert record["seconds"]["fit"] == pytest.approx(sum(row["epoch_seconds"] for row in history.rows))
    assert 0 < record["seconds"]["test"] < 100 and 50e6 < record["memory"] < 1e12
    assert record["environment"]["threads"] == torch.get_num_threads()


class Somewhere(ImageDataModule):
    """Two classes of images, as they are given."""

    num_classes, in_channels, image_size = 2, 1, 8

    def __init__(self, images, labels, names=("cat", "dog")):
        super().__init__()
        self.sets = (ImageTensors(images, labels, names),) * 2

    def load(self):
        return self.sets


def test_images_are_identified_by_their_values_labels_and_names():
    images = torch.randint(256, (1200, 1, 8, 8), dtype=torch.uint8)
    labels, changed = torch.arange(1200) % 2, images.clone()
    changed[1100, 0, 3, 3] ^= 1
    found = []
    for data in (
        Somewhere(images, labels),
        Somewhere(images.clone(), labels),
        Somewhere(changed, labels),
        Somewhere(images, 1 - labels),
        Somewhere(images, labels, ("dog", "cat")),
    ):
        data.setup()
        found.append(data_identity(SimpleNamespace(datamodule=data), data.test_set))
    assert found[0] == found[1] and (found[0]["data_images"], found[0]["data_classes"]) == (1200, 2)
    assert len({each["data_sha256"] for each in found}) == 4


def test_results_are_never_overwritten(make_module, make_data, make_trainer, tmp_path):
    trainer, module, data = make_trainer(Results()), make_module(), make_data()
    trainer.test(module, data, verbose=False)
    before = (run_folder(trainer, tmp_path) / "results.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"results\.json is there already"):
        trainer.test(module, data, verbose=False)
    assert (run_folder(trainer, tmp_path) / "results.json").read_bytes() == before


class Album(DummyLogger):
    """A logger that takes pictures."""

    def __init__(self):
        super().__init__()
        self.pictures = []

    def log_image(self, key, images):
        self.pictures.append((key, images))


@pytest.mark.parametrize("activation, drawn", [(KAF, {"curves", "activations"}), (KWTA, {"curves"})])
def test_pictures_are_drawn_and_handed_to_loggers(
    make_net, make_module, make_data, make_trainer, tmp_path, activation, drawn
):
    module, data = make_module(net=make_net(activation=activation)), make_data()
    trainer, album = make_trainer(History(), Pictures(images=20), max_epochs=1), Album()
    trainer.loggers = [*trainer.loggers, album]
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    folder = run_folder(trainer, tmp_path)
    assert {path.stem for path in folder.glob("*.png")} == drawn
    assert {key for key, _ in album.pictures} == drawn
    assert (folder / "activations.json").is_file() == ("activations" in drawn)
    for key, (path,) in album.pictures:
        assert path == str(folder / f"{key}.png")
        assert (folder / f"{key}.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_without_an_epoch_left_has_the_rows_of_all(make_module, make_data, make_trainer, tmp_path):
    trainer = make_trainer(History(), max_epochs=1)
    trainer.fit(make_module(), make_data())
    last = trainer.checkpoint_callback.last_model_path
    make_trainer(History(), max_epochs=1, name="again").fit(make_module(), make_data(), ckpt_path=last)
    first, second = ((run_folder(trainer, tmp_path, name) / "history.csv").read_text() for name in ("run", "again"))
    assert first == second and len(first.splitlines()) == 2


def test_learned_activations_are_kept_as_numbers_beside_their_start(
    make_net, make_module, make_data, make_trainer, tmp_path
):
    net, data = make_net(activation=KAF), make_data()
    built, layers = (
        copy.deepcopy(net.block1.act_a),
        [name for name, part in net.named_modules() if isinstance(part, KAF)],
    )
    trainer, module = make_trainer(Pictures(images=20), max_epochs=1), make_module(net=net)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    shapes = json.loads((run_folder(trainer, tmp_path) / "activations.json").read_text())
    assert [shape["layer"] for shape in shapes] == layers and shapes[0]["layer"] == "block1.act_a"
    assert [len(shapes[0][name]) for name in ("x", "y", "start")] == [41, 4, 4]
    x = torch.tensor(shapes[0]["x"])[:, None].expand(-1, 4)
    for name, activation in (("start", built), ("y", net.block1.act_a)):
        assert torch.allclose(activation(x).T, torch.tensor(shapes[0][name]), atol=1e-3)


def test_predictions_are_one_row_per_image(make_module, make_data, make_trainer, tmp_path):
    trainer, data = make_trainer(Predictions()), make_data(eval_batch_size=100)
    trainer.predict(make_module(), data)
    table = rows(run_folder(trainer, tmp_path) / "predictions.csv")
    assert list(table[0]) == ["index", "label", "predicted", "probability"]
    assert [int(row["index"]) for row in table] == list(range(359))
    assert [int(row["label"]) for row in table] == data.test_set.labels.tolist()
    assert all(0.1 <= float(row["probability"]) <= 1 for row in table)


def ratios(module):
    return {round(layer.ratio, 6) for layer in module.modules() if isinstance(layer, KWTA)}


def test_kwta_ratio_falls_as_scheduled_and_is_saved_in_checkpoints(make_net, make_module, make_data, make_trainer):
    def kwta_module():
        return make_module(net=make_net(activation=lambda channels: KWTA(channels, ratio=0.3)))

    trainer, module = make_trainer(KWTARatio(start=0.3, end=0.1, step=0.05, every=1), max_epochs=3), kwta_module()
    trainer.fit(module, make_data())
    assert ratios(module) == {0.2}
    assert trainer.callback_metrics["kwta_ratio"].item() == pytest.approx(0.2)
    again = kwta_module()
    again.load_state_dict(torch.load(trainer.checkpoint_callback.last_model_path, weights_only=True)["state_dict"])
    assert ratios(again) == {0.2}


def test_a_resumed_kwta_run_equals_the_whole_one(make_net, make_module, make_data, make_trainer):
    def fit(name, epochs, resume=None):
        module = make_module(net=make_net(activation=lambda channels: KWTA(channels, ratio=0.3)))
        callbacks = [KWTARatio(start=0.3, end=0.1, step=0.05, every=1), History()]
        trainer = make_trainer(*callbacks, name=name, max_epochs=epochs)
        trainer.fit(module, make_data(), ckpt_path=resume)
        return torch.load(trainer.checkpoint_callback.last_model_path, weights_only=True)

    fit("part", 2)
    whole = fit("whole", 4)
    resumed = fit("resumed", 4, make_trainer(name="part").logger.log_dir + "/checkpoints/last.ckpt")
    assert resumed["callbacks"]["History"] == whole["callbacks"]["History"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    for a, b in zip(*(run["optimizer_states"][0]["state"].values() for run in (whole, resumed)), strict=True):
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])


def test_kwta_ratio_needs_a_kwta_layer(make_module, make_data, make_trainer):
    with pytest.raises(ValueError, match="found no k-WTA layer"):
        make_trainer(KWTARatio()).fit(make_module(), make_data())


@pytest.mark.parametrize(
    "settings", [{"start": 0.1, "end": 0.2}, {"end": 0.0}, {"start": 1.5}, {"step": 0}, {"every": 0}]
)
def test_kwta_ratio_refuses_bad_settings(settings):
    with pytest.raises(ValueError, match="must"):
        KWTARatio(**settings)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The run folder of a small run of the command line."""
    folder = tmp_path_factory.mktemp("fitted")
    arguments = ["fit", "--config", "kafvgg_fast_at.yaml", "--config", "digits.yaml", f"--run.dir={folder}"]
    arguments += ["--model.net.width=4", "--model.net.hidden=8", "--model.test_images=10", "--model.val_images=10"]
    arguments += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
    with contextlib.redirect_stdout(None):
        main([*arguments, "--seed_everything=5", "--model.test_attack.steps=1"])
    (run,) = folder.glob("*/version_0")
    return run


def test_the_configuration_is_in_the_run_folder_and_in_its_checkpoints(fitted):
    beside = yaml.safe_load((fitted / "config.yaml").read_text())
    for path in (fitted / "checkpoints").iterdir():
        inside = yaml.safe_load(torch.load(path, weights_only=True)["config"])
        assert inside["model"] == beside["model"] and inside["data"] == beside["data"]
    assert beside["model"]["init_args"]["net"]["init_args"]["width"] == 4


def test_runs_can_be_compared_by_top_level_scalars(fitted):
    logged = yaml.safe_load((fitted / "hparams.yaml").read_text())
    scalars = {"activation": "KAF", "objective": "Adversarial-FGSM", "norm": "Linf", "eps": 8 / 255, "seed": 5}
    assert logged["backbone"].startswith("KafVGG(")
    assert {name: logged[name] for name in scalars} == scalars
    assert "model" in logged["config"]


def test_the_table_of_a_test_fits_a_terminal():
    value = {"accuracy": 0.5, "wilson95_low": 0.4, "wilson95_high": 0.6, "images": 359}
    run = {
        "backbone": "KafVGG(" + ", ".join(["setting=1"] * 12) + ")",
        "activation": "KAF",
        "objective": "A",
        "weights": "of the last step",
        "seed": 0,
    }
    record = {"run": run, "checkpoint": "best.ckpt", "checkpoint_sha256": "0" * 64, "clean": value, "robust": value}
    lines = results_table(record, "PGD-50-1 Linf eps 8/255", "runs/x/version_0").splitlines()
    assert max(map(len, lines)) <= 100 and lines[2].startswith(" " * 17 + "setting=1")
