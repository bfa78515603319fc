// Gradients of adapters mixed of skills (block/lora/mix.hpp): of the skills, through the shares, and of the logits that shares are made of.
#pragma once
#include <smalti/block/lora/mix.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::lora {

namespace detail {
// sigma(z) in the columns there are, zero in the others.
template <int M, int N, class Block> SMALTI_HD void shares_of(Block& block, tile<Block, float, M, N>& to, const view<const float, 1>& logits, int i, int j) {
  block.load(to, logits, i, j);
  block.map([left = logits.cols - j * N](auto z, auto c) { return where(c < left, over(1.0f, 1.0f + exp2(z * -1.4426950408889634f)), 0.0f); }, to, to, column_index{});
}
}  // namespace detail

struct skill_shares_arguments {
  view<const float, 1> logits;       //!< tasks and heads x skills
  view<float, 1> share;              //!< the same
};
//! share = sigma / (sum of sigma + 1e-12), by rows.
template <mix_tuning Tuning> struct skill_shares_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = skill_shares_arguments;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.share.rows, m), 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), steps = ceil_div(a.logits.cols, n);
    column<Block, float, m> total, part;
    block.fill(total, 0.0f);
    for (int j : block.steps(0, steps)) {
      tile<Block, float, m, n> t;
      detail::shares_of<m, n>(block, t, a.logits, i, j);
      block.row_sum(part, t);
      block.map([](auto sum, auto p) { return sum + p; }, total, total, part);
    }
    for (int j : block.steps(0, steps)) {
      tile<Block, float, m, n> t;
      detail::shares_of<m, n>(block, t, a.logits, i, j);
      block.map([](auto s, auto whole) { return over(s, whole + 1e-12f); }, t, t, total);
      block.store(a.share, i, j, t);
    }
  }
};

template <class D> struct skill_gradient_arguments {
  stack<const float> d_mixed;        //!< rank x H for each task
  const float* share;                //!< tasks x heads x skills
  stack<D> d_skills;                 //!< rank x H each
  int tasks, heads, width;           //!< columns of a head
};
//! d_skills[s][r, c] = sum over tasks t, rising, of share[t, head of c, s] d_mixed[t][r, c].
template <mix_tuning Tuning, class D> struct skill_gradient_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = skill_gradient_arguments<D>;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.d_skills.rows, m), ceil_div(a.d_skills.cols, n), a.d_skills.count}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), j = block.y(), skill = block.z(), all = a.tasks * a.heads * a.d_skills.count;
    row<Block, int, n> place;
    row<Block, float, n> share;
    tile<Block, float, m, n> sum, t;
    block.map([first = j * n, width = a.width, heads = a.heads, skills = a.d_skills.count, skill](auto c) { return min((c + first) / width, heads - 1) * skills + skill; }, place, column_index{});
    block.fill(sum, 0.0f);
    for (int task : block.steps(0, a.tasks)) {
      block.map([=, p = a.share, begin = task * a.heads * a.d_skills.count](auto at) { return lookup(p, at + begin, all); }, share, place);
      block.load(t, a.d_mixed, task, i, j);
      block.map([](auto v, auto x, auto w) { return v + x * w; }, sum, sum, t, share);
    }
    block.store(a.d_skills, skill, i, j, sum);
  }
};

template <class T> struct share_gradient_arguments {
  stack<const T> skills;             //!< rank x H each
  stack<const float> d_mixed;        //!< rank x H for each task
  float* d_share;                    //!< tasks x heads x skills
  int tasks, heads, width;
};
//! d_share[t, h, s] = sum over r and the columns c of head h of d_mixed[t][r, c] skills[s][r, c]. One block: one number.
template <mix_tuning Tuning, class T> struct share_gradient_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = share_gradient_arguments<T>;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {a.tasks, a.heads, a.skills.count}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int task = block.x(), head = block.y(), skill = block.z(), begin = head * a.width, end = begin + a.width;
    const int high = ceil_div(a.skills.rows, m), first = begin / n, wide = ceil_div(end, n) - first;
    tile<Block, float, m, n> sum;
    block.fill(sum, 0.0f);
    for (int at : block.steps(0, high * wide)) {
      const int i = at / wide, j = first + at % wide;
      tile<Block, float, m, n> d, v;
      block.load(d, a.d_mixed, task, i, j);
      block.load(v, a.skills, skill, i, j);
      block.map([from = begin - j * n, to = end - j * n](auto total, auto p, auto q, auto c) { return where(c >= from, where(c < to, total + p * q, total), total); }, sum, sum, d, v, column_index{});
    }
    row<Block, float, n> columns;
    tile<Block, float, 1, n> one;
    column<Block, float, 1> out;
    block.column_sum(columns, sum);
    block.map([](auto v) { return v; }, one, columns);
    block.row_sum(out, one);
    block.store(view<float, 1>{a.d_share + skill, a.tasks * a.heads, 1, a.skills.count}, task * a.heads + head, 0, out);
  }
};

struct logit_gradient_arguments {
  view<const float, 1> logits, d_share;      //!< tasks and heads x skills
  view<float, 1> d_logits;                   //!< the same
  int adds;                                  //!< whether d_logits is added to
};
//! d_logit[s] = sigma'(z_s) (d_share[s] - sum over q of share[q] d_share[q]) / (sum of sigma + 1e-12), by rows.
template <mix_tuning Tuning> struct logit_gradient_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = logit_gradient_arguments;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.d_logits.rows, m), 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), steps = ceil_div(a.logits.cols, n);
    column<Block, float, m> total, mean, part;
    block.fill(total, 0.0f);
    block.fill(mean, 0.0f);
    for (int j : block.steps(0, steps)) {
      tile<Block, float, m, n> s, d;
      detail::shares_of<m, n>(block, s, a.logits, i, j);
      block.row_sum(part, s);
      block.map([](auto sum, auto p) { return sum + p; }, total, total, part);
      block.load(d, a.d_share, i, j);
      block.map([](auto x, auto y) { return x * y; }, d, d, s);
      block.row_sum(part, d);
      block.map([](auto sum, auto p) { return sum + p; }, mean, mean, part);
    }
    block.map([](auto v, auto whole) { return over(mutant(defect::logit_gradient_without_mean) ? v * 0.0f : v, whole + 1e-12f); }, mean, mean, total);
    for (int j : block.steps(0, steps)) {
      tile<Block, float, m, n> s, d;
      detail::shares_of<m, n>(block, s, a.logits, i, j);
      block.load(d, a.d_share, i, j);
      block.map([](auto v, auto g, auto middle, auto whole) { return over(v * (1.0f - v) * (g - middle), whole + 1e-12f); }, s, s, d, mean, total);
      if (a.adds != 0) {
        block.load(d, a.d_logits, i, j);
        block.map([](auto v, auto before) { return v + before; }, s, s, d);
      }
      block.store(a.d_logits, i, j, s);
    }
  }
};
// Not swept: shapes that compile without spills. Not yet run on a GPU.
struct default_logit_tuning {
  SMALTI_HD constexpr mix_tuning operator()(target t) const { return t == target::host ? mix_tuning{.m = 4, .n = 16} : mix_tuning{.m = 8, .n = 32}; }
};
struct skill_shares_kernel {
  using arguments = skill_shares_arguments;
  template <target K> using agent = skill_shares_agent<default_logit_tuning{}(K)>;
};
template <class D> struct skill_gradient_kernel {
  using arguments = skill_gradient_arguments<D>;
  template <target K> using agent = skill_gradient_agent<default_mix_tuning{}(K), D>;
};
template <class T> struct share_gradient_kernel {
  using arguments = share_gradient_arguments<T>;
  template <target K> using agent = share_gradient_agent<default_mix_tuning{}(K), T>;
};
struct logit_gradient_kernel {
  using arguments = logit_gradient_arguments;
  template <target K> using agent = logit_gradient_agent<default_logit_tuning{}(K)>;
};

}  // namespace smalti::inline SMALTI_CODE::lora
