"""``kafnets.load``: a folder is read whole and exactly, or refused in one line."""

import functools
import hashlib
import json

import pytest
import safetensors.torch
import torch

import kafnets
from kafnets.activations import KAF, KWTA, MultiKAF
from kafnets.backbones import KafVGG
from kafnets.saved import write_network

KINDS = {
    "KAF": (KAF, {"factory": "KAF", "arguments": {}}),
    "free KAF": (functools.partial(KAF, free=True), {"factory": "KAF", "arguments": {"free": True}}),
    "KWTA": (functools.partial(KWTA, ratio=0.3), {"factory": "KWTA", "arguments": {"ratio": 0.3}}),
    "MultiKAF": (MultiKAF, {"factory": "MultiKAF", "arguments": {}}),
}
SIZES = {"image_size": 8, "width": 2, "hidden": 4, "mean": [0.4, 0.5, 0.6]}
IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def write(folder, kind="KAF"):
    activation, plan = KINDS[kind]
    torch.manual_seed(1)
    net = KafVGG(activation=activation, **SIZES)
    net(IMAGES)  # other running statistics than at the start
    for module in net.modules():
        if isinstance(module, KWTA):
            module.ratio = 0.2  # as a schedule does
    write_network(folder, net, {"class": "KafVGG", "arguments": {"activation": plan, **SIZES}}, {"licence": None})
    return net.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_comes_back_exactly(kind, tmp_path):
    net = write(tmp_path, kind)
    again = kafnets.load(tmp_path)
    assert not any(module.training for module in again.modules())
    torch.testing.assert_close(again(IMAGES), net(IMAGES), rtol=0, atol=0)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path)
    return tmp_path


def change_card(folder, change, *, sign=False):
    card = json.loads((folder / "card.json").read_text())
    change(card)
    if sign and "sha256" in card:
        text = json.dumps(card["network"], sort_keys=True)
        card["sha256"]["network"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))


def change_weights(folder, change):
    """Change the tensors, and state the hash of the new file in the card."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    change_card(folder, lambda card: card["sha256"].update({"model.safetensors": digest}))


def refused(folder, says):
    with pytest.raises(ValueError, match=says) as error:
        kafnets.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("fc.bias"), "does not fit its network: fc.bias is missing$"),
        (lambda t: t.update(more=torch.ones(1)), "more is not in the network$"),
        (lambda t: t.update({"fc.bias": torch.ones(3)}), r"fc.bias is torch.float32 \(3,\), the network's .* \(10,\)"),
        (lambda t: t.update({"fc.bias": torch.ones(10).double()}), r"fc.bias is torch.float64 \(10,\)"),
        (lambda t: t.clear(), r"is missing \(and \d+ more\)"),
    ],
)
def test_other_tensors_than_the_network_s_are_refused(folder, change, says):
    change_weights(folder, change)
    refused(folder, says)


def test_altered_files_are_refused(folder):
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused(folder, "model.safetensors is not the file that card.json describes: it is altered or incomplete")
    weights.unlink()
    refused(folder, "model.safetensors can't be read: No such file or directory")
    (folder / "card.json").write_text('{"format": ')
    refused(folder, "card.json is no card of a network, or damaged")


def test_an_altered_card_is_refused(tmp_path):
    write(tmp_path, "KWTA")
    ratio = {"factory": "KWTA", "arguments": {"ratio": 0.1}}
    change_card(tmp_path, lambda card: card["network"]["arguments"].update(activation=ratio))
    refused(tmp_path, "card.json has been altered: its network is not the one whose hash it states")
    change_card(tmp_path, lambda card: None, sign=True)  # k-WTA would keep the ratio that it is built with
    refused(tmp_path, "does not fit its network, which does not take .*_extra_state as it is")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda card: card.update(format="kafnets-9"), "has the format 'kafnets-9', this kafnets reads 'kafnets-1'"),
        (lambda card: card.pop("sha256"), "is no card of a network, or damaged: KeyError"),
        (lambda card: card.update(network={"factory": "ReLU", "arguments": {}}), "describes a partial, which is no"),
        (lambda card: card.update(network={"class": "os.system"}), "card.json: os.system is not one of kafnets"),
    ],
)
def test_cards_that_describe_no_network_are_refused(folder, change, says):
    change_card(folder, change, sign=True)
    refused(folder, says)
