// The tile vocabulary: what an agent may say, and nothing else.
//
// An agent is an aggregate of views, numbers and policies with
//     template <class Block> void operator()(Block& block) const;
// `Block` is a machine: host::block (plain C++, SIMD) or cuda_tile::block (nvcc >= 13.3, --enable-tile).
// The text of the agent is the same for both. This header has what does not depend on the machine; the
// words below are members of a block, and docs/machines.md says what each becomes on each machine.
//
// Types (aliases at the end of this file)           shape    lives in: host | cuda_tile
//   tile<Block, T, R, C>                            R x C    aligned array | registers; T: float or int
//   column<Block, T, R>, row<Block, T, C>           R x 1, 1 x C
//   left<Block, T, R, K>, right<Block, T, K, N>     operands of a product: the machine packs them
//   streamed_left<Block, T, R, K>, streamed_right<Block, T, K, N>   the same, of products with few columns or few rows: the host uses
//                                                   them where they lie, without packing
//   words<Block, N, W>                              packed 32-bit codes of N columns, W words each
//   coded<Block, T, Codec, K, N, Tile>              right<Block, T, K, N> of such codes, made by unpack<Tile> for one product: the machine
//                                                   decodes them there
//   stored_rows<Block, S, N, C>                     N rows of C elements of S as they lie in memory: codes in words, scales
//   factors<Block, R, G>                            of a scaled product's rows: one float for each row and group of k
//   left_scales<Block, S, R, G>, right_scales<Block, S, G, N>   of a block-scaled product's operands, S as in memory: e8m0, fp8_e4m3
//
// Where and how often
//   x() y() z()                                     which block this is
//   steps(first, last)                              for (int i : block.steps(a, b)): a loop the machine may pipeline
// Memory (i, j count tiles of t's shape; n picks a matrix of a stack)
//   load(t, view, [n,] i, j)                        tile (i, j), zero outside the matrix; converts;
//                                                   transposed(view) swaps the two axes
//   load(t, stacks, o, n, i, j)                     the same of matrix n of stack o; store too
//   load_rows(t, view, rows, j[, name])             gather: row r of t is row rows[r] of the view, which must exist;
//                                                   transposed(view): column r of t is row rows[r] of the view
//   announce(t, view, i, j), announce(t, view, rows, j)   t of a streamed operand: tile (i, j), or these 32 rows, will probably be loaded next; the host
//                                                   fetches their beginning while t is multiplied. Where Block::announces is false there is no such word
//   store(view, [n,] i, j, t)                       masked, converts (round to nearest even); transposed(view) too
//   store_rows(view, rows, j, t)                    scatter of rows; rows[r] < 0 is skipped; transposed(view): column r of t
//   copy_rows<C>(to, target, from, source, j)       columns j C.. of row target[r] become those of row source[r], which must exist, for many rows
//                                                   that lie far apart; target[r] < 0 is skipped; no target is a source
//   store_column(view, n, i, column)                view[n][i * R + r] = column[r]
//   scatter(view, i, place, keep, t)                t to column place - 1 of its row where keep is not zero
//   accumulate(view, [n,] i, j, t)                  atomic add of floats, masked; the order is not fixed
//   number(p, i)                                    p[i], an int, as a number: for loops and branches
//   arrive(counter)                                 adds one, returns the old value: what this block stored before is
//                                                   visible to the block that sees a later value, which may then load it
//   load(operand of e2m1, view of e2m1x2, i, j)     two codes a byte; tiles are counted in codes; transposed(view) for right operands
//   load(scales, view, i, j)                        of left_scales; transposed(view) of right_scales, and for weights on the left the other way round
// Arithmetic
//   fill(t, value)
//   product(acc, left, right)                       acc += left * right; acc float (int for 8-bit integers)
//   multiply(acc, left, right)                      acc = left * right
//   multiply(acc, left, right[G]), product(...)     right operands side by side: columns g N.. of acc (+)= left * right[g]; or, in product, one
//                                                   below another: acc += sum over g of columns g K.. of left * right[g]. Where Block::joins
//   begin(acc, any)                                 acc = 0; where `any` says that products follow, not before the first of them
//   product(acc, left, right, first)                after begin: the first of them, or another one
//   as_left(left, t)                                accumulator to operand
//   map_left(f, left, in...)                        map, then as_left; map_left_sum(f, left, column, in...) also gives the sums of
//                                                   rows before rounding
//   scale_rows(t, column)                           t = t column, row by row
//   mask_depth(operand, first, last)                what lies outside [first, last) along k becomes zero
//   split(high, low, x)                             an operand of float as two of tf32: x = high + low to 2^-22
//   product(acc, left, right, lf, rf [, ls, rm])   acc += sum over groups g of k of lf[., g] rf[g, .] (left[., g] . right[g, .])
//                                                   + ls[., g] rm[g, .]; lf, ls: factors<R, G> or column<R>; rf, rm: tile<float, G, N>
//                                                   or row<N>; unit_factor{} where there is none. G = 1 on cuda_tile
//   product(acc, left, right, ls, rs)               the same sum with left_scales and right_scales, operands of fp8_e4m3, fp8_e5m2 or e2m1: one instruction
//                                                   on sm_100 and later (any G); elsewhere the operands are scaled in bf16, exactly, or (host) each group's sum
//   load(w, panels, g, j)                           packed words: word tile g of column tile j
//   unpack<T>(operand, codec, w...)                 depth-tile T of codes, one w for each part of them (policy/word_planes.hpp)
//   unpack_scaled<T>(operand, codec, scales, zeros, w...)   (value - zero) * scale; tiles or rows; unit_factor{} for no zeros
//   unpack_rows(operand, codec, words, scales, minima)      operand[r][c] = value(code c of row r) scale + minimum, one rounding to the
//                                                   operand's type; words, scales, minima: stored_rows of R, R / t, R / t rows and one word,
//                                                   scale and minimum for each so many channels (policy/kv_integer.hpp); unit_factor{}: no minima
//   unpack_columns(right, codec, words, scales, minima)     the same turned: right[c][r]
//   part_columns(x, y, left, way)                   tiles x and y: the two halves of the operand's columns (column_halves{}), or its even and its odd
//                                                   columns (column_pairs{})
//   join_columns(operand, x, y, way)                the other way round, one rounding to the operand's type: left[r] = row r of both; right[c][r]
//   map(f, out, in...)                              out = f(in...) element by element, broadcasting rows and columns;
//                                                   row_index{} and column_index{} stand for coordinates in the tile
//   row_max(column, t), row_sum(column, t)          reduce each row; column_max(row, t), column_sum(row, t) each column
//   turn(out, t)                                    out = t', values of one tile to another
//   row_scan(out, t)                                inclusive running sum along each row, of ints
//
// Values: what `f` in a map sees. `V` is a SIMD pack (host) or a whole tile (cuda_tile); both have
//   + - * / on V and scalars, < <= > >= ==, && || !, & | ^ << >> % on integers, and by argument-dependent
//   lookup: exp2 exp2_rough (for results rounded to 16 bits) log2 sqrt rsqrt tanh erf sin cos abs floor max min where(mask, a, b) over(a, b) fma(a, b, c)
//   to_float to_int float_bits bits_float lookup(p, index, n). Say over(x, y) for a quotient that need not be
//   exact to the last bit: x / y is a subroutine on a GPU.
//   A closure given to map captures values: never references, never `this`.
#pragma once
#include <smalti/core/version.hpp>
#include <smalti/core/view.hpp>

namespace smalti::inline SMALTI_CODE {

// Arguments of map: the coordinates inside the tile. Types, not variables: tile code cannot use a
// namespace-scope variable, not even a constexpr one.
struct row_index {};
struct column_index {};
// No scale, no zero point: an argument of a scaled product.
struct unit_factor {};
// How the columns of an operand are parted in two.
struct column_halves {};
struct column_pairs {};

template <class Block, class T, int R, int C> using tile = typename Block::template tile<T, R, C>;
template <class Block, class T, int R> using column = typename Block::template column<T, R>;
template <class Block, class T, int C> using row = typename Block::template row<T, C>;
template <class Block, class T, int R, int K> using left = typename Block::template left<T, R, K>;
template <class Block, class T, int K, int N> using right = typename Block::template right<T, K, N>;
template <class Block, class T, int R, int K> using streamed_left = typename Block::template streamed_left<T, R, K>;
template <class Block, class T, int K, int N> using streamed_right = typename Block::template streamed_right<T, K, N>;
template <class Block, int N, int Words> using words = typename Block::template words<N, Words>;
template <class Block, class T, class Codec, int K, int N, int Tile> using coded = typename Block::template coded<T, Codec, K, N, Tile>;
template <class Block, class S, int N, int C> using stored_rows = typename Block::template stored_rows<S, N, C>;
template <class Block, int R, int G> using factors = typename Block::template factors<R, G>;
template <class Block, class S, int R, int G> using left_scales = typename Block::template left_scales<S, R, G>;
template <class Block, class S, int G, int N> using right_scales = typename Block::template right_scales<S, G, N>;

}  // namespace smalti::inline SMALTI_CODE
