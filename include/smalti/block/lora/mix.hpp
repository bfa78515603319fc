// Adapters mixed of an inventory of skills: one matrix for each task, a weighted sum of the skills' matrices, with weights of
// their own for each head (a range of columns).
#pragma once
#include <smalti/core/context.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in mix.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent        sm_80  sm_89  sm_90  sm_100  sm_120  tried
// skills' mix  8x128  8x128  8x128  8x128   8x128   10
// swept: end

namespace smalti::inline SMALTI_CODE::lora {

template <class T> struct mix_arguments {
  stack<const T> skills;        //!< rank x H each
  const float* logits;          //!< tasks x heads x skills
  stack<T> mixed;               //!< tasks: rank x H each
  int heads, width;             //!< columns of a head
};
struct mix_tuning {
  int m, n;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const mix_tuning&) const = default;
};
//! mixed[t][r, c] = sum over s of a[t, head of c, s] skills[s][r, c],  a = sigma(logit) / (sum over s of sigma(logit) + 1e-12).
template <mix_tuning Tuning, class T> struct mix_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = mix_arguments<T>;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.mixed.rows, m), ceil_div(a.mixed.cols, n), a.mixed.count}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), j = block.y(), task = block.z();
    row<Block, int, n> place;
    row<Block, float, n> total, share;
    tile<Block, float, m, n> sum, t;
    block.map([first = j * n, width = a.width, heads = a.heads, skills = a.skills.count, begin = task * a.heads](auto c) { return ((mutant(defect::mix_head_of_first) ? min((c + first) * 0, heads - 1) : min((c + first) / width, heads - 1)) + begin) * skills; }, place, column_index{});
    block.fill(total, 0.0f);
    block.fill(sum, 0.0f);
    const int all = a.mixed.count * a.heads * a.skills.count;
    for (int s : block.steps(0, a.skills.count))
      block.map([=, z = a.logits](auto sum, auto p) { return sum + over(1.0f, 1.0f + exp2(lookup(z, p + s, all) * -1.4426950408889634f)); }, total, total, place);
    for (int s : block.steps(0, a.skills.count)) {
      block.map([=, z = a.logits](auto whole, auto p) { return over(over(1.0f, 1.0f + exp2(lookup(z, p + s, all) * -1.4426950408889634f)), whole + 1e-12f); }, share, total, place);
      block.load(t, a.skills, s, i, j);
      block.map([](auto v, auto x, auto w) { return v + x * w; }, sum, sum, t, share);
    }
    block.store(a.mixed, task, i, j, sum);
  }
};
struct default_mix_tuning {
  SMALTI_HD constexpr mix_tuning operator()(target t) const { return t == target::host ? mix_tuning{.m = 4, .n = 256} : mix_tuning{.m = 8, .n = 128}; }
};
template <class T> struct mix_kernel {
  using arguments = mix_arguments<T>;
  template <target K> using agent = mix_agent<default_mix_tuning{}(K), T>;
};

}  // namespace smalti::inline SMALTI_CODE::lora
