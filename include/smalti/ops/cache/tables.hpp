// Page tables of a batch as kernels read them: one array of ints, so that one copy brings all of them to a GPU.
#pragma once
#include <smalti/core/pages.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! What `paged::tables` wrote: [layer track][sequence][head track][width] page numbers, then [layer track][head track][sequence]
//! lengths. Entries past a row's last used page are -1.
struct batch_tables {
  int batch = 0;                     //!< sequences
  int layers = 1, heads = 1;         //!< tracks: 1 where all layers, or all heads, share their pages
  int width = 0;                     //!< entries in a row
  int page = 0;                      //!< tokens of a page
  constexpr long long rows() const { return static_cast<long long>(layers) * batch * heads; }
  constexpr long long ints() const { return rows() * (width + 1LL); }
  //! The descriptor of a layer, for the copy of the array that begins at `base`, wherever that lies.
  SMALTI_HD constexpr pages at(const int* base, int layer = 0) const {
    const long long l = layers == 1 ? 0 : layer, of_a_layer = static_cast<long long>(batch) * heads;
    return {.table = base + l * of_a_layer * width,
            .row_stride = static_cast<long long>(heads) * width,
            .head_stride = heads == 1 ? 0 : width,
            .length = base + layers * of_a_layer * width + l * of_a_layer,
            .length_head_stride = heads == 1 ? 0 : batch,
            .page = page};
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
