"""The command line before it is parsed."""

import pytest
import torch

from lightning_modules.command_line.arguments import resolve


def test_last_if_any_is_the_last_checkpoint_or_a_fresh_start(tmp_path):
    (tmp_path / "net.yaml").write_text("model: {class_path: Net}\n")
    words = ["--config=net.yaml", f"--run.dir={tmp_path}", "--run.name=mine", "--ckpt_path=last_if_any"]
    assert resolve(["fit", *words], [tmp_path])[3:] == words[1:3]
    last = tmp_path / "mine" / "version_0" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    torch.save({"state_dict": {}}, last)
    assert resolve(["fit", *words], [tmp_path])[3:] == [*words[1:3], "--ckpt_path", str(last)]
    last.unlink()
    with pytest.raises(ValueError, match="test needs --ckpt_path"):
        resolve(["test", *words], [tmp_path])
