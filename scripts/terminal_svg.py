#!/usr/bin/env python3
"""Runs a command in a terminal of its own and draws what it left on the screen as an SVG.

usage: terminal_svg.py --out FILE.svg [--shown "words in place of the command"] [--columns 96] COMMAND...
"""
import argparse
import os
import pty
import re
import shlex
import sys
import textwrap
from xml.sax.saxutils import escape

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def screen_of(command):
    parts = []

    def read(descriptor):
        data = os.read(descriptor, 4096)
        parts.append(data)
        return data

    status = os.waitstatus_to_exitcode(pty.spawn(command, read, lambda descriptor: b""))
    lines = []
    for line in ESCAPES.sub("", b"".join(parts).decode("utf-8", "replace").replace("\r\n", "\n")).split("\n"):
        shown = ""
        for piece in line.split("\r"):      # a bar is drawn over itself; what is left is what counts
            shown = piece if piece.strip() else shown if piece == "" else ""
        lines.append(shown.rstrip())
    while lines and not lines[-1]:
        lines.pop()
    return status, lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--shown")
    parser.add_argument("--columns", type=int, default=96)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = [word for i, word in enumerate(options.command) if i > 0 or word != "--"]
    status, lines = screen_of(command)
    if status != 0:
        sys.exit(f"the command ended with {status}: nothing is drawn")
    rows = [("prompt", part) for part in textwrap.wrap("$ " + (options.shown or shlex.join(command)), options.columns, subsequent_indent="    ")]
    for line in lines:
        rows += [("text", part) for part in (textwrap.wrap(line, options.columns) or [""])]
    advance, height, margin = 7.83, 18, 14
    wide, high = options.columns * advance + 2 * margin, len(rows) * height + 2 * margin + 22
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.0f}" height="{high:.0f}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="13">',
           '<rect width="100%" height="100%" rx="8" fill="#1e2127"/>',
           *(f'<circle cx="{18 + 18 * i}" cy="16" r="5" fill="{colour}"/>' for i, colour in enumerate(("#e06c75", "#e5c07b", "#98c379")))]
    for i, (kind, text) in enumerate(rows):
        y = margin + 22 + height * i + 12
        out.append(f'<text x="{margin}" y="{y}" xml:space="preserve" fill="{"#98c379" if kind == "prompt" else "#dcdfe4"}">{escape(text)}</text>')
    with open(options.out, "w") as file:
        file.write("\n".join(out) + "\n</svg>\n")
    print(f"{options.out}: {len(rows)} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
