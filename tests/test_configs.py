"""Every config there is, parsed and run for one step."""

from pathlib import Path

import pytest
import torch

import cli

CONFIGS = Path(cli.__file__).parent / "configs"
OVERLAYS = {"cifar10_jpeg", "cpu", "ddp", "digits", "eval_full", "gpu", "short", "wandb"}
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in OVERLAYS)


def one_step(*arguments: str) -> None:
    cli.main(["fit", *arguments, "--trainer.fast_dev_run=true", "--model.val_images=4"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs(recipe: str):
    grey = ["--model.net.mean=0.5", "--model.net.std=0.25"] if "preact" in recipe else []
    small = ["--data.batch_size=8", "--data.eval_batch_size=16", "--model.val_attack.steps=1"]
    one_step(f"--config={recipe}", "--config=digits", "--config=cpu", *small, *grey)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_is_short_and_says_what_it_is(path: Path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 25
    assert lines[0].startswith("# ")


def test_the_recipes_asked_for_are_there():
    networks = ["kafvgg", *(f"vgg_{name}" for name in ("relu", "elu", "swish", "kwta"))]
    networks += ["kafresnet20", "resnet20_relu", "resnet20_swish"]
    wanted = {f"{name}_{training}" for name in networks for training in ("standard", "fast_at", "pgd_at")}
    assert wanted | {"preactresnet18_fast_at", "lightnet_standard"} <= set(RECIPES)


def test_image_files_keep_the_recipe_s_augmentation(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(
            ["fit", "--config=kafvgg_short_fast_at", "--config=cifar10_jpeg", "--data.path=x.tar", "--print_config"]
        )
    printed = capsys.readouterr().out
    assert "datamodules.ImageFolder" in printed and "datamodules.CropFlip" in printed


def test_a_gpu_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as stop:
        one_step("--config=kafvgg_fast_at", "--config=digits", "--config=gpu")
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
