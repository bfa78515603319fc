// The index of slots by expert: from expert ids to the rows of a grouped product.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/route/counting_sort.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/policy/route/layout.hpp>
#include <smalti/policy/route_index.hpp>
#include <smalti/tile/launch.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in index.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent                 sm_80   sm_89   sm_90   sm_100  sm_120  tried
// route index, count    128x32  128x32  128x32  128x32  128x32  10
// route index, scan     128x32  128x32  128x32  128x32  128x32  10
// route index, place    128x32  128x32  128x32  128x32  128x32  10
// route index, scatter  128x32  128x32  128x32  128x32  128x32  10
// swept: end

namespace smalti::inline SMALTI_CODE::route {

//! Slots of a chunk and experts at a time. Ranks in a chunk are counted by comparing its slots with each other.
struct default_index_tuning {
  SMALTI_HD constexpr index_tuning operator()(target t) const { return t == target::host ? index_tuning{.n = 64, .e = 16} : index_tuning{.n = 128, .e = 32}; }
};
//! A token or two of a decoding batch on the host, where every operation of a tile runs over all of it.
constexpr int few_slots = 16, few_slots_experts = 256;
struct few_index_tuning {
  SMALTI_HD constexpr index_tuning operator()(target t) const { return t == target::host ? index_tuning{.n = 16, .e = 16, .wide = 256} : default_index_tuning{}(t); }
};

//! Refuses ids outside [-1, experts) and experts that a token names twice. Reads all ids, so they must be readable by the host: ids on a
//! GPU are looked over there (moe::inspect), as route::index takes an id out of range for -1 and gives a duplicate two rows.
//! @note O(tokens choices^2)
inline status check_ids(const std::int32_t* ids, int tokens, int choices, int experts) {
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < choices; ++j) {
      const std::int32_t* mine = ids + std::int64_t(t) * choices;
      if (mine[j] < -1 || mine[j] >= experts) return {errc::bad_value, "ids must be expert numbers below experts, or -1 for none", mine[j], std::int64_t(experts) - 1};
      for (int i = 0; i < j; ++i)
        if (mine[j] >= 0 && mine[i] == mine[j]) return {errc::bad_value, "ids must not name an expert twice for one token: sanitise logits before the selection", mine[j], -1};
    }
  return {};
}

//! Groups slots by expert (policy/route_index.hpp): a stable counting sort. Ids of identity experts and -1 get no row.
//!
//!     slots of expert e, in the order of slot_order: s_0, s_1, ...;  kept: the first capacity of them
//!     row_of_slot[s_i] = first(e) + i,  slot_of_row[first(e) + i] = s_i,  end[e] = first(e) + kept(e)
//!     first(e + 1) = first(e) + kept(e) rounded up to layout.alignment,  or (e + 1) layout.rows_per_expert
//!
//! No count is read by the host: buffers have their greatest sizes (layout.limit), the tile list -1 behind its end.
//!
//! @pre    tokens * choices < 2^31, and rows; on the host ids are checked (route::check_ids), on a GPU ids out of range get no row
//! @post   gpu_to_gpu: integers, the same on every machine, for every order of blocks; within an expert rising places of slot_order
//! @note   cost: slots (experts + chunk) / 16 comparisons of 16, four launches, five with tiles. Memory of index_bytes(), which the caller
//!         keeps while the index is used, and workspace of 4 experts (slots / chunk + 5) bytes
//!
//! Sources: MegaBlocks, arXiv:2211.15841, and Tutel, arXiv:2206.03382, for the orders and capacities.
struct index {
  static constexpr determinism level = determinism::gpu_to_gpu;

  struct args {
    const std::int32_t* ids = nullptr;           //!< [tokens][choices]
    const float* weights = nullptr;              //!< [tokens][choices] carried into the index; null: all 1
    int tokens = 0, choices = 0, experts = 0;
    int identities = 0;                          //!< ids from experts to experts + identities - 1 are experts without a product: they get no row
    policy::row_layout layout = {};
    policy::expert_capacity capacity = {};
    policy::slot_order order = policy::slot_order::token;
    const std::int32_t* token_order = nullptr;   //!< [tokens] a permutation, with slot_order::prioritized (route::prioritize)
    int tile_rows = 0;                           //!< rows of a tile of the work list; 0: none
    void* memory = nullptr;                      //!< index_bytes(x), on a boundary of 256 bytes
    std::int32_t* demand = nullptr;              //!< [experts] slots of each expert before the capacity; null: not wanted
    std::int32_t* capacity_used = nullptr;       //!< one number: what the capacity was; null: not wanted
    bool trust_ids = false;                      //!< ids are a router's: the host does not check them
  };

  //! The index that run fills, and how many bytes it takes. Pure: pointers into x.memory.
  static policy::route_index of(const args& x) { return lay_out_index(x).index; }
  static std::size_t index_bytes(const args& x) { return check_numbers(x) ? lay_out_index(x).bytes : 0; }

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    return first_of([&] { return check_context(context); }, [&] { return check_numbers(x); }, [&] { return check_pointers(x); }, [&]() -> status {
      if constexpr (is_host<Context>)
        if (!x.trust_ids) return first_of([&] { return check_ids(x.ids, x.tokens, x.choices, x.experts + x.identities); }, [&] { return check_order(x); });
      return {};
    });
  }

  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (!check_numbers(x)) return 0;
    if constexpr (runs_here<Context>) return lay_out(base_of(context), x, nullptr).bytes;
    else return 0;
  }

  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if (x.experts == 0) return {};
    if constexpr (runs_here<Context>) {
      if constexpr (is_host<Context>)
        if (x.tokens * x.choices <= few_slots && x.experts <= few_slots_experts) return start<few_index_tuning>(context, x, memory);
      return start<default_index_tuning>(context, x, memory);
    } else {
      return {};
    }
  }

  // ---- what a launch names: kernels are not for callers
  template <template <index_tuning> class Agent, class Tuning = default_index_tuning> struct kernel {
    using arguments = typename Agent<index_tuning{}>::arguments;
    template <target T> using agent = Agent<Tuning{}(T)>;
  };

private:
  template <class Tuning, class Context> static status start(const Context& context, const args& x, workspace memory) {
    const auto& here = base_of(context);
    const plan p = lay_out(here, x, memory.data);
    const writable w = lay_out_index(x);
    const slot_list slots{x.ids, x.tokens, x.choices, x.experts, x.order, x.token_order};
    if (const status bad = first_of(
            [&] { return launch<kernel<count_agent, Tuning>>(here, {slots, p.chunks, p.counts, w.slot_of_row, w.token_of_row, w.index.row_limit}); },
            [&] { return launch<kernel<scan_agent, Tuning>>(here, {x.experts, p.chunks, p.counts, p.totals, p.kept, p.padded, x.capacity.kept_at_most(), x.layout.alignment}); },
            [&] { return launch<kernel<place_agent, Tuning>>(here, {x.experts, x.layout, x.capacity, p.totals, p.kept, p.padded, w.offsets, w.end, x.demand, x.capacity_used, x.tile_rows, p.tile_begin}); }); !bad)
      return bad;
    if (slots.slots() > 0)
      if (const status bad = launch<kernel<scatter_agent, Tuning>>(here, {slots, p.chunks, w.index.row_limit, p.counts, w.offsets, w.end, w.slot_of_row, w.token_of_row, w.row_of_slot}); !bad) return bad;
    if (w.index.tiles.limit > 0)
      return launch<kernel<tile_list_agent, Tuning>>(here, {x.experts, x.tile_rows, w.index.tiles.limit, w.offsets, p.tile_begin, w.end, w.tile_expert, w.tile_first});
    return {};
  }
  struct plan {
    int chunks;
    int *counts, *totals, *kept, *padded, *tile_begin;
    std::size_t bytes;
  };
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    carver c{base};
    plan p{};
    const int slots = x.tokens * x.choices;
    p.chunks = slots > 0 ? ceil_div(slots, default_index_tuning{}(target_for(context)).n) : 1;
    p.counts = c.take<int>(std::size_t(x.experts) * std::size_t(p.chunks));
    p.totals = c.take<int>(std::size_t(x.experts));
    p.kept = c.take<int>(std::size_t(x.experts));
    p.padded = c.take<int>(std::size_t(x.experts));
    p.tile_begin = c.take<int>(std::size_t(x.experts));
    p.bytes = c.used;
    return p;
  }
  struct writable {
    policy::route_index index;
    int *offsets, *end, *token_of_row, *slot_of_row, *row_of_slot, *tile_expert, *tile_first;
    std::size_t bytes;
  };
  static writable lay_out_index(const args& x) {
    carver c{static_cast<std::byte*>(x.memory)};
    writable w{};
    const int slots = x.tokens * x.choices, rows = int(x.layout.limit(slots, x.experts));
    w.offsets = c.take<int>(std::size_t(x.experts) + 1);
    w.end = c.take<int>(std::size_t(x.experts));
    w.token_of_row = c.take<int>(std::size_t(rows));
    w.slot_of_row = c.take<int>(std::size_t(rows));
    w.row_of_slot = c.take<int>(std::size_t(slots));
    int tiles = 0;
    if (x.tile_rows > 0) tiles = slots / x.tile_rows + (slots < x.experts ? slots : x.experts);
    w.tile_expert = c.take<int>(std::size_t(tiles));
    w.tile_first = c.take<int>(std::size_t(tiles));
    w.bytes = c.used;
    w.index = {.rows = {w.offsets, x.experts}, .end = w.end, .token_of_row = w.token_of_row, .slot_of_row = w.slot_of_row, .row_of_slot = w.row_of_slot, .weight_of_slot = x.weights,
               .tokens = x.tokens, .choices = x.choices, .row_limit = rows, .tiles = {w.tile_expert, w.tile_first, x.tile_rows, tiles}};
    return w;
  }

  static status check_numbers(const args& x) {
    constexpr long long most = 2147483647;
    if (x.tokens < 0) return {errc::bad_shape, "tokens must not be negative", x.tokens, 0};
    if (x.choices < 0) return {errc::bad_shape, "choices must not be negative", x.choices, 0};
    if (x.experts < 0) return {errc::bad_shape, "experts must not be negative", x.experts, 0};
    if (x.identities < 0 || x.identities > most - x.experts) return {errc::bad_shape, "identities must not be negative, nor with experts reach 2^31", x.identities, 0};
    const long long slots = static_cast<long long>(x.tokens) * x.choices;
    if (slots > most - 1024) return {errc::out_of_reach, "tokens times choices must be below 2^31 - 1024: slots are 32 bits", slots, most - 1024};
    if (static_cast<long long>(x.experts) * (slots / 64 + 1) > most) return {errc::out_of_reach, "experts times slots / 64 must be below 2^31: split the batch", static_cast<long long>(x.experts) * (slots / 64 + 1), most};
    if (const status bad = first_of([&] { return x.layout.check(); }, [&] { return x.capacity.check(); }); !bad) return bad;
    if (x.layout.limit(slots, x.experts) > most - 1024)
      return {errc::out_of_reach, "the rows of the layout, padding included, must be below 2^31 - 1024: rows are 32 bits", x.layout.limit(slots, x.experts), most - 1024};
    if (x.layout.rows_per_expert != 0 && x.capacity.bound(x.tokens) > x.layout.rows_per_expert)
      return {errc::bad_value, "layout.rows_per_expert must hold what an expert may keep: all tokens, or a fixed or capped capacity", x.layout.rows_per_expert, x.capacity.bound(x.tokens)};
    if (x.tile_rows < 0) return {errc::bad_value, "tile_rows must not be negative", x.tile_rows, 0};
    if (x.order != policy::slot_order::token && x.order != policy::slot_order::choice && x.order != policy::slot_order::prioritized)
      return {errc::bad_value, "order must be a policy::slot_order", int(x.order), 0};
    return {};
  }
  static status check_pointers(const args& x) {
    const long long slots = static_cast<long long>(x.tokens) * x.choices;
    if (slots > 0 && x.ids == nullptr) return {errc::null_pointer, "ids is null: it needs tokens times choices elements", 0, slots};
    if (x.tokens > 0 && x.order == policy::slot_order::prioritized && x.token_order == nullptr)
      return {errc::null_pointer, "token_order is null: slot_order::prioritized needs a permutation of the tokens (route::prioritize)", 0, x.tokens};
    if (x.experts > 0 && x.memory == nullptr) return {errc::null_pointer, "memory is null: it needs index_bytes(args) bytes", 0, std::int64_t(lay_out_index(x).bytes)};
    if (const auto over = reinterpret_cast<std::uintptr_t>(x.memory) % carver::alignment; over != 0) return {errc::misaligned, "memory must begin on a boundary of 256 bytes", std::int64_t(over), 0};
    const char *first = static_cast<const char*>(x.memory), *last = first + lay_out_index(x).bytes;
    const auto inside = [&](const void* p, long long bytes) { return p != nullptr && static_cast<const char*>(p) < last && first < static_cast<const char*>(p) + bytes; };
    if (inside(x.ids, slots * 4) || inside(x.weights, slots * 4) || inside(x.token_order, x.tokens * 4ll) || inside(x.demand, x.experts * 4ll) || inside(x.capacity_used, 4))
      return {errc::aliased, "memory must not overlap ids, weights, token_order, demand or capacity_used"};
    return {};
  }
  // Only what would leave its arrays: an order that names a token twice gives two slots one row.
  static status check_order(const args& x) {
    if (x.order != policy::slot_order::prioritized) return {};
    for (int t = 0; t < x.tokens; ++t)
      if (x.token_order[t] < 0 || x.token_order[t] >= x.tokens) return {errc::bad_value, "token_order must name tokens: it is a permutation of them", x.token_order[t], std::int64_t(x.tokens) - 1};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::route
