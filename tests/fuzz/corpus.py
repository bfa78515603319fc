#!/usr/bin/env python3
"""The fuzzer's inputs: sound little files of every kind that io reads, and the corpus that runs have found, kept in one file.

    corpus.py seeds FOLDER              writes the sound files there, and the files of tests/golden/hostile beside them
    corpus.py unpack ARCHIVE FOLDER     writes the inputs of an archive into a folder
    corpus.py pack ARCHIVE FOLDER       the other way; an input is its length (u32, little-endian) and its bytes, shortest first
"""
import json
import pathlib
import random
import shutil
import struct
import sys

HOSTILE = pathlib.Path(__file__).resolve().parents[1] / "golden" / "hostile"
SIZE = {"I32": 4, "I64": 8, "F32": 4, "F16": 2, "BF16": 2, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F64": 8}
rng = random.Random(1)


def noise(n):
    return bytes(rng.randrange(256) for _ in range(n))


def count(shape):
    n = 1
    for extent in shape:
        n *= extent
    return n


def scales(dtype, n):
    one = {"F16": struct.pack("<H", 0x3800), "F32": struct.pack("<f", 0.25), "BF16": b"\x80\x3e", "U8": b"\x7e", "F8_E4M3": b"\x31", "F8_E8M0": b"\x7f"}
    return one[dtype] * n


def safetensors(tensors, metadata=None):
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, content) in tensors.items():
        size = count(shape) * SIZE[dtype]
        content = noise(size) if content is None else content
        assert len(content) == size, name
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def gguf(infos, alignment=32):
    """infos: (name, type, extents, content)"""
    head, data = b"", b""
    for name, kind, extents, content in infos:
        data += b"\0" * (-len(data) % alignment)
        head += text(name) + struct.pack("<I", len(extents)) + b"".join(struct.pack("<Q", e) for e in extents) + struct.pack("<IQ", kind, len(data))
        data += content
    values = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    values += text("t.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc")
    out = b"GGUF" + struct.pack("<IQQ", 3, len(infos), 2) + values + head
    return out + b"\0" * (-len(out) % alignment) + data


def seeds(folder):
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for path in HOSTILE.glob("*.*"):
        if path.suffix != ".json" and path.stat().st_size < 4096:
            shutil.copyfile(path, out / path.name)

    def put(name, content):
        (out / name).write_bytes(content)

    k, n = 64, 32
    for bits in (2, 3, 4, 8, 5, 6, 7):
        put(f"gptq_{bits}", safetensors({
            "l.qweight": ("I32", [k * bits // 32, n], None), "l.qzeros": ("I32", [2, n * bits // 32], None),
            "l.scales": ("F16", [2, n], scales("F16", 2 * n)),
            "l.g_idx": ("I32", [k], struct.pack(f"<{k}i", *(i % 2 for i in range(k))))}))
        put(f"packed_{bits}", safetensors({
            "l.weight_packed": ("I32", [3, (k * bits + 31) // 32], None), "l.weight_scale": ("BF16", [3, 2], scales("BF16", 6)),
            "l.weight_zero_point": ("I32", [(3 * bits + 31) // 32, 2], None), "l.weight_shape": ("I64", [2], struct.pack("<qq", 3, k))}))
    put("awq", safetensors({"l.qweight": ("I32", [k, 1], None), "l.qzeros": ("I32", [2, 1], None), "l.scales": ("F16", [2, 8], scales("F16", 16))}))
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [3, 48], "nested_blocksize": 2, "nested_offset": 0.5,
                        "nested_dtype": "float32"}).encode()
    put("quant_state", state)
    put("bitsandbytes", safetensors({
        "l.weight": ("U8", [72, 1], None), "l.weight.absmax": ("U8", [3], None), "l.weight.nested_absmax": ("F32", [2], scales("F32", 2)),
        "l.weight.nested_quant_map": ("F32", [256], scales("F32", 256)), "l.weight.quant_state.bitsandbytes__nf4": ("U8", [len(state)], state)}))
    state = json.dumps({"quant_type": "fp4", "blocksize": 32, "shape": [2, 32]}).encode()
    put("bitsandbytes_fp4", safetensors({
        "l.weight": ("U8", [32, 1], None), "l.weight.absmax": ("F32", [2], scales("F32", 2)),
        "l.weight.quant_state.bitsandbytes__fp4": ("U8", [len(state)], state)}))
    put("nvfp4", safetensors({"l.weight": ("U8", [3, 16], None), "l.weight_scale": ("F8_E4M3", [3, 2], scales("F8_E4M3", 6)),
                              "l.weight_scale_2": ("F32", [1], scales("F32", 1))}))
    put("mxfp4", safetensors({"l.weight": ("U8", [3, 32], None), "l.weight_scale": ("U8", [3, 2], scales("U8", 6))}))
    put("mxfp6", safetensors({"l.weight": ("U8", [3, 48], None), "l.weight_scale": ("F8_E8M0", [3, 2], scales("F8_E8M0", 6))}))
    put("mxfp6_bytes", safetensors({"l.weight": ("U8", [3, 64], bytes(i % 64 for i in range(192))), "l.weight_scale": ("U8", [3, 2], scales("U8", 6))}))
    put("mxfp8", safetensors({"l.weight": ("F8_E4M3", [3, 64], bytes(i % 120 for i in range(192))), "l.weight_scale": ("U8", [3, 2], scales("U8", 6))}))
    put("fp8", safetensors({"l.weight": ("F8_E5M2", [130, 1], bytes(i % 120 for i in range(130))), "l.weight_scale": ("F32", [2, 1], scales("F32", 2))}))
    put("plain", safetensors({"a": ("F64", [2, 3], None), "b": ("BF16", [2, 1, 3], None), "c": ("I64", [], None)}, {"format": "pt"}))
    put("index", json.dumps({"metadata": {"total_size": 10}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}).encode())

    half = struct.pack("<H", 0x3800)
    blocks = {2: half + noise(16), 3: half + half + noise(16), 6: half + noise(20), 7: half + half + noise(20), 8: half + noise(32),
              39: b"\x7e" + noise(16), 40: b"\x31" * 4 + noise(32), 12: half + half + noise(140), 13: half + half + noise(172), 14: noise(208) + half}
    extent = {12: 256, 13: 256, 14: 256, 40: 64}
    for kind, block in blocks.items():
        put(f"ggml_{kind}", gguf([("w", kind, [extent.get(kind, 32), 2], block * 2), ("f", 0, [3], noise(12)), ("h", 30, [2, 2], noise(8))]))


def unpack(archive, folder):
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    content, at, number = pathlib.Path(archive).read_bytes(), 0, 0
    while at < len(content):
        size = struct.unpack_from("<I", content, at)[0]
        (out / f"{number:05}").write_bytes(content[at + 4:at + 4 + size])
        at, number = at + 4 + size, number + 1


def pack(archive, folder):
    inputs = sorted((p.read_bytes() for p in pathlib.Path(folder).iterdir()), key=lambda b: (len(b), b))
    pathlib.Path(archive).write_bytes(b"".join(struct.pack("<I", len(b)) + b for b in inputs))


if __name__ == "__main__":
    {"seeds": seeds, "unpack": unpack, "pack": pack}[sys.argv[1]](*sys.argv[2:])
