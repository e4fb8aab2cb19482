#!/usr/bin/env bash
# Lightning: a run that is resumed after an epoch goes through the next epoch's data in the order of epoch 0 if the loader has worker processes.
#
# Expected: a training that was stopped after an epoch and resumed sees the same batches as one that was not stopped: Lightning restores
# the epoch and calls `set_epoch` of a DistributedSampler with it.
# What happens: on resume, Lightning makes the loader's iterator before it calls `set_epoch` and does not make another one. Without workers
# nothing has been read by then. Workers read ahead at once, so that the first batches (all of a short epoch) are those of epoch 0.
# No warning is given. Seen with lightning 2.6.6, torch 2.14.1.
# What to do: use a loader whose iterator starts when its first batch is asked for (a generator function as `__iter__`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q lightning==2.6.6 torch==2.14.1 numpy
cd "$folder"
cat > shown.py <<'PYTHON'
import logging
import sys
import warnings

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset, DistributedSampler

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Numbers(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), {}

    def training_step(self, batch, batch_idx):
        self.seen.setdefault(self.current_epoch, []).extend(batch.tolist())
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(name, epochs, workers, resume=None):
    net, sampler = Net(), DistributedSampler(Numbers(), 1, 0, shuffle=True)
    saved = ModelCheckpoint(name, save_last=True, enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[saved]
    )
    trainer.fit(net, DataLoader(Numbers(), 4, sampler=sampler, num_workers=workers), ckpt_path=resume)
    return net.seen


if __name__ == "__main__":
    print("lightning", lightning.__version__, "torch", torch.__version__)
    wrong = {}
    for workers in (0, 1):
        straight = fit(f"straight{workers}", 2, workers)
        fit(f"cut{workers}", 1, workers)
        resumed = fit(f"cut{workers}", 2, workers, f"cut{workers}/last.ckpt")
        print(f"{workers} workers: epoch 0 {straight[0]}, epoch 1 {straight[1]}, epoch 1 of the resumed run {resumed[1]}")
        wrong[workers] = resumed[1] == straight[0] != straight[1]
    sys.exit(0 if wrong == {0: False, 1: True} else 1)
PYTHON
"$folder/venv/bin/python" shown.py
