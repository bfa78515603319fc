#!/usr/bin/env python3
"""What SnapKV's and TOVA's votes keep of a fact, and what is answered then: a float pass of the model, numpy only, no code shared with the library. The figures
of docs/ops/cache/quality.md.

usage: few_tokens.py MODEL.gguf [SHARE]      answers of eight facts in two contexts of 512 tokens, the question in the prompt; one line for each variant
"""
import json
import sys

import numpy as np

from few_bits import FOLDER, forward, reference, softmax

LENGTH, CONTEXTS, WINDOW = 512, 2, 32


class Prompt:
    """A context and a question, but for the question's last token, which begins the answer: keys, values and queries of every layer, [head][token][channel]."""

    def __init__(self, model, context):
        self.model, self.group, self.layers = model, model.heads // model.kv_heads, []
        self.n = 0
        self.feed(context)

    def copy(self):
        other = object.__new__(Prompt)
        other.__dict__.update(self.__dict__, layers=[list(layer) for layer in self.layers])
        return other

    def feed(self, ids, gone=None):
        """Logits of ids; what is gone of each layer's heads, [head][token], is not attended. `gone` is for tokens that are not kept afterwards."""
        first, kept = self.n, self.layers

        def look(layer, q, k, v):
            mine = [x.swapaxes(0, 1) for x in (k, v, q)]
            if first:
                mine = [np.concatenate([old, new], 1) for old, new in zip(kept[layer], mine)]
            if gone is None:
                kept[layer : layer + 1] = [mine]
            out, behind = np.empty_like(q), np.arange(first + len(ids)) > np.arange(first, first + len(ids))[:, None]
            for h in range(self.model.heads):
                hidden = behind.copy()
                if gone is not None:
                    hidden[:, :first] |= gone[layer][h // self.group]
                out[:, h] = softmax(mine[2][h, first:] / 8 @ mine[0][h // self.group].T, hidden) @ mine[1][h // self.group]
            return out

        logits = forward(self.model, ids, first, look)
        if gone is None:
            self.n += len(ids)
        return logits

    def votes(self, rows):
        """[layer][key head][token]: attention of the last `rows` queries, summed over them and the heads of a group."""
        behind, out = np.arange(self.n) > np.arange(self.n - rows, self.n)[:, None], []
        for k, _, q in self.layers:
            p = [softmax(q[h, self.n - rows :] / 8 @ k[h // self.group].T, behind).sum(0) for h in range(self.model.heads)]
            out.append(np.array(p).reshape(-1, self.group, self.n).sum(1))
        return out

    def snapkv(self, budget, window=WINDOW, kernel=5):
        """What goes: of the tokens before the window all but those of most votes, each the mean of `kernel` neighbours."""
        gone = []
        for layer in self.votes(window):
            rest = np.zeros(layer.shape, bool)
            for r, vote in zip(rest, layer):
                pooled = np.convolve(vote[: self.n - window], np.ones(kernel) / kernel, "same")
                r[np.argsort(-pooled, kind="stable")[budget - window :]] = True
            gone.append(rest)
        return gone

    def tova(self, budget):
        """All heads of a layer keep what the last query looks at most."""
        gone = []
        for layer in self.votes(1):
            rest = np.ones(self.n, bool)
            rest[np.argsort(-layer.sum(0), kind="stable")[:budget]] = False
            rest[-1] = False
            gone.append(np.tile(rest, (len(layer), 1)))
        return gone


def main():
    model, share = reference.Llama(sys.argv[1], np.float32), float(sys.argv[2]) if len(sys.argv) > 2 else 0.25
    trials = []
    for context in [c for c in map(json.loads, (FOLDER / "recall.jsonl").read_text().splitlines()) if c["length"] == LENGTH][:CONTEXTS]:
        text, ids = Prompt(model, context["context_ids"]), context["context_ids"]
        for question in context["questions"]:
            asked, answer = question["ids"], question["answer_ids"]
            fact = next(i for i in range(text.n) if ids[i : i + len(answer)] == answer)
            prompt = text.copy()
            prompt.feed(asked[:-1])
            whole = prompt.copy()
            whole.feed(asked[-1:])
            trials.append((prompt, whole, asked[-1], answer, slice(fact, fact + len(answer))))

    def tell(name, choose, whole=False):
        """`whole`: the question's last token, which begins the answer, has a vote as well."""
        right = digits = tracks = 0
        for prompt, with_last, last, answer, where in trials:
            gone = choose(with_last if whole else prompt, max(int(share * prompt.n + 0.5), 64))
            gone = [g[:, : prompt.n] for g in gone]
            logits = prompt.feed([last, *answer[:-1]], gone)
            right += bool((logits.argmax(-1) == answer).all())
            digits += sum(int((~g[:, where]).all(1).sum()) for g in gone)
            tracks += sum(len(g) for g in gone)
        print(f"{name}: {right} of {len(trials)}, the fact is whole in {100 * digits / tracks:.0f} % of the heads", flush=True)

    tell("everything", lambda p, b: [np.zeros((model.kv_heads, p.n), bool)] * model.layers)
    for kernel in (1, 5, 7, 13, 21):
        tell(f"SnapKV, neighbours {kernel}", lambda p, b: p.snapkv(b, kernel=kernel))
    tell("SnapKV, window 16", lambda p, b: p.snapkv(b, window=16))
    tell("SnapKV, the last token votes too", lambda p, b: p.snapkv(b), True)
    tell("TOVA", lambda p, b: p.tova(b))
    tell("TOVA, the last token votes", lambda p, b: p.tova(b), True)


if __name__ == "__main__":
    main()
