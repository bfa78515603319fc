// Tokens that go are kept in few bits: policy::demote, a disposition of cache::compress. docs/ops/cache/mikv.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/cache/merge.hpp>
#include <smalti/ops/cache/append.hpp>
#include <smalti/ops/cache/paged.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Where compress puts what it demotes. Nothing for other dispositions.
template <int D, class Storage, class Layout, class Hash, class Disposition>
struct demote_rows {
  struct lower {};
  struct plan { std::size_t bytes = 0; };
};

template <int D, class Storage, class Layout, class Hash, class Low, bool Balanced>
struct demote_rows<D, Storage, Layout, Hash, policy::demote<Low, Balanced>> {
  static constexpr bool by_token() {
    if constexpr (policy::is_kv_integer<Low>) return Low::format.key_axis == policy::kv_axis::channels && Low::format.value_axis == policy::kv_axis::channels;
    else return requires { typename Low::element; requires sizeof(typename Low::element) == 1; };
  }
  static_assert(by_token(), "smalti: compress demotes single tokens: choose a Low whose scales are for channels of one token, as policy::kv_int2<>, or policy::kv_plain of an 8-bit float");
  using element = typename Storage::element;
  using op = append<element, Low, Layout, D, D, Balanced>;

  //! A second pool with a sequence of its own: as many tracks as the first.
  struct lower {
    paged<Low, Layout, Hash>* cache = nullptr;
    cache::sequence sequence{};
    page_pool pool{};
    const float* balance = nullptr;            //!< Balanced: [kv_head][D] of every layer, one after another
  };
  struct plan {
    view<int, 1> dropped;
    std::size_t bytes;
  };
  static plan lay_out(const pool_shape& s, int gone, std::byte* base) {
    const int lists = s.tracks() * s.heads_in_page();
    carver carve{base};
    plan p{};
    p.dropped = {carve.take<int>(std::size_t(lists) * gone), lists, gone, gone};
    p.bytes = carve.used;
    return p;
  }
  static status check(const pool_shape& s, const lower& low, int gone) {
    if (low.cache == nullptr) return {errc::null_pointer, "low.cache is null: it names the cache that takes what is demoted", 0, 0};
    if (!low.cache->is_resident(low.sequence)) return {errc::bad_value, "low.sequence: it is not open in low.cache, or swapped out", low.sequence.index, 0};
    if (!(low.pool.format == Low::format) || low.pool.order != Layout::order) return {errc::bad_value, "low.pool: it holds another storage or layout than this compression demotes to", int(low.pool.format.code), int(Low::format.code)};
    const pool_shape& l = low.cache->shape();
    if (!(low.pool.shape == l)) return {errc::bad_shape, "low.pool: it has another shape than low.cache was attached with", low.pool.shape.pages, l.pages};
    if (l.kv_heads != s.kv_heads || l.layers != s.layers || l.per_head != s.per_head || l.per_layer != s.per_layer || l.key_dim != D || l.value_dim != D || s.value_dim != D)
      return {errc::bad_shape, "low.pool: heads, layers, tracks and channels must be those of pool, keys and values D wide", l.key_dim, D};
    if (Balanced && low.balance == nullptr) return {errc::null_pointer, "low.balance is null: it needs a factor for each channel of each key head", 0, static_cast<long long>(s.kv_heads) * D};
    const int need = low.cache->pages_for(low.sequence, gone);
    if (need < 0) return {errc::bad_shape, "low.cache: its sequence would hold more tokens than its limits", gone, low.cache->limits().tokens};
    if (need > low.cache->free_pages()) return {errc::exhausted, "low.cache: its pool has too few free pages for what is demoted", low.cache->free_pages(), need};
    return {};
  }
  //! @param before  page tables of before the move; slots: [track][gone], host memory that kernels reach; dropped: [track], likewise
  template <class Context>
  static status start(const Context& context, const page_pool& pool, const lower& low, const track_plan& tracks, const int* dropped, int gone, const view<const int, 1>& kept, const view<const int, 1>& before, int* slots, const plan& p) {
    if (gone == 0) return {};
    const pool_shape& s = pool.shape;
    const int heads = s.heads_in_page();
    if (const status bad = launch<dropped_kernel>(context, {.tracks = tracks, .dropped = dropped, .kept = kept, .before = before, .page = s.page, .heads_in_page = heads, .rows = p.dropped}); !bad) return bad;
    page_moves none{};                         // a sequence of its own: no page is shared
    if (const status bad = low.cache->append(low.sequence, gone, {slots, gone}, none); !bad) return bad;
    for (int l = 0; l < s.layers; ++l) {       // layers that share pages have one list, each its own rows
      const int in_page = s.per_layer ? 0 : l;
      typename op::args x{};
      x.pool = low.pool, x.layer = in_page;
      x.k = reading(pool_rows<element>(pool, plane::keys, in_page)), x.v = reading(pool_rows<element>(pool, plane::values, in_page));
      x.slots = slots + static_cast<long long>(s.track(l, 0)) * gone, x.slot_head_stride = s.per_head ? gone : 0;
      x.rows = p.dropped.data + static_cast<long long>(s.track(l, 0)) * heads * p.dropped.stride, x.tokens = gone, x.rows_head_stride = p.dropped.stride;
      x.balance = low.balance != nullptr ? low.balance + static_cast<long long>(l) * s.kv_heads * D : nullptr;
      if (const status bad = op::run(context, x); !bad) return bad;
    }
    return {};
  }
  struct dropped_kernel {
    using arguments = dropped_arguments<Layout>;
    template <target> using agent = dropped_agent<256, Layout>;
  };
};

}  // namespace smalti::inline SMALTI_CODE::cache
