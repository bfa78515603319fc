// What gemm::dense refuses: each wrong argument gives its code, and nothing is written.
#include "gemm_problem.hpp"

#include <string>

using namespace smalti;
using namespace test;

namespace {

using steps = policy::chain<policy::bias<bf16>, policy::row_scale<float>, policy::residual<float>>;
using op = gemm::dense<bf16, bf16, float, steps, aligned_nk>;

struct fixture {
  static constexpr int m = 24, n = 40, k = 64;
  array<bf16> a{m * k + 8}, b{n * k + 8}, bias{n};
  array<float> c{2 * m * n}, scale{m}, stream{m * n};
  op::args good() {
    return {.a = {a.data(), m, k, k}, .b = {b.data(), n, k, k}, .c = {c.data(), m, n, n},
            .epilogue = {{bias.data(), n}, {{scale.data(), m}, {{{stream.data(), m, n, n}}, {}}}}};
  }
  // check and run agree, and run leaves c alone
  template <class Op = op> void refused(const typename Op::args& x, errc code, std::string word, std::int64_t got = -1, std::int64_t need = -1) {
    const auto context = any_context();
    const status st = Op::check(context, x);
    CAPTURE(st.what, st.got, st.need, name(st.code));
    CHECK(st.code == code);
    CHECK(std::string(st.what).find(word) != std::string::npos);
    if (got != -1) CHECK(st.got == got);
    if (need != -1) CHECK(st.need == need);
    scratch memory(1 << 20);
    CHECK(Op::run(context, x, memory.get()) == st);
    CHECK(c.guarded());
    for (float v : c) {
      unsigned char bytes[4];
      std::memcpy(bytes, &v, 4);
      REQUIRE(bytes[0] == 0xA5);
    }
  }
};

}  // namespace

TEST_CASE("dense refuses wrong arguments by name", "[ops][gemm][refusal]") {
  fixture f;
  REQUIRE(op::check(any_context(), f.good()).code == errc::ok);
  const auto with = [&](auto change) {
    auto x = f.good();
    change(x);
    return x;
  };
  SECTION("null pointers") {
    f.refused(with([](auto& x) { x.a.data = nullptr; }), errc::null_pointer, "a is null");
    f.refused(with([](auto& x) { x.b.data = nullptr; }), errc::null_pointer, "b is null");
    f.refused(with([](auto& x) { x.c.data = nullptr; }), errc::null_pointer, "c is null");
    f.refused(with([](auto& x) { x.epilogue.first.data = nullptr; }), errc::null_pointer, "bias");
    f.refused(with([](auto& x) { x.epilogue.rest.first.data = nullptr; }), errc::null_pointer, "row_scale");
    f.refused(with([](auto& x) { x.epilogue.rest.rest.first.source.data = nullptr; }), errc::null_pointer, "residual");
  }
  SECTION("extents") {
    f.refused(with([](auto& x) { x.a.rows = -1; }), errc::bad_shape, "a: extents", -1, 0);
    f.refused(with([](auto& x) { x.b.cols = -8; }), errc::bad_shape, "b: extents", -8, 0);
    f.refused(with([](auto& x) { x.c.rows = -3; }), errc::bad_shape, "c: extents", -3, 0);
    f.refused(with([](auto& x) { x.a.rows = 25; }), errc::bad_shape, "rows as a", 24, 25);
    f.refused(with([](auto& x) { x.a.cols = 56; }), errc::bad_shape, "a's K", 64, 56);
    f.refused(with([](auto& x) { x.b.rows = 39; }), errc::bad_shape, "outputs", 40, 39);
    f.refused(with([](auto& x) { x.epilogue.first.n = 39; }), errc::bad_shape, "bias: n", 39, 40);
    f.refused(with([](auto& x) { x.epilogue.rest.first.n = 23; }), errc::bad_shape, "row_scale: n", 23, 24);
    f.refused(with([](auto& x) { x.epilogue.rest.rest.first.source.rows = 23; }), errc::bad_shape, "residual", 23, 24);
    f.refused(with([](auto& x) { x.epilogue.rest.rest.first.source.cols = 39; }), errc::bad_shape, "residual", 39, 40);
  }
  SECTION("strides") {
    f.refused(with([](auto& x) { x.a.stride = 56; }), errc::bad_shape, "a: stride", 56, 64);
    f.refused(with([](auto& x) { x.b.stride = 8; }), errc::bad_shape, "b: stride", 8, 64);
    f.refused(with([](auto& x) { x.c.stride = 36; }), errc::bad_shape, "c: stride", 36, 40);
    f.refused(with([](auto& x) { x.a.stride = 65; }), errc::misaligned, "a: stride", 65, 72);
    f.refused(with([](auto& x) { x.epilogue.rest.rest.first.source.stride = 39; }), errc::bad_shape, "residual: stride", 39, 40);
  }
  SECTION("alignment") {
    f.refused(with([](auto& x) { ++x.a.data; }), errc::misaligned, "a: the base", 2, 0);
    f.refused(with([](auto& x) { ++x.b.data; }), errc::misaligned, "b: the base", 2, 0);
    f.refused(with([](auto& x) { ++x.c.data; }), errc::misaligned, "c: the base", 4, 0);
    f.refused(with([](auto& x) { x.a.cols = x.b.cols = 60; }), errc::misaligned, "columns (K)", 60, 64);
    f.refused(with([](auto& x) { x.c.cols = x.b.rows = 38; }), errc::misaligned, "columns (N)", 38, 40);
    using odd = gemm::dense<bf16, bf16, float, steps, any_nk>;
    auto x = f.good();
    odd::args y{.a = {reinterpret_cast<const bf16*>(reinterpret_cast<const char*>(x.a.data) + 1), 24, 64, 64}, .b = {x.b.data, 40, 64, 64},
                .c = {x.c.data, 24, 40, 40}, .epilogue = x.epilogue};
    f.refused<odd>(y, errc::misaligned, "a: the base", 1, 0);   // less than the element's own alignment
  }
  SECTION("aliases") {
    f.refused(with([](auto& x) { x.a.data = reinterpret_cast<const bf16*>(x.c.data + 4); }), errc::aliased, "overlap a");
    f.refused(with([](auto& x) { x.b.data = reinterpret_cast<const bf16*>(x.c.data + (24 * 40 - 4)); }), errc::aliased, "overlap b");
    f.refused(with([](auto& x) { x.epilogue.rest.rest.first.source.data = x.c.data + 4; }), errc::aliased, "residual");
    f.refused(with([](auto& x) { x.epilogue.rest.rest.first.source = {x.c.data, 24, 40, 44}; }), errc::aliased, "residual");
    const auto itself = with([](auto& x) { x.epilogue.rest.rest.first.source = {x.c.data, 24, 40, 40}; });
    CHECK(op::check(any_context(), itself).code == errc::ok);
    const auto apart = with([](auto& x) { x.a.data = reinterpret_cast<const bf16*>(x.c.data + 24 * 40); });   // begins where c ends
    CHECK(op::check(any_context(), apart).code == errc::ok);
  }
  SECTION("batch and splits") {
    f.refused(with([](auto& x) { x.batch.count = -1; }), errc::bad_value, "batch.count", -1, 0);
    f.refused(with([](auto& x) { x.batch = {2, 0, 0, 0}; }), errc::aliased, "batch.c", 0, 24 * 40);
    f.refused(with([](auto& x) { x.batch = {2, 0, 0, 24 * 40 - 4}; }), errc::aliased, "batch.c");
    f.refused(with([](auto& x) { x.batch = {2, 12, 0, 24 * 40}; }), errc::misaligned, "batch.a", 12, 16);
    f.refused(with([](auto& x) { x.batch = {2, 0, -16, 24 * 40}; }), errc::bad_value, "batch.b", -16, 0);
    f.refused(with([](auto& x) { x.batch = {3, 1ll << 60, 0, 24 * 40}; }), errc::out_of_reach, "batch.a", 1ll << 60);
    f.refused(with([](auto& x) { x.splits = 0; }), errc::bad_value, "splits", 0, 1);
    f.refused(with([](auto& x) { x.splits = 2; }), errc::bad_value, "split_k", 2, 1);
    CHECK(op::check(any_context(), with([](auto& x) { x.batch = {2, 0, 0, 24 * 40}; })).code == errc::ok);   // shared a and b
  }
  SECTION("a gated epilogue wants twice the outputs") {
    using pairs = gemm::dense<bf16, bf16, float, policy::chain<policy::gated<policy::silu>>, aligned_nk>;
    f.refused<pairs>({.a = {f.a.data(), 24, 64, 64}, .b = {f.b.data(), 40, 64, 64}, .c = {f.c.data(), 24, 40, 40}}, errc::bad_shape, "twice", 40, 80);
  }
}

TEST_CASE("dense refuses a workspace that does not fit", "[ops][gemm][refusal]") {
  using split = gemm::dense<bf16, bf16, float, policy::chain<>, split_nk>;
  array<bf16> a(8 * 512), b(8 * 512);
  array<float> c(8 * 8);
  const split::args x{.a = {a.data(), 8, 512, 512}, .b = {b.data(), 8, 512, 512}, .c = {c.data(), 8, 8, 8}, .splits = 2};
  const auto context = any_context();
  const std::size_t bytes = split::workspace_bytes(context, x);
  REQUIRE(bytes > 0);
  scratch memory(bytes + 256);
  workspace w = memory.get();
  CHECK(split::run(context, x, {}).code == errc::workspace_too_small);
  CHECK(split::run(context, x, {w.data, bytes - 1}) == status{errc::workspace_too_small, "", std::int64_t(bytes) - 1, std::int64_t(bytes)});
  CHECK(split::run(context, x, {w.data + 16, bytes}).code == errc::misaligned);
  for (float v : c) {
    unsigned char first;
    std::memcpy(&first, &v, 1);
    REQUIRE(first == 0xA5);
  }
}

#if !defined(__CUDACC__)
TEST_CASE("dense refuses a context that cannot be", "[ops][gemm][refusal]") {
  fixture f;
  const status st = op::check(host_context{-1}, f.good());
  CHECK(st.code == errc::bad_value);
  CHECK(st.got == -1);
}
#endif
