"""One training step of the presets in PyTorch f32: the yardstick of `cargo run --release -p neuroshard-benches --bin step`.

    pip install torch
    python benches/peers/torch_step.py [--threads N] [--presets nano,micro,genesis] [--json]

Same shapes, same batch, forward, backward, clipping by global norm and AdamW, in the fastest eager form PyTorch has: fused
normalisation, scaled dot-product attention and the fused optimizer. Prints tokens per second and per CPU-second.
"""

import argparse
import json
import os
import time

# Threads that wait sleep, so that CPU-seconds count work on a busy machine too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

# layers, hidden, heads, key-value heads, feed-forward, batch, sequence: PROTOCOL §13.
PRESETS = {
    "nano": (4, 128, 4, 2, 384, 8, 128),
    "micro": (6, 256, 8, 4, 704, 8, 256),
    "genesis": (11, 512, 16, 4, 2048, 4, 512),
}
VOCAB = 266


class Layer(nn.Module):
    def __init__(self, hidden, heads, kv_heads, ffn):
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, hidden // heads
        self.norm1, self.norm2 = nn.RMSNorm(hidden, eps=1e-6), nn.RMSNorm(hidden, eps=1e-6)
        self.qkv = nn.Linear(hidden, hidden + 2 * kv_heads * self.width, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)
        self.gate_up = nn.Linear(hidden, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, hidden, bias=False)

    def turn(self, x, cosines, sines):
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cosines - b * sines, b * cosines + a * sines), dim=-1)

    def forward(self, x, cosines, sines):
        batch, sequence, hidden = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, sequence, -1, self.width).transpose(1, 2)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        q, k = self.turn(q, cosines, sines), self.turn(k, cosines, sines)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, sequence, hidden))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self, layers, hidden, heads, kv_heads, ffn, sequence):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads, kv_heads, ffn) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(hidden, eps=1e-6), nn.Linear(hidden, VOCAB)
        half = hidden // heads // 2
        angles = torch.arange(sequence)[:, None] * 10_000.0 ** (-torch.arange(half) / half)[None]
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, self.cosines, self.sines)
        return self.head(self.norm(x))


def measure(preset):
    *shape, batch, sequence = PRESETS[preset]
    torch.manual_seed(0)
    model = Model(*shape, sequence)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
    tokens = torch.randint(10, VOCAB, (batch, sequence + 1))

    def step():
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, VOCAB), tokens[:, 1:].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    steps = {"nano": 30, "micro": 6, "genesis": 2}[preset]
    best_wall = best_cpu = float("inf")
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        best_wall = min(best_wall, (time.perf_counter() - wall) / steps)
        best_cpu = min(best_cpu, (time.process_time() - cpu) / steps)
    return batch * sequence / best_wall, batch * sequence / best_cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--presets", default="nano,micro,genesis")
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for preset in arguments.presets.split(","):
        wall, cpu = measure(preset)
        if arguments.json:
            print(json.dumps({"preset": preset, "tokens_per_s": wall, "tokens_per_cpu_s": cpu}), flush=True)
        else:
            print(f"{preset}: {wall:.0f} tokens/s, {cpu:.0f} tokens per CPU-second", flush=True)


if __name__ == "__main__":
    main()
