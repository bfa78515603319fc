#!/usr/bin/env python3
"""The code on the pages is code that compiles, and the links lead somewhere.

    snippets_test.py [--root FOLDER]        checks README.md, CONTRIBUTING.md, CHANGELOG.md and everything under docs/
    snippets_test.py --fix                  writes the text of the files into the pages
    snippets_test.py --self-test            shows that each kind of fault is found

A block of code is tagged on the line before its fence:
    <!-- from FILE:MARKER -->   it is the text between two lines `// [MARKER]` (or `# [MARKER]`) of FILE, less the indentation
                                that all its lines share
    <!-- in FILE -->            it stands in FILE as it is, in successive lines, less an indentation that all of them share
Every block of C++ or CUDA needs a tag. Relative links must name a file or folder of the project, and a heading where they
have a #fragment.
"""
import argparse
import pathlib
import re
import sys
import tempfile
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[2]
TAG = re.compile(r"^<!-- (from|in) (\S+?)(?::([^>]+?))? -->$")
FENCE = re.compile(r"^( *)(`{3,})(\w*)\s*$")
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
COMPILED = {"cpp", "c++", "cxx", "cu", "cuda", "cuh", "hpp"}


def pages_of(root):
    return [p for p in (root / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")) if p.exists()] + sorted((root / "docs").rglob("*.md"))


def marked(text, marker):
    """The lines between the two marker lines, or a reason why there are none."""
    lines = text.splitlines()
    at = [i for i, line in enumerate(lines) if re.fullmatch(r"\s*(//|#) \[" + re.escape(marker) + r"\]", line)]
    if len(at) != 2:
        return None, f"has {len(at)} lines [{marker}], two are needed"
    return textwrap.dedent("\n".join(lines[at[0] + 1: at[1]])).strip("\n"), ""


def contains(text, block):
    """Whether the block's lines follow one another in the text, all moved by the same indentation."""
    have, want = text.splitlines(), block.splitlines()
    if not want:
        return False
    for i in range(len(have) - len(want) + 1):
        if have[i].lstrip() == want[0].lstrip() and textwrap.dedent("\n".join(have[i: i + len(want)])) == textwrap.dedent(block):
            return True
    return False


def blocks_of(lines):
    """(tag or None, line number of the fence, language, first line inside, one past the last) of each fenced block."""
    i = 0
    while i < len(lines):
        fence = FENCE.match(lines[i])
        if fence:
            end = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == fence[2]), len(lines))
            tag = TAG.match(lines[i - 1].strip()) if i else None
            yield tag, i, fence[3], i + 1, end
            i = end
        i += 1


def anchors_of(page):
    found = set()
    inside = False
    for line in page.read_text().splitlines():
        inside ^= line.startswith("```")
        heading = re.match(r"#+ +(.*)", line)
        if heading and not inside:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            found.add(re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-"))
    return found


def check_page(page, root, fix):
    faults = []
    lines = page.read_text().splitlines()
    where = page.relative_to(root)
    tags_used = set()
    changes = []
    for tag, fence, language, first, last in blocks_of(lines):
        if tag is None:
            if language in COMPILED:
                faults.append(f"{where}:{fence + 1}: a block of {language} without a tag: code on a page is cut from a file that compiles")
            continue
        tags_used.add(fence - 1)
        file = root / tag[2]
        if not file.is_file():
            faults.append(f"{where}:{fence}: there is no {tag[2]}")
            continue
        block = "\n".join(lines[first:last])
        if tag[1] == "in":
            if not contains(file.read_text(), block):
                faults.append(f"{where}:{fence}: these lines do not stand in {tag[2]}")
            continue
        if tag[3] is None:
            faults.append(f"{where}:{fence}: a tag 'from' names FILE:MARKER")
            continue
        text, why = marked(file.read_text(), tag[3])
        if text is None:
            faults.append(f"{where}:{fence}: {tag[2]} {why}")
        elif text != block:
            if fix:
                changes.append((first, last, text.splitlines()))
            else:
                faults.append(f"{where}:{fence}: differs from {tag[2]} [{tag[3]}]: run tests/docs/snippets_test.py --fix")
    inside = False
    for i, line in enumerate(lines):
        if FENCE.match(line):
            inside = not inside
        if inside:
            continue
        if TAG.match(line.strip()) and i not in tags_used:
            faults.append(f"{where}:{i + 1}: no block of code follows this tag")
        for target in LINK.findall(re.sub(r"`[^`]*`", "", line)):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, fragment = target.partition("#")
            to = (page.parent / path).resolve() if path else page
            if not to.exists() or not to.is_relative_to(root):
                faults.append(f"{where}:{i + 1}: the link {target} leads nowhere")
            elif fragment and to.suffix == ".md" and fragment not in anchors_of(to):
                faults.append(f"{where}:{i + 1}: {to.relative_to(root)} has no heading #{fragment}")
    if changes:
        for first, last, text in reversed(changes):
            lines[first:last] = text
        page.write_text("\n".join(lines) + "\n")
        print(f"{where}: {len(changes)} blocks written")
    return faults


def check(root, fix=False):
    return [fault for page in pages_of(root) for fault in check_page(page, root, fix)]


def self_test():
    code = "int a;\n  // [piece]\n  int b;\n    int c;\n  // [piece]\nint d;\n"
    good = "# Title one\n<!-- from x.cpp:piece -->\n```cpp\nint b;\n  int c;\n```\n<!-- in x.cpp -->\n```cpp\nint d;\n```\n[here](#title-one) [file](x.cpp)\n"
    bad = {
        "differs": good.replace("int b;", "int bb;"),
        "do not stand": good.replace("int d;", "int e;"),
        "without a tag": good.replace("<!-- in x.cpp -->\n", ""),
        "there is no": good.replace("x.cpp:piece", "y.cpp:piece"),
        "has 0 lines": good.replace(":piece", ":other"),
        "leads nowhere": good.replace("(x.cpp)", "(y.cpp)"),
        "no heading": good.replace("#title-one", "#title-two"),
        "no block": good + "<!-- in x.cpp -->\ntext\n",
    }
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder).resolve()
        (root / "docs").mkdir()
        (root / "x.cpp").write_text(code)
        page = root / "README.md"
        page.write_text(good)
        failed = [f"a good page is refused: {fault}" for fault in check(root)]
        for words, text in bad.items():
            page.write_text(text)
            faults = check(root)
            if not any(words in fault for fault in faults):
                failed.append(f"not found: {words}; got {faults}")
        page.write_text(bad["differs"])
        check(root, fix=True)
        if page.read_text() != good:
            failed.append("--fix did not restore the page")
    return failed


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", type=pathlib.Path, default=ROOT)
    options.add_argument("--fix", action="store_true")
    options.add_argument("--self-test", action="store_true")
    chosen = options.parse_args()
    faults = self_test() if chosen.self_test else check(chosen.root.resolve(), chosen.fix)
    print("\n".join(faults) if faults else "every kind of fault is found" if chosen.self_test else f"{len(pages_of(chosen.root.resolve()))} pages hold")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
