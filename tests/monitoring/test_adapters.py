import sys
import types
import warnings

import pytest
import torch
from transformers import TrainerControl, TrainerState

from interp.errors import ConfigError
from interp.monitoring.huggingface import RecorderCallback
from interp.monitoring.lightning import lightning_callback
from interp.monitoring.records import read_records
from tests.monitoring.conftest import SAID


@pytest.fixture
def arguments(tmp_path):
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(tmp_path / "trainer"), max_steps=4, per_device_train_batch_size=2, report_to="none",
        use_cpu=True, logging_steps=1, save_strategy="no", disable_tqdm=True, learning_rate=1e-3,
        dataloader_pin_memory=False,
    )  # fmt: skip


def data():
    return [{"input_ids": torch.arange(i, i + 6), "labels": torch.arange(i, i + 6)} for i in range(1, 9)]


def test_the_trainer_of_transformers(arguments, llama, tokenizer, probe, tmp_path):
    from transformers import Trainer

    callback = RecorderCallback(probe, out=tmp_path / "out", every=2, max_overhead=1.0, **SAID)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what the trainer itself imports
        trainer = Trainer(llama, arguments, train_dataset=data(), processing_class=tokenizer, callbacks=[callback])
        trainer.train()
    found = read_records(tmp_path / "out")
    assert found.steps[0] == 0
    assert found.steps[-1] == 4
    assert found.about["total"] == 4
    assert found.loss[-1] > 0
    assert found.learning_rate[-1] > 0
    assert not (found.log_odds[0] == found.log_odds[-1]).any()


def test_the_trainer_without_a_tokenizer(arguments, llama, probe, tmp_path):
    callback = RecorderCallback(probe, out=tmp_path, **SAID)
    with pytest.raises(ConfigError, match="no tokenizer; give processing_class"):
        callback.on_train_begin(arguments, TrainerState(), TrainerControl(), model=llama)


def test_lightning_is_asked_for_where_it_is_missing(probe, tokenizer, monkeypatch):
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="pip install lightning"):
        lightning_callback(probe, tokenizer, out="x", **SAID)


def test_a_lightning_callback_is_told_of_steps(llama, tokenizer, probe, tmp_path, monkeypatch):
    class Callback:
        """What Lightning's callbacks come from."""

    stand_in = types.ModuleType("lightning.pytorch")
    stand_in.Callback = Callback
    monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", stand_in)
    callback = lightning_callback(probe, tokenizer, out=tmp_path, every="epoch", max_overhead=1.0, **SAID)
    assert isinstance(callback, Callback)
    trainer = types.SimpleNamespace(estimated_stepping_batches=6, max_epochs=2, global_step=0)
    module = types.SimpleNamespace(model=llama)
    callback.on_train_start(trainer, module)
    for step in range(1, 7):
        trainer.global_step = step
        with torch.no_grad():
            llama.lm_head.weight.add_(0.01)
        callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(0.25)}, None, step)
        callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(0.25)}, None, step)
    callback.on_train_end(trainer, module)
    found = read_records(tmp_path)
    assert {0, 6} <= set(found.steps.tolist()) <= {0, 3, 6}
    assert found.loss[-1] == 0.25
