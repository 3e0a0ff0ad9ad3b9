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


def test_a_run_goes_on_from_the_checkpoint_before_one_that_is_cut_short(tmp_path, capsys):
    (tmp_path / "net.yaml").write_text("model: {class_path: Net}\n")
    words = ["--config=net.yaml", f"--run.dir={tmp_path}", "--run.name=mine", "--ckpt_path=last"]
    folders = [tmp_path / "mine" / f"version_{k}" / "checkpoints" for k in (0, 1)]
    for folder in folders:
        folder.mkdir(parents=True)
        torch.save({"state_dict": {}}, folder / "last.ckpt")
    cut, best = folders[1] / "last.ckpt", folders[1] / "best-epoch=1.ckpt"
    torch.save({"state_dict": {}}, best)
    cut.write_bytes(cut.read_bytes()[:200])
    for expected in (best, folders[0] / "last.ckpt"):
        assert resolve(["fit", *words], [tmp_path])[-1] == str(expected)
        told = capsys.readouterr().err
        assert (
            f"refused: {cut} is not a readable checkpoint: it is cut short" in told and f"before it: {expected}" in told
        )
        torch.save([1], best)  # another program's file
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        resolve(["test", *words], [tmp_path])
    torch.save([1], folders[0] / "last.ckpt")
    with pytest.raises(ValueError, match=f"{cut} is not a readable checkpoint"):
        resolve(["fit", *words], [tmp_path])
