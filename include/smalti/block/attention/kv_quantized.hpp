// Keys and values stored as integers in groups (policy/kv_integer.hpp), as sources of attention: codes and scales are loaded side
// by side and decoded to the operands of the two products, each number rounded once. The agents see sources like any other.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/block/attention/kv.hpp>
#include <smalti/block/attention/rows.hpp>
#include <smalti/core/pages.hpp>
#include <smalti/policy/kv_integer.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

namespace detail {

//! What of one tile of N tokens is loaded for one part (keys or values) of heads of D channels: the rows of codes, scales and
//! minima, and where a tile of scales begins. A group of more tokens than a tile has one row of scales for several tiles.
template <class Storage, policy::kv_part Part, int D, int N> struct coded_tile {
  using rows = typename Storage::template rows_of<Part, D>;
  static constexpr int tokens = rows::tokens, scale_rows = N > tokens ? N / tokens : 1, tiles_of_scale = N > tokens ? 1 : tokens / N;
  static_assert(N % tokens == 0 || tokens % N == 0, "smalti: tiles of keys and groups of tokens must divide one another: choose another group, or n in the tuning");
  template <class Block> using words = stored_rows<Block, std::uint32_t, N, rows::words>;
  template <class Block> using scales = stored_rows<Block, typename Storage::scale, scale_rows, rows::scales>;

  // Turned: the operand's columns are tokens.
  template <bool Turned, class Block, class Operand, class Codes, class Scales, class Load>
  static SMALTI_HD void unpack(Block& block, Operand& t, const Codes& codes, Scales& s, const Load& load_scales) {
    load_scales(block, s, 0);
    if constexpr (Storage::affine) {
      Scales m;
      load_scales(block, m, 1);
      put<Turned>(block, t, codes, s, m);
    } else {
      put<Turned>(block, t, codes, s, unit_factor{});
    }
  }

private:
  template <bool Turned, class Block, class Operand, class Codes, class Scales, class Minima>
  static SMALTI_HD void put(Block& block, Operand& t, const Codes& codes, const Scales& s, const Minima& m) {
    if constexpr (Turned) block.unpack_columns(t, typename Storage::codec{}, codes, s, m);
    else block.unpack_rows(t, typename Storage::codec{}, codes, s, m);
  }
};

// One tile from rows one after another.
template <class Storage, policy::kv_part Part, int D, bool Turned, int N, class Block, class Operand>
SMALTI_HD void load_coded(Block& block, Operand& t, const view<const std::uint32_t>& codes, const view<const typename Storage::scale, 1>& scales, int j) {
  using part = coded_tile<Storage, Part, D, N>;
  typename part::template words<Block> w;
  typename part::template scales<Block> s;
  block.load(w, codes, j, 0);
  part::template unpack<Turned>(block, t, w, s, [scales = scales, first = j / part::tiles_of_scale](auto& b, auto& to, int c) { b.load(to, scales, first, c); });
}

}  // namespace detail

//! Keys or values as codes and scales, both rows of heads: `codes` have D bits / 32 columns of words, `scales` one row for each
//! token, or for each group of tokens, with the columns of policy::kv_integer::rows_of.
template <class Storage>
struct quantized_rows {
  head_rows<const std::uint32_t> codes;
  head_rows<const typename Storage::scale> scales;
};

template <class Storage>
struct quantized_head {
  view<const std::uint32_t> k, v;
  view<const typename Storage::scale, 1> k_scales, v_scales;
  static constexpr float k_scale = 1, v_scale = 1;
  SMALTI_HD constexpr int length() const { return k.rows; }
  template <bool, int D, class Block, class Right> SMALTI_HD void load_key(Block& block, Right& t, int, int j) const {
    static_assert(Right::rows == D, "smalti: quantized keys and values are taken in one piece: on a GPU head dims are powers of two up to 256; on the host leave the tuning's chunk 0");
    detail::load_coded<Storage, policy::kv_part::key, D, true, Right::cols>(block, t, k, k_scales, j);
  }
  template <bool, int D, class Block, class Left> SMALTI_HD void load_key_rows(Block& block, Left& t, int, int j) const {
    static_assert(Left::cols == D, "smalti: quantized keys and values are taken in one piece: on a GPU head dims are powers of two up to 256; on the host leave the tuning's chunk 0");
    detail::load_coded<Storage, policy::kv_part::key, D, false, Left::rows>(block, t, k, k_scales, j);
  }
  template <bool, int D, class Block, class Right> SMALTI_HD void load_value(Block& block, Right& t, int, int j) const {
    static_assert(Right::cols == D, "smalti: quantized keys and values are taken in one piece: on a GPU head dims are powers of two up to 256; on the host leave the tuning's chunk 0");
    detail::load_coded<Storage, policy::kv_part::value, D, false, Right::rows>(block, t, v, v_scales, j);
  }
};

//! Dense and ragged batches. `used`, where given, says how many of each sequence's rows are keys.
template <class Storage>
struct quantized_kv {
  using storage = Storage;
  quantized_rows<Storage> k, v;
  const std::int32_t* used = nullptr;
  constexpr int heads() const { return k.codes.heads; }
  constexpr int longest() const { return k.codes.rows; }
  template <bool = true> SMALTI_HD constexpr quantized_head<Storage> at(int sequence, int head) const {
    quantized_head<Storage> h{k.codes.at(sequence, head), v.codes.at(sequence, head), k.scales.template at<1>(sequence, head), v.scales.template at<1>(sequence, head)};
    if (used != nullptr) h.k.rows = h.v.rows = used[sequence];
    return h;
  }
};

//! Codes and scales in pools of pages that one table names. A page of `tokens` slots has tokens / g rows of scales in a head, where g
//! tokens share them.
template <class Storage>
struct quantized_pool {
  page_pool<const std::uint32_t> codes;
  page_pool<const typename Storage::scale> scales;
};

template <class Storage, int Page>
struct paged_quantized_head {
  quantized_pool<Storage> k, v;
  const int* table = nullptr;
  int tokens = 0, head = 0, page = 0;
  static constexpr float k_scale = 1, v_scale = 1;
  SMALTI_HD constexpr int length() const { return tokens; }

  template <bool Clamped, int D, class Block, class Right> SMALTI_HD void load_key(Block& block, Right& t, int, int j) const {
    static_assert(Right::rows == D, "smalti: quantized keys and values are taken in one piece: on a GPU head dims are powers of two up to 256; on the host leave the tuning's chunk 0");
    load<Clamped, policy::kv_part::key, D, true, Right::cols>(block, t, k, j);
  }
  template <bool Clamped, int D, class Block, class Left> SMALTI_HD void load_key_rows(Block& block, Left& t, int, int j) const {
    static_assert(Left::cols == D, "smalti: quantized keys and values are taken in one piece: on a GPU head dims are powers of two up to 256; on the host leave the tuning's chunk 0");
    load<Clamped, policy::kv_part::key, D, false, Left::rows>(block, t, k, j);
  }
  template <bool Clamped, int D, class Block, class Right> SMALTI_HD void load_value(Block& block, Right& t, int, int j) const {
    static_assert(Right::cols == D, "smalti: quantized keys and values are taken in one piece: on a GPU head dims are powers of two up to 256; on the host leave the tuning's chunk 0");
    load<Clamped, policy::kv_part::value, D, false, Right::rows>(block, t, v, j);
  }

private:
  template <bool Clamped, policy::kv_part Part, int D, bool Turned, int N, class Block, class Operand>
  SMALTI_HD void load(Block& block, Operand& t, const quantized_pool<Storage>& pool, int j) const {
    using part = detail::coded_tile<Storage, Part, D, N>;
    typename part::template words<Block> w;
    typename part::template scales<Block> s;
    if constexpr (!Clamped && Page > 0 && Page % N == 0) {            // a tile that lies inside a page is one plain tile
      constexpr int parts = Page / N;
      block.load(w, pool.codes.boxes(head, Page), table[j / parts], j % parts, 0);
    } else {
      column<Block, int, N> rows;
      page_rows<Page, Clamped>(block, rows, table, tokens, page, j, pool.codes.rows_per_page());
      block.load_rows(w, pool.codes.template all_slots<step_of<std::uint32_t>>(head), rows, 0);
    }
    column<Block, int, part::scale_rows> groups;
    page_rows<Page, Clamped, part::tokens>(block, groups, table, tokens, page, j / part::tiles_of_scale, pool.scales.rows_per_page());
    part::template unpack<Turned>(block, t, w, s, [scales = pool.scales.template all_slots<1>(head), groups](auto& b, auto& to, int c) { b.load_rows(to, scales, groups, c); });
  }
};

//! A pool of pages of codes and scales, and who has which (core/pages.hpp). Page as in paged_kv.
template <class Storage, int Page = 0>
struct paged_quantized_kv {
  using storage = Storage;
  quantized_pool<Storage> k, v;
  pages where;
  int sequences = 0;
  int most = 0;                 //!< keys of the longest sequence, or more
  constexpr int heads() const { return k.codes.heads; }
  constexpr int longest() const { return most; }
  template <bool = true> SMALTI_HD constexpr paged_quantized_head<Storage, Page> at(int sequence, int head) const {
    return {k, v, where.row(sequence, head), where.tokens(sequence, head), head, where.page};
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
