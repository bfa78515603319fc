// Routers of published systems: each a composition of the policies, to be used as it stands or changed in one place. Numbers that a
// system chooses (groups, scale, temperatures) are values of the call: the functions below give those that are published.
#pragma once
#include <smalti/ops/route/router.hpp>

namespace smalti::inline SMALTI_CODE::route {

//! Options for at most so many experts and choices.
template <int Experts, int Choices = 16> struct up_to : options {
  static constexpr int experts = Experts, choices = Choices;
};

//! Top k of the logits, softmax over the selected. 8 experts, k = 2. Jiang et al. 2024, arXiv:2401.04088.
template <class Options = up_to<16>> using mixtral = router<policy::logit_scorer, policy::no_bias, policy::top_k, policy::softmax_norm, Options>;

//! Sigmoid scores; a bias (balanced by route::sign_bias) that only selects; groups by the sum of two keys; weights are shares of the
//! selected scores times a scale. 256 experts in 8 groups of which 4 are kept, k = 8, scale 2.5: group_top_k's defaults and
//! deepseek_v3_scale. DeepSeek-AI 2024, arXiv:2412.19437.
template <class Options = up_to<256>> using deepseek_v3 = router<policy::sigmoid_scorer, policy::expert_bias, policy::group_top_k, policy::sum_norm, Options>;
constexpr float deepseek_v3_scale = 2.5f;

//! Softmax over experts and zero-computation experts, a bias (balanced by route::pid_bias) that only selects, weights as they are times a scale.
//! Zero experts come last: their weights gather in identity_weight and their slots get no row. Meituan 2025, arXiv:2509.01322.
template <class Options = up_to<1024>> using longcat_flash = router<policy::softmax_scorer, policy::expert_bias, policy::top_k, policy::no_norm, Options>;

//! Softmax scores, noise while training (deviation 0 at inference: route::router with no_bias), any k, weights divided by their sum where
//! k > 1. With policy::cosine_scorer<> for Scorer the cosine router. Hwang et al. 2022, arXiv:2206.03382.
template <class Options = up_to<64>, class Scorer = policy::softmax_scorer, class Bias = policy::gaussian_bias>
using tutel = router<Scorer, Bias, policy::top_any, policy::clamped_sum_norm, Options>;

//! Fine-grained experts: softmax scores, top k, shares of the selected. Yi-Lightning, arXiv:2412.01253.
template <class Options = up_to<256>> using yi_lightning = router<policy::softmax_scorer, policy::no_bias, policy::top_k, policy::sum_norm, Options>;

//! Mixtral's router with Gumbel noise: several replicas of a token, each with a stream of its own, answer together; temperature 0 is
//! Mixtral's to the bit. RoE, arXiv:2509.17238.
template <class Options = up_to<64>> using roe = router<policy::logit_scorer, policy::gumbel_bias, policy::top_k, policy::softmax_norm, Options>;

//! Skip, small or big: three experts of a layer, one for each token; skip is expert 2, an identity. Weight 1.
//! Duo-LLM, arXiv:2410.10846.
template <class Options = up_to<16>> using duo_llm = router<policy::logit_scorer, policy::no_bias, policy::top_k, policy::softmax_norm, Options>;
enum class duo_expert : int { small, big, skip };

}  // namespace smalti::inline SMALTI_CODE::route
