"""The names that the configuration of a checkpoint may hold."""

import pytest

from lightning_modules.command_line.trusted_names import check_names, packages_named

GOOD = {
    "model": {
        "class_path": "lightning_modules.AdversarialTraining",
        "net": {
            "class_path": "kafnets.backbones.KafVGG",
            "activation": {"class_path": "KAF", "init": {"class_path": "Ridge", "target": "torch.nn.functional.elu"}},
        },
        "optimizer": {"class_path": "torch.optim.SGD", "lr": 0.1},
        "decay_filter": "kafnets.parameter_filters.kernels",
        "val_attack": {"class_path": "PGD", "eps": "8/255", "loss": "kafnets.losses.margin.margin"},
    },
    "data": {"class_path": "datamodules.ImageFolder", "path": "../data/os.system", "root": "os.system"},
}


def test_names_of_this_project_are_accepted():
    check_names(GOOD, "last.ckpt")


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "sympy.Lambda",
        "torch.load",
        "torch.hub.load",
        "torch.utils.cpp_extension.load",
        "torch.optim.lr_scheduler.LambdaLR",
        "torch.nn.functional.importlib.import_module",
        "torch.nn.functional.importlib",
        "kafnets.ops.native.build.subprocess.run",
        "kafnets.ops.native.build.subprocess",
        "kafnets.files.os.replace",
        "kafnets.files.Path",
        "lightning_modules.files.Figure",
        "kafnets.no_such_module.thing",
        "mypackage.Activation",
    ],
)
@pytest.mark.parametrize("place", ["class_path", "plain", "list"])
def test_everything_else_is_refused_by_name(name, place):
    value = {"class_path": {"class_path": name, "expr": "1"}, "plain": name, "list": [{"class_path+": name}]}[place]
    with pytest.raises(ValueError, match=rf"last.ckpt names {name}, which is neither of this project"):
        check_names({"model": {"net": {"activation": value}}}, "last.ckpt")


def test_classes_of_data_modules_are_checked_too():
    with pytest.raises(ValueError, match=r"names subprocess.Popen"):
        check_names({"data": {"augment": {"class_path": "subprocess.Popen"}}}, "last.ckpt")


def test_what_the_user_names_is_trusted():
    config = {"model": {"net": {"activation": "mypackage.activations.Wave"}}}
    given = [{"model": {"net": {"class_path": "mypackage.Net"}}}, ["--model.seed=1"]]
    assert packages_named(given) == {"mypackage"}
    check_names(config, "last.ckpt", packages_named(given))
    assert packages_named(["--model.net.activation=mypackage.Wave", "--data.path=x.tar"]) == {"mypackage", "x"}


def test_a_refused_name_is_not_imported(monkeypatch, tmp_path):
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"names planted\.anything"):
        check_names({"model": {"decay_filter": "planted.anything"}}, "last.ckpt")
