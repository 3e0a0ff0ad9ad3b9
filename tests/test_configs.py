"""Every config: network, training and overlays compose in every combination, and every network trains."""

import contextlib
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from photographs import write_photographs

import cli
from kafnets.attacks.base import Net
from kafnets.objectives import Adversarial, Batch, Terms
from lightning_modules.command_line.arguments import resolve
from lightning_modules.command_line.config_files import NAMED

CONFIGS = Path(cli.__file__).parent / "configs"
NETWORKS = [
    *("kafvgg", "kafvgg_elu", "kafvgg_swish", "kafvgg_free", "vgg_relu", "vgg_elu", "vgg_swish", "vgg_kwta"),
    *("kafresnet20", "resnet20_relu", "resnet20_swish"),
    *("kafresnet110", "kafresnet56", "resnet56_relu"),  # placed so that the deepest one has the cheapest training
    *("preactresnet18", "lightnet"),
    *("resnet50_relu_imagenet", "kafresnet50_imagenet"),
]
TRAININGS = ["standard", "fast_at", "pgd_at", "trades", "grad_align", "elle", "n_fgsm", "free_at", "mart", "awp"]
ON_PHOTOGRAPHS = ["imagenet_fast_at"]  # a training that needs a network on ImageNet
SHORTCUTS = [
    *("kafvgg_fast_at", "kafresnet20_fast_at", "vgg_relu_fast_at"),
    *("kafvgg_short_fast_at", "vgg_relu_short_fast_at", "kafresnet50_imagenet_fast_at"),
]
# what each overlay sets, by the place in the composed configuration
OVERLAYS: dict[str, dict[str, Any]] = {
    "short": {
        "trainer.max_epochs": 5,
        "model.init_args.optimizer.class_path": "torch.optim.SGD",
        "model.init_args.optimizer.init_args.lr": 0.1,
        "model.init_args.optimizer.init_args.nesterov": True,
        "model.init_args.schedule.class_path": "Triangular",
        "data.init_args.augment.class_path": "CropFlip",
    },
    "digits": {"data.class_path": "Digits", "data.init_args.batch_size": 64},
    "cifar10_jpeg": {"data.class_path": "ImageFolder"},
    "label_smoothing": {"model.init_args.loss.class_path": "LabelSmoothing"},
    "ema": {"trainer.callbacks.-1.class_path": "WeightAverage", "checkpoint.monitor": "val/average_robust_accuracy"},
    "lr_range": {
        "model.init_args.optimizer.init_args.lr": 10.0,
        "model.init_args.schedule.class_path": "Exponential",
        "model.init_args.eps_schedule.class_path": "Constant",
        "trainer.callbacks.-1.class_path": "LearningRateRange",
        "trainer.enable_checkpointing": False,
        "run.test": False,
    },
    "cpu": {"trainer.accelerator": "cpu", "trainer.devices": 1, "trainer.precision": "32-true"},
    "cpu_bf16": {
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "trainer.precision": "bf16-mixed",
        "model.init_args.channels_last": True,
    },
    "gpu": {
        "trainer.accelerator": "gpu",
        "trainer.devices": 1,
        "trainer.precision": "bf16-mixed",
        "trainer.benchmark": True,
        "model.init_args.channels_last": True,
        "model.init_args.compile_backend": None,
    },
    "ddp": {"trainer.strategy": "ddp", "trainer.devices": 2},
    "wandb": {"trainer.logger.0.class_path": "lightning_modules.wandb_logger.Wandb"},
    "certify": {"trainer.callbacks.-1.class_path": "CertificateReport", "data.init_args.eval_batch_size": 100},
    "eval_full": {
        "trainer.callbacks.-1.class_path": "RobustnessReport",
        "data.init_args.eval_batch_size": 100,
    },
}
TESTED = {"eval_full", "certify"}  # overlays on a test
# what makes the networks on ImageNet small enough for a test
PHOTOGRAPHS = ["--model.net.width=8", "--data.image_size=64"]
SMALL = ["--data.eval_batch_size=16", "--model.val_attack.steps=1", "--model.val_images=4"]


def one_step(*arguments: str, batch_size: int = 8) -> None:
    cli.main(["fit", *arguments, "--trainer.fast_dev_run=true", f"--data.batch_size={batch_size}", *SMALL])


def composed(*names: str) -> dict[str, Any]:
    """The composition of some configs, before the parser fills in defaults."""
    command = "test" if TESTED & {*names} else "fit"
    arguments = resolve([command, *(f"--config={name}" for name in names), "--print_config"], [CONFIGS])
    return yaml.safe_load(arguments[arguments.index("--config") + 1])


def parsed(*names: str, flags: Sequence[str] = ()) -> dict[str, Any]:
    """The composition of some configs, with defaults."""
    printed = io.StringIO()
    arguments = [f"--config={name}" for name in names]
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
        cli.main(["test" if TESTED & {*names} else "fit", *arguments, *flags, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(printed.getvalue())


def at(config: Any, place: str) -> Any:
    for part in place.split("."):
        config = config[int(part)] if isinstance(config, list) else config[part]
    return config


def test_these_are_all_configs():
    found = {path.stem for path in CONFIGS.glob("*.yaml")} | set(yaml.safe_load((CONFIGS / NAMED).read_text()))
    assert found == {*NETWORKS, *TRAININGS, *ON_PHOTOGRAPHS, *OVERLAYS, *SHORTCUTS}
    assert len([path for path in CONFIGS.rglob("*.yaml") if "studies" not in path.parts]) <= 45


# every training on the first network; every other network with one training, in turn, and the short schedule in turn;
# the last network has a test of its own
TURNS = [(NETWORKS[0], training) for training in TRAININGS]
TURNS += [(network, TRAININGS[turn % len(TRAININGS)]) for turn, network in enumerate(NETWORKS[1:-1])]
OTHERS = [pair for pair in itertools.product(NETWORKS, TRAININGS) if pair not in TURNS]
PRODUCT = [*TURNS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHERS)]


@pytest.mark.parametrize(("network", "training"), PRODUCT)
def test_every_network_runs_every_training(network: str, training: str):
    schedule = ["--config=short"] if NETWORKS.index(network) % 2 else []
    machine = ["--config=cpu", "--config=cpu_bf16"][TRAININGS.index(training) % 2]
    small = PHOTOGRAPHS if "imagenet" in network else []
    one_step(f"--config={network}", f"--config={training}", *schedule, "--config=digits", machine, *small)


# as docs/certificates.md gives them; they do not fit every network, norm and activation
CERTIFIED = [
    ["--config=fast_at", "--model.objective=IBP", "--model.objective.ramp=10", "--model.eps_schedule=WarmUp"],
    ["--config=fast_at", "--model.objective=LipschitzMargin", "--model.threat.norm=L2"],
    ["--config=standard", "--model.objective=GaussianAugmentation", "--model.objective.sigma=0.25"],
]


@pytest.mark.parametrize("flags", CERTIFIED, ids=lambda flags: flags[1])
def test_a_network_trains_for_a_certificate(flags: list[str]):
    one_step("--config=lightnet", *flags, "--config=digits", "--config=cpu")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_has_its_effect_on_every_network_and_training(overlay: str):
    for network, training in TURNS:
        plain, config = composed(network, training), composed(network, training, overlay)
        found = {place: at(config, place) for place in OVERLAYS[overlay]}
        assert found == OVERLAYS[overlay], (network, training)
        for kept in ("model.class_path", "model.init_args.net.class_path", "model.init_args.threat"):
            assert at(config, kept) == at(plain, kept), (network, training)
        objectives = [one["model"]["init_args"].get("objective") for one in (plain, config)]
        assert objectives[0] == objectives[1], (network, training)


# overlays that go together, so that every one of them is parsed over every kind of network
OVERLAPPING = [["short", "cifar10_jpeg", "label_smoothing", "ema", "ddp", "wandb"], ["eval_full", "gpu"], ["certify"]]


@pytest.mark.parametrize("overlays", OVERLAPPING, ids="+".join)
@pytest.mark.parametrize("network", ["kafvgg", "kafresnet20", "preactresnet18", "lightnet", "kafresnet50_imagenet"])
def test_overlays_are_valid_over_every_kind_of_network(network: str, overlays: list[str]):
    sizes = ["--data.num_classes=10", "--data.in_channels=3", "--data.image_size=32"]  # so that no file is read
    flags = sizes if "cifar10_jpeg" in overlays else sizes[:1] if "imagenet" in network else ()
    config = parsed(network, "fast_at", *overlays, flags=flags)
    assert at(config, "trainer.devices") == (2 if "ddp" in overlays else 1)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_a_shortcut_equals_its_composition(shortcut: str):
    network = shortcut.removesuffix("_fast_at").removesuffix("_short").replace("kafvgg_short", "kafvgg")
    parts = [network, "imagenet_fast_at" if "imagenet" in network else "fast_at"]
    if "short" in shortcut:
        parts = [network.replace("kafvgg", "kafvgg_elu"), "fast_at", "short", "base/vgg_short"]
    expected, found = composed(*parts), composed(shortcut)
    for config in (expected, found):
        config.pop("run")
    if "short" in shortcut:  # what the range test of each activation suggests
        optimizers = [at(config, "model.init_args.optimizer.init_args") for config in (expected, found)]
        assert [one.pop("lr") for one in optimizers] == [0.1, 0.2 if "relu" in shortcut else 0.13]
    assert found == expected
    if "imagenet" not in shortcut:
        one_step(f"--config={shortcut}", "--config=digits", "--config=cpu")


def test_imagenet_begins_with_its_first_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    photographs, shapes = write_photographs(tmp_path / "photographs", train=12), []
    loss = Adversarial.loss

    def noted(self: Adversarial, net: Net, batch: Batch, inputs: torch.Tensor) -> Terms:
        shapes.append(inputs.shape)
        return loss(self, net, batch, inputs)

    monkeypatch.setattr(Adversarial, "loss", noted)
    flags = ["--data.val_fraction=0.1", "--data.num_workers=0", "--data.image_size=64", "--model.net.width=4"]
    flags += [f"--data.path={photographs}", f"--data.cache={tmp_path}"]
    one_step("--config=kafresnet50_imagenet_fast_at", "--config=cpu", *flags, batch_size=4)
    assert shapes == [(16, 3, 128, 128)]


def test_the_threat_model_is_stated_once():
    for path in CONFIGS.rglob("*.yaml"):
        code = [line.partition("#")[0] for line in path.read_text().splitlines()]
        stated = any(re.search(r"\beps:", line) for line in code)
        assert stated == (path.stem in ("run", "lightnet", "resnet50_relu_imagenet")), path.name


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_is_short_and_says_what_it_is(path: Path):
    lines = path.read_text().splitlines()
    assert len(lines) <= (40 if path.parent.name == "studies" else 26)  # a study lists what it compares
    assert lines[0].startswith("# ")


def test_image_files_keep_the_recipe_s_augmentation():
    config = composed("kafvgg_short_fast_at", "cifar10_jpeg")
    assert at(config, "data.class_path") == "ImageFolder"
    assert at(config, "data.init_args.augment.class_path") == "CropFlip"


@pytest.mark.parametrize("names", [["kafvgg"], ["fast_at"]])
def test_an_incomplete_run_is_one_line_that_names_what_is_missing(names: list[str], refused):
    line = refused(["fit", *(f"--config={name}" for name in names)])
    assert "a run is a network and a training" in line


def test_a_missing_gpu_is_one_line(capsys: pytest.CaptureFixture[str]):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as stop:
        one_step("--config=kafvgg_fast_at", "--config=digits", "--config=gpu")
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
