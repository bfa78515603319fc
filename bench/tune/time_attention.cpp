// Attention, d = 128: -DQUERIES, -DKEYS, -DHEADS, -DKV_HEADS, -DMASK; -DREGIME says which of its kernels takes the shapes. One
// query: keys and values from memory.
#include <smalti/ops/attention.hpp>

#include "turns.hpp"

namespace {

using namespace smalti;
constexpr int d = 128;
using op = attention::flash<bf16, d, attention::dense_kv<bf16>, policy::MASK>;

template <class Shape> struct one_regime {
  constexpr attention::attention_tuning operator()(target t, attention::attention_regime r) const {
    return r == attention::attention_regime::REGIME ? Shape{}(t, r) : attention::default_tuning<bf16, d, d>{}(t, r);
  }
};

template <class Shape> auto product(turns::memory<bf16>& q, turns::memory<bf16>& kv, turns::memory<bf16>& o) {
  const auto context = with_tuning<one_regime<Shape>>(host_context{.threads = 1});
  const auto at = [](const bf16* k) {
    return attention::dense_kv<bf16>{attention::bhsd<const bf16>(k, 1, KEYS, KV_HEADS, d), attention::bhsd<const bf16>(k + std::size_t(KEYS) * KV_HEADS * d, 1, KEYS, KV_HEADS, d)};
  };
  op::args x{.q = attention::bhsd<const bf16>(q.data(), 1, QUERIES, HEADS, d), .kv = at(kv.data()), .o = attention::bhsd(o.data(), 1, QUERIES, HEADS, d)};
  auto* space = new turns::space(op::workspace_bytes(context, x));   // lives as long as the program
  return [=, &kv]() mutable {
    x.kv = at(kv.next());
    turns::demand(op::run(context, x, *space));
  };
}

}  // namespace

int main() {
  constexpr std::size_t pair = 2 * std::size_t(KEYS) * KV_HEADS * d;
  turns::memory<bf16> q(std::size_t(QUERIES) * HEADS * d), kv(pair, QUERIES == 1 ? (std::size_t(1) << 29) / (pair * sizeof(bf16)) : 1), o(std::size_t(QUERIES) * HEADS * d);
  turns::compare_all([&](auto shape) { return product<decltype(shape)>(q, kv, o); });
  return 0;
}
