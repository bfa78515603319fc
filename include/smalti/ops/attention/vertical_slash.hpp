// MInference's vertical-slash attention: see vertical_slash. docs/ops/attention/vertical_slash.md.
#pragma once
#include <cstddef>
#include <type_traits>
#include <smalti/block/score/vertical_slash.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/merge.hpp>
#include <smalti/ops/attention/partials.hpp>
#include <smalti/ops/attention/searched.hpp>
#include <smalti/policy/masks/columns_outside.hpp>
#include <smalti/policy/padded_lists.hpp>
#include <smalti/prim/select_k.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Which keys a head attends to, from a probe of its last 64 queries: the `verticals` keys with the greatest column sums of the
//! probe's softmax (the first `forced_columns` among them) and the `slashes` distances with the greatest diagonal sums (the
//! least `forced_slashes` among them). A slash of distance s shows query p the key p - s; here the blocks of 64 keys that a
//! slash touches for a tile of 64 queries are attended wholly, and the verticals that lie in none of them one by one.
//!
//! columns[(sequence * heads + head)][n]: chosen keys, ascending; blocks[list]: touched blocks, ascending, -1 behind;
//! covered[list][block]: 1 for those; list = (sequence * heads + head) * tiles + tile.
//! @post  run to run; equal sums: the lower key, the greater distance. All keys or all distances chosen: exact attention
//! @note  cost: two products of 64 rows and all keys for each head, and three passes over 64 rows of weights.
//! workspace: 64 (keys + 128) floats for each of the heads that are probed at once
//! Source: Jiang et al. 2024, MInference, arXiv:2407.02490.
template <class T, int D, class Kv = dense_kv<T>, int ValueDim = D>
struct vertical_slash_select {
  static_assert(explain_attention_types<T, D, ValueDim, T>());
  static constexpr int probe = 64, block = 64, queries = 64;
  struct args {
    head_rows<const T> q = {};
    Kv kv = {};
    float scale = 0;                         //!< of the probe's scores; 0 takes 1 / sqrt(D)
    int verticals = 1000, slashes = 1000;           //!< chosen, at most 4096
    int forced_columns = 30, forced_slashes = 30;
    int probed_at_once = 4;                  //!< pairs of sequence and head, for the size of the workspace
    view<int, 1> columns{}, blocks{};
    view<unsigned char, 1> covered{};
  };
  static constexpr int pairs(const args& x) { return x.q.sequences * x.q.heads; }
  static constexpr int tiles(const args& x) { return ceil_div(x.q.rows, queries); }
  static constexpr int all_blocks(const args& x) { return ceil_div(x.kv.longest(), block); }
  //! Columns of `blocks`: a slash touches two blocks at most.
  static constexpr int width(const args& x) { return all_blocks(x) < 2 * x.slashes ? all_blocks(x) : 2 * x.slashes; }

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_search(context, x); }, [&] { return check_lists(x); });
  }
  //! The same without a word on what is written.
  template <class Context> static status check_search(const Context& context, const args& x) {
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x, is_host<Context>); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return 0;
    else return lay_out(base_of(context), x, nullptr).bytes;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if (pairs(x) == 0 || x.q.rows == 0) return {};
    if constexpr (runs_here<Context>) return start(base_of(context), x, memory);
    else return {};
  }

  // ---- what a launch names: kernels are not for callers
  using problem = probe_problem<T, D, Kv>;
  template <int Step> struct probe_kernel {
    using arguments = typename problem::arguments;
    static constexpr int chunk(target t) { return t == target::host ? 0 : 128; }
    template <target G> using agent = std::conditional_t<Step == 0, probe_rows_agent<probe, 64, chunk(G), problem>,
                                                         std::conditional_t<Step == 1, probe_columns_agent<probe, 64, chunk(G), problem>, probe_diagonals_agent<probe, 64, problem>>>;
  };
  struct fill_kernel {
    using arguments = fill_lists_arguments;
    template <target> using agent = fill_lists_agent<16, 64>;
  };
  struct list_kernel {
    using arguments = slash_list_arguments<Kv>;
    template <target> using agent = slash_list_agent<probe, block, queries, 64, Kv>;
  };

private:
  using best = prim::select_k<float>;
  struct plan {
    float *stats, *verticals, *slashes, *moved;
    int *chosen, columns, places;            // widths of the sums
    workspace rest;
    std::size_t bytes;
  };
  static constexpr int at_once(const args& x) { return pairs(x) < x.probed_at_once ? pairs(x) : x.probed_at_once; }
  static typename best::args verticals_of(const args& x, const plan& p) {
    return {.rows = {p.verticals, pairs(x), x.kv.longest(), p.columns}, .k = x.verticals, .indices = x.columns, .arranged = prim::arrangement::by_index};
  }
  static typename best::args slashes_of(const args& x, const plan& p) {
    return {.rows = {p.slashes, pairs(x), p.places, p.places}, .k = x.slashes, .indices = {p.chosen, pairs(x), x.slashes, x.slashes}, .arranged = prim::arrangement::by_index};
  }
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    plan p{};
    if (pairs(x) <= 0 || x.q.rows <= 0) return p;
    carver carve{base};
    p.columns = round_up(x.kv.longest(), 4);
    p.places = round_up(x.kv.longest() + 2 * probe, 4);
    p.stats = carve.take<float>(std::size_t(pairs(x)) * probe);
    p.verticals = carve.take<float>(std::size_t(pairs(x)) * p.columns);
    p.slashes = carve.take<float>(std::size_t(pairs(x)) * p.places);
    p.chosen = carve.take<int>(std::size_t(pairs(x)) * x.slashes);
    p.moved = carve.take<float>(std::size_t(at_once(x)) * probe * p.places);
    p.rest = carve.take_shared({best::workspace_bytes(context, verticals_of(x, p)), best::workspace_bytes(context, slashes_of(x, p))});
    p.bytes = carve.used;
    return p;
  }
  template <class Context> static status start(const Context& context, const args& x, workspace memory) {
    const plan p = lay_out(context, x, memory.data);
    const float scale = (x.scale > 0 ? x.scale : 1.0f / __builtin_sqrtf(float(D))) * policy::lse_e<float>::bits_per_unit;
    for (int pair = 0; pair < pairs(x); pair += at_once(x)) {
      const int count = pairs(x) - pair < at_once(x) ? pairs(x) - pair : at_once(x);
      const typename problem::arguments a{x.q, x.kv, x.q.heads / x.kv.heads(), scale, pair, count, x.forced_columns, x.forced_slashes, {p.stats, pairs(x), probe, probe},
                                          {p.verticals, pairs(x), x.kv.longest(), p.columns}, {p.slashes, pairs(x), p.places, p.places}, p.moved, p.places};
      if (const status bad = first_of([&] { return launch<probe_kernel<0>>(context, a); }, [&] { return launch<probe_kernel<1>>(context, a); }, [&] { return launch<probe_kernel<2>>(context, a); }); !bad) return bad;
    }
    return first_of([&] { return x.verticals > 0 ? best::run(context, verticals_of(x, p), p.rest) : status{}; }, [&] { return best::run(context, slashes_of(x, p), p.rest); },
                    [&] { return launch<fill_kernel>(context, {x.blocks}); },
                    [&] { return launch<list_kernel>(context, {x.kv, x.q.offsets, x.q.rows, x.q.sequences, x.q.heads, x.q.heads / x.kv.heads(), {p.chosen, pairs(x), x.slashes, x.slashes}, x.blocks, x.covered}); });
  }

  static status check_args(const args& x, bool readable) {
    if (const status bad = detail::check_rows<"q", step_of<T>>(x.q, D); !bad) return bad;
    if (readable)
      if (const status bad = detail::check_offsets<"q">(x.q); !bad) return bad;
    if (const status bad = check_kv<D, ValueDim>(x.kv, readable); !bad) return bad;
    if (kv_sequences(x.kv) != x.q.sequences) return {errc::bad_shape, "kv: needs as many sequences as q", kv_sequences(x.kv), x.q.sequences};
    if (x.q.heads > 0 && (x.kv.heads() <= 0 || x.q.heads % x.kv.heads() != 0)) return {errc::bad_shape, "q: the query heads must be a multiple of the key heads", x.q.heads, x.kv.heads()};
    if (!(x.scale >= 0 && x.scale <= 3e38f)) return {errc::bad_value, "scale must be positive and finite, or 0 for 1 / sqrt(D)"};
    if (x.verticals < 0 || x.verticals > prim::greatest_k) return {errc::bad_value, "verticals must be within [0, 4096]", x.verticals, prim::greatest_k};
    if (x.slashes < 1 || x.slashes > prim::greatest_k) return {errc::bad_value, "slashes must be within [1, 4096]: the least distance is always one", x.slashes, prim::greatest_k};
    if (x.forced_columns < 0 || x.forced_columns > x.verticals) return {errc::bad_value, "forced_columns must be within [0, verticals]", x.forced_columns, x.verticals};
    if (x.forced_slashes < 1 || x.forced_slashes > x.slashes) return {errc::bad_value, "forced_slashes must be within [1, slashes]: a query sees its own key", x.forced_slashes, x.slashes};
    if (x.probed_at_once < 1) return {errc::bad_value, "probed_at_once must be positive", x.probed_at_once, 1};
    return {};
  }
  static status check_lists(const args& x) {
    if (pairs(x) == 0 || x.q.rows == 0) return {};
    const long long lists = static_cast<long long>(pairs(x)) * tiles(x);
    if (x.verticals > 0 && x.columns.data == nullptr) return {errc::null_pointer, "columns is null: it needs verticals ints for each sequence and head", 0, x.verticals};
    if (x.verticals > 0 && (x.columns.rows != pairs(x) || x.columns.cols != x.verticals || x.columns.stride < x.verticals)) return {errc::bad_shape, "columns needs a row of `verticals` for each sequence and head", x.columns.cols, x.verticals};
    if (x.blocks.data == nullptr || x.covered.data == nullptr) return {errc::null_pointer, "blocks and covered must not be null: a row for each tile of each head"};
    if (x.blocks.rows != lists || x.blocks.cols < width(x) || x.blocks.stride < x.blocks.cols) return {errc::bad_shape, "blocks needs a row of width() for each tile of each head", x.blocks.cols, width(x)};
    if (x.covered.rows != lists || x.covered.cols < all_blocks(x) || x.covered.stride < x.covered.cols) return {errc::bad_shape, "covered needs a row of all_blocks() for each tile of each head", x.covered.cols, all_blocks(x)};
    return {};
  }
};

//! Causal prefill attention to the keys that vertical_slash_select chooses, in one call: blocks, single keys, and a merge.
//! Everything else as attention::flash. @note  workspace: the lists, copies of the single keys for each query head, two
//! partial results
template <class T, int D, class Kv = dense_kv<T>, class Options = options>
struct vertical_slash {
  static constexpr int value_dim = Options::value_dim == 0 ? D : Options::value_dim;
  using search = vertical_slash_select<T, D, Kv, value_dim>;
  using slashes_op = flash<T, D, Kv, policy::causal, with_padded_lists<partial_options<Options>, search::block, search::queries>>;
  using columns_op = flash<T, D, dense_kv<T>, policy::columns_outside<search::block, search::queries>, partial_options<Options>>;
  using out = std::conditional_t<std::is_void_v<typename Options::out>, T, typename Options::out>;
  using merge = attention::merge<float, out>;
  struct args {
    head_rows<const T> q = {};
    Kv kv = {};
    const int* lengths = nullptr;            //!< keys of each sequence, in the context's memory
    head_rows<out> o = {};
    head_rows<float> lse = {};
    float scale = 0;
    int verticals = 1000, slashes = 1000;
    int forced_columns = 30, forced_slashes = 30;
    int probed_at_once = 4;
  };
  template <class Context> static status check(const Context& context, const args& x) {
    if (x.q.sequences > 0 && x.lengths == nullptr) return {errc::null_pointer, "lengths is null: it needs the keys of each sequence", 0, x.q.sequences};
    if (const status bad = search::check_search(context, search_of(x, {})); !bad) return bad;
    return first_of([&] { return slashes_op::check(context, slashes_of(x, lay_out(context, x, nullptr), true)); }, [&] { return detail::check_rows<"o", step_of<out>>(x.o, value_dim); },
                    [&] { return detail::check_same_rows<"o", "q">(x.o, x.q); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) { return lay_out(context, x, nullptr).bytes; }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if (search::pairs(search_of(x, {})) == 0 || x.q.rows == 0) return {};
    const plan p = lay_out(context, x, memory.data);
    const auto s = search_of(x, p);
    if (const status bad = search::run(context, s, p.rest); !bad) return bad;
    if constexpr (runs_here<Context>)
      if (x.verticals > 0)
        if (const status bad = launch<gather_kernel>(base_of(context), {x.kv, x.q.sequences, x.q.heads, x.q.heads / x.kv.heads(), reading(s.columns),
                                                                       {p.k, s.columns.rows * x.verticals, D, D}, {p.v, s.columns.rows * x.verticals, value_dim, value_dim}}); !bad) return bad;
    if (const status bad = slashes_op::run(context, slashes_of(x, p, false), p.rest); !bad) return bad;
    if (x.verticals > 0)
      if (const status bad = columns_op::run(context, columns_of(x, p), p.rest); !bad) return bad;
    return merge::run(context, {.o = read_only(p.parts.o_of(x.q, value_dim, 0)), .lse = read_only(p.parts.lse_of(x.q, 0)), .o_distance = p.parts.o_distance, .lse_distance = p.parts.lse_distance,
                                .parts = x.verticals > 0 ? 2 : 1, .result = x.o, .result_lse = x.lse});
  }

  // ---- what a launch names: kernels are not for callers
  struct gather_kernel {
    using arguments = gather_columns_arguments<T, D, value_dim, Kv>;
    template <target> using agent = gather_columns_agent<64, 64, T, D, value_dim, Kv>;
  };

private:
  struct plan {
    int *columns, *blocks;
    unsigned char* covered;
    T *k, *v;
    partial_results parts;
    workspace rest;
    std::size_t bytes;
  };
  static typename search::args search_of(const args& x, const plan& p) {
    typename search::args s{.q = x.q, .kv = x.kv, .scale = x.scale, .verticals = x.verticals, .slashes = x.slashes, .forced_columns = x.forced_columns, .forced_slashes = x.forced_slashes, .probed_at_once = x.probed_at_once};
    const int lists = search::pairs(s) * search::tiles(s), width = search::width(s), flags = search::all_blocks(s);
    s.columns = {p.columns, search::pairs(s), x.verticals, x.verticals};
    s.blocks = {p.blocks, lists, width, width};
    s.covered = {p.covered, lists, flags, flags};
    return s;
  }
  // For a check before there is memory: o gets an address that nothing else has, and the lse is left out.
  static typename slashes_op::args slashes_of(const args& x, const plan& p, bool only_checked) {
    head_rows<float> o = p.parts.o_of(x.q, value_dim, 0);
    if (only_checked) o.data = reinterpret_cast<float*>(carver::alignment);
    const auto s = search_of(x, p);
    typename slashes_op::args a{.q = x.q, .kv = x.kv, .o = o, .scale = x.scale};
    if (!only_checked) a.lse = p.parts.lse_of(x.q, 0);
    a.blocks = {reading(s.blocks), x.q.heads, search::tiles(s), true};
    return a;
  }
  static typename columns_op::args columns_of(const args& x, const plan& p) {
    const auto s = search_of(x, p);
    typename columns_op::args a{.q = x.q, .kv = {bhsd<const T>(p.k, x.q.sequences, x.verticals, x.q.heads, D), bhsd<const T>(p.v, x.q.sequences, x.verticals, x.q.heads, value_dim)},
                                .o = p.parts.o_of(x.q, value_dim, 1), .lse = p.parts.lse_of(x.q, 1), .scale = x.scale};
    a.mask = {reading(s.columns), reading(s.covered), x.lengths, x.q.heads, search::tiles(s)};
    return a;
  }
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    plan p{};
    if (x.q.sequences <= 0 || x.q.heads <= 0 || x.q.rows <= 0) return p;
    carver carve{base};
    const auto s = search_of(x, p);
    p.columns = carve.take<int>(std::size_t(s.columns.rows) * x.verticals);
    p.blocks = carve.take<int>(std::size_t(s.blocks.rows) * s.blocks.cols);
    p.covered = carve.take<unsigned char>(std::size_t(s.covered.rows) * s.covered.cols);
    p.k = carve.take<T>(std::size_t(s.columns.rows) * x.verticals * D);
    p.v = carve.take<T>(std::size_t(s.columns.rows) * x.verticals * value_dim);
    p.parts = partial_results::take(carve, x.q, value_dim, 2);
    std::size_t most = search::workspace_bytes(context, s);
    const std::size_t a = slashes_op::workspace_bytes(context, slashes_of(x, p, true)), b = x.verticals > 0 ? columns_op::workspace_bytes(context, columns_of(x, p)) : 0;
    most = a > most ? a : most;
    most = b > most ? b : most;
    p.rest = {carve.take<std::byte>(most), most};
    p.bytes = carve.used;
    return p;
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
