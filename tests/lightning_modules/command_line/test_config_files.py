"""Config files with duplicate keys, anchors and aliases; entries of named.yaml."""

import pytest

from lightning_modules.command_line.config_files import ConfigError, load_layers


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "trainer: {max_epochs: 3}\ntrainer: {devices: 1}",
            r"the key 'trainer' is given twice, in lines 1 and 2; keep one",
        ),
        ("model:\n  net: {width: 3, width: 4}", "the key 'width' is given twice"),
        ("a: &a {b: *a}", "the anchor &a holds an alias of itself"),
        ("a: &a [1, *a]", "the anchor &a holds an alias of itself"),
    ],
)
def test_duplicate_keys_and_recursive_aliases_are_refused(content, says, tmp_path):
    (tmp_path / "mistake.yaml").write_text(content)
    with pytest.raises(ConfigError, match=says):
        load_layers(str(tmp_path / "mistake.yaml"), [])


def test_anchors_and_merge_keys_work(tmp_path):
    (tmp_path / "good.yaml").write_text("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}\nf: {<<: *a, b: 3}")
    assert load_layers(str(tmp_path / "good.yaml"), []) == [
        {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}, "f": {"b": 3}}
    ]


def test_an_entry_of_named_yaml_is_a_config_unless_a_file_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "named.yaml").write_text(
        "deep: {include: [net], depth: 56}\ndeeper: {include: [deep], depth: 110}"
    )
    (tmp_path / "net.yaml").write_text("depth: 20")
    assert load_layers("deeper.yaml", [tmp_path]) == [{"depth": 20}, {"depth": 56}, {"depth": 110}]
    assert load_layers(str(tmp_path / "deeper.yaml"), [tmp_path]) == load_layers("deeper", [tmp_path])
    with pytest.raises(ConfigError, match="did you mean deep"):
        load_layers(str(tmp_path / "base" / "deeper.yaml"), [tmp_path])
    with pytest.raises(ConfigError, match=r"config 'deepest' is neither .*; did you mean deeper.yaml"):
        load_layers("deepest", [tmp_path])
    (tmp_path / "deep.yaml").write_text("depth: 8")
    assert load_layers("deeper", [tmp_path]) == [{"depth": 8}, {"depth": 110}]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ("a: {include: [b]}\nb: {include: [a]}", "circle: a.yaml -> b.yaml -> a.yaml"),
        ("a: 3", "must be a mapping of keys to values, got a int"),
    ],
)
def test_a_bad_entry_of_named_yaml_is_refused(entries, says, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "named.yaml").write_text(entries)
    with pytest.raises(ConfigError, match=says):
        load_layers("a", [tmp_path])
