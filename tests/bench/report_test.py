#!/usr/bin/env python3
"""bench/performance.py and the page and pictures of bench/report.py, with executables that only print.

    report_test.py              what needs no library
    report_test.py --figures    the pictures; exit status 77, with a line that says so, where there is no matplotlib
"""
import contextlib
import io
import json
import re
import stat
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import performance  # noqa: E402
import report  # noqa: E402
import results  # noqa: E402

CONTEXT = {"cpu": "Some(R) Processor 9", "compiler": "g++ 12", "commit": "abc", "date": "today", "host_name": "secret", "executable": "/home/me/bench.gemm"}


def case(name, time=1.0, **more):
    return dict({"name": f"{name}/iterations:1/manual_time", "run_type": "iteration", "real_time": time, "time_unit": "ms"}, **more)


def product(n, kind="bf16", **more):
    return case(f"gemm/{kind}/{n}x{n}x{n}/threads:1", **{"FLOP/s": 8e11, "bytes/s": 4e9, "limit_FLOP/s": 2.0123456789e12, "limit_share": 0.4,
                                                        "peer_ratio": 1.25, "peer_ratio.onednn": 1.25, "label": "peers: oneDNN 3; limit: AMX bf16", **more})


def layer(m, **more):
    return case(f"gemm/bf16/llama3_8b.out/{m}x4096x4096/threads:1", **{"FLOP/s": 1.4e10 * m, "bytes/s": 1.4e10, "limit_FLOP/s": 2e12, "limit_bytes/s": 1.6e10,
                                                                      "limit_share": 0.9, "peer_ratio": 1.5, "peer_ratio.onednn": 1.5,
                                                                      "label": "peers: oneDNN 3; limit: read bandwidth", **more})


RESULT = {"context": CONTEXT, "benchmarks": [product(128), product(1024), product(2048, "f32", **{"peer_ratio.openblas": 0.8}), product(1024, "f32"), layer(1), layer(16),
                                             case("prim/select_k/f32/by_index/4096to256/threads:1", **{"bytes/s": 1e9, "peer_ratio": 2.0, "peer_ratio.nth_element": 2.0}),
                                             case("attention/prefill/causal/d128/64/threads:1", **{"FLOP/s": 1e11, "bytes/s": 1e9, "limit_share": 0.3, "limit_FLOP/s": 2e12,
                                                                                                   "peer_ratio": 0.9, "peer_ratio.full": 0.9, "label": "peers: ours; limit: AMX bf16"}),
                                             case("gemm/bf16/8x8x8/threads:1", error_occurred=True, error_message="wrong answer")]}


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name)
        self.results = self.path / "performance"

    def write(self, machine="some_9", room="products", result=None):
        (self.results / machine).mkdir(parents=True, exist_ok=True)
        (self.results / machine / f"bench_{room}.json").write_text(json.dumps(result or performance.kept(RESULT)))


class Page(Folder):
    def test_a_page_has_tables_and_says_that_no_gpu_ran(self):
        self.write()
        text = report.page(self.results)
        self.assertIn("## Some(R) Processor 9", text)
        self.assertIn("| gemm/bf16/1024x1024x1024/threads:1 | 1.00 ms | 800 GFLOP/s | 4.00 GB/s | 0.40 of AMX bf16 | 1.25 x oneDNN 3 |", text)
        self.assertIn("error: wrong answer", text)
        self.assertIn("**Not yet run on a GPU.**", text)
        self.assertNotIn("![", text)

    def test_with_results_of_a_gpu_it_does_not(self):
        self.write("a_gpu", "gemm", {"context": {"gpu": "H", "driver": "580"}, "benchmarks": [product(1024)]})
        text = report.page(self.results)
        self.assertIn("## H", text)
        self.assertNotIn("Not yet run", text)

    def test_pictures_that_exist_are_named_by_relative_paths(self):
        self.write()
        (self.results / "some_9" / "sizes.svg").write_text("<svg/>")
        self.assertIn("(performance/some_9/sizes.svg)", report.page(self.results))

    def test_check_notices_a_page_that_was_edited(self):
        self.write()
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(report.main(["--page", "--no-figures", "--results", str(self.results)]), 0)
            self.assertEqual(report.main(["--page", "--check", "--results", str(self.results)]), 0)
            page = self.results.with_suffix(".md")
            page.write_text(page.read_text().replace("800 GFLOP/s", "900 GFLOP/s"))
            self.assertEqual(report.main(["--page", "--check", "--results", str(self.results)]), 1)

    def test_our_own_page_is_what_our_results_give(self):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            self.assertEqual(report.main(["--page", "--check"]), 0, said.getvalue())

    def test_our_own_results_name_no_machine_path(self):
        files = sorted((ROOT / "docs" / "performance").glob("*/bench_*.json"))
        self.assertTrue(files)
        for file in files:
            context = json.loads(file.read_text())["context"]
            self.assertFalse([v for v in context.values() if "/" in str(v) and not re.fullmatch(r"\d{4}-.*", str(v))], file)


class Performance(Folder):
    def test_what_is_kept(self):
        kept = performance.kept(RESULT)
        self.assertNotIn("secret", json.dumps(kept))
        self.assertNotIn("/home/me", json.dumps(kept))
        self.assertEqual(kept["benchmarks"][0]["limit_FLOP/s"], 2.0123e12)
        self.assertEqual(kept["benchmarks"][-1]["error_message"], "wrong answer")

    def test_folders_are_named_after_the_processor(self):
        self.assertEqual(performance.folder_name("Intel(R) Xeon(R) Processor"), "intel_xeon")
        self.assertEqual(performance.folder_name("AMD EPYC 9654 96-Core Processor"), "amd_epyc_9654_96_core")
        self.assertEqual(performance.folder_name("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz"), "intel_core_i7_8550u")

    def test_one_command_measures_and_writes_the_page(self):
        (self.path / "build" / "bench").mkdir(parents=True)
        for target in ("bench.gemm", "bench.prim"):
            script = self.path / "build" / "bench" / target
            script.write_text(f"#!{sys.executable}\nimport sys\nout = [a.split('=', 1)[1] for a in sys.argv if a.startswith('--benchmark_out=')][0]\n"
                              f"open(out, 'w').write({json.dumps(RESULT)!r})\n")
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            arguments = ["--build-dir", str(self.path / "build"), "--no-build", "--results", str(self.results), "--only"]
            self.assertEqual(performance.main([*arguments, "products", "primitives"]), 0)
            self.assertEqual(performance.main([*arguments, "quantized"]), 1)
        self.assertIn("quantized", said.getvalue())
        self.assertEqual(sorted(p.name for p in (self.results / "some_9").glob("*.json")), ["bench_primitives.json", "bench_products.json"])
        self.assertIn("### primitives", self.results.with_suffix(".md").read_text())

    def test_every_set_names_a_benchmark_of_ours(self):
        listed = (ROOT / "bench" / "CMakeLists.txt").read_text()
        for target, wanted in performance.SETS.values():
            self.assertIn(f"smalti_bench({target.removeprefix('bench.')} ", listed)
            re.compile(wanted)

    def test_peers_leave_out_what_is_ours(self):
        self.assertEqual(results.peer_names({"peer_ratio": 1, "peer_ratio.onednn": 1, "peer_ratio.full": 2}), [("onednn", "oneDNN", 1)])


class Figures(Folder):
    def drawn(self):
        import figures
        self.results.mkdir(exist_ok=True)
        made = figures.draw([performance.kept(RESULT)], self.results, "Some Processor")
        return {name: (self.results / name).read_text() for name, _ in made}

    def test_the_same_results_give_the_same_bytes(self):
        self.assertEqual(self.drawn(), self.drawn())

    def test_axes_units_legend_limit_and_peer(self):
        pictures = self.drawn()
        self.assertEqual(set(pictures), set(report.FIGURES))
        for name, words in {"shares.svg": ("share of the machine's limit", "limit: 100 %", "smalti", "oneDNN", "read bandwidth", "1024\u00b3"),
                            "roofline.svg": ("FLOP/B", "FLOP/s", "read bandwidth 16.0 GB/s", "AMX bf16 2.01 TFLOP/s", "limit, measured", "smalti, bf16"),
                            "sizes.svg": ("size n of an n x n x n product", "FLOP/s", "limit: AMX bf16", "oneDNN", "OpenBLAS", "smalti"),
                            "ratios.svg": ("time of the peer / time of smalti", "the peer is faster", "as fast as the peer", "oneDNN", "std::nth_element")}.items():
            for word in words:
                self.assertIn(word, pictures[name].replace("&gt;", ">"), name)

    def test_our_own_pictures_are_what_our_results_give(self):
        import figures
        for machine, found in report.machines_of(ROOT / "docs" / "performance").items():
            to = self.results / machine.name
            to.mkdir(parents=True)
            for name, _ in figures.draw([r for _, r in found], to, report.where(found[0][1])):
                committed = (machine / name).read_text()
                if f"matplotlib {figures.matplotlib.__version__}<" in committed:      # another one draws other bytes
                    self.assertEqual(committed, (to / name).read_text(), f"{machine / name}: run python3 bench/report.py --page")

    def test_what_is_wrong_or_ours_is_not_drawn(self):
        pictures = self.drawn()
        self.assertNotIn("8x8x8", "".join(pictures.values()))
        self.assertNotIn("causal", pictures["ratios.svg"])

    def test_results_without_limits_give_no_roofline(self):
        import figures
        self.results.mkdir()
        made = figures.draw([{"context": {}, "benchmarks": [RESULT["benchmarks"][6]]}], self.results, "x")
        self.assertEqual([name for name, _ in made], ["ratios.svg"])


if __name__ == "__main__":
    wanted = [Figures]
    if "--figures" in sys.argv:
        try:
            import figures  # noqa: F401
        except ImportError as missing:
            print(f"skipped: {missing}: scripts/plots.sh installs what draws the pictures")
            sys.exit(77)
    else:
        wanted = [Page, Performance]
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(w) for w in wanted)
    sys.exit(not unittest.TextTestRunner().run(suite).wasSuccessful())
