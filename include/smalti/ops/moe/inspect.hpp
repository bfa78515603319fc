// Lists that only the machine of the work can read, looked over there. docs/ops/moe.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/gemm/paged_rows.hpp>
#include <smalti/block/moe/inspect.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/segments.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::moe {

//! What check says on the host of ids, segments and adapters' lists, for lists that lie on a GPU, where check cannot read them: expert ids that do
//! not exist or that a token names twice, segments that do not divide the rows, names of adapters that do not exist, ranks beyond the largest, lists
//! that end too early, and lines that were freed (negative, or beyond the pool) while an adapter names them. Three blocks look over the lists and
//! write a report where they run; nothing waits. For debug builds: copy the report's inspect::findings numbers with the results, and ask
//! inspect::status_of. Lists that are null, or empty, are not looked over.
//! @post  the first place of each kind, whatever the order of blocks
//! @note  one block reads a list: tokens x choices^2 and all lines of all adapters
template <class Offset = std::int32_t> struct inspect {
  static constexpr int findings = int(finding::count);
  struct args {
    const std::int32_t* ids = nullptr;           //!< [tokens][choices], as route::index takes them
    int tokens = 0, choices = 0, experts = 0;    //!< experts with identities
    segments<Offset> rows = {};                  //!< as lora::sgmv takes them; `total`: what they sum to
    int total = 0;
    const int* adapter = nullptr;                //!< [segments]
    int adapters = 0;
    const int *first = nullptr, *rank = nullptr, *line = nullptr;      //!< of paged_rows; see of()
    int shards = 1, most = 0, lines = 0, pool = 0;
    std::int32_t* report = nullptr;              //!< [findings]
  };
  //! Fills in what paged_rows of adapters say.
  template <class T, bool Scaled, int Step> static args of(args x, const gemm::paged_rows<T, Scaled, Step>& p) {
    x.adapters = p.weights, x.first = p.first, x.rank = p.count, x.line = p.line, x.shards = p.shards, x.most = p.most, x.lines = p.lines, x.pool = p.pool.rows;
    return x;
  }
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&]() -> status {
      if (x.tokens < 0 || x.choices < 0 || x.experts < 0 || x.rows.count < 0 || x.total < 0 || x.adapters < 0 || x.most < 0 || x.lines < 0 || x.pool < 0) return {errc::bad_shape, "tokens, choices, experts, segments, total, adapters, most, lines and pool must not be negative"};
      if (std::int64_t(x.tokens) * x.choices > 2147483647 - 1024) return {errc::out_of_reach, "there must be fewer than 2^31 - 1024 slots", std::int64_t(x.tokens) * x.choices, 2147483647 - 1024};
      if (x.shards < 1) return {errc::bad_value, "a row has at least one shard", x.shards, 1};
      if (x.first != nullptr && (x.rank == nullptr || (x.line == nullptr && x.lines > 0))) return {errc::null_pointer, "rank or line is null, but first is not"};
      if (x.report == nullptr) return {errc::null_pointer, "report is null: it needs inspect::findings numbers", 0, findings};
      return {};
    });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = check(context, x); !bad) return bad;
      return launch<inspect_kernel<Offset>>(base_of(context), {x.ids, x.tokens, x.choices, x.experts, x.rows.offsets, x.rows.count, x.total, x.adapter, x.adapters, x.first, x.rank, x.line, x.shards, x.most, x.lines, x.pool, x.report});
    } else {
      return check(context, x);
    }
  }
  //! The first rule that a report says was broken, with its place as status::got; good where there is none.
  static status status_of(const std::int32_t* report) {
    constexpr const char* sentences[findings] = {"ids: a slot's id is neither an expert nor -1: route::index would give it no row",
                                                 "ids: a token names an expert twice: sanitise logits before the selection",
                                                 "segments: an offset decreases, begins after 0 or ends beyond the rows",
                                                 "segments: their lengths must sum to the rows: are they those of another batch?",
                                                 "adapter: a segment names an adapter that does not exist",
                                                 "adapters: a rank is negative or beyond `most`, which grids are sized by",
                                                 "adapters: an adapter's rows end beyond the list of lines",
                                                 "adapters: a line is not in the pool: was it freed while an adapter still names it?"};
    for (int f = 0; f < findings; ++f)
      if (report[f] >= 0) return {f == int(finding::rows_not_covered) ? errc::bad_shape : errc::bad_value, sentences[f], report[f], -1};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::moe
