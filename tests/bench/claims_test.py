#!/usr/bin/env python3
"""The logic of bench/claims.py and bench/report.py, with executables that only print."""
import contextlib
import io
import json
import os
import stat
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import claims  # noqa: E402
import report  # noqa: E402


class FakeMachine(claims.Machine):
    def __init__(self, flags=(), threads=2, gpu=False):
        self.flags, self.threads, self.gpu = set(flags), threads, gpu


def claim(name="room.a", counter="peer_ratio", op=">=", bound=1.0, **more):
    return dict({"id": name, "title": "a title", "command": {"target": "bench.fake", "filter": "^a/"}, "counter": counter,
                 "op": op, "bound": bound, "source": "a test"}, **more)


class Claims(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = Path(self.folder.name)
        (self.path / "build" / "bench").mkdir(parents=True)

    def fake(self, *cases, target="bench.fake", peers="oneDNN 2.6.3", status=0, says=""):
        """An executable that writes these cases where --benchmark_out says, and counts how often it ran."""
        result = {"context": {"peers": peers}, "benchmarks": [dict({"name": "a/1"}, **case) for case in cases]}
        script = self.path / "build" / "bench" / target
        script.write_text(f"""#!{sys.executable}
import json, os, sys
open({str(self.path / 'runs')!r}, "a").write(" ".join(sys.argv[1:]) + " SET=" + os.environ.get("FAKE_SETTING", "") + "\\n")
print({says!r})
out = [a.split("=", 1)[1] for a in sys.argv if a.startswith("--benchmark_out=")]
if {status} == 0: json.dump(json.loads({json.dumps(result)!r}), open(out[0], "w"))
sys.exit({status})
""")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def runs(self):
        file = self.path / "runs"
        return file.read_text().splitlines() if file.exists() else []

    def check(self, *list_of_claims, ask=(), machine=None):
        """(exit status, records by id, printed text)."""
        source = self.path / "claims.json"
        source.write_text(json.dumps({"claims": list(list_of_claims)}))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = claims.main([*ask, "--from", str(source), "--build-dir", str(self.path / "build"), "--no-build",
                                  "--json", str(self.path / "deep" / "out.json")], machine or FakeMachine())
        written = self.path / "deep" / "out.json"
        records = {r["id"]: r for r in json.loads(written.read_text())["claims"]} if written.exists() else {}
        return status, records, out.getvalue() + err.getvalue()

    def verdict(self, *args, **kwargs):
        status, records, text = self.check(*args, **kwargs)
        (record,) = records.values()
        return status, record["verdict"], text

    def test_bounds_hold_at_equality_and_fall_short_beyond(self):
        for op, value, expected in ((">=", 1.0, "holds"), (">=", 1.5, "holds"), (">=", 0.999, "falls short"),
                                    ("<=", 1.0, "holds"), ("<=", 0.5, "holds"), ("<=", 1.001, "falls short"),
                                    (">=", float("nan"), "falls short"), ("<=", float("nan"), "falls short")):
            with self.subTest(op=op, value=value):
                self.fake({"peer_ratio": value})
                status, verdict, text = self.verdict(claim(op=op))
                self.assertEqual(verdict, expected)
                self.assertEqual(status, 0 if expected == "holds" else 1)
                self.assertIn(expected, text)

    def test_the_worst_case_counts(self):
        self.fake({"peer_ratio": 2.0}, {"peer_ratio": 0.9}, {"peer_ratio": 3.0})
        _, records, _ = self.check(claim())
        self.assertEqual(records["room.a"]["figure"], 0.9)
        _, records, _ = self.check(claim(op="<=", bound=5))
        self.assertEqual(records["room.a"]["figure"], 3.0)

    def test_cases_chooses_among_the_results(self):
        self.fake({"name": "a/1", "peer_ratio": 2.0}, {"name": "a/2", "peer_ratio": 0.1})
        self.assertEqual(self.verdict(claim(cases="a/1$"))[1], "holds")
        self.assertEqual(self.verdict(claim(cases="a/3$"))[1], "falls short")

    def test_a_line_names_id_figure_and_bound(self):
        self.fake({"peer_ratio": 1.234})
        text = self.check(claim())[2]
        self.assertRegex(text, r"room\.a +1\.234 +>= 1\.0 +holds")

    def test_needs_of_the_machine(self):
        self.fake({"peer_ratio": 2.0})
        for need in ("cpu:amx_bf16", "threads:3", "gpu", "python:no_such_module_anywhere"):
            with self.subTest(need=need):
                status, verdict, text = self.verdict(claim(needs=[need]))
                self.assertEqual(verdict, "not measured here")
                self.assertEqual(status, 1)  # nothing held
        self.assertEqual(self.runs(), [])
        self.assertEqual(self.verdict(claim(needs=["cpu:amx_bf16", "threads:3", "gpu", "python:json"]),
                                      machine=FakeMachine(["amx_bf16"], 3, True))[1], "holds")

    def test_need_of_a_peer_in_the_build(self):
        self.fake({"peer_ratio": 2.0}, peers="OpenBLAS 0.3.21")
        self.assertEqual(self.verdict(claim(needs=["peer:oneDNN"]))[1], "not measured here")
        self.assertEqual(self.verdict(claim(needs=["peer:OpenBLAS"]))[1], "holds")

    def test_a_missing_figure_is_not_an_excuse(self):
        self.fake({"other": 2.0})
        status, verdict, text = self.verdict(claim())
        self.assertEqual((status, verdict), (1, "falls short"))
        self.assertIn("gives no peer_ratio", text)

    def test_no_case_an_error_a_crash_and_no_executable_fall_short(self):
        self.fake()
        self.assertEqual(self.verdict(claim())[1], "falls short")
        self.fake({"peer_ratio": 9.0, "error_occurred": True, "error_message": "wrong answer"})
        status, verdict, text = self.verdict(claim())
        self.assertEqual((status, verdict), (1, "falls short"))
        self.assertIn("wrong answer", text)
        self.fake({"peer_ratio": 9.0}, status=3)
        self.assertEqual(self.verdict(claim())[1], "falls short")
        self.assertEqual(self.verdict(claim(command={"target": "bench.absent", "filter": "."}))[1], "falls short")

    def test_a_command_that_cannot_measure_says_so(self):
        self.fake(status=77, says="no compiler\n")
        status, verdict, text = self.verdict(claim())
        self.assertEqual((status, verdict), (1, "not measured here"))
        self.assertIn("not measured here: no compiler", text)

    def test_when(self):
        self.fake({"peer_ratio": 2.0, "dot_over_fma": 0.5})
        faster = {"counter": "dot_over_fma", "op": ">=", "bound": 1, "otherwise": "the FMA is faster"}
        slower = dict(faster, op="<=")
        self.assertEqual(self.verdict(claim(when=[faster]))[1], "not measured here")
        self.assertEqual(self.verdict(claim(when=[slower]))[1], "holds")
        self.assertEqual(self.verdict(claim(when=[dict(slower, counter="absent")]))[1], "falls short")

    def test_a_disturbed_figure_is_no_figure(self):
        self.fake({"peer_ratio": 2.0, "disturbed": 0.5})
        self.assertEqual(self.verdict(claim(needs=["idle"]))[1], "not measured here")
        self.assertEqual(self.verdict(claim())[1], "holds")
        self.fake({"peer_ratio": 0.1, "disturbed": 0.0})
        self.assertEqual(self.verdict(claim(needs=["idle"]))[1], "falls short")

    def test_prefixes_end_at_dots(self):
        self.fake({"peer_ratio": 2.0})
        three = [claim("gemm.a"), claim("gemm.a.b"), claim("gemm.ab"), claim("gemmx.a")]
        for ask, expected in ((["gemm.a"], {"gemm.a", "gemm.a.b"}), (["gemm"], {"gemm.a", "gemm.a.b", "gemm.ab"}),
                              (["gemm."], {"gemm.a", "gemm.a.b", "gemm.ab"}), ([], {"gemm.a", "gemm.a.b", "gemm.ab", "gemmx.a"}),
                              (["gemm.ab", "gemmx"], {"gemm.ab", "gemmx.a"})):
            with self.subTest(ask=ask):
                status, records, _ = self.check(*three, ask=ask)
                self.assertEqual((status, set(records)), (0, expected))

    def test_each_prefix_needs_a_claim_that_holds(self):
        self.fake({"peer_ratio": 2.0})
        pair = [claim("a.x"), claim("b.x", needs=["gpu"])]
        self.assertEqual(self.check(*pair)[0], 0)
        self.assertEqual(self.check(*pair, ask=["a"])[0], 0)
        self.assertEqual(self.check(*pair, ask=["b"])[0], 1)
        self.assertEqual(self.check(*pair, ask=["a", "b"])[0], 1)
        self.assertEqual(self.check(*pair, ask=["a", "nothing"])[0], 1)

    def test_one_that_falls_short_fails_the_whole(self):
        self.fake({"peer_ratio": 2.0})
        self.assertEqual(self.check(claim("a.x"), claim("a.y", bound=3.0))[0], 1)

    def test_a_command_runs_once_for_all_its_claims_and_gets_its_environment(self):
        self.fake({"peer_ratio": 2.0, "limit_share": 0.9})
        self.check(claim("a.x"), claim("a.y", counter="limit_share", bound=0.8))
        self.assertEqual(len(self.runs()), 1)
        self.assertIn("--benchmark_filter=^a/", self.runs()[0])
        self.check(claim("a.z", command={"target": "bench.fake", "filter": "^b/", "environment": {"FAKE_SETTING": "7"}}))
        self.assertTrue(self.runs()[1].endswith("SET=7"))

    def test_records_keep_context_and_cases(self):
        self.fake({"peer_ratio": 2.0})
        record = self.check(claim())[1]["room.a"]
        self.assertEqual(record["context"]["peers"], "oneDNN 2.6.3")
        self.assertEqual(record["cases"][0]["peer_ratio"], 2.0)

    def test_a_list_that_breaks_its_own_rules_is_refused(self):
        good = claim()
        for bad in ([good, good], [dict(good, op="==")], [{k: v for k, v in good.items() if k != "bound"}], [dict(good, bound="1")],
                    [dict(good, command={"target": "x"})], [dict(good, command={"target": "x", "filter": ".", "script": "y"})],
                    [dict(good, needs=["moon"])]):
            with self.subTest(bad=bad):
                self.assertEqual(self.check(*bad)[0], 1)

    def test_our_own_list_is_well_formed(self):
        ours = claims.load_claims(ROOT / "bench" / "claims.json")
        self.assertTrue(ours)
        for c in ours:
            if "script" in c["command"]:
                self.assertTrue((ROOT / c["command"]["script"]).exists(), c["id"])

    def test_flags_are_read_from_cpuinfo(self):
        info = self.path / "cpuinfo"
        info.write_text("processor\t: 0\nflags\t\t: fpu amx_bf16 avx512f\nbogomips: 1\n")
        machine = claims.Machine(str(info))
        self.assertIsNone(machine.lacks("cpu:amx_bf16"))
        self.assertIsNotNone(machine.lacks("cpu:amx"))


class Builds(unittest.TestCase):
    """With a cmake of our own on the PATH."""

    def run_with_cmake(self, body, cache=None):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            (path / "bin").mkdir()
            tool = path / "bin" / "cmake"
            tool.write_text(f"#!{sys.executable}\nimport sys\nopen({str(path / 'log')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n{body}")
            tool.chmod(0o755)
            build = path / "build"
            (build / "bench").mkdir(parents=True)
            (build / "bench" / "bench.x").write_text("")
            if cache is not None:
                (build / "CMakeCache.txt").write_text(cache)
            old = os.environ["PATH"]
            os.environ["PATH"] = f"{path / 'bin'}:{old}"
            try:
                runner = claims.Runner(build, log=io.StringIO())
                first, again = runner.make("bench.x"), runner.make("bench.x")
            finally:
                os.environ["PATH"] = old
            self.assertEqual(first, again)
            return first, (path / "log").read_text().splitlines()

    def test_configures_when_there_is_no_build_and_builds_the_target_once(self):
        problem, log = self.run_with_cmake("")
        self.assertIsNone(problem)
        self.assertEqual(len(log), 2)
        self.assertIn("--preset release", log[0])
        self.assertIn("--target bench.x", log[1])

    def test_does_not_configure_again(self):
        self.assertEqual(len(self.run_with_cmake("", "SMALTI_BENCH:BOOL=ON\n")[1]), 1)
        self.assertEqual(len(self.run_with_cmake("", "SMALTI_BENCH:BOOL=OFF\n")[1]), 2)

    def test_failures_are_named(self):
        self.assertIn("does not configure", self.run_with_cmake("sys.exit(1)")[0])
        self.assertEqual(self.run_with_cmake("sys.exit(1)", "SMALTI_BENCH:BOOL=ON\n")[0], "does not build")


class Report(unittest.TestCase):
    def test_numbers(self):
        self.assertEqual(report.scaled(1.234e12, "FLOP/s"), "1.23 TFLOP/s")
        self.assertEqual(report.scaled(15234.9e-6, "s"), "15.2 ms")
        self.assertEqual(report.scaled(0, "s"), "0 s")

    def test_a_table(self):
        text = report.table({"context": {"cpu": "X", "date": "today"}, "benchmarks": [
            {"name": "gemm/bf16/8/iterations:1/manual_time", "real_time": 2.0, "time_unit": "ms", "FLOP/s": 1e9, "limit_share": 0.5,
             "peer_ratio": 1.25, "peer_ratio.onednn": 1.25, "peer_ratio.openblas": 2.0,
             "label": "peers: oneDNN 2.6.3 [a, b], OpenBLAS 0.3.21; limit: f32 FMA"},
            {"name": "broken", "error_occurred": True, "error_message": "wrong answer"}]})
        self.assertIn("- cpu: X", text)
        self.assertIn("| gemm/bf16/8 | 2.00 ms | 1.00 GFLOP/s | 0.50 of f32 FMA | 1.25 x oneDNN 2.6.3 [a, b]; 2.00 x openblas |", text)
        self.assertIn("error: wrong answer", text)


if __name__ == "__main__":
    unittest.main()
