// Hogwild! Inference: several workers write one cache at once, each reading it in an order of its own.
// docs/ops/attention/hogwild.md.
#pragma once
#include <smalti/block/position/rotate.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/merge.hpp>
#include <smalti/ops/attention/partials.hpp>
#include <smalti/policy/position.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Worker w sees an ordered list of cache blocks; block t of its list begins at the position off_t, the sum of the lengths
//! before it. Keys are stored rotated from the beginning of their block, once: not the keys are moved but the query, by
//! p - off_t for each block (<R(p) q, R(off + j) k> = <R(p - off) q, R(j) k>), and partial results are merged.
//! Workers are the sequences of q; block t of worker w's list are the pages of its row of slots[t]; the worker's own block
//! stands last, and in it the worker's new rows are causal. All workers' new keys are appended before the call.
//!
//! @tparam D  rotated in pairs (i, i + D / 2), a multiple of 32; Slots: the longest list
//! @pre   q is [worker][row][head][D], not rotated, without gaps; a worker with fewer blocks has length 0 in the others
//! @note  cost: a rotation of q for every slot, attention to every block once, a merge. workspace: a rotated q and a partial
//!        result for each slot
//! Source: Rodionov et al. 2025, arXiv:2504.06261.
template <class T, int D, int Slots, int Page = 0, class Options = options>
struct hogwild {
  static_assert(Slots >= 1, "smalti: hogwild needs the number of blocks of the longest list");
  using kv = paged_kv<T, Page>;
  using others = flash<T, D, kv, policy::full, partial_options<Options>>;
  using own = flash<T, D, kv, policy::causal, partial_options<Options>>;
  using out = std::conditional_t<std::is_void_v<typename Options::out>, T, typename Options::out>;
  using merge = attention::merge<float, out>;
  static constexpr int value_dim = own::value_dim;
  struct args {
    head_rows<const T> q = {};
    kv slots[Slots] = {};                            //!< block t of every worker's list; the last one its own
    const int* positions = nullptr;             //!< [slot][worker * rows + row]: p - off_t, in the context's memory; see fill_positions
    const float* frequencies = nullptr;         //!< 4 x D / 2: policy::fill_frequencies, in the context's memory
    float attention_scale = 1;                  //!< policy::rotary::scaling.attention_scale()
    head_rows<out> o = {};
    head_rows<float> lse = {};
    float scale = 0;
  };

  //! positions from lengths[slot][worker], which count the new rows of the own block.
  static void fill_positions(const int* lengths, int workers, int rows, int* positions) {
    for (int w = 0; w < workers; ++w) {
      int total = 0;
      for (int t = 0; t < Slots; ++t) total += lengths[t * workers + w];
      for (int t = 0, before = 0; t < Slots; before += lengths[t * workers + w], ++t)
        for (int i = 0; i < rows; ++i) positions[(static_cast<long long>(t) * workers + w) * rows + i] = total - rows + i - before;
    }
  }

  template <class Context> static status check(const Context& context, const args& x) {
    if (x.q.offsets != nullptr || x.q.head_stride != D || x.q.row_stride != x.q.heads * D || (x.q.sequences > 1 && x.q.sequence_stride != static_cast<long long>(x.q.rows) * x.q.heads * D))
      return {errc::bad_shape, "q must be [worker][row][head][D] without gaps"};
    if (x.q.sequences == 0 || x.q.rows == 0 || x.q.heads == 0) return {};
    if (x.positions == nullptr) return {errc::null_pointer, "positions is null: one for each slot, worker and row", 0, static_cast<long long>(Slots) * x.q.sequences * x.q.rows};
    if (x.frequencies == nullptr) return {errc::null_pointer, "frequencies is null: policy::fill_frequencies writes 4 x D / 2", 0, 2 * D};
    const plan p = lay_out(context, x, nullptr);
    for (int t = 0; t + 1 < Slots; ++t)
      if (const status bad = others::check(context, attend<others>(x, p, t, true)); !bad) return bad;
    return first_of([&] { return own::check(context, attend<own>(x, p, Slots - 1, true)); }, [&] { return detail::check_rows<"o", step_of<out>>(x.o, value_dim); }, [&] { return detail::check_same_rows<"o", "q">(x.o, x.q); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) { return lay_out(context, x, nullptr).bytes; }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if (x.q.sequences == 0 || x.q.rows == 0 || x.q.heads == 0) return {};
    const plan p = lay_out(context, x, memory.data);
    const int tokens = x.q.sequences * x.q.rows, width = x.q.heads * D;
    for (int t = 0; t < Slots; ++t) {
      if constexpr (runs_here<Context>)
        if (const status bad = launch<turn_kernel>(base_of(context), {.x = {x.q.data, tokens, width, width}, .y = {p.turned, tokens, width, width}, .positions = {x.positions + static_cast<long long>(t) * tokens, 1, tokens, tokens},
                                                                     .frequencies = {x.frequencies, 4, D / 2, D / 2}, .heads = x.q.heads, .scale = x.attention_scale, .direction = 1, .copies = false}); !bad) return bad;
      const status bad = t + 1 < Slots ? others::run(context, attend<others>(x, p, t, false), p.rest) : own::run(context, attend<own>(x, p, t, false), p.rest);
      if (!bad) return bad;
    }
    return merge::run(context, {.o = read_only(p.parts.o_of(x.q, value_dim, 0)), .lse = read_only(p.parts.lse_of(x.q, 0)), .o_distance = p.parts.o_distance, .lse_distance = p.parts.lse_distance,
                                .parts = Slots, .result = x.o, .result_lse = x.lse});
  }

  // ---- what a launch names: kernels are not for callers
  struct turn_kernel {
    using problem = rotary::rotary_problem<T, false, D, D>;
    using arguments = typename problem::arguments;
    template <target G> using agent = rotary::rotary_agent<G == target::host ? rotary::rotary_tuning{4, 64} : rotary::rotary_tuning{16, 4}, problem>;
  };

private:
  struct plan {
    T* turned;
    partial_results parts;
    workspace rest;
    std::size_t bytes;
  };
  // For a check before there is memory: q and o get addresses that nothing else has, and the lse is left out.
  template <class Op> static typename Op::args attend(const args& x, const plan& p, int t, bool only_checked) {
    head_rows<const T> q = x.q;
    head_rows<float> o = p.parts.o_of(x.q, value_dim, t);
    if (only_checked) o.data = reinterpret_cast<float*>(carver::alignment);
    else q.data = p.turned;
    typename Op::args a{.q = q, .kv = x.slots[t], .o = o, .scale = x.scale};
    if (!only_checked) a.lse = p.parts.lse_of(x.q, t);
    return a;
  }
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    carver carve{base};
    plan p{};
    p.turned = carve.take<T>(std::size_t(x.q.sequences) * x.q.rows * x.q.heads * D);
    p.parts = partial_results::take(carve, x.q, value_dim, Slots);
    std::size_t most = own::workspace_bytes(context, attend<own>(x, p, Slots - 1, true));
    for (int t = 0; t + 1 < Slots; ++t) {
      const std::size_t bytes = others::workspace_bytes(context, attend<others>(x, p, t, true));
      most = bytes > most ? bytes : most;
    }
    p.rest = {carve.take<std::byte>(most), most};
    p.bytes = carve.used;
    return p;
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
