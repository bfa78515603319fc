"""Recorded routing: what hidden states of a real model make of synthetic routers.

    routing.py MODEL.gguf IDS.json OUT.bin [LAYER]

MODEL is a Llama-architecture GGUF file of Q4_1, Q8_0 and F32 tensors (SmolLM2-135M-Instruct was taken), IDS.json a list of lists of token
ids or of {"ids": ...}. The rows are the normalized inputs of layer LAYER's feed-forward (default: the middle layer), what a router would read.

A router of 16 experts is a random matrix on the whitened rows; a bias per expert then shapes the loads of a choice of two: shares after a
Zipf law of exponent 0, 0.5, 1 and 1.5, found by the sign rule, and all tokens to one expert. Ids are by a stable descending sort of
logit + bias. OUT: int32 tokens, experts, choices, traces; float32 logits [tokens][experts]; for each trace float32 exponent (-1: all to
one), float32 bias [experts], uint8 ids [tokens][choices]. Little endian. Needs numpy.
"""
import json
import struct
import sys

import numpy as np

BLOCKS = {0: (1, 4), 3: (32, 20), 8: (32, 34)}      # F32, Q4_1, Q8_0: values and bytes of a block
WIDTH = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
FORMAT = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_gguf(path):
    data = np.memmap(path, np.uint8, "r")
    at = 0

    def number(form):
        nonlocal at
        value, = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value

    def text():
        nonlocal at
        size = number("Q")
        at += size
        return bytes(data[at - size:at]).decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            kind, count = number("I"), number("Q")
            return [value(kind) for _ in range(count)]
        return number(FORMAT[kind])

    assert number("I") == 0x46554747 and number("I") == 3
    tensors, keys = number("Q"), number("Q")
    meta = {}
    for _ in range(keys):
        name = text()
        meta[name] = value(number("I"))
    infos = []
    for _ in range(tensors):
        name = text()
        shape = [number("Q") for _ in range(number("I"))][::-1]
        infos.append((name, shape, number("I"), number("Q")))
    base = -(-at // meta.get("general.alignment", 32)) * meta.get("general.alignment", 32)

    def tensor(shape, kind, offset):
        values, size = BLOCKS[kind]
        raw = np.array(data[base + offset:base + offset + int(np.prod(shape)) // values * size])
        if kind == 0:
            return raw.view(np.float32).reshape(shape)
        raw = raw.reshape(-1, size)
        if kind == 8:
            return (raw[:, :2].copy().view(np.float16).astype(np.float32) * raw[:, 2:].view(np.int8)).reshape(shape)
        d = raw[:, :4].copy().view(np.float16).astype(np.float32)
        return (d[:, :1] * np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], 1) + d[:, 1:]).reshape(shape)

    return meta, {name: (lambda s=shape, k=kind, o=offset: tensor(s, k, o)) for name, shape, kind, offset in infos}


def hidden_rows(meta, weight, ids, last):
    key = lambda name: meta["llama." + name]
    heads, groups, dim = key("attention.head_count"), key("attention.head_count_kv"), key("embedding_length")
    size, count = dim // heads, len(ids)
    turn = np.arange(count)[:, None] * key("rope.freq_base") ** (-np.arange(0, size, 2) / size)
    norm = lambda v, name: v / np.sqrt((v * v).mean(-1, keepdims=True) + key("attention.layer_norm_rms_epsilon")) * weight[name]()

    def rotate(v):
        even, odd, c, s = v[..., 0::2], v[..., 1::2], np.cos(turn)[:, None], np.sin(turn)[:, None]
        out = np.empty_like(v)
        out[..., 0::2], out[..., 1::2] = even * c - odd * s, even * s + odd * c
        return out

    x = weight["token_embd.weight"]()[ids]
    for layer in range(last + 1):
        w = lambda name: weight[f"blk.{layer}.{name}.weight"]().T
        h = norm(x, f"blk.{layer}.attn_norm.weight")
        q, k = rotate((h @ w("attn_q")).reshape(count, heads, size)), rotate((h @ w("attn_k")).reshape(count, groups, size))
        v = (h @ w("attn_v")).reshape(count, groups, size)
        seen = np.tril(np.ones((count, count), bool))
        out = np.empty_like(q)
        for head in range(heads):
            s = np.where(seen, q[:, head] @ k[:, head * groups // heads].T / np.sqrt(size), -np.inf)
            p = np.exp(s - s.max(-1, keepdims=True))
            out[:, head] = p @ v[:, head * groups // heads] / p.sum(-1, keepdims=True)
        x = x + out.reshape(count, dim) @ w("attn_output")
        h = norm(x, f"blk.{layer}.ffn_norm.weight")
        if layer == last:
            return h
        g = h @ w("ffn_gate")
        x = x + (g / (1 + np.exp(-g)) * (h @ w("ffn_up"))) @ w("ffn_down")


def main():
    meta, weight = read_gguf(sys.argv[1])
    layer = int(sys.argv[4]) if len(sys.argv) > 4 else meta["llama.block_count"] // 2
    lists = [entry["ids"] if isinstance(entry, dict) else entry for entry in json.load(open(sys.argv[2]))]
    rows = np.concatenate([hidden_rows(meta, weight, ids, layer) for ids in lists])[:768].astype(np.float64)
    experts, choices, tokens = 16, 2, len(rows)
    random = np.random.default_rng(20260904)
    rows = (rows - rows.mean(0)) / (rows.std(0) + 1e-6)
    logits = (rows @ random.normal(size=(rows.shape[1], experts)) / np.sqrt(rows.shape[1])).astype(np.float32)
    best = lambda bias: np.argsort(-(logits + bias.astype(np.float32)), axis=1, kind="stable")[:, :choices]
    with open(sys.argv[3], "wb") as out:
        out.write(struct.pack("<4i", tokens, experts, choices, 5) + logits.astype("<f4").tobytes())
        for exponent in (0.0, 0.5, 1.0, 1.5, -1.0):
            bias = np.zeros(experts, np.float32)
            if exponent < 0:
                bias[3] = 100
            else:
                share = np.arange(1, experts + 1) ** -exponent
                want = np.minimum(share / share.sum() * tokens * choices, tokens)      # an expert gets a token once
                for turn in range(4000):
                    load = np.bincount(best(bias).ravel(), minlength=experts)
                    bias += np.float32(0.05 * 0.9985 ** turn) * np.sign(want - load).astype(np.float32)
            ids = best(bias)
            print(exponent, np.bincount(ids.ravel(), minlength=experts))
            out.write(struct.pack("<f", exponent) + bias.astype("<f4").tobytes() + ids.astype(np.uint8).tobytes())


main()
