#!/usr/bin/env python3
"""What MiKV and KIVI cost by their definitions: a float pass of the model, numpy only, no code shared with the library. The figures of docs/ops/cache/quality.md.

usage: few_bits.py MODEL.gguf      bits per byte of the 256 tokens behind a prompt of 768, one line for each variant
"""
import re
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[1] / "models/smollm2-135m"
sys.path.insert(0, str(FOLDER))
import reference  # noqa: E402

PROMPT, WINDOW = 768, 1024


class Tokens:
    """Byte pairs of the model file; digits stand alone. Enough for the text that is scored."""

    def __init__(self, meta):
        self.words, merges = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.merges"]
        self.ids, self.rank = {w: i for i, w in enumerate(self.words)}, {tuple(m.split(" ")): i for i, m in enumerate(merges)}
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [b for b in range(256) if b not in shown]
        self.letter = {**{b: chr(b) for b in shown}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}
        self.byte = {c: b for b, c in self.letter.items()}

    def encode(self, text):
        out = []
        for part in re.split(r"(\d)", text):
            for word in re.findall(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+", part):
                pieces = [self.letter[b] for b in word.encode()]
                while len(pieces) > 1:
                    best, i = min((self.rank.get((pieces[i], pieces[i + 1]), 1 << 30), i) for i in range(len(pieces) - 1))
                    if best == 1 << 30:
                        break
                    pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
                out += [self.ids[p] for p in pieces]
        return out

    def size(self, i):
        return len(bytes(self.byte[c] for c in self.words[i]))


def forward(model, ids, first, attend):
    """Logits of ids from position `first` on; attend(layer, q, k, v): [token][head][channel]."""
    x = model.w["token_embd.weight"][ids]
    for l in range(model.layers):
        w = lambda name: model.w[f"blk.{l}.{name}.weight"]
        h = model.norm(x, w("attn_norm"))
        q, k, v = ((h @ w(f"attn_{n}").T).reshape(len(ids), -1, model.head_dim) for n in "qkv")
        x = x + attend(l, model.rotate(q, first), model.rotate(k, first), v).reshape(len(ids), -1) @ w("attn_output").T
        h = model.norm(x, w("ffn_norm"))
        g = h @ w("ffn_gate").T
        x = x + (g / (1 + np.exp(-g)) * (h @ w("ffn_up").T)) @ w("ffn_down").T
    return model.norm(x, model.w["output_norm.weight"]) @ model.head.T


def softmax(s, hidden):
    s = np.where(hidden, -np.inf, s)
    p = np.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def through_codes(x, bits, group):
    """Groups of neighbouring numbers of the last axis: scale and least as fp16, the nearest code."""
    if bits is None or x.size == 0:
        return x
    y = x.reshape(*x.shape[:-1], -1, group)
    most = 2**bits - 1
    scale = ((y.max(-1, keepdims=True) - y.min(-1, keepdims=True)) / most).astype(np.float16).astype(np.float32)
    least = y.min(-1, keepdims=True).astype(np.float16).astype(np.float32)
    code = np.clip(np.rint((y - least) / np.where(scale > 0, scale, 1)), 0, most)
    return (least + scale * code).reshape(x.shape)


class Trial:
    def __init__(self, model, tokens):
        self.model, self.group = model, model.heads // model.kv_heads
        self.ids = tokens.encode((FOLDER / "eval.txt").read_text())[:WINDOW]
        self.bytes = sum(tokens.size(i) for i in self.ids[PROMPT:])
        self.keys, self.values, self.gained, self.reach = [], [], [], []      # of each layer: [head][token][channel]; attention had, balance

        def look(layer, q, k, v):
            out, gained = np.empty_like(q), np.zeros((model.kv_heads, PROMPT))
            for h in range(model.heads):
                p = softmax(q[:, h] @ k[:, h // self.group].T / 8, np.triu(np.ones((PROMPT, PROMPT), bool), 1))
                out[:, h], gained[h // self.group] = p @ v[:, h // self.group], gained[h // self.group] + p.sum(0)
            self.keys.append(k.swapaxes(0, 1)), self.values.append(v.swapaxes(0, 1)), self.gained.append(gained)
            self.reach.append(np.sqrt(np.abs(q).max(0).reshape(model.kv_heads, self.group, -1).max(1) / np.abs(k).max(0)))
            return out

        self.last = forward(model, self.ids[:PROMPT], 0, look)[-1:]

    def bits_per_byte(self, attend):
        logits = np.concatenate([self.last, forward(self.model, self.ids[PROMPT:], PROMPT, attend)[:-1]]).astype(np.float64)
        loss = reference.logsumexp(logits) - logits[np.arange(len(logits)), self.ids[PROMPT:]]
        return loss.sum() / np.log(2) / self.bytes

    def heads(self, q, each):
        """each(key head, its queries over 8): what a query head gets."""
        out = np.empty_like(q)
        for h in range(self.model.heads):
            out[:, h] = each(h // self.group, q[:, h] / 8)
        return out

    def mikv(self, share, keys=None, values=None, group=32, balanced=True, evicts=False):
        """H2O's choice (half newest, half with the most attention) stays; the rest goes, or loses bits by token."""
        budget, behind = int(share * PROMPT + 0.5), np.arange(WINDOW) > np.arange(PROMPT, WINDOW)[:, None]
        low, gone = [], []
        for k, v, gained, reach in zip(self.keys, self.values, self.gained, self.reach):
            rest = np.ones(gained.shape, bool)
            rest[:, PROMPT - budget // 2 :] = False
            for r, had in zip(rest, gained):
                r[np.argsort(-had[: PROMPT - budget // 2], kind="stable")[: budget - budget // 2]] = False
            b = np.clip(reach, 2.0**-8, 2.0**8).astype(np.float32)[:, None] if balanced else np.float32(1)
            low.append((np.where(rest[..., None], through_codes(k * b, keys, group) / b, k), np.where(rest[..., None], through_codes(v, values, group), v)))
            gone.append(rest)

        def attend(layer, q, k, v):
            def each(h, mine):
                hidden = behind.copy()
                if evicts:
                    hidden[:, :PROMPT] |= gone[layer][h]
                return softmax(mine @ np.concatenate([low[layer][0][h], k[:, h]]).T, hidden) @ np.concatenate([low[layer][1][h], v[:, h]])

            return self.heads(q, each)

        return self.bits_per_byte(attend)

    def kivi(self, keys=None, values=None, group=32, residual=32):
        """Keys by channel in groups of tokens, values by token; step by step, the newest as they are."""
        coded, of_keys = PROMPT - PROMPT % residual, []
        for t in range(PROMPT, WINDOW):
            coded = t if t - coded == residual else coded
            of_keys.append(coded)
        token = np.arange(WINDOW)
        key_coded, value_coded = token < np.array(of_keys)[:, None], token < np.arange(PROMPT + 1, WINDOW + 1)[:, None] - residual
        behind = token > np.arange(PROMPT, WINDOW)[:, None]

        def attend(layer, q, k, v):
            def each(h, mine):
                all_k, all_v = np.concatenate([self.keys[layer][h], k[:, h]]), np.concatenate([self.values[layer][h], v[:, h]])
                p = softmax(np.where(key_coded, mine @ through_codes(all_k.T, keys, group), mine @ all_k.T), behind)
                return (p * value_coded) @ through_codes(all_v, values, group) + (p * ~value_coded) @ all_v

            return self.heads(q, each)

        return self.bits_per_byte(attend)


def main():
    model = reference.Llama(sys.argv[1], np.float32)
    trial = Trial(model, Tokens(model.meta))
    print(f"dense {trial.kivi():.4f}", flush=True)
    for share in (0.25, 0.125):
        print(f"evicted as H2O does, {share}: {trial.mikv(share, evicts=True):.4f}", flush=True)
        for how in ({}, {"values": None}, {"keys": None}, {"balanced": False}, {"group": 16}, {"keys": 3, "values": 3}, {"keys": 4, "values": 4}):
            print(f"MiKV, {share}, {how or 'two bits'}: {trial.mikv(share, **{'keys': 2, 'values': 2, **how}):.4f}", flush=True)
    for how in ({}, {"values": None}, {"keys": None}, {"residual": 128}, {"group": 16}, {"keys": 3, "values": 3}, {"keys": 4, "values": 4}):
        print(f"KIVI, {how or 'two bits'}: {trial.kivi(**{'keys': 2, 'values': 2, **how}):.4f}", flush=True)


if __name__ == "__main__":
    main()
