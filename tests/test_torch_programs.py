"""Short programs as users of PyTorch write them, run with either library from the same weights: the same losses."""

import importlib

import numpy as np
import pytest

pytestmark = pytest.mark.parity

# A program finds ``same(model)``, which gives a model's parameters the same values in both libraries, ``log``, which
# notes numbers, and ``rng``, NumPy's generator.
SEQ2SEQ = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import optim
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

class Encoder(nn.Module):
    def __init__(self, words, size):
        super().__init__()
        self.embedding = nn.Embedding(words, size)
        self.gru = nn.GRU(size, size, batch_first=True)

    def forward(self, x):
        return self.gru(self.embedding(x))

class Decoder(nn.Module):
    def __init__(self, size, words):
        super(Decoder, self).__init__()
        self.embedding = nn.Embedding(words, size)
        self.query, self.key, self.score = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, 1)
        self.gru, self.out = nn.GRU(2 * size, size, batch_first=True), nn.Linear(size, words)

    def forward(self, memory, hidden, target):
        word = torch.empty(memory.size(0), 1, dtype=torch.long).fill_(0)
        outputs = []
        for k in range(target.size(1)):
            scores = self.score(torch.tanh(self.query(hidden.permute(1, 0, 2)) + self.key(memory)))
            weights = F.softmax(scores.squeeze(2).unsqueeze(1), dim=-1)
            x = torch.cat((self.embedding(word), torch.bmm(weights, memory)), dim=2)
            output, hidden = self.gru(x, hidden)
            outputs.append(self.out(output))
            if k % 2:  # no teacher: the decoder's own word
                _, best = outputs[-1].topk(1)
                word = best.squeeze(-1).detach()
            else:
                word = target[:, k].unsqueeze(1)
        return F.log_softmax(torch.cat(outputs, dim=1), dim=-1)

pairs = rng.integers(2, 12, (24, 6)).astype("int32")
data = TensorDataset(torch.LongTensor(pairs), torch.LongTensor(pairs[:, ::-1].copy()))
encoder, decoder = same(Encoder(12, 16)), same(Decoder(16, 12))
optimizers = [optim.Adam(m.parameters(), lr=0.01) for m in (encoder, decoder)]
criterion = nn.NLLLoss()
for epoch in range(2):
    for x, t in DataLoader(data, sampler=SequentialSampler(data), batch_size=8):
        for o in optimizers:
            o.zero_grad()
        y = decoder(*encoder(x), t)
        loss = criterion(y.view(-1, y.size(-1)), t.view(-1))
        loss.backward()
        for o in optimizers:
            o.step()
        log(loss.item())
"""

GAN = """
import torch
import torch.nn as nn
import torch.optim as optim
from torch.autograd import Variable

torch.backends.cudnn.deterministic = True
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
netG = nn.Sequential(
    nn.ConvTranspose2d(6, 8, 4, 1, 0, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
    nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True),
    nn.ConvTranspose2d(4, 1, 4, 2, 1, bias=False), nn.Tanh(),
)
netD = nn.Sequential(
    nn.Conv2d(1, 4, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
    nn.Conv2d(4, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2, inplace=True),
    nn.Conv2d(8, 1, 4, 1, 0, bias=False), nn.Sigmoid(),
)

def weights_init(m):
    name = m.__class__.__name__
    if name.find("Conv") != -1:
        nn.init.normal_(m.weight.data, 0.0, 0.02)
    elif name.find("BatchNorm") != -1:
        nn.init.normal_(m.weight.data, 1.0, 0.02)
        nn.init.constant_(m.bias.data, 0)

for net in (netG, netD):
    net.apply(weights_init)
    same(net).to(device)
criterion = nn.BCELoss()
optD = optim.Adam(netD.parameters(), lr=0.002, betas=(0.5, 0.999))
optG = optim.Adam(netG.parameters(), lr=0.002, betas=(0.5, 0.999))
for step in range(5):
    real = Variable(torch.from_numpy(rng.normal(size=(4, 1, 16, 16))).float())
    noise = torch.FloatTensor(rng.normal(size=(4, 6, 1, 1)))
    label = torch.full((4,), 1.0, device=device)
    netD.zero_grad()
    fake = netG(noise)
    errD = criterion(netD(real).view(-1), label) + criterion(netD(fake.detach()).view(-1), torch.zeros_like(label))
    errD.backward()  # one backward through two passes of the same batch norm
    optD.step()
    netG.zero_grad()
    errG = criterion(netD(fake).view(-1), label.fill_(1))
    errG.backward()
    optG.step()
    log(errD.item(), errG.item())
log(*[b.double().mean() for b in netD.buffers()])
"""

BAG = """
import torch
from torch import nn
from torch.utils.data import DataLoader
from torch.optim.lr_scheduler import StepLR

class Classifier(nn.Module):
    def __init__(self, words, size, classes):
        super().__init__()
        self.embedding = nn.EmbeddingBag(words, size, sparse=False)
        self.fc = nn.Linear(size, classes)
        self.embedding.weight.data.uniform_(-0.5, 0.5)
        self.fc.bias.data.zero_()

    def forward(self, text, offsets):
        return self.fc(self.embedding(text, offsets))

def collate(batch):
    labels = torch.tensor([label for label, _ in batch], dtype=torch.int64)
    texts = [torch.tensor(words, dtype=torch.int64) for _, words in batch]
    offsets = torch.tensor([0] + [t.size(0) for t in texts][:-1]).cumsum(dim=0)
    return labels, torch.cat(texts), offsets

data = [(int(rng.integers(3)), rng.integers(0, 30, rng.integers(2, 9)).tolist()) for _ in range(40)]
model = same(Classifier(30, 8, 3))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
scheduler = StepLR(optimizer, 1, gamma=0.1)
for epoch in range(3):
    right = 0
    for labels, text, offsets in DataLoader(data, batch_size=8, shuffle=False, collate_fn=collate):
        optimizer.zero_grad()
        predicted = model(text, offsets)
        loss = criterion(predicted, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        right += (predicted.argmax(1) == labels).sum().item()
        log(loss.item())
    log(right / len(data), optimizer.param_groups[0]["lr"])
    scheduler.step()
"""


def run(program: str, library: str) -> list[float]:
    """The numbers that a program notes when ``torch`` in its imports means this library."""
    source = program.replace("import torch.", f"import {library}.").replace("from torch", f"from {library}")
    source = source.replace("import torch\n", f"import {library} as torch\n")
    lib, rng, found = importlib.import_module(library), np.random.default_rng(0), []

    def same(model):
        values = np.random.default_rng(1)
        with lib.no_grad():
            for p in model.parameters():
                p.copy_(lib.from_numpy(values.uniform(-0.4, 0.4, tuple(p.shape)).astype("float32")))
        return model

    exec(source, {"same": same, "rng": rng, "log": lambda *numbers: found.extend(map(float, numbers))})
    return found


@pytest.mark.parametrize("program", [SEQ2SEQ, GAN, BAG], ids=["seq2seq", "gan", "bag"])
def test_same_losses(program):
    pytest.importorskip("torch")
    mine, theirs = run(program, "tensorlite"), run(program, "torch")
    assert len(mine) > 5 and max(mine) - min(mine) > 1e-2
    np.testing.assert_allclose(mine, theirs, 1e-3, 1e-5)
    assert run(program, "tensorlite") == mine
