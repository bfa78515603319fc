// Published systems of cache compression, each a composition of policies. docs/ops/cache/ has a page for each.
#pragma once
#include <smalti/ops/cache/compress.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! The tokens that the last Window queries of the prompt look at, and their neighbours, in each head. Li et al. 2024, arXiv:2404.14469.
template <class T, int D, int Window = 32, int Kernel = 5, class Allocator = policy::uniform, class Disposition = policy::evict<>>
using snapkv = compress<T, D, policy::observation_window<Window, Kernel>, Allocator, Disposition>;

//! SnapKV's choice, with more tokens in lower layers. Cai et al. 2024, arXiv:2406.02069.
template <class T, int D, int Window = 32, int Kernel = 5> using pyramid_kv = snapkv<T, D, Window, Kernel, policy::pyramid>;

//! SnapKV's choice, where the heads of a layer compete for its tokens; Layers = policy::pyramid is Ada-PyramidKV. Feng et al. 2024, arXiv:2407.11550.
template <class T, int D, int Window = 32, int Kernel = 7, class Layers = policy::uniform>
using ada_kv = compress<T, D, policy::observation_window<Window, Kernel, policy::pooling::maximum>, policy::head_adaptive<Layers>>;

//! The tokens that have had the most attention, and as many newest ones. Zhang et al. 2023, arXiv:2306.14048.
template <class T, int D, class Allocator = policy::uniform> using h2o = compress<T, D, policy::accumulated<>, Allocator>;

//! H2O with sinks, and a history that fades (args of observe: scorer.decay below 1). Liu et al. 2023, arXiv:2305.17118.
template <class T, int D> using scissorhands = compress<T, D, policy::accumulated<policy::over_heads::sum, 4>>;

//! The tokens that the last query looks at. In a pool whose heads share pages all heads keep the same. Oren et al. 2024, arXiv:2401.06104.
template <class T, int D> using tova = compress<T, D, policy::last_query>;

//! The first Sinks tokens and the newest. Xiao et al. 2023, arXiv:2309.17453. The paper counts positions in the cache: Positions = policy::compact or
//! close_ranks; policy::rotate_on_read where keys are stored plain.
template <class T, int D, int Sinks = 4, class Positions = policy::close_ranks> using streaming_llm = compress<T, D, policy::position_only<Sinks>, policy::uniform, policy::evict<Positions>>;

//! The tokens with the most attention, and more of them in layers whose attention is flat; what goes is merged into what stays and resembles
//! it. Wan et al. 2024, arXiv:2406.13035.
template <class T, int D, class Disposition = policy::merge<>> using d2o = compress<T, D, policy::accumulated<policy::over_heads::sum, 4>, policy::variance_softmax, Disposition>;

//! What D2O keeps, without its merging and its sinks.
template <class T, int D> using d2o_keep = h2o<T, D, policy::variance_softmax>;

}  // namespace smalti::inline SMALTI_CODE::cache
