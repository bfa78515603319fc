// Caches whose retrieval needs attention: systems of cache compression that read less instead of keeping less. docs/ops/cache.md.
#pragma once
#include <smalti/flow/actqkv.hpp>
#include <smalti/flow/sparf.hpp>
#include <smalti/ops/attention/mla.hpp>
#include <smalti/ops/attention/quest.hpp>
#include <smalti/ops/cache.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Everything is kept, the pages whose keys can score most are read: attention::quest, as the cache system that it is. Tang et al. 2024, arXiv:2406.10774.
template <class T, int D, int Page = 16, class Options = attention::options> using quest = attention::quest<T, D, Page, Options>;

//! A cache of latents: one vector of Latent elements and a rotated key of Rotary for each token, of which all heads make their keys and values.
//! DeepSeek-V2 and V3, arXiv:2405.04434, arXiv:2412.19437. Any compression of single tokens applies: all heads keep the same.
//! @note  (Latent + Rotary) elements a token and layer: 1,152 bytes of bf16 for DeepSeek-V3
template <class T = bf16, int Latent = 512, int Rotary = 64, class Layout = policy::nhd>
struct mla_latent {
  static constexpr int width = Latent + Rotary;
  using storage = policy::kv_plain<T>;
  using paged_cache = paged<storage, Layout>;
  using append = cache::append<T, storage, Layout>;
  using attend = attention::mla_decode<T, Latent, Rotary>;
  //! What this cache's pools look like: one key head, no values of their own.
  static constexpr pool_shape shape(int pages, int page, int layers = 1, bool per_layer = false) {
    return {.pages = pages, .page = page, .kv_heads = 1, .key_dim = width, .value_dim = 0, .layers = layers, .per_head = false, .per_layer = per_layer};
  }
  //! One layer as attend reads it: values are the beginnings of keys. @param where, most as of kv_of
  static attention::paged_kv<T> kv(const page_pool& pool, int layer, const pages& where, int sequences, int most) {
    const pool_shape& s = pool.shape;
    const auto keys = attention::pool_of(Layout{}, static_cast<const T*>(pool_rows<T>(pool, plane::keys, s.per_layer ? 0 : layer).data), s.pages, s.page, 1, width);
    return {keys, attention::leading(keys, Latent), where, sequences, most};
  }
  //! What fewer tokens mean here.
  template <class Scorer, class Allocator = policy::uniform, class Disposition = policy::evict<>> using compress = cache::compress<T, width, Scorer, Allocator, Disposition, storage, Layout>;
};

}  // namespace smalti::inline SMALTI_CODE::cache
