"""What report.py and its pictures read from a benchmark's JSON."""
import re

SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
PEERS = {"onednn": "oneDNN", "onednn_packed": "oneDNN, packed weights", "openblas": "OpenBLAS", "cublaslt": "cuBLASLt", "ggml": "ggml",
         "nth_element": "std::nth_element", "nth_element_indices": "std::nth_element of pairs"}
OURS_OTHERWISE = ("full", "contiguous", "singles", "dense", "attention", "copy", "nn", "nt", "tn", "tt", "decode", "base", "select",
                  "lists")


def scaled(value, unit):
    """1.234e12, 'FLOP/s' -> '1.23 TFLOP/s': three significant digits."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n")):
        if abs(value) >= factor:
            number = value / factor
            digits = 0 if number >= 100 else 1 if number >= 10 else 2
            return f"{number:.{digits}f} {prefix}{unit}"
    return f"0 {unit}"


def plain_name(name):
    return re.sub(r"/(iterations:\d+|manual_time|real_time|process_time)(?=/|$)", "", name)


def peer_names(case):
    """[(key, name, time of the peer / time of the case)] of each peer, in the order of the counters' names; not of what is
    ours under other conditions."""
    found = [(key.removeprefix("peer_ratio."), value) for key, value in case.items() if key.startswith("peer_ratio.")]
    return [(key, PEERS.get(key, key), value) for key, value in sorted(found) if key not in OURS_OTHERWISE]
