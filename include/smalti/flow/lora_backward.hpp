// Gradients of what composes adapters: of skills and their logits, of sparse and low-rank updates, of layers of two factors.
// docs/ops/lora/README.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/lora/mix_gradient.hpp>
#include <smalti/core/check_view.hpp>
#include <smalti/flow/in_steps.hpp>
#include <smalti/flow/lora.hpp>
#include <smalti/flow/lora_systems.hpp>
#include <smalti/ops/gemm.hpp>
#include <smalti/ops/moe/sum_by_id.hpp>
#include <smalti/prim/permute.hpp>

namespace smalti::inline SMALTI_CODE::lora {

namespace detail {
template <class T, int Step> byte_range bytes_of_all(const stack<T, Step>& s) {
  const char* first = reinterpret_cast<const char*>(s.data);
  if (s.count <= 0 || s.rows <= 0 || s.cols <= 0) return {first, first};
  return {first, first + (static_cast<long long>(s.count - 1) * s.distance + static_cast<long long>(s.rows - 1) * s.stride + s.cols) * static_cast<long long>(sizeof(T))};
}
struct by_depth : gemm::options {
  static constexpr gemm::a_order a = gemm::a_order::k_by_m;
  static constexpr gemm::b_order b = gemm::b_order::k_by_n;
};
struct through_columns : gemm::options { static constexpr gemm::b_order b = gemm::b_order::k_by_n; };
}  // namespace detail

//! Gradients of mhr and poly: of the skills, and of the logits that their shares are made of. With d_mixed the gradient of the mixed matrices, as
//! sgmv_backward gives it for A and for B (call this once for each), and share = sigma / (sum of sigma + 1e-12):
//!     d_skills[s][r, c] = sum over tasks t of share[t, h, s] d_mixed[t][r, c],      h the head of column c
//!     d_share[t, h, s] = sum over r and the columns c of h of d_mixed[t][r, c] skills[s][r, c]
//!     d_logits[t, h, s] = sigma'(z_s) (d_share[s] - sum over q of share[q] d_share[q]) / (sum of sigma + 1e-12)
//! A and B that share logits: adds_logits in the second call. A gradient that is null is not made.
//! @tparam T  of the skills; D  of their gradient: float, bf16 or fp16
//! @pre   logits and tasks lie where the work runs. With `task` several matrices of d_mixed, segments, are of one task (those of no task:
//!        negative); their rows then lie without gaps
//! @post  same bits on every run: segments and tasks are added in their order
//! @note  cost: 4 tasks skills rank H operations. Workspace: two numbers a task, head and skill, and with `task` tasks x rank x H floats
//! @note  error: (tasks + segments + 8) 2^-24 of the magnitudes for the skills; (rank H / heads + skills + 16) 2^-24 for the logits
//! Sources: Ponti et al. 2023, Poly, arXiv:2202.13914; Caccia et al. 2023, MHR, arXiv:2211.03831.
template <class T, class D = float> struct mhr_backward : flow::in_steps<mhr_backward<T, D>> {
  using sum_op = moe::sum_by_id<float>;
  struct args {
    stack<const T> skills = {};            //!< rank x H each
    const float* logits = nullptr;         //!< [tasks][heads][skills]
    stack<const float> d_mixed = {};       //!< rank (or more) x H for each task, or for each segment
    const int* task = nullptr;             //!< null, or [d_mixed.count]
    int tasks = 0, heads = 1;
    stack<D> d_skills = {};                //!< as skills, or null
    float* d_logits = nullptr;             //!< as logits, or null
    bool adds_logits = false;              //!< d_logits is added to
  };
  template <class Context> static status refuse(const Context& context, const args& x) {
    if (const status bad = first_of([&] { return check_context(base_of(context)); }, [&] { return check_view<"skills">(x.skills[0]); }, [&] { return check_view<"d_mixed">(x.d_mixed[0]); }); !bad) return bad;
    if (x.skills.count < 1) return {errc::bad_shape, "skills: there must be one at least", x.skills.count, 1};
    if (x.tasks < 0) return {errc::bad_shape, "tasks must not be negative", x.tasks, 0};
    if (x.heads < 1 || x.skills.cols % x.heads != 0) return {errc::bad_shape, "heads must divide the columns", x.skills.cols, x.heads};
    const std::int64_t shares = std::int64_t(x.tasks) * x.heads * x.skills.count;
    if (shares > 2147483647) return {errc::out_of_reach, "tasks times heads times skills must be below 2^31", shares, 2147483647};
    if (x.tasks > 0 && x.logits == nullptr) return {errc::null_pointer, "logits is null: it needs a number for each task, head and skill", 0, shares};
    if (x.d_mixed.cols != x.skills.cols || x.d_mixed.rows < x.skills.rows) return {errc::bad_shape, "d_mixed needs the columns of a skill, and its rows or more", x.d_mixed.rows, x.skills.rows};
    if (x.task == nullptr && x.d_mixed.count != x.tasks) return {errc::bad_shape, "d_mixed needs a matrix for each task, or task must say which task each is of", x.d_mixed.count, x.tasks};
    if (x.task != nullptr && (x.d_mixed.stride != x.d_mixed.cols || x.d_mixed.distance < static_cast<long long>(x.skills.rows) * x.d_mixed.cols || x.d_mixed.distance > 2147483647ll || static_cast<long long>(x.skills.rows) * x.skills.cols > 2147483647ll))
      return {errc::bad_shape, "d_mixed: matrices that are added up lie row behind row, and fewer than 2^31 elements apart", x.d_mixed.stride, x.d_mixed.cols};
    if constexpr (is_host<Context>)
      for (int i = 0; x.task != nullptr && i < x.d_mixed.count; ++i)
        if (x.task[i] >= x.tasks) return {errc::bad_value, "task: an entry is beyond the tasks", x.task[i], x.tasks};
    if (x.d_skills.data != nullptr) {
      if (const status bad = check_view<"d_skills">(x.d_skills[0]); !bad) return bad;
      if (x.d_skills.count != x.skills.count || x.d_skills.rows != x.skills.rows || x.d_skills.cols != x.skills.cols) return {errc::bad_shape, "d_skills needs the count and the extents of skills", x.d_skills.count, x.skills.count};
      const long long matrix = static_cast<long long>(x.d_skills.rows - 1) * x.d_skills.stride + x.d_skills.cols;
      if (x.d_skills.count > 1 && x.d_skills.distance < matrix) return {errc::aliased, "d_skills: its matrices must not overlap", x.d_skills.distance, matrix};
      const byte_range out = detail::bytes_of_all(x.d_skills);
      if (out.meets(detail::bytes_of_all(x.skills)) || out.meets(detail::bytes_of_all(x.d_mixed))) return {errc::aliased, "d_skills must not overlap skills or d_mixed: blocks read them while others write"};
    }
    return {};
  }
  static bool idle(const args& x) { return x.skills.rows == 0 || x.skills.cols == 0; }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const int groups = x.tasks * x.heads, skills = x.skills.count, rank = x.skills.rows, wide = x.skills.cols, width = x.heads > 0 ? wide / x.heads : wide;
    float* const share = carve.place<float>(std::size_t(groups) * std::size_t(skills));
    float* const d_share = carve.place<float>(std::size_t(groups) * std::size_t(skills));
    const int matrix = x.task != nullptr ? rank * wide : 0;
    const view<float> whole{carve.place<float>(x.task != nullptr ? std::size_t(x.tasks) * std::size_t(matrix) : 0), x.tasks, matrix, matrix};
    const stack<const float> d_mixed = x.task != nullptr ? stack<const float>{whole.data, x.tasks, rank, wide, matrix, wide} : stack<const float>{x.d_mixed.data, x.tasks, rank, wide, x.d_mixed.distance, x.d_mixed.stride};
    using shares = flow::started<skill_shares_kernel>;
    using of_skills = flow::started<skill_gradient_kernel<D>>;
    using of_shares = flow::started<share_gradient_kernel<T>>;
    using of_logits = flow::started<logit_gradient_kernel>;
    const view<const float, 1> logits{x.logits, groups, skills, skills};
    return first_of(
        [&] {
          if (x.task == nullptr || matrix == 0) return status{};
          return step(sum_op{}, typename sum_op::args{.x = {x.d_mixed.data, x.d_mixed.count, matrix, int(x.d_mixed.distance)}, .id = x.task, .y = whole});
        },
        [&] { return groups > 0 ? step(shares{}, shares::args{{logits, {share, groups, skills, skills}}}) : status{}; },
        [&] { return x.d_skills.data != nullptr ? step(of_skills{}, typename of_skills::args{{d_mixed, share, x.d_skills, x.tasks, x.heads, width}}) : status{}; },
        [&] {
          if (x.d_logits == nullptr || groups == 0) return status{};
          return first_of([&] { return step(of_shares{}, typename of_shares::args{{x.skills, d_mixed, d_share, x.tasks, x.heads, width}}); },
                          [&] { return step(of_logits{}, of_logits::args{{logits, {d_share, groups, skills, skills}, {x.d_logits, groups, skills, skills}, x.adds_logits ? 1 : 0}}); });
        });
  }
};
template <class T, class D = float> using poly_backward = mhr_backward<T, D>;

//! Gradients of we_lore, y = (x A') B': with v = x A' and w = dy B, both rounded to X,
//!     dx = w A,   da = w' x,   db = dy' v
//! @tparam DX, DW  of the gradients. da and db may be null: the factors are frozen
//! @post  same bits on every run
//! @note  cost: 2 rank (3 H + 2 H') operations a row, of which 2 rank H are for what is computed again
template <class X, class DX = X, class DW = float> struct we_lore_backward : flow::in_steps<we_lore_backward<X, DX, DW>> {
  using in_op = gemm::dense<X, X, X>;
  using through_op = gemm::dense<X, X, X, policy::chain<>, detail::through_columns>;
  using input_op = gemm::dense<X, X, DX, policy::chain<>, detail::through_columns>;
  using weight_op = gemm::dense<X, X, DW, policy::chain<>, detail::by_depth>;
  struct args {
    view<const X> x = {}, dy = {};    //!< rows x H, rows x H'
    view<const X> a = {}, b = {};     //!< rank x H, H' x rank
    view<DX> dx = {};                 //!< rows x H
    view<DW> da = {}, db = {};        //!< as a and b, or null
  };
  template <class Context> static status refuse(const Context&, const args& x) {
    if (x.a.rows != x.b.cols) return {errc::bad_shape, "a and b need the same rank: a is rank x H, b is H' x rank", x.a.rows, x.b.cols};
    if (x.x.rows != x.dy.rows) return {errc::bad_shape, "x and dy need the same rows", x.x.rows, x.dy.rows};
    for (const byte_range& out : {bytes_of(x.dx), bytes_of(x.da), bytes_of(x.db)})
      for (const byte_range& in : {bytes_of(x.x), bytes_of(x.dy), bytes_of(x.a), bytes_of(x.b)})
        if (out.meets(in)) return {errc::aliased, "gradients must not overlap x, dy, a or b: those are read to the end"};
    if (bytes_of(x.dx).meets(bytes_of(x.da)) || bytes_of(x.dx).meets(bytes_of(x.db)) || bytes_of(x.da).meets(bytes_of(x.db))) return {errc::aliased, "dx, da and db must not overlap each other"};
    return {};
  }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const int rows = x.x.rows, rank = x.a.rows;
    const std::size_t elements = std::size_t(rows) * std::size_t(rank);
    const view<X> v{carve.place<X>(elements), rows, rank, rank}, w{carve.place<X>(elements), rows, rank, rank};
    const auto product = [&](const auto& op, const auto& a, const auto& b, const auto& c) {
      typename std::remove_cvref_t<decltype(op)>::args p{};
      p.a = a, p.b = b, p.c = c;
      return step(op, p);
    };
    return first_of([&] { return x.db.data != nullptr ? product(in_op{}, x.x, x.a, v) : status{}; }, [&] { return product(through_op{}, x.dy, x.b, w); }, [&] { return product(input_op{}, reading(w), x.a, x.dx); },
                    [&] { return x.da.data != nullptr ? product(weight_op{}, reading(w), x.x, x.da) : status{}; }, [&] { return x.db.data != nullptr ? product(weight_op{}, x.dy, reading(v), x.db) : status{}; });
  }
};

//! dx = dy W for a weight that lies as a matrix: the face of through_packed, for dsee_backward.
template <class X, class DX = X> struct through_dense : flow::in_steps<through_dense<X, DX>> {
  using product_op = gemm::dense<X, X, DX, policy::chain<>, detail::through_columns>;
  using weight_type = view<const X>;
  struct args {
    view<const X> dy = {};            //!< rows x N
    weight_type w = {};               //!< N x H
    view<DX> dx = {};                 //!< rows x H
  };
  template <class Context, class Step> static status steps(const Context&, const args& x, carver&, Step step) {
    typename product_op::args p{};
    p.a = x.dy, p.b = x.w, p.c = x.dx;
    return step(product_op{}, p);
  }
};

//! The entries of sparse_rows by inputs: those of input j are [first[j], first[j + 1]), their outputs rising.
struct entries_by_input {
  const int* first = nullptr;         //!< [inputs + 1]
  const int* output = nullptr;        //!< [entries]
  const int* entry = nullptr;         //!< [entries] the number of the entry in sparse_rows: whose value it is
};

//! Gradients of dsee, y = base(x) + scale (x A') B + S x, whose base is frozen:
//!     dx = dy W + (the adapters' share) + S' dy,   da, db as sgmv_backward,   d_values[e] = sum over rows of dy[r, output[e]] x[r, column[e]]
//! @tparam Through  dy W: through_dense<X, DX>, or through_packed<Format, X, DX> for a packed base
//! @pre   the places of the entries are fixed: their lists by outputs and by inputs say the same (checked on the host), values alone change
//! @post  same bits on every run. dx of a DX other than float is rounded three times: by the base, the adapters and the entries
//! @note  cost: Through's, sgmv_backward's, and 4 rows an entry
//! Source: Chen et al. 2021, DSEE, arXiv:2111.00160.
template <class Through, class X, class DX = X, class Options = options> struct dsee_backward : flow::in_steps<dsee_backward<Through, X, DX, Options>> {
  using update_op = sgmv_backward<X, X, DX, Options>;
  using value_op = prim::permute<float>;
  using sparse_op = sparse_update<X, DX>;
  using gradient_op = sparse_gradient<X>;
  struct args {
    typename Through::weight_type w = {};
    typename update_op::args low_rank = {};      //!< its dx is written, then added to
    sparse_rows sparse = {};                     //!< as forward
    const int* output = nullptr;                 //!< [entries] the output of each
    entries_by_input turned = {};
    float* d_values = nullptr;                   //!< [entries]
  };
  template <class Context> static status refuse(const Context&, const args& x) {
    if (x.low_rank.dx.data == nullptr && x.low_rank.x.rows > 0 && x.low_rank.x.cols > 0) return {errc::null_pointer, "low_rank.dx is null: the base's share goes there too"};
    if (const status bad = detail::check_sparse<is_host<Context>>(x.sparse, x.low_rank.dy.cols, x.low_rank.x.cols); !bad) return bad;
    if (x.low_rank.x.cols > 0 && x.turned.first == nullptr) return {errc::null_pointer, "turned.first is null: it needs an entry for each input, and one more", 0, std::int64_t(x.low_rank.x.cols) + 1};
    if (x.sparse.entries > 0 && (x.turned.output == nullptr || x.turned.entry == nullptr)) return {errc::null_pointer, "turned: output or entry is null: they need a number for each entry", 0, x.sparse.entries};
    if (x.sparse.entries > 0 && x.output == nullptr) return {errc::null_pointer, "output is null: it needs a number for each entry", 0, x.sparse.entries};
    if constexpr (is_host<Context>) {
      const int inputs = x.low_rank.x.cols;
      if (inputs > 0 && x.turned.first[inputs] != x.sparse.entries) return {errc::bad_value, "turned: it must hold every entry of sparse once", x.turned.first[inputs], x.sparse.entries};
      for (int j = 0; j < inputs; ++j)
        for (int e = x.turned.first[j]; e >= 0 && e < x.turned.first[j + 1] && e < x.sparse.entries; ++e) {
          const int k = x.turned.entry[e];
          if (k < 0 || k >= x.sparse.entries) return {errc::bad_value, "turned.entry: an entry that does not exist", k, x.sparse.entries};
          if (x.sparse.column[k] != j || x.output[k] != x.turned.output[e]) return {errc::bad_value, "turned: an entry does not lie where sparse has it", k, e};
        }
    }
    return {};
  }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const auto& u = x.low_rank;
    const int entries = x.sparse.entries > 0 ? x.sparse.entries : 0;
    float* const values = carve.place<float>(std::size_t(entries));      // in the order of the inputs
    return first_of([&] { return step(Through{}, typename Through::args{u.dy, x.w, u.dx}); }, [&] { return step(update_op{}, u); },
                    [&] {
                      if (entries == 0) return status{};
                      return step(value_op{}, typename value_op::args{.from = {x.sparse.value, entries, 1, 1}, .to = {values, entries, 1, 1}, .index = x.turned.entry});
                    },
                    [&] { return step(sparse_op{}, typename sparse_op::args{u.dy, {x.turned.first, x.turned.output, values, u.dx.cols, entries}, u.dx}); },
                    [&] { return step(gradient_op{}, typename gradient_op::args{u.x, u.dy, x.sparse, x.output, x.d_values}); });
  }
};

}  // namespace smalti::inline SMALTI_CODE::lora
