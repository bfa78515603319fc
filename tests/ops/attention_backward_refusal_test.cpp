// What attention::flash_backward refuses, each by its code and its sentence, before any work.
#include <cstring>
#include <functional>
#include <string>
#include "attention_backward_problem.hpp"

using namespace smalti;

namespace {

struct with_bias : attention::backward_options {
  using score = policy::additive_bias<float>;
  static constexpr bool bias_gradient = true;
};
struct with_sink : attention::backward_options {
  using normalizer = policy::softmax_with_sink;
};
struct with_silu : attention::backward_options {
  using normalizer = policy::silu_weights;
};
using op = attention::flash_backward<bf16, 16>;
using biased = attention::flash_backward<bf16, 16, policy::causal, with_bias>;
using sunk = attention::flash_backward<bf16, 16, policy::causal, with_sink>;
using pointwise = attention::flash_backward<bf16, 16, policy::causal, with_silu>;

// Arrays for two sequences of 6 queries and 10 keys, 4 heads that share 2, as [sequence][row][head][16].
template <class Op> struct arrays {
  test::array<bf16> q{2 * 6 * 4 * 16}, k{2 * 10 * 2 * 16}, v{2 * 10 * 2 * 16}, o{2 * 6 * 4 * 16}, d_o{2 * 6 * 4 * 16}, dq{2 * 6 * 4 * 16}, dk{2 * 10 * 2 * 16}, dv{2 * 10 * 2 * 16};
  test::array<float> lse{2 * 6 * 4}, d_bias{6 * 12};
  typename Op::args args() {
    typename Op::args x;
    x.q = attention::bshd<const bf16>(q.data(), 2, 6, 4, 16), x.o = attention::bshd<const bf16>(o.data(), 2, 6, 4, 16);
    x.d_o = attention::bshd<const bf16>(d_o.data(), 2, 6, 4, 16), x.k = attention::bshd<const bf16>(k.data(), 2, 10, 2, 16);
    x.v = attention::bshd<const bf16>(v.data(), 2, 10, 2, 16), x.lse = attention::bshd<const float>(lse.data(), 2, 6, 4, 1);
    x.dq = attention::bshd(dq.data(), 2, 6, 4, 16), x.dk = attention::bshd(dk.data(), 2, 10, 2, 16), x.dv = attention::bshd(dv.data(), 2, 10, 2, 16);
    x.scale = 0.25f;
    return x;
  }
};

template <class Op> void refuses(errc code, const char* sentence, const std::function<void(typename Op::args&)>& spoil, arrays<Op>& memory) {
  auto x = memory.args();
  spoil(x);
  const status st = Op::check(test::any_context(), x);
  CAPTURE(sentence, st.what, st.got, st.need);
  REQUIRE(st.code == code);
  REQUIRE(std::strstr(st.what, sentence) != nullptr);
  REQUIRE(Op::run(test::any_context(), x).code == code);       // before it asks for a workspace
}

}  // namespace

TEST_CASE("attention's backward pass refuses wrong arguments by name", "[ops][attention]") {
  arrays<op> a;
  REQUIRE(op::check(test::any_context(), a.args()).code == errc::ok);
  const auto no = [&](errc code, const char* sentence, const std::function<void(op::args&)>& spoil) { refuses<op>(code, sentence, spoil, a); };
  no(errc::null_pointer, "q is null", [](auto& x) { x.q.data = nullptr; });
  no(errc::null_pointer, "k is null", [](auto& x) { x.k.data = nullptr; });
  no(errc::null_pointer, "v is null", [](auto& x) { x.v.data = nullptr; });
  no(errc::null_pointer, "d_o is null", [](auto& x) { x.d_o.data = nullptr; });
  no(errc::null_pointer, "o is null", [](auto& x) { x.o.data = nullptr; });
  no(errc::null_pointer, "lse is null", [](auto& x) { x.lse.data = nullptr; });
  no(errc::null_pointer, "give both or neither", [](auto& x) { x.dk.data = nullptr; });
  no(errc::bad_shape, "q: cols must be the head dim", [](auto& x) { x.q.cols = 8; });
  no(errc::bad_shape, "v: cols must be the head dim", [](auto& x) { x.v.cols = 24; });
  no(errc::bad_shape, "lse: cols", [](auto& x) { x.lse.cols = 2; });
  no(errc::bad_shape, "must not be negative", [](auto& x) { x.q.rows = -1; });
  no(errc::bad_shape, "k: row_stride must be at least the columns", [](auto& x) { x.k.row_stride = 8; });
  no(errc::misaligned, "q: row_stride", [](auto& x) { x.q.row_stride = 68; });
  no(errc::misaligned, "k: head_stride", [](auto& x) { x.k.head_stride = 4; });
  no(errc::misaligned, "v: sequence_stride", [](auto& x) { x.v.sequence_stride += 4; });
  no(errc::misaligned, "dq: the address", [](auto& x) { ++x.dq.data; });
  no(errc::misaligned, "dk: the address", [](auto& x) { ++x.dk.data; });
  no(errc::out_of_reach, "beyond 2^31", [](auto& x) { x.q.row_stride = 1 << 30; });
  no(errc::bad_shape, "a multiple of k's heads", [](auto& x) { x.k.heads = 3; });
  no(errc::bad_shape, "v needs the sequences, rows and heads", [](auto& x) { x.v.heads = 1; });
  no(errc::bad_shape, "d_o: needs as many heads", [](auto& x) { x.d_o.heads = 2; });
  no(errc::bad_shape, "k needs as many sequences", [](auto& x) { x.k.sequences = 1; });
  no(errc::bad_shape, "v needs the sequences", [](auto& x) { x.v.rows = 9; });
  no(errc::bad_shape, "d_o: needs as many rows", [](auto& x) { x.d_o.rows = 5; });
  no(errc::bad_shape, "o: needs as many rows", [](auto& x) { x.o.rows = 5; });
  no(errc::bad_shape, "lse: needs as many heads", [](auto& x) { x.lse.heads = 2; });
  no(errc::bad_shape, "dq: needs as many heads", [](auto& x) { x.dq.heads = 2; });
  no(errc::bad_shape, "dk needs the sequences", [](auto& x) { x.dk.rows = 9; });
  no(errc::bad_shape, "dv needs the sequences", [](auto& x) { x.dv.heads = 1; });
  no(errc::bad_shape, "d_lse: needs as many rows", [&](auto& x) { x.d_lse = attention::bshd<const float>(a.lse.data(), 2, 5, 4, 1); });
  no(errc::bad_value, "query_rows must not be negative", [](auto& x) { x.query_rows = -1; });
  no(errc::bad_value, "scale must be positive", [](auto& x) { x.scale = -1; });
  no(errc::bad_value, "scale must be positive", [](auto& x) { x.scale = -std::nanf(""); });
  no(errc::bad_value, "d_sink needs", [&](auto& x) { x.d_sink = a.d_bias.data(); });
  no(errc::bad_value, "d_bias needs options::bias_gradient", [&](auto& x) { x.d_bias.data = a.d_bias.data(); });
  no(errc::aliased, "must not overlap", [&](auto& x) { x.dq.data = a.q.data(); });
  no(errc::aliased, "must not overlap", [&](auto& x) { x.dv.data = a.v.data(); });
  no(errc::aliased, "must not be the same array", [&](auto& x) { x.dk.data = a.dv.data(); });
#if !defined(__CUDACC__)
  const std::int32_t falls[] = {0, 4, 2}, fine[] = {0, 6, 10}, keys[] = {0, 10, 20};
  const auto ragged = [&](auto& x, const std::int32_t* offsets) {
    x.q.offsets = x.o.offsets = x.d_o.offsets = x.lse.offsets = x.dq.offsets = offsets;
    x.k.offsets = x.v.offsets = x.dk.offsets = x.dv.offsets = keys;
  };
  no(errc::bad_value, "q.offsets must not decrease", [&](auto& x) { ragged(x, falls); });
  no(errc::bad_value, "query_rows is less", [&](auto& x) { ragged(x, fine), x.query_rows = 9; });
#endif
  // what may be left out
  auto x = a.args();
  x.dq.data = nullptr;
  REQUIRE(op::check(test::any_context(), x).code == errc::ok);
  x.dk.data = x.dv.data = nullptr;
  REQUIRE(op::check(test::any_context(), x).code == errc::ok);
}

TEST_CASE("attention's backward pass refuses policies that do not fit", "[ops][attention]") {
  arrays<biased> a;
  const auto bias = [&](auto& x) {
    x.logits = {a.d_bias.data(), 6, 10, 12};
    x.d_bias = {a.d_bias.data(), 1, 1, 6, 12, 0, 0, 12, nullptr};
  };
  auto fine = a.args();
  bias(fine);
  REQUIRE(biased::check(test::any_context(), fine).code == errc::ok);
  const auto no = [&](errc code, const char* sentence, const std::function<void(biased::args&)>& spoil) {
    refuses<biased>(code, sentence, [&](auto& x) { bias(x), spoil(x); }, a);
  };
  no(errc::null_pointer, "d_bias is null", [](auto& x) { x.d_bias.data = nullptr; });
  no(errc::bad_shape, "a row for each query", [](auto& x) { x.d_bias.rows = 5; });
  no(errc::bad_shape, "a column for each key", [](auto& x) { x.d_bias.cols = 8; });
  no(errc::bad_shape, "d_bias needs the heads", [](auto& x) { x.d_bias.heads = 2; });
  no(errc::bad_shape, "d_bias needs the sequences", [](auto& x) { x.d_bias.sequences = 3; });
  no(errc::misaligned, "d_bias: the head dim", [](auto& x) { x.d_bias.cols = 10; });
  no(errc::bad_shape, "additive_bias.rows", [](auto& x) { x.logits.rows = 5; });

  arrays<sunk> s;
  refuses<sunk>(errc::null_pointer, "logits is null", [](auto&) {}, s);
  arrays<pointwise> p;
  refuses<pointwise>(errc::bad_value, "d_lse must be empty", [&](auto& x) { x.d_lse = attention::bshd<const float>(p.lse.data(), 2, 6, 4, 1); }, p);
  auto x = p.args();
  x.o = {}, x.lse = {};
  REQUIRE(pointwise::check(test::any_context(), x).code == errc::ok);      // it reads neither
}

TEST_CASE("attention's backward pass refuses a workspace that does not fit", "[ops][attention]") {
  arrays<op> a;
  const auto x = a.args();
  const std::size_t bytes = op::workspace_bytes(test::any_context(), x);
  REQUIRE(bytes > 0);
  REQUIRE(op::run(test::any_context(), x).code == errc::workspace_too_small);
  test::scratch memory(bytes);
  REQUIRE(op::run(test::any_context(), x, {memory.get().data, bytes - 1}).code == errc::workspace_too_small);
  REQUIRE(op::run(test::any_context(), x, {memory.get().data + 16, bytes}).code == errc::misaligned);
}
