// Quest: prefill and the first two layers are dense; else each head of a token that is decoded attends to the pages whose keys can score most.
#include <smalti/ops/attention/quest.hpp>
#include "attention_text.hpp"

namespace generate::inline GENERATE_MACHINE {

namespace {

using storage = policy::kv_plain<bf16>;
constexpr int page = 16, dense_layers = 2;

struct quest_look : keeps_nothing {
  static constexpr bool by_token = true;
  using dense = dense_look<storage, policy::causal, page>;
  using attend = attention::quest<bf16, head_dim, page>;
  dense all{};
  int count = 1024, rows = 0;
  double share = 0;                          // of all pages, instead of `count` tokens; at least three, as the paper has it
  buffer<bf16> low, high;                    // of every layer's pages

  void attach(const cache::pool_shape& s, int) {
    rows = s.pages * s.kv_heads;
    const std::size_t n = std::size_t(s.layers) * std::size_t(rows) * head_dim;
    low = buffer<bf16>(n), high = buffer<bf16>(n);
    low.clear(n), high.clear(n);
  }
  std::size_t bytes() const { return low.bytes() + high.bytes(); }

  void look(const machine& on, const looking<storage, page>& x, scratch& memory) {
    const std::size_t at = std::size_t(x.layer) * std::size_t(rows) * head_dim;
    const view<bf16> least{low.data() + at, rows, head_dim, head_dim}, most{high.data() + at, rows, head_dim, head_dim};
    expect(attend::bounds::run(on, {.kv = x.kv, .fresh = x.moved ? -1 : x.q.rows, .bounds = {least, most}}));
    if (x.q.rows > 1 || x.layer < dense_layers) return all.look(on, x, memory);
    const int k = share > 0 ? std::max(3, int(share * ceil_div(x.from + 1, page) + 0.5)) : count / page;
    run<attend>(on, {.q = x.q, .kv = x.kv, .bounds = {least, most}, .k = k, .o = x.o, .share_heads = false}, memory);
  }
};

}  // namespace

std::unique_ptr<attention_cache> make_quest_bf16(const attention_settings& s, const config& c, int count) {
  if (count < page) throw std::runtime_error("--attention quest:K needs K of at least a page of " + std::to_string(page) + " tokens");
  quest_look look;
  look.count = count;
  return std::make_unique<cache_of<storage, quest_look, page>>(s, c, std::move(look));
}
std::unique_ptr<attention_cache> make_quest_cache(const attention_settings& s, const config& c, double share) {
  quest_look look;
  look.share = share;
  return std::make_unique<cache_of<storage, quest_look, page>>(s, c, std::move(look));
}

}  // namespace generate::inline GENERATE_MACHINE
