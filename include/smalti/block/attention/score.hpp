// From products to logits: what one tile of q . k becomes before a normalizer sees it. The forward agent and both
// backward agents compute scores by this text alone, so that the weights of a backward pass are those of its forward.
//
//     logit(q, k) = score(scale * s, q, k), -infinity where the mask hides key k from query q or there is no key k
//
// in natural units. The exponents of softmax are in base 2: weight = 2^(units() * z - lse), where z is what logits()
// leaves in the tile. A score policy that is the identity folds its scale into units(): z is then the product itself,
// and a tile without a mask is not touched at all.
#pragma once
#include <smalti/core/version.hpp>
#include <smalti/policy/score.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Which axis of a tile counts queries: S = Q K' has them in its rows, S' = K Q' in its columns.
enum class score_axes { queries_by_keys, keys_by_queries };

//! The scores of one head of one sequence. Score and Mask are bound to both (see policy/score.hpp, policy/mask.hpp).
template <class Score, class Mask>
struct head_scores {
  Score score;
  Mask mask;
  float scale;
  int keys;                 //!< of this sequence: tiles may reach past them

  static constexpr bool folds = policy::folds_scale<Score>;
  static constexpr float log2_e = 1.4426950408889634f;

  //! What z is multiplied with to be an exponent of 2.
  SMALTI_HD constexpr float units() const { return folds ? scale * log2_e : log2_e; }

  //! z of one value: s is the product of query q and key k.
  template <bool Masked, class V, class Q, class K> SMALTI_HD auto operator()(V s, Q q, K k) const {
    const auto z = logit(s, q, k);
    if constexpr (Masked) return where(visible(q, k), z, -__builtin_inff());
    else return z;
  }
  //! Whether there is a key k and query q sees it.
  template <class Q, class K> SMALTI_HD auto visible(Q q, K k) const { return mask.visible(q, k) && k < keys + (mutant(defect::tail_not_masked) ? 1 << 20 : 0); }
  //! z, whatever the mask says.
  template <class V, class Q, class K> SMALTI_HD auto logit(V s, Q q, K k) const {
    if constexpr (folds) return s;
    else return score(s * scale, q, k);
  }
  //! d logit / d (scale * s), whatever the mask says.
  template <class V, class Q, class K> SMALTI_HD auto slope(V s, Q q, K k) const { return policy::score_derivative(score, s * scale, q, k); }
};

//! s = z of a tile of products whose first query and first key are these.
template <score_axes Axes, bool Masked, class Block, class Tile, class Scores>
SMALTI_HD void logits(Block& block, Tile& s, const Scores& scores, int first_query, int first_key) {
  if constexpr (Masked || !Scores::folds)
    block.map([=](auto v, auto r, auto c) {
      if constexpr (Axes == score_axes::queries_by_keys) return scores.template operator()<Masked>(v, first_query + r, first_key + c);
      else return scores.template operator()<Masked>(v, first_query + c, first_key + r);
    }, s, s, row_index{}, column_index{});
}

}  // namespace smalti::inline SMALTI_CODE::attention
