"""Validation, test and predict: what they measure, and that they change no state."""

import pytest
import torch
from pytorch_lightning import Callback

from kafnets.attacks import PGD
from kafnets.keyed_random import image_keys
from lightning_modules.classifier import TEST, VAL

ATTACK = PGD(eps=0.1, step_size=0.05, steps=2)


class Learned(Callback):
    """Keeps the weights of the latest validation."""

    def on_validation_start(self, trainer, pl_module):
        self.seen = {name: value.clone() for name, value in pl_module.net.state_dict().items()}


def by_hand(net, images, first, attack, seed, use):
    """Clean accuracy of all images; robust accuracy and number of the ``first`` ones."""
    net.eval()
    x, y, index = images.images.float() / 255, images.labels, torch.arange(len(images))
    clean = net(x).argmax(1) == y
    x_adv = attack(net, x[:first], y[:first], keys=image_keys(index[:first], seed, use))
    robust = clean[:first] & (net(x_adv).argmax(1) == y[:first])
    return clean.double().mean().item(), robust.double().mean().item(), (net(x), y)


@pytest.fixture
def trained(make_net, make_module, make_data, make_trainer):
    net = make_net(bn_momentum=0.3, dropout=(0.0,) * 4)
    learned, module = Learned(), make_module(standard=True, net=net, seed=3, val_attack=ATTACK, test_attack=ATTACK)
    data = make_data(seed=3, eval_batch_size=17, augment=None)
    trainer = make_trainer(learned, limit_val_batches=1.0, max_epochs=2, limit_train_batches=1.0)
    trainer.fit(module, data)
    return trainer, module, data, learned


def test_validation_equals_a_recomputation_by_hand(trained):
    trainer, module, data, learned = trained
    module.net.load_state_dict(learned.seen)
    clean, robust, (logits, y) = by_hand(module.net, data.val_set, 30, ATTACK, 3, VAL)
    assert 0.05 < robust < clean - 0.05, "the accuracies must differ for this test"
    logged = trainer.callback_metrics
    assert logged["val/clean_accuracy"].item() == pytest.approx(clean)
    assert logged["val/robust_accuracy"].item() == pytest.approx(robust)
    assert logged["val/loss"].item() == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item(), rel=1e-5)


def test_test_equals_a_recomputation_by_hand(trained):
    trainer, module, data, _ = trained
    trainer.test(module, data, verbose=False)
    clean, robust, _ = by_hand(module.net, data.test_set, 40, ATTACK, 3, TEST)
    found = module.test_results
    assert (found["clean_images"], found["robust_images"]) == (len(data.test_set), 40)
    assert found["clean_accuracy"] == pytest.approx(clean)
    assert found["robust_accuracy"] == pytest.approx(robust)


def test_predict_gives_every_test_image_in_order(trained):
    trainer, module, data, _ = trained
    parts = trainer.predict(module, data)
    index = torch.cat([part["index"] for part in parts])
    assert index.tolist() == list(range(len(data.test_set)))
    logits = module.net.eval()(data.test_set.images.float() / 255)
    assert torch.equal(torch.cat([part["predicted"] for part in parts]), logits.argmax(1))
    torch.testing.assert_close(torch.cat([part["probability"] for part in parts]), logits.softmax(1).amax(1))


@pytest.mark.parametrize("images", [1, 30, 10**6])
def test_the_first_val_images_are_attacked(make_module, make_data, make_trainer, images):
    module, data, attacked = make_module(val_images=images), make_data(eval_batch_size=40), []
    attack = module.val_attack

    def spy(net, x, y, keys):
        assert torch.is_inference_mode_enabled()
        attacked.append(keys)
        return attack(net, x, y, keys=keys)

    module.val_attack = spy
    make_trainer(limit_val_batches=1.0).validate(module, data, verbose=False)
    wanted = image_keys(torch.arange(min(images, len(data.val_set))), 0, VAL)
    assert torch.equal(torch.cat(attacked), wanted)


def test_all_test_images_are_attacked_by_default(make_module, make_data, make_trainer):
    module, data = make_module(test_images=None), make_data()
    make_trainer().test(module, data, verbose=False)
    assert module.test_results["robust_images"] == len(data.test_set)


def test_validation_leaves_modes_buffers_and_gradients_as_found(make_module, make_data, make_trainer):
    class Watch(Callback):
        checked = 0

        def state(self, module):
            return {
                "modes": [layer.training for layer in module.net.modules()],
                "values": {name: value.clone() for name, value in module.net.state_dict().items()},
                "grads": [parameter.grad.clone() for parameter in module.net.parameters()],
                "wanted": [parameter.requires_grad for parameter in module.net.parameters()],
            }

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.before = self.state(pl_module)

        def on_validation_start(self, trainer, pl_module):
            for parameter, grad in zip(pl_module.net.parameters(), self.before["grads"], strict=True):
                parameter.grad = grad.clone()  # Lightning drops them before it validates

        def on_train_epoch_end(self, trainer, pl_module):
            torch.testing.assert_close(self.state(pl_module), self.before, rtol=0, atol=0)
            self.checked += 1

    watch, module = Watch(), make_module()
    module.net.block1.bn_a.eval()  # frozen by the user
    make_trainer(watch).fit(module, make_data())
    assert watch.checked == 2
    assert not module.net.block1.bn_a.training


def test_evaluation_draws_nothing_from_the_global_random_state(make_module, make_data, make_trainer):
    module, data = make_module(), make_data()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    make_trainer().test(module, data, verbose=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_view_the_network_itself_is_attacked(make_module):
    module = make_module(attack_view=None)
    assert module.attacked is module.net


def test_evaluations_attack_the_fused_network_which_checkpoints_do_not_hold(make_module, make_data, make_trainer):
    asked = []
    module = make_module(standard=True, val_attack=ATTACK, test_attack=ATTACK)
    assert module.attacked.net is module.net
    module.attacked.register_forward_hook(lambda net, x, y: asked.append(len(x[0])))
    make_trainer().test(module, make_data(), verbose=False)
    assert asked
    module.net = make_module(standard=True).net
    assert module.attacked.net is module.net
    assert not [name for name in (*module.state_dict(), *dict(module.named_modules())) if "attacked" in name]
