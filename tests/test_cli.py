"""The command line: files of a run, precedence of settings, error messages."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import cli
from lightning_modules.files import sha256
from lightning_modules.load_classifier import load_classifier

Refused = Callable[[list[str]], str]
UNKNOWN = "is neither a known class nor a dotted path"
RECIPE = ["fit", "--config=kafvgg_fast_at.yaml", "--config=digits.yaml"]


def printed_config(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


# --- files of a run -------------------------------------------------------------------------------------------------


def test_a_fit_writes_results_pictures_tables_and_both_checkpoints(tiny_run: Path):
    files = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    assert files >= {
        "config.yaml", "metrics.csv", "history.csv", "results.json", "curves.png", "activations.png",
        "checkpoints/last.ckpt", "checkpoints/best-epoch=001.ckpt",
    }  # fmt: skip
    rows = list(csv.DictReader((tiny_run / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1"]
    assert {"train/loss", "val/loss", "val/clean_accuracy", "val/robust_accuracy", "lr"} <= set(rows[0])


def test_results_hold_intervals_attack_checkpoint_and_run(tiny_run: Path):
    results = json.loads((tiny_run / "results.json").read_text())
    best = tiny_run / "checkpoints" / "best-epoch=001.ckpt"
    assert results["checkpoint_sha256"] == sha256(best)
    assert results["robust"]["images"] == 20 and results["clean"]["images"] == 359
    assert results["robust"]["wilson95_low"] <= results["robust"]["accuracy"] <= results["robust"]["wilson95_high"]
    assert results["attack"]["attack"] == "PGD" and results["attack"]["steps"] == 2
    assert results["dtype"] == "float32" and results["seed"] == 0
    assert results["run"] == {
        "activation": "KAF", "backbone": "KafVGG(in_channels=1, image_size=8, width=4, hidden=8)",
        "objective": "Adversarial-FGSM", "loss": "cross_entropy", "weights": "of the last step",
        "norm": "Linf", "eps": 8 / 255, "seed": 0,
    }  # fmt: skip


def test_checkpoints_hold_nothing_but_tensors_and_plain_data(tiny_run: Path):
    checkpoint = torch.load(tiny_run / "checkpoints" / "last.ckpt", weights_only=True)
    assert yaml.safe_load(checkpoint["config"])["model"]["class_path"].endswith("AdversarialTraining")


def test_a_checkpoint_alone_is_enough_to_test_it_again(tiny_run: Path, tmp_path: Path):
    best = next((tiny_run / "checkpoints").glob("best*.ckpt"))
    cli.main(["test", f"--ckpt_path={best}", f"--run.dir={tmp_path}", "--trainer.accelerator=cpu"])
    first, again = (
        json.loads((folder / "results.json").read_text())
        for folder in (tiny_run, tmp_path / "kafvgg_fast_at+digits" / "version_0")
    )
    for record in (first, again):
        del record["checkpoint"], record["seconds"], record["memory"]
    assert first == again


def test_best_and_last_are_found_by_name(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    runs = tiny_run.parents[1]
    for which, file in (("best", "best-epoch=001.ckpt"), ("last", "last.ckpt")):
        config = printed_config(
            capsys, "test", *RECIPE[1:], f"--run.dir={runs}", "--trainer.accelerator=cpu", f"--ckpt_path={which}"
        )
        assert Path(config["ckpt_path"]) == tiny_run / "checkpoints" / file


def test_predict_writes_one_row_per_image_in_order(tiny_run: Path, tmp_path: Path, tiny_flags: list[str]):
    where = [f"--run.dir={tmp_path}", f"--ckpt_path={tiny_run / 'checkpoints' / 'last.ckpt'}"]
    cli.main(["predict", "--config=kafvgg_fast_at.yaml", *tiny_flags, *where])
    table = tmp_path / "kafvgg_fast_at+digits" / "version_0" / "predictions.csv"
    assert [int(row["index"]) for row in csv.DictReader(table.open())] == list(range(359))


def test_a_second_run_gets_a_folder_of_its_own(tmp_path: Path, tiny_flags: list[str]):
    fit = [
        "fit",
        "--config=vgg_relu.yaml",
        "--config=standard.yaml",
        *tiny_flags,
        f"--run.dir={tmp_path}",
        "--trainer.max_epochs=1",
    ]
    cli.main(fit)
    before = {path: sha256(path) for path in tmp_path.rglob("*") if path.is_file()}
    cli.main([*fit, "--seed_everything=3"])
    assert {path: sha256(path) for path in before} == before
    assert sorted(path.name for path in (tmp_path / "vgg_relu+standard+digits").iterdir()) == ["version_0", "version_1"]
    first, second = (tmp_path / "vgg_relu+standard+digits" / f"version_{k}" for k in range(2))
    assert not (first / "activations.png").exists()  # ReLU has no parameters
    seeds = [json.loads((run / "results.json").read_text())["seed"] for run in (first, second)]
    assert seeds == [0, 3]


# --- precedence of settings -----------------------------------------------------------------------------------------


def test_bare_names_work_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = printed_config(capsys, "fit", "--config", "kafvgg_fast_at.yaml")
    assert config["trainer"]["max_epochs"] == 60
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1.0


def test_a_file_in_the_working_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cpu.yaml").write_text("trainer: {max_epochs: 7}")
    config = printed_config(capsys, "fit", "--config", "kafvgg_fast_at.yaml", "--config", "cpu.yaml")
    assert config["trainer"]["max_epochs"] == 7


def test_flags_beat_files_wherever_they_stand(capsys):
    config = printed_config(capsys, "fit", "--trainer.max_epochs=3", *RECIPE[1:])
    assert config["trainer"]["max_epochs"] == 3


def test_later_files_beat_earlier_ones(capsys):
    config = printed_config(capsys, *RECIPE)
    assert config["data"]["class_path"] == "datamodules.Digits"
    assert config["model"]["init_args"]["net"]["init_args"]["image_size"] == 8
    assert config["run"]["name"] == "kafvgg_fast_at+digits"


def small_folder(root: Path) -> Path:
    """Grey images of 24 x 24 pixels, in two classes."""
    for folder in (root / "images" / split / name for split in ("train", "test") for name in ("cat", "dog")):
        folder.mkdir(parents=True)
        for number in range(5):
            Image.new("L", (24, 24), number).save(folder / f"{number}.png")
    return root / "images"


def test_the_network_takes_over_what_the_data_says(tmp_path: Path, capsys):
    for flags, sizes in (
        ([], (10, 1, 8)),
        (["--data.image_size=16"], (10, 1, 16)),
        (["--data=CIFAR100"], (100, 3, 32)),
        (["--data=ImageFolder", f"--data.path={small_folder(tmp_path)}", f"--data.cache={tmp_path}"], (2, 1, 24)),
    ):
        config = printed_config(capsys, *RECIPE, *flags)["model"]["init_args"]["net"]["init_args"]
        assert (config["num_classes"], config["in_channels"], config["image_size"]) == sizes


def test_a_folder_of_images_is_enough(tmp_path: Path, tiny_flags: list[str]):
    data = ["--data=ImageFolder", f"--data.path={small_folder(tmp_path)}", f"--data.cache={tmp_path / 'cache'}"]
    flags = ["--data.batch_size=4", "--data.val_fraction=0.2", f"--run.dir={tmp_path / 'runs'}", "--run.name=mine"]
    quick = [flag for flag in tiny_flags if "digits" not in flag and "hidden" not in flag]
    cli.main(
        [
            "fit",
            "--config=preactresnet18.yaml",
            "--config=fast_at.yaml",
            *quick,
            *data,
            *flags,
            "--trainer.max_epochs=1",
        ]
    )
    net = load_classifier(tmp_path / "runs" / "mine" / "version_0" / "checkpoints" / "last.ckpt")
    assert net(torch.rand(1, 1, 24, 24)).shape == (1, 2)
    assert net.normalize.mean.flatten().tolist() == [0.0]  # CIFAR-10's means are those of three channels


def test_the_data_must_fit_the_network_of_a_checkpoint(tiny_run: Path, refused: Refused):
    test = ["test", f"--ckpt_path={tiny_run}", "--trainer.accelerator=cpu"]
    line = refused([*test, "--data.image_size=16"])
    assert "Digits has image_size=16, and KafVGG is built for image_size=8; pass --data.image_size=8 to" in line
    line = refused([*test, "--data=CIFAR10", "--data.image_size=8"])
    assert "has in_channels=3, and KafVGG is built for in_channels=1; choose data with in_channels=1" in line


def test_a_printed_config_can_be_read_back(tmp_path: Path, capsys):
    first = printed_config(capsys, *RECIPE, "--model.net.activation=KWTA", "--model.net.activation.ratio=0.1")
    (tmp_path / "printed.yaml").write_text(yaml.safe_dump(first))
    assert printed_config(capsys, "fit", f"--config={tmp_path / 'printed.yaml'}") == first
    activation = first["model"]["init_args"]["net"]["init_args"]["activation"]
    assert activation == {"class_path": "kafnets.activations.KWTA", "init_args": {"ratio": 0.1}}


def test_flags_beat_what_a_checkpoint_was_trained_with(tiny_run: Path, capsys):
    last = tiny_run / "checkpoints" / "last.ckpt"
    config = printed_config(capsys, "test", f"--ckpt_path={last}", "--model.test_attack.steps=3")
    model = config["model"]["init_args"]
    assert model["test_attack"]["init_args"]["steps"] == 3  # the flag
    assert model["net"]["init_args"]["width"] == 4  # the checkpoint


# --- error messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (["--trainer.max_epoch=3"], "did you mean trainer.max_epochs"),
        (["--trainer.max_epochs=three"], "trainer.max_epochs: Expected a int"),
        (["--model.threat.eps=-0.1"], "eps must lie in [0, 1]"),
        (["--model.threat.eps=8"], "for 8 grey levels write 8/255"),
        (["--model.threat.epss=8"], "did you mean eps?"),
        (["--model.test_attack.eps=4/255"], "test_attack states Linf eps 4/255, the run Linf eps 8/255; leave eps"),
        (["--model.objective.attack.restarts=2"], "training takes one start per image, got restarts=2"),
        (["--model.objective=TRADE"], "did you mean TRADES"),
        (["--model.objective=TRADES", "--model.objective.betta=1"], "did you mean beta?"),
        (["--model.net.activation=KWTA", "--model.net.activation.ratio=1.5"], "must be in (0, 1], got 1.5"),
        (["--model.net.activation=ReLUU"], "did you mean ReLU"),
        (["--model.net.activation=torch.nn.ReLU"], "Expected 'torch.nn.ReLU' to be a subclass of Activation"),
        (["--model.net.hiden=3"], "did you mean hidden?"),
        (["--data.image_size=12"], "must be a multiple of 8, got 12; resize the images, on the command line with "
         "--data.image_size=16"),
        (["--data=MNIST"], "must be a multiple of 8, got 28; resize the images, on the command line with "
         "--data.image_size=32"),
        (["--model.net.image_size=16"], "Digits has image_size=8, and KafVGG is built for image_size=16; pass "
         "--model.net.image_size=8, or --data.image_size=16 to resize the images"),
        (["--model.net.in_channels=3"], "Digits has in_channels=1, and KafVGG is built for in_channels=3; pass "
         "--model.net.in_channels=1"),
        (["--model.net.num_classes=3"], "pass --model.net.num_classes=10"),
        (["--model.net.mean=[0.1,0.2,0.3]"], "mean has 3 values for images of in_channels=1; give one value"),
        (["--data.batch_size=5000"], "batch_size=5000 is larger than the 1294 training images"),
        (["--data=ImageFolder", "--data.path=missing.tar"], "there are no images at"),
        (["--ckpt_path=missing.ckpt"], "checkpoint 'missing.ckpt' does not exist"),
        (["--ckpt_path=last"], "train first"),
        (["--trainer.precision=bf16-true"], "use 32-true, 16-mixed or bf16-mixed"),
        (["--trainer.max_epochs=-1"], "set trainer.max_epochs >= 1"),
        (["--checkpoint.monitor=val/robust"], "monitors val/robust, which is never logged; did you mean val/robust"),
        (["--checkpoint.monitor=val/loss"], "monitors val/loss with mode max, so it would choose the worst; set its"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_writes_nothing(flags: list[str], answer: str, tmp_path: Path, refused: Refused):
    runs = tmp_path / "runs"
    assert answer in refused([*RECIPE, "--trainer.accelerator=cpu", f"--run.dir={runs}", *flags])
    assert not runs.exists() or not any(runs.iterdir())


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        ("model.objective=Trades", f"'Trades' {UNKNOWN}; did you mean TRADES?"),
        ("model.objective=kafnets.objectives.Trades", "did you mean kafnets.objectives.TRADES?"),
        ("model.objective.attack=PDG", f"'PDG' {UNKNOWN}; did you mean PGD?"),
        ("model.threat.norm=l2", f"'l2' {UNKNOWN}; did you mean L2?"),
        ("model.net.activation=Silu", f"'Silu' {UNKNOWN}; did you mean SiLU?"),
        ("model.net.activation.kernel=laplacian", f"'laplacian' {UNKNOWN}; did you mean Laplacian?"),
        ("model.optimizer=Adma", f"'Adma' {UNKNOWN}; did you mean Adamax, Adam, RAdam?"),
        ("trainer.callbacks.fallback=NFGSMM", f"'NFGSMM' {UNKNOWN}; did you mean NFGSM, FGSM, MIFGSM?"),
        ("model.optimizer=sgd", f"'sgd' {UNKNOWN}; did you mean SGD?"),
        ("model.decay_filter=kernels", "did you mean kafnets.parameter_filters.kernels?"),
        ("model.test_attack.loss=kafnets.losses.margn", "did you mean kafnets.losses.margin?"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_similar_one(flag: str, answer: str, refused: Refused):
    guard = ["--trainer.callbacks+=OverfittingGuard"] if "callbacks" in flag else []
    line = refused([*RECIPE, *guard, f"--{flag}"])
    assert line.startswith(f"error: {flag.partition('=')[0]}: ") and line.endswith(answer)


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        ("model.attack=PGD", "did you mean val_attack, test_attack, attack_view?"),
        ("model.decayed=x", "AdversarialTraining accepts attack_view, channels_last, compile_backend, decay_filter, "),
        ("model.test_attack.early_stop=false", "PGD accepts eps, estimator, loss, norm, "),
        ("model.val_attack.eps_=0.1", "did you mean eps?"),
        ("model.net.activation.ratio=0.1", "KAF accepts bandwidth, boundary, free, "),
        ("model.optimizer.momentun=0.9", "did you mean momentum?"),
    ],
)
def test_an_unknown_option_is_answered_with_similar_or_all_options(flag: str, answer: str, refused: Refused):
    place, _, option = flag.partition("=")[0].rpartition(".")
    assert refused([*RECIPE, f"--{flag}"]).startswith(f"error: {place}: Option '{option}' is not accepted; {answer}")


def test_a_missing_data_set_names_the_folder_and_both_solutions(tmp_path: Path, refused: Refused):
    flags = [f"--run.dir={tmp_path / 'runs'}", f"--data.root={tmp_path / 'data'}", "--data.download=false"]
    line = refused(["fit", "--config=kafvgg_fast_at.yaml", "--trainer.accelerator=cpu", *flags])
    assert str(tmp_path / "data") in line and "copy" in line and "ImageFolder" in line


@pytest.mark.parametrize(("name", "answer"), [("kafvg_fast_at.yaml", "kafvgg_fast_at"), ("fastat", "fast_at")])
def test_the_error_for_an_unknown_config_names_similar_ones(name: str, answer: str, refused: Refused):
    line = refused(["fit", f"--config={name}"])
    assert f"config '{name}' is neither in the working directory nor in configs/; did you mean {answer}.yaml" in line


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("trainer: {max_epoch: 3}", "trainer.max_epoch'; did you mean trainer.max_epochs"),
        ("model: {net: {hiden: 3}}", "did you mean hidden?"),
        ("model: {net: {hidden: many}}", "model.net.hidden: Expected a int"),
        ("a: [1", "can't be read"),
        ("- 1", "must be a mapping"),
        ("include: digits.yaml", "include must be a list"),
        ("include: [mistake.yaml]", "in a circle: mistake.yaml -> mistake.yaml"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(content: str, answer: str, tmp_path: Path, refused: Refused):
    (tmp_path / "mistake.yaml").write_text(content)
    assert answer in refused([*RECIPE, f"--config={tmp_path / 'mistake.yaml'}"])


def test_a_bad_checkpoint_is_refused_before_anything_is_written(tiny_run: Path, tmp_path: Path, refused: Refused):
    last = tiny_run / "checkpoints" / "last.ckpt"
    (tmp_path / "cut.ckpt").write_bytes(last.read_bytes()[:2000])
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.ckpt")
    command = ["test", "--config=digits.yaml", f"--run.dir={tmp_path / 'runs'}", "--trainer.accelerator=cpu"]
    relu = "--config=vgg_relu_fast_at.yaml"
    for config, file, answer in (
        (relu, tmp_path / "cut.ckpt", "is not a readable checkpoint"),
        (relu, tmp_path / "foreign.ckpt", "has no state_dict"),
        (relu, last, "does not fit this network"),
    ):
        assert answer in refused([command[0], config, *command[1:], f"--ckpt_path={file}"])
    assert not (tmp_path / "runs").exists()


def test_an_untrained_network_is_not_tested(refused: Refused):
    assert "test needs --ckpt_path" in refused(["test", *RECIPE[1:]])


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path: Path, refused: Refused):
    (tmp_path / "file").write_text("")
    assert "choose another --run.dir" in refused([*RECIPE, f"--run.dir={tmp_path / 'file'}"])
