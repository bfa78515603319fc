// Compile only: the merge of policy/lse.hpp on plain floats in a SIMT kernel and on whole tiles in a tile kernel.
#include <smalti/policy/lse.hpp>
#include <smalti/tile/cuda_tile/values.cuh>

using namespace smalti;
using namespace smalti::policy;

// Two partials a position, in base e; writes the merged value and the lse in base 2.
__global__ void merge_floats(const float* value, const float* lse, float* merged, float* merged_lse, int n) {
  using partial = lse_partial<float, lse_e<float>>;
  const int i = static_cast<int>(threadIdx.x);
  const partial all = lse_merge(partial{value[i], {lse[i]}}, partial{value[n + i], empty_if_infinite(lse_e<float>{lse[n + i]})});
  merged[i] = all.value * lse_share(all.lse, lse_join(all.lse, lse_e<float>{lse[i]}));
  merged_lse[i] = to_lse_2(all.lse).value;
}

template <class Tile> __tile__ cuda_tile::value<Tile> as_value(Tile x) { return {x}; }

__tile_global__ void merge_tiles(float* value, float* lse, float* merged, float* merged_lse, int n) {
  namespace ct = cuda::tiles;
  const auto i = ct::iota<ct::tile<int, ct::shape<64>>>();
  const auto v0 = as_value(ct::load(value + i)), l0 = as_value(ct::load(lse + i));
  const auto v1 = as_value(ct::load(value + (n + i))), l1 = as_value(ct::load(lse + (n + i)));
  const auto all = lse_merge(lse_partial{v0, lse_2{l0}}, lse_partial{v1, empty_if_infinite(lse_2{l1})});
  ct::store(merged + i, (all.value * lse_share(all.lse, lse_join(all.lse, lse_2{l0}))).v);
  ct::store(merged_lse + i, to_lse_e(all.lse).value.v);
}
