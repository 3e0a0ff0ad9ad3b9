"""Config files with duplicate keys, anchors and aliases."""

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
