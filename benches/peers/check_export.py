"""Holds an export against Hugging Face: `transformers` must compute the same logits, `tokenizers` the same tokens.

    cargo build --release
    target/release/neuroshard export my-model
    pip install torch transformers tokenizers safetensors
    python benches/peers/check_export.py my-model

Logits: at every position of some text that the model was not trained on, ours (singles whose operands are rounded to
bfloat16) against those of `LlamaForCausalLM` (singles throughout, with the export's bias put in). The largest difference must
be at most 2 % of the largest logit, and the likeliest token the same at 99 of 100 positions. What a loader gets that leaves
out the bias is shown beside it. Tokens: random text, text that spells special tokens, and every byte. Ends with 1 if
anything differs.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy
import tokenizers
import torch
import transformers
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIFFERENCE_MAX, AGREEMENT_MIN = 2e-2, 0.99
# A byte's token is ten more than the byte: PROTOCOL §7.
FIRST_BYTE, BOS, EOS = 10, 1, 2


def encode(text):
    return [FIRST_BYTE + byte for byte in text.encode()]


def our_logits(program, model, tokens, sequence):
    """[tokens, vocabulary], the context forgotten after each sequence."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = pathlib.Path(folder, "tokens"), pathlib.Path(folder, "logits")
        numpy.array(tokens, dtype="<u2").tofile(given)
        subprocess.run([program, "logits", model, given, made, "--sequence", str(sequence)], check=True)
        return torch.from_numpy(numpy.fromfile(made, dtype="<f4").reshape(len(tokens), -1).copy())


def their_logits(model, tokens, sequence):
    rows = [model(torch.tensor([tokens[at : at + sequence]])).logits[0] for at in range(0, len(tokens), sequence)]
    return torch.cat(rows)


def compare(name, ours, theirs):
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    agreement = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    print(f"{name:<22} max |difference| / max |logit| = {difference:.2e}, same likeliest token at {agreement:.2%}")
    return difference <= DIFFERENCE_MAX and agreement >= AGREEMENT_MIN


def check_logits(program, folder, texts, sequence):
    tokens = [token for text in texts for token in encode(pathlib.Path(text).read_text())]
    ours = our_logits(program, folder, tokens, sequence)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(model) is transformers.LlamaForCausalLM, type(model)
    bias = load_file(pathlib.Path(folder, "model.safetensors")).get("lm_head.bias")
    targets = torch.tensor(tokens[1:] + [EOS])
    loss = torch.nn.functional.cross_entropy(ours, targets).item()
    print(f"{len(tokens)} tokens in sequences of {sequence}, {loss:.3f} nats a token, largest logit {ours.abs().max():.2f}")
    if bias is None:
        return compare("as loaded", ours, their_logits(model, tokens, sequence))
    print(f"the head has a bias of up to {bias.abs().max():.3f}")
    compare("without the bias", ours, their_logits(model, tokens, sequence))
    model.lm_head.bias = torch.nn.Parameter(bias)
    return compare("with the bias", ours, their_logits(model, tokens, sequence))


def random_texts():
    draw = random.Random(7)
    for limit in (0x7F, 0x7FF, 0xFFFF, 0x10FFFF):
        for _ in range(200):
            points = (draw.randrange(limit + 1) for _ in range(draw.randrange(40)))
            yield "".join(chr(point) for point in points if not 0xD800 <= point <= 0xDFFF)


def check_tokens(folder):
    raw = tokenizers.Tokenizer.from_file(str(pathlib.Path(folder, "tokenizer.json")))
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    names = [raw.id_to_token(token) for token in range(FIRST_BYTE)]
    spelled = [f"a{name}b {name}" for name in names] + ["<s></s><pad><|endoftext|>[UNK]"]
    wrong = count = 0
    for text in ["", " ", "  leading and trailing  ", "\r\n\t\0", *spelled, *random_texts()]:
        count += 1
        wanted = encode(text)
        framed = [BOS, *wanted, EOS, 0, 3, 4, 9]
        right = (
            raw.encode(text).ids == wanted
            and loaded(text).input_ids == wanted
            and raw.decode(wanted) == text
            and loaded.decode(wanted) == text
            and raw.decode(framed, skip_special_tokens=False) == text
            and loaded.decode(framed) == text
        )
        if not right:
            wrong += 1
            print(f"otherwise: {text!r} is {raw.encode(text).ids} and {loaded(text).input_ids}, not {wanted}")
    # Bytes that are no text at all.
    draw = random.Random(8)
    for _ in range(400):
        count += 1
        some = bytes(draw.randrange(256) for _ in range(draw.randrange(20)))
        tokens = [FIRST_BYTE + byte for byte in some]
        if raw.decode(tokens) != some.decode(errors="replace"):
            wrong += 1
            print(f"otherwise: {some!r} decodes to {raw.decode(tokens)!r}")
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id, len(loaded)) == (BOS, EOS, 0, 266)
    print(f"{count} texts, {wrong} of them encoded or decoded otherwise")
    return wrong == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a directory that `neuroshard export` wrote")
    parser.add_argument("--program", default=ROOT / "target/release/neuroshard", help="neuroshard itself")
    parser.add_argument("--sequence", type=int, default=128, help="tokens in a context [default: 128]")
    parser.add_argument("--text", nargs="+", default=sorted(ROOT.glob("benches/peers/*.py")),
                        help="text the model was not trained on [default: these scripts]")  # fmt: skip
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        logits = check_logits(arguments.program, arguments.model, arguments.text, arguments.sequence)
    tokens = check_tokens(arguments.model)
    print("the export agrees" if logits and tokens else "the export DIFFERS")
    sys.exit(0 if logits and tokens else 1)


if __name__ == "__main__":
    main()
