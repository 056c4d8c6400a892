"""A training script as people write it, with a few places to change it."""

from __future__ import annotations

from pathlib import Path

SCRIPT = """\
import argparse

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset


class Clips(Dataset):
    def __init__(self, count):
        draw = torch.Generator().manual_seed(1)
        patterns = torch.randn(8, 6, generator=draw)
        self.items = []
        for index in range(count):
            target = torch.randint(1, 8, (2 + index % 3,), generator=draw)
            features = patterns[target.repeat_interleave(4)]
            self.items.append((features + 0.1 * torch.randn(features.shape, generator=draw), target))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def collate(items):
    items = sorted(items, key=lambda item: -len(item[0]))
    features, targets = zip(*items)
    frames = torch.tensor([len(one) for one in features])
    return pad_sequence(features, batch_first=True), frames, torch.cat(targets), torch.tensor([len(one) for one in targets])


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(6, 24, bidirectional=True, batch_first=True)
        self.out = nn.Linear(48, 8)

    def forward(self, features):
        return self.out(self.rnn(features)[0])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    network = Network().cuda()
    train = DataLoader(Clips(40), batch_size=4, shuffle=True, collate_fn=collate, num_workers=2)
    valid = DataLoader(Clips(40), batch_size=8, collate_fn=collate)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    criterion = nn.CTCLoss()
    for epoch in range(options.epochs):
        network.train()
        for features, frames, targets, lengths in train:
            optimizer.zero_grad()
            logits = network(features.to("cuda"))
            loss = criterion(logits.log_softmax(2).transpose(0, 1), targets, frames, lengths)
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            for features, frames, targets, lengths in valid:
                logits = network(features.to("cuda"))
        torch.save(network.state_dict(), "best.pt")


if __name__ == "__main__":
    main()
"""


def written(folder: Path, *edits: tuple[str, str], name: str = "train.py") -> Path:
    """The script in `folder`, with what stands in it once replaced."""
    text = SCRIPT
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
