// Tokens that go fold into survivors that resemble them: policy::merge, a disposition of cache::compress. docs/ops/cache/d2o.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/cache/merge.hpp>
#include <smalti/ops/cache/compact.hpp>
#include <smalti/prim/sort.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! What compress does after survivors have moved, where its disposition merges. Nothing for others.
template <class T, int D, class Storage, class Layout, class Hash, class Disposition>
struct merge_rows {
  struct plan { std::size_t bytes = 0; };
};

template <class T, int D, class Storage, class Layout, class Hash, policy::merge_weight Weight, policy::merge_gate Gate>
struct merge_rows<T, D, Storage, Layout, Hash, policy::merge<Weight, Gate>> {
  static_assert(D % 16 == 0, "smalti: keys that merge have a multiple of 16 columns");
  using element = typename Storage::element;
  using sort = prim::sort_by_key<std::int32_t>;

  struct plan {
    view<int, 1> dropped, nearest, keys, begins;
    view<float, 1> similarity, dropped_norms, kept_norms;
    int *sorted, *order;
    workspace rest;
    std::size_t bytes;
  };
  struct request {
    track_plan tracks;
    const int* dropped;                        //!< [track], in memory that kernels reach
    view<const int, 1> kept, before, source, target;
    float* thresholds;
    float memory;
  };
  static long long cells(const pool_shape& s, int most, int gone) {
    const long long lists = static_cast<long long>(s.tracks()) * s.heads_in_page();
    return lists * (most > gone ? most + 1 : gone);
  }
  template <class Context> static plan lay_out(const Context& context, const pool_shape& s, int most, int gone, std::byte* base) {
    const int lists = s.tracks() * s.heads_in_page();
    carver carve{base};
    plan p{};
    for (view<int, 1>* of : {&p.dropped, &p.nearest, &p.keys}) *of = {carve.take<int>(std::size_t(lists) * gone), lists, gone, gone};
    p.begins = {carve.take<int>(std::size_t(lists) * (most + 1)), lists, most + 1, most + 1};
    for (view<float, 1>* of : {&p.similarity, &p.dropped_norms}) *of = {carve.take<float>(std::size_t(lists) * gone), lists, gone, gone};
    p.kept_norms = {carve.take<float>(std::size_t(lists) * most), lists, most, most};
    p.sorted = carve.take<int>(std::size_t(lists) * gone), p.order = carve.take<int>(std::size_t(lists) * gone);
    const std::size_t rest = sort::workspace_bytes(context, typename sort::args{.keys = p.keys.data, .keys_out = p.sorted, .values_out = p.order, .count = static_cast<long long>(lists) * gone});
    p.rest = {carve.take<std::byte>(rest), rest};
    p.bytes = carve.used;
    return p;
  }

  template <class Context> static status start(const Context& context, const page_pool& pool, const request& x, const plan& p) {
    const pool_shape& s = pool.shape;
    const int heads = s.heads_in_page(), lists = s.kv_heads, layers = s.layer_tracks(), most = p.begins.cols - 1;
    if (p.dropped.cols == 0 || most == 0) return {};
    const auto keys = reading(pool_rows<element>(pool, plane::keys, 0));
    return first_of(
        [&] { return launch<dropped_kernel>(context, {.tracks = x.tracks, .dropped = x.dropped, .kept = x.kept, .before = x.before, .page = s.page, .heads_in_page = heads, .rows = p.dropped}); },
        [&] { return launch<norm_kernel>(context, {.pool = keys, .rows = reading(p.dropped), .out = p.dropped_norms}); },
        [&] { return launch<norm_kernel>(context, {.pool = keys, .rows = {x.source.data, x.source.rows, most, x.source.stride}, .out = p.kept_norms}); },
        [&] {
          return launch<nearest_kernel>(context, {.pool = keys, .dropped = reading(p.dropped), .kept = x.source, .dropped_norms = reading(p.dropped_norms), .kept_norms = reading(p.kept_norms), .gone = x.dropped,
                                                  .count = x.tracks.count, .heads_in_page = heads, .similarity = p.similarity, .nearest = p.nearest});
        },
        [&] { return launch<threshold_kernel>(context, {.similarity = reading(p.similarity), .gone = x.dropped, .lists = lists, .heads_in_page = heads, .layers = layers, .thresholds = x.thresholds, .memory = x.memory}); },
        [&] {
          return launch<gate_kernel>(context, {.similarity = reading(p.similarity), .nearest = reading(p.nearest), .gone = x.dropped, .lists = lists, .heads_in_page = heads, .layers = layers, .most = most, .thresholds = x.thresholds,
                                               .keys = p.keys});
        },
        [&] { return sort::run(context, {.keys = p.keys.data, .keys_out = p.sorted, .values_out = p.order, .count = static_cast<long long>(p.keys.rows) * p.keys.cols}, p.rest); },
        [&] { return launch<begins_kernel>(context, {.keys = p.sorted, .count = p.keys.rows * p.keys.cols, .begins = p.begins}); },
        [&] { return fold(context, pool, plane::keys, x, p); },
        [&] { return s.value_dim > 0 ? fold(context, pool, plane::values, x, p) : status{}; });
  }

  // ---- what a launch names
  struct dropped_kernel {
    using arguments = dropped_arguments<Layout>;
    template <target> using agent = dropped_agent<256, Layout>;
  };
  struct norm_kernel {
    using arguments = typename norm_problem<element, D>::arguments;
    template <target> using agent = norm_agent<32, element, D>;
  };
  struct nearest_kernel {
    using problem = nearest_problem<T, element, D>;
    using arguments = typename problem::arguments;
    template <target G> using agent = std::conditional_t<G == target::host, nearest_agent<64, 256, 0, problem>, nearest_agent<32, 64, 64, problem>>;
  };
  struct threshold_kernel {
    using arguments = threshold_arguments;
    template <target> using agent = threshold_agent<256>;
  };
  struct gate_kernel {
    using arguments = gate_arguments;
    template <target> using agent = gate_agent<256, Gate>;
  };
  struct begins_kernel {
    using arguments = begins_arguments;
    template <target> using agent = begins_agent<256>;
  };
  struct fold_kernel {
    using arguments = fold_arguments<element>;
    template <target> using agent = fold_agent<16, 64, element, Weight>;
  };

private:
  template <class Context> static status fold(const Context& context, const page_pool& pool, plane which, const request& x, const plan& p) {
    return launch<fold_kernel>(context, {.pool = pool_rows<element>(pool, which, 0),
                                         .begins = reading(p.begins),
                                         .order = p.order,
                                         .dropped = reading(p.dropped),
                                         .target = x.target,
                                         .similarity = p.similarity.data});
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
