#!/usr/bin/env python3
"""generate on SmolLM2-135M-Instruct beside its references in examples/models/smollm2-135m: tokenizer, logits, greedy tokens, perplexity and recall,
with activations in float, in bf16 and in 8 bits. Exit status 77 where scripts/model.sh has not put the model in place.

usage: smollm_check.py --generate PATH
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
REFERENCE = os.path.join(ROOT, "examples", "models", "smollm2-135m")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generate", required=True)
    options = parser.parse_args()
    found = subprocess.run(["bash", os.path.join(ROOT, "scripts", "model.sh"), "--no-download"], capture_output=True, text=True)
    if found.returncode != 0:
        print("the model is not here: scripts/model.sh fetches it")
        return 77
    model = found.stdout.strip()

    def ask(*words):
        done = subprocess.run([options.generate, "--model", model, "--json", *words], capture_output=True, text=True)
        if done.returncode not in (0, 1) or not done.stdout.strip():
            sys.exit(f"generate {' '.join(words)}: {done.stderr.strip()}")
        line = done.stdout.strip().splitlines()[-1]
        return json.loads(line) if line.startswith("{") else {"text": line, "status": done.returncode}

    wrong = []

    def check(name, figure, good):
        print(f"{'holds' if good else 'FALLS SHORT':12} {name}: {figure}")
        if not good:
            wrong.append(name)

    of = lambda name: os.path.join(REFERENCE, name)
    vectors = ask("--tokenize", of("tokens.jsonl"))
    check("tokenizer vectors", vectors["text"], vectors["status"] == 0)
    # The template in the file, as the model's README has it; control tokens that a user writes are plain text: none of ids 0 to 16 comes from them.
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        message = "Is <|im_end|> a word?"
        print(json.dumps({"messages": [{"role": "user", "content": message}]}), file=file, flush=True)
        rendered = ask("--render", file.name)
    ask_for = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\n" + message + "<|im_end|>\n<|im_start|>assistant\n"
    check("chat template", f"{len(rendered['ids'])} tokens", rendered["text"] == ask_for and [i for i in rendered["ids"] if i <= 16] == [1, 2, 1, 2, 1])
    # The table of the model's README: float32 throughout, with room for another order of sums; bf16 inputs, exact weights; and llama.cpp on the same file, which rounds activations to 8 bits.
    lines = {"f32": {"max": 1e-3, "rms": 1e-4, "agree": 1213, "kl": 1e-6}, "bf16": {"max": 0.96, "rms": 0.082, "agree": 1202, "kl": 3.0e-4}, "int8": {"max": 2.9, "rms": 0.31, "agree": 1177, "kl": 5.9e-3}}
    for activations, line in lines.items():
        far = ask("--activations", activations, "--tokens", of("reference.safetensors"))
        good = far["max"] <= line["max"] and far["rms"] <= line["rms"] and far["arg_max_agrees"] >= line["agree"] and far["mean_kl"] <= line["kl"]
        check(f"logits, activations {activations}", f"max {far['max']:.3g}, rms {far['rms']:.3g}, {far['arg_max_agrees']} of {far['positions']}, mean KL {far['mean_kl']:.2e}", good)
        text = ask("--activations", activations, "--eval", of("eval.txt"), "--windows", "32", "--skip", "257")
        # the reference's and half a percent; llama.cpp's on the same file and a tenth of a percent, since both round activations to 8 bits
        most = {"f32": 15.77795 * 1.0001, "bf16": 15.77795 * 1.005, "int8": 15.8620 * 1.001}[activations]
        check(f"perplexity, activations {activations}", f"{text['perplexity']:.4f}, at most {most:.4f}", text["tokens"] == 8160 and text["perplexity"] <= most)
    forced = ask("--greedy", of("greedy.json"))
    # bf16 inputs lose margins up to 0.076 (the model's README), and near-ties are marked up to 0.05: one token lies between
    check("forced greedy tokens", f"{forced['right']} of {forced['checked']}", forced["right"] >= forced["checked"] - 1)
    for attention in ("flash", "hip:1024", "quest:1024"):
        recall = ask("--recall", of("recall.jsonl"), "--context", "8192", "--attention", attention)
        figures = ", ".join(f"{p['right']} of {p['asked']} at {p['up_to']} ({p['reference_right']})" for p in recall["by_length"])
        # Beyond 2,048 tokens a budget of 1,024 keys falls short on this model (docs/generate.md says why): held to what it had.
        held = {"quest:1024": {4096: 7, 8000: 7}, "hip:1024": {4096: 9, 8000: 5}}.get(attention, {})
        check(f"recall, {attention}", figures, all(p["right"] >= held.get(p["up_to"], p["reference_right"] - 1) for p in recall["by_length"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
