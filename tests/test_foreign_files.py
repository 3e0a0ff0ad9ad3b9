"""Foreign checkpoints and run names: errors are one line, and no foreign code runs."""

from pathlib import Path

import pytest
import torch
import yaml

import cli


@pytest.fixture(scope="module")
def last(tiny_run: Path) -> Path:
    return tiny_run / "checkpoints" / "last.ckpt"


def changed(last: Path, path: Path, **parts) -> str:
    checkpoint = torch.load(last, weights_only=True) | parts
    torch.save({name: value for name, value in checkpoint.items() if value is not None}, path)
    return f"--ckpt_path={path}"


def command(name: str, tmp_path: Path) -> list[str]:
    return [name, "--trainer.accelerator=cpu", f"--run.dir={tmp_path / 'runs'}", "--run.name=run"]


def with_config(last: Path, change) -> str:
    config = yaml.safe_load(torch.load(last, weights_only=True)["config"])
    change(config["model"]["init_args"])
    return yaml.safe_dump(config)


@pytest.mark.parametrize("name", ["test", "fit", "predict"])
def test_a_checkpoint_runs_no_code(name, last, tmp_path, refused):
    marker = tmp_path / "executed"
    planted = {
        "class_path": "sympy.Lambda",
        "init_args": {"signature": "x", "expr": f"__import__('os').system('touch {marker}')"},
    }
    config = with_config(last, lambda model: model.update(decay_filter=planted))
    line = refused([*command(name, tmp_path), changed(last, tmp_path / "evil.ckpt", config=config)])
    assert "names sympy.Lambda, which is neither of this project nor a PyTorch optimizer" in line
    assert not marker.exists() and not (tmp_path / "runs").exists()


def test_bits_of_a_checkpoint_that_flip_in_storage_are_found(last, tmp_path, refused):
    whole, weights = last.read_bytes(), torch.load(last, weights_only=True)["state_dict"]["net.fc.weight"]
    position = whole.index(weights.numpy().tobytes())
    (tmp_path / "flipped.ckpt").write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    line = refused([*command("test", tmp_path), f"--ckpt_path={tmp_path / 'flipped.ckpt'}"])
    assert "flipped.ckpt is not a readable checkpoint: the checksum of" in line


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"config": ["model"]}, "carries a configuration that is no YAML mapping"),
        ({"config": 3}, "carries a configuration that is no YAML mapping"),
        ({"config": "model: 3"}, "carries a configuration that is no YAML mapping"),
        ({"config": "a: [1"}, "carries a configuration that is no YAML mapping"),
        ({"state_dict": "weights"}, "its state_dict does not hold tensors by name"),
        ({"state_dict": {"net.fc.weight": 3}}, "its state_dict does not hold tensors by name"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(parts, says, last, tmp_path, refused):
    assert says in refused([*command("test", tmp_path), changed(last, tmp_path / "odd.ckpt", **parts)])
    assert not (tmp_path / "runs").exists()


def test_weights_that_are_not_finite_are_one_line(last, tmp_path, refused):
    state = torch.load(last, weights_only=True)["state_dict"]
    state["net.fc.bias"] = state["net.fc.bias"] * float("nan")
    flag = changed(last, tmp_path / "nan.ckpt", state_dict=state)
    assert "holds weights that are not finite (net.fc.bias)" in refused([*command("test", tmp_path), flag])


def test_weights_alone_are_tested_but_not_trained_further(last, tmp_path, refused, tiny_flags):
    checkpoint = torch.load(last, weights_only=True)
    torch.save({"state_dict": checkpoint["state_dict"]}, tmp_path / "weights.ckpt")
    recipe = ["--config=kafvgg_fast_at.yaml", *tiny_flags, f"--ckpt_path={tmp_path / 'weights.ckpt'}"]
    assert "holds weights alone (no epoch)" in refused([*command("fit", tmp_path), *recipe])
    cli.main([*command("test", tmp_path), *recipe])
    assert (tmp_path / "runs" / "run" / "version_0" / "results.json").exists()


def test_another_optimizer_is_one_line(last, tmp_path, refused):
    flags = ["--model.optimizer=torch.optim.Adam", f"--ckpt_path={last}", "--trainer.max_epochs=2"]
    line = refused([*command("fit", tmp_path), *flags])
    assert "was trained with another optimizer than Adam; pass the config of that training" in line


@pytest.mark.parametrize("name", ["../../x", "..", "/tmp/x", "a/../../x", " "])
def test_a_run_stays_in_the_folder_of_runs(name, tmp_path, refused):
    flags = [
        "--config=kafvgg_fast_at.yaml",
        "--config=digits.yaml",
        f"--run.name={name}",
        f"--run.dir={tmp_path / 'runs'}",
    ]
    assert "leads out of the folder of all runs" in refused(["fit", *flags])
    assert not list(tmp_path.iterdir())
