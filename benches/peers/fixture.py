"""Makes shaders/tests/fixtures/llama64.txt: logits, loss and gradients of a small model in double precision.

    pip install torch numpy safetensors transformers
    python benches/peers/fixture.py > shaders/tests/fixtures/llama64.txt

The model is Hugging Face's Llama, loaded under the names that a checkpoint has, so that the fixture pins both the arithmetic
and the layout. Weights and tokens follow formulas that shaders/tests/mathematics.rs repeats.
"""

import numpy
import torch
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS, HIDDEN, HEADS, KV_HEADS, FFN, CONTEXT, VOCAB = 2, 16, 4, 2, 24, 12, 13
SEQUENCE, SEQUENCES = 12, 2

HEAD_DIM = HIDDEN // HEADS


def stages():
    """Names and shapes of each stage's tensors in canonical order."""
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        kv = KV_HEADS * HEAD_DIM
        first = [("model.embed_tokens.weight", (VOCAB, HIDDEN))] if layer == 0 else []
        yield first + [
            (name + "input_layernorm.weight", (HIDDEN,)),
            (name + "self_attn.q_proj.weight", (HIDDEN, HIDDEN)),
            (name + "self_attn.k_proj.weight", (kv, HIDDEN)),
            (name + "self_attn.v_proj.weight", (kv, HIDDEN)),
            (name + "self_attn.o_proj.weight", (HIDDEN, HIDDEN)),
            (name + "post_attention_layernorm.weight", (HIDDEN,)),
            (name + "mlp.gate_proj.weight", (FFN, HIDDEN)),
            (name + "mlp.up_proj.weight", (FFN, HIDDEN)),
            (name + "mlp.down_proj.weight", (HIDDEN, FFN)),
        ]
    yield [("model.norm.weight", (HIDDEN,)), ("lm_head.weight", (VOCAB, HIDDEN)), ("lm_head.bias", (VOCAB,))]


def weights():
    """The n-th parameter is a hash of n, between -1/4 and 1/4; gains are near 1. Single precision, as the model's own."""
    n, tensors = 0, {}
    for stage in stages():
        for name, shape in stage:
            count = int(numpy.prod(shape))
            index = numpy.arange(n, n + count, dtype=numpy.uint64)
            hashed = (index * 2654435761 + 12345) % 2**32 // 256
            unit = hashed.astype(numpy.float32) / numpy.float32(2**24) - numpy.float32(0.5)
            gain = "norm" in name
            value = numpy.float32(1) + numpy.float32(0.25) * unit if gain else numpy.float32(0.5) * unit
            tensors[name] = torch.from_numpy(value.astype(numpy.float64).reshape(shape))
            n += count
    return tensors


def section(title, values):
    print(f"[{title}]")
    values = values.tolist() if hasattr(values, "tolist") else values
    for start in range(0, len(values), 8):
        print(" ".join(f"{value:.9g}" for value in values[start : start + 8]))


def main():
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-6, tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    assert config.rope_parameters["rope_theta"] == 10_000
    model = LlamaForCausalLM(config).double()
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCAB, dtype=torch.float64))
    model.load_state_dict(weights(), strict=True)

    count = SEQUENCES * SEQUENCE
    tokens = torch.tensor([(i * i * 5 + i * 3 + 1) % VOCAB for i in range(count + 1)])
    inputs, targets = tokens[:-1].view(SEQUENCES, SEQUENCE), tokens[1:]
    logits = model(inputs).logits.reshape(count, VOCAB)
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    loss.backward()

    print("# Made by benches/peers/fixture.py: transformers' Llama in double precision.")
    section("inputs", inputs.flatten())
    section("logits", logits.detach().flatten())
    section("loss", [loss.item()])
    parameters = dict(model.named_parameters())
    for index, stage in enumerate(stages()):
        section(f"gradient {index}", torch.cat([parameters[name].grad.flatten() for name, _ in stage]))


if __name__ == "__main__":
    main()
