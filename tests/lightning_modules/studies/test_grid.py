"""A study file expands to members, each a command line that a person could type; mistakes are one line."""

import pytest

from lightning_modules.studies.grid import expand_study, load_study

STUDY = {
    "base": {"config": ["<activation>", "<objective>", "short"], "trainer.max_epochs": 4, "model.net.head_norm": True},
    "grid": {
        "activation": {"ReLU": "vgg_relu", "KAF": {"config": ["kafvgg_elu"], "model.optimizer.lr": 0.05}},
        "objective": ["fast_at", "base/pgd_at.yaml"],
        "model.threat.eps": ["4/255"],
        "seed": [0, 1],
    },
    "short": {"base": {"config+": ["cpu"], "trainer.max_epochs": 1}, "grid": {"objective": ["fast_at"]}},
}


def test_members_run_seed_by_seed_and_are_command_lines():
    members = expand_study(STUDY)
    names = ["relu-fast_at-4_255-0", "relu-pgd_at-4_255-0", "kaf-fast_at-4_255-0", "kaf-pgd_at-4_255-0"]
    assert [member.name for member in members] == [*names, *(f"{name[:-1]}1" for name in names)]
    assert members[2].axes == {"activation": "KAF", "objective": "fast_at", "eps": "4/255", "seed": "0"}
    assert " ".join(members[3].arguments) == (
        "fit --config kafvgg_elu --config base/pgd_at.yaml --config short --trainer.max_epochs=4 "
        "--model.net.head_norm=true --model.optimizer.lr=0.05 --model.threat.eps=4/255 --seed_everything=0"
    )


def test_short_changes_base_and_replaces_axes(tmp_path):
    members = expand_study(STUDY, short=True)
    assert [member.name for member in members][:2] == ["relu-fast_at-4_255-0", "kaf-fast_at-4_255-0"]
    assert len(members) == 4
    assert members[0].arguments[5:9] == ("--config", "short", "--config", "cpu")
    assert "--trainer.max_epochs=1" in members[0].arguments
    (tmp_path / "mine.yaml").write_text("base: {config: kafvgg}\ngrid: {seed: [0]}\nshort: {}\n")
    assert load_study("mine", [tmp_path], short=True)[0] == "mine_short"


def test_a_flag_of_an_axis_replaces_that_of_base():
    study = {"base": {"model.optimizer.lr": 1}, "grid": {"model.optimizer.lr": [2, 3]}}
    assert expand_study(study)[1].arguments == ("fit", "--model.optimizer.lr=3")


def test_names_of_classes_and_nested_settings_are_flags(tmp_path):
    grid = {"activation": ["ReLU", "KAF"], "objective": ["TRADES"], "eps": ["4/255"], "seed": [0]}
    nested = {"trainer": {"max_epochs": 3}, "model": {"net": {"activation": {"class_path": "KAF", "free": True}}}}
    members = expand_study({"base": {"config": "digits", "trainer": {"max_epochs": 1}}, "grid": grid})
    assert members[1].name == "kaf-trades-4_255-0"
    assert " ".join(members[1].arguments) == (
        "fit --config digits --trainer.max_epochs=1 --model.net.activation=KAF --model.objective=TRADES "
        "--model.threat.eps=4/255 --seed_everything=0"
    )
    (tmp_path / "first.yaml").write_text("base: {trainer.max_epochs: 9}\ngrid: {seed: [0]}\n")
    (tmp_path / "mine.yaml").write_text("include: [first]\nbase: {trainer: {max_epochs: 2}}\n")
    assert load_study("mine", [tmp_path])[1][0].arguments == ("fit", "--trainer.max_epochs=2", "--seed_everything=0")
    labelled = expand_study({"grid": {"net": {"free": nested}}})[0].arguments
    assert labelled[1] == "--trainer.max_epochs=3"
    assert labelled[2] == '--model.net.activation={"class_path": "KAF", "init_args": {"free": true}}'


def test_an_included_study_is_changed_by_the_file_that_includes_it(tmp_path):
    (tmp_path / "first.yaml").write_text("base: {config: [kafvgg]}\ngrid: {seed: [0, 1]}\n")
    (tmp_path / "second.yaml").write_text("include: [first]\ngrid: {seed: [5]}\n")
    study, members = load_study("second", [tmp_path])
    assert (study, [member.name for member in members]) == ("second", ["5"])


BAD = {
    "bas": ({"bas": {}}, "'bas' is no part of a study; did you mean base?"),
    "short without": ({"base": {}, "grid": {"seed": [0]}}, "it has no short: section; leave --short out"),
    "no grid": ({"base": {}}, "grid is empty; give it an axis"),
    "empty axis": ({"grid": {"seed": []}}, "axis seed has no value"),
    "empty value": ({"grid": {"a": {"ReLU": {}}}}, "ReLU of axis a must be a config"),
    "scalar axis": ({"grid": {"seed": 3}}, "axis seed must be a list"),
    "nested list": ({"grid": {"a": [["x"]]}}, "write a mapping of labels to settings"),
    "no config": ({"grid": {"width": [4]}}, "axis width lists 4, which is no name of a config; name the axis after"),
    "misspelt seed": ({"grid": {"sed": [0, 1]}}, "axis sed lists 0, which is no name of a config; did you mean seed?"),
    "misspelt axis": ({"grid": {"activatoin": ["KAF"]}}, "where they come; did you mean activation?"),
    "configs": ({"grid": {"objective": ["fast_at"]}}, "put <objective> into it, for example [<objective>]"),
    "seed in base": ({"base": {"seed": 0}, "grid": {"eps": [0]}}, "base has 'seed', which is neither config nor a"),
    "twice": ({"base": {"trainer.x": 1, "trainer": {"x": 2}}, "grid": {"eps": [0]}}, "base sets trainer.x twice"),
    "short is no mapping": ({"grid": {"seed": [0]}, "short": True}, "short must be a mapping, got True; it holds what"),
    "short is false": ({"grid": {"seed": [0]}, "short": False}, "the flag --short changes in base: and grid:"),
    "misspelt short": ({"grid": {"seed": [0]}, "short": {"bas": {}}}, "'bas' is no part of short; did you mean base?"),
    "short axis": ({"grid": {"seed": [0]}, "short": {"grid": {"sed": [1]}}}, "did you mean seed?"),
    "short flag": ({"grid": {"seed": [0]}, "short": {"base": {"confg": 1}}}, "base has 'confg', which is neither"),
    "no place": ({"base": {"config": ["short"]}, "grid": {"net": ["kafvgg"]}}, "for example [<net>, short]"),
    "wrong place": ({"base": {"config": ["<nett>"]}, "grid": {"net": ["kafvgg"]}}, "did you mean <net>?"),
    "two places": ({"base": {"config": ["<net>", "<net>"]}, "grid": {"net": ["kafvgg"]}}, "has <net> twice"),
    "no flag": ({"base": {"confg": ["short"]}, "grid": {"seed": [0]}}, "base has 'confg', which is neither config nor"),
    "own flag": ({"base": {"run.name": "x"}, "grid": {"seed": [0]}}, "base sets run.name, which the study itself does"),
    "one name": ({"grid": {"seed": [0, "0"]}}, "two members are called 0: {'seed': '0'} and {'seed': '0'}"),
    "one axis": ({"grid": {"seed": [0], "seed_everything": [1]}}, "two axes of grid have one name"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_line_that_names_it(name):
    study, expected = BAD[name]
    with pytest.raises(ValueError) as error:
        expand_study(study, short=name == "short without")
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_a_mistake_names_the_study(tmp_path):
    (tmp_path / "mine.yaml").write_text("grid: {seed: []}\n")
    with pytest.raises(ValueError, match="study mine: axis seed has no value"):
        load_study("mine", [tmp_path])
    with pytest.raises(ValueError, match=r"config 'mien' is neither .* did you mean mine\.yaml"):
        load_study("mien", [tmp_path])
