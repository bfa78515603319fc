// What attention refuses: every sentence of its check, on the host.
#include <catch2/catch.hpp>
#include <string>
#include <vector>
#include <smalti/ops/attention.hpp>
#include "support/arrays.hpp"
#include "support/contexts.hpp"

using namespace smalti;
namespace policy = smalti::policy;

namespace {

struct plain : attention::options {
  static constexpr bool split_kv = false;
};
struct splitting : attention::options {
  static constexpr bool split_kv = true;
};
struct dense_only : attention::options {
  static constexpr bool ragged = false;
};
struct pointwise : attention::options {
  using normalizer = policy::silu_weights;
};
struct with_sink : attention::options {
  using normalizer = policy::softmax_with_sink;
};
struct with_lists : attention::options {
  using blocks = policy::block_lists<64, 64>;
};

constexpr int sequences = 2, heads = 4, kv_heads = 2, rows = 16, keys = 32, d = 64;

template <class Options> struct good {
  using op = attention::flash<bf16, d, attention::dense_kv<bf16>, policy::causal, Options>;
  test::array<bf16> q{sequences * heads * rows * d}, k{sequences * kv_heads * keys * d}, v{sequences * kv_heads * keys * d}, o{sequences * heads * rows * d};
  test::array<float> lse{sequences * heads * rows};
  test::array<std::int32_t> offsets{3}, used{2};
  typename op::args args() {
    offsets[0] = 0, offsets[1] = 16, offsets[2] = 32;
    used[0] = used[1] = keys;
    for (auto* a : {&q, &k, &v})
      for (bf16& x : *a) x = bf16{0};
    typename op::args x{.q = attention::bshd<const bf16>(q.data(), sequences, rows, heads, d),
                        .kv = {attention::bshd<const bf16>(k.data(), sequences, keys, kv_heads, d), attention::bshd<const bf16>(v.data(), sequences, keys, kv_heads, d)},
                        .o = attention::bshd(o.data(), sequences, rows, heads, d)};
    if constexpr (op::normalizer::shifts) x.lse = attention::bshd(lse.data(), sequences, rows, heads, 1);
    return x;
  }
};

template <class Options, class F> void refuses(errc code, const std::string& sentence, F change) {
  good<Options> all;
  auto x = all.args();
  change(x, all);
  const status st = good<Options>::op::check(test::any_context(), x);
  CAPTURE(sentence, st.what, st.got, st.need);
  REQUIRE(st.code == code);
  REQUIRE(std::string(st.what).find(sentence) != std::string::npos);
  REQUIRE(good<Options>::op::run(test::any_context(), x).code == code);
}

}  // namespace

TEST_CASE("attention accepts what is right", "[ops][attention][refusal]") {
  good<plain> all;
  auto x = all.args();
  test::scratch memory(good<plain>::op::workspace_bytes(test::any_context(), x));
  REQUIRE(good<plain>::op::run(test::any_context(), x, memory.get()).code == errc::ok);
  x.q.sequences = x.o.sequences = x.lse.sequences = x.kv.k.sequences = x.kv.v.sequences = 0;
  REQUIRE(good<plain>::op::run(test::any_context(), x).code == errc::ok);
}

TEST_CASE("attention refuses wrong arguments by name", "[ops][attention][refusal]") {
  refuses<plain>(errc::bad_shape, "q: sequences, heads and rows", [](auto& x, auto&) { x.q.rows = -1; });
  refuses<plain>(errc::bad_shape, "q: cols must be the head dim", [](auto& x, auto&) { x.q.cols = 32; });
  refuses<plain>(errc::null_pointer, "q is null", [](auto& x, auto&) { x.q.data = nullptr; });
  refuses<plain>(errc::bad_shape, "q: row_stride", [](auto& x, auto&) { x.q.row_stride = 32; });
  refuses<plain>(errc::bad_value, "q: head_stride", [](auto& x, auto&) { x.q.head_stride = -64; });
  refuses<plain>(errc::misaligned, "q: the address", [](auto& x, auto&) { ++x.q.data; });
  refuses<plain>(errc::misaligned, "q: row_stride", [](auto& x, auto&) { x.q.row_stride += 1; });
  refuses<plain>(errc::misaligned, "q: head_stride", [](auto& x, auto&) { x.q.head_stride += 1; });
  refuses<plain>(errc::misaligned, "q: sequence_stride", [](auto& x, auto&) { x.q.sequence_stride += 1; });
  refuses<plain>(errc::bad_shape, "o: needs as many heads as q", [](auto& x, auto&) { x.o.heads = 2; });
  refuses<plain>(errc::bad_shape, "o: needs as many rows as q", [](auto& x, auto&) { x.o.rows = 8; });
  refuses<plain>(errc::bad_shape, "o: needs as many sequences as q", [](auto& x, auto&) { x.o.sequences = 1; });
  refuses<plain>(errc::bad_value, "o: both or neither", [](auto& x, auto& all) { x.o.offsets = all.offsets.data(); });
  refuses<plain>(errc::bad_shape, "lse: cols must be", [](auto& x, auto&) { x.lse.cols = 2; });
  refuses<plain>(errc::bad_shape, "lse: needs as many heads as q", [](auto& x, auto&) { x.lse.heads = 2; });
  refuses<plain>(errc::bad_shape, "kv.k: cols must be the head dim", [](auto& x, auto&) { x.kv.k.cols = 128; });
  refuses<plain>(errc::null_pointer, "kv.v is null", [](auto& x, auto&) { x.kv.v.data = nullptr; });
  refuses<plain>(errc::bad_shape, "kv.v: needs the sequences and heads of kv.k", [](auto& x, auto&) { x.kv.v.heads = 1; });
  refuses<plain>(errc::bad_shape, "kv.v: needs as many rows as kv.k", [](auto& x, auto&) { x.kv.v.rows = 8; });
  refuses<plain>(errc::bad_value, "kv.used", [](auto& x, auto& all) { x.kv.used = all.used.data(), all.used[1] = keys + 1; });
  refuses<plain>(errc::bad_shape, "kv: needs as many sequences as q", [](auto& x, auto&) { x.kv.k.sequences = x.kv.v.sequences = 1; });
  refuses<plain>(errc::bad_shape, "query heads must be a multiple", [](auto& x, auto&) { x.q.heads = x.o.heads = x.lse.heads = 3; });
  refuses<plain>(errc::aliased, "o: rows of different heads", [](auto& x, auto&) { x.o.head_stride = 0; });
  refuses<plain>(errc::aliased, "o: rows of different sequences", [](auto& x, auto&) { x.o.sequence_stride = 64; });
  refuses<plain>(errc::aliased, "o must not overlap q", [](auto& x, auto& all) { x.o.data = all.q.data(); });
  refuses<plain>(errc::aliased, "o must not overlap kv", [](auto& x, auto& all) { x.o.data = all.v.data(); });
  refuses<plain>(errc::aliased, "lse must not overlap", [](auto& x, auto& all) { x.lse.data = reinterpret_cast<float*>(all.o.data()); });
  refuses<plain>(errc::bad_value, "scale", [](auto& x, auto&) { x.scale = -1; });
  refuses<plain>(errc::bad_value, "scale", [](auto& x, auto&) { x.scale = NAN; });
  refuses<plain>(errc::bad_value, "split_keys must not be negative", [](auto& x, auto&) { x.split_keys = -1; });
  refuses<plain>(errc::bad_value, "options::split_kv", [](auto& x, auto&) { x.split_keys = 16; });
  refuses<splitting>(errc::bad_value, "4096 parts", [](auto& x, auto&) { x.kv.k.rows = x.kv.v.rows = 1 << 24, x.split_keys = 1, x.kv.k.sequences = x.kv.v.sequences = x.q.sequences = x.o.sequences = x.lse.sequences = 1; });
  refuses<pointwise>(errc::bad_value, "has no log-sum-exp", [](auto& x, auto& all) { x.lse = attention::bshd(all.lse.data(), sequences, rows, heads, 1); });
  refuses<with_sink>(errc::null_pointer, "logits is null", [](auto&, auto&) {});
  refuses<dense_only>(errc::bad_value, "takes dense batches only", [](auto& x, auto& all) { x.kv.used = all.used.data(); });
  refuses<with_lists>(errc::null_pointer, "block_lists.offsets", [](auto&, auto&) {});
}

TEST_CASE("attention refuses offsets that leave their arrays", "[ops][attention][refusal]") {
  const auto ragged = [](auto& x, auto& all) { x.q.offsets = x.o.offsets = x.lse.offsets = all.offsets.data(); };
  refuses<plain>(errc::bad_value, "q.offsets must not decrease", [&](auto& x, auto& all) { ragged(x, all), all.offsets[1] = 40; });
  refuses<plain>(errc::bad_value, "q.offsets must not be negative", [&](auto& x, auto& all) { ragged(x, all), all.offsets[0] = -1; });
  refuses<plain>(errc::bad_shape, "q.rows must be at least", [&](auto& x, auto& all) { ragged(x, all), all.offsets[1] = 17, all.offsets[2] = 32; });
}

TEST_CASE("attention refuses pages that leave the pool", "[ops][attention][refusal]") {
  using op = attention::flash<bf16, d, attention::paged_kv<bf16, 16>, policy::causal>;
  good<plain> all;
  const auto base = all.args();
  std::vector<int> table{0, 1, 2, 3}, length{32, 20};
  test::array<bf16> pool(std::size_t(4) * 16 * kv_heads * d);
  const auto args = [&] {
    op::args x{.q = base.q, .kv = {}, .o = base.o};
    const auto pages = attention::pool_of<const bf16>(policy::nhd{}, pool.data(), 4, 16, kv_heads, d);
    x.kv = {pages, pages, {table.data(), 2, 0, length.data(), 0, 16}, sequences, 32};
    return x;
  };
  const auto refused = [&](errc code, const std::string& sentence, const op::args& x) {
    const status st = op::check(test::any_context(), x);
    CAPTURE(sentence, st.what, st.got, st.need);
    REQUIRE(st.code == code);
    REQUIRE(std::string(st.what).find(sentence) != std::string::npos);
  };
  REQUIRE(op::check(test::any_context(), args()).code == errc::ok);
  auto x = args();
  x.kv.where.page = 32;
  refused(errc::bad_value, "page size in the type", x);
  x = args(), x.kv.where.page = 0;
  refused(errc::bad_value, "kv.where.page must be positive", x);
  x = args(), x.kv.where.length = nullptr;
  refused(errc::null_pointer, "kv.where.length is null", x);
  x = args(), x.kv.k.data = nullptr;
  refused(errc::null_pointer, "kv.k is null", x);
  x = args(), x.kv.v.cols = 32;
  refused(errc::bad_shape, "kv.v: cols", x);
  x = args(), x.kv.k.slot_stride = 32;
  refused(errc::bad_shape, "kv.k: slot_stride", x);
  x = args(), x.kv.k.page_stride += 8;
  refused(errc::bad_shape, "kv.k: page_stride must be a multiple", x);
  x = args(), x.kv.k.page_stride = x.kv.k.slot_stride;
  refused(errc::bad_shape, "kv.k: page_stride must hold", x);
  x = args(), x.kv.v.heads = 1;
  refused(errc::bad_shape, "kv.v: needs the heads and pages", x);
  table[3] = 4;
  refused(errc::bad_value, "not below the number of pages", args());
  table[3] = -1;
  refused(errc::bad_value, "an entry in use is negative", args());
}

TEST_CASE("attention refuses a workspace that does not fit", "[ops][attention][refusal]") {
  using op = attention::flash<bf16, d, attention::dense_kv<bf16>, policy::causal, splitting>;
  good<splitting> all;
  auto x = all.args();
  x.split_keys = 16;
  const std::size_t bytes = op::workspace_bytes(test::any_context(), x);
  REQUIRE(bytes > 0);
  REQUIRE(op::run(test::any_context(), x).code == errc::workspace_too_small);
  test::scratch memory(bytes);
  REQUIRE(op::run(test::any_context(), x, {memory.get().data, bytes - 1}).code == errc::workspace_too_small);
  REQUIRE(op::run(test::any_context(), x, {memory.get().data + 8, bytes}).code == errc::misaligned);
  REQUIRE(op::run(test::any_context(), x, memory.get()).code == errc::ok);
}
