// Epilogues: what happens to each sum of a product before it is stored. A step is called as
// step(value, row, column), where value is the machine's (a pack of lanes, a whole tile) and row and column are
// the coordinates in the result; it returns a value. Steps run in the order of a chain.
//
// A step may have  status check(const result_matrix& c) const: ops call it before any launch.
#pragma once
#include <concepts>
#include <type_traits>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! What an epilogue writes to, for its check: extents, and memory as bytes (one past the end; distance of rows).
struct result_matrix {
  int rows = 0, cols = 0;
  const char *first = nullptr, *last = nullptr;
  long long stride = 0;
};

//! Steps one after another: chain<A, B>: b(a(x)). An empty chain leaves the value as it is.
template <class... Steps> struct chain;
template <> struct chain<> {
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R, C) const { return x; }
};
template <class First, class... Rest> struct chain<First, Rest...> {
  First first;
  chain<Rest...> rest;
  template <class V, class R, class C> SMALTI_HD auto operator()(V x, R row, C column) const { return rest(first(x, row, column), row, column); }
  template <class V, class R, class C> SMALTI_HD auto operator()(V gate, V up, R row, C column) const {
    return rest(first(gate, up, row, column), row, column);
  }
};

//! x + data[column]. The bias of a linear layer; `n` elements.
template <class T> struct bias {
  const T* data = nullptr;
  int n = 0;
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R, C column) const { return x + lookup(data, column, n); }
  constexpr status check(const result_matrix& c) const {
    if (c.cols > 0 && data == nullptr) return {errc::null_pointer, "epilogue bias: data is null"};
    if (n < c.cols) return {errc::bad_shape, "epilogue bias: n must be at least the columns of c", n, c.cols};
    return {};
  }
};

//! x * factor.
struct scale {
  float factor = 1;
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R, C) const { return x * factor; }
};

//! x * data[column]: the scale of each output channel.
template <class T> struct column_scale {
  const T* data = nullptr;
  int n = 0;
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R, C column) const { return x * lookup(data, column, n); }
  constexpr status check(const result_matrix& c) const {
    if (c.cols > 0 && data == nullptr) return {errc::null_pointer, "epilogue column_scale: data is null"};
    if (n < c.cols) return {errc::bad_shape, "epilogue column_scale: n must be at least the columns of c", n, c.cols};
    return {};
  }
};

//! x * data[row]: the scale of each token.
template <class T> struct row_scale {
  const T* data = nullptr;
  int n = 0;
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R row, C) const { return x * lookup(data, row, n); }
  constexpr status check(const result_matrix& c) const {
    if (c.rows > 0 && data == nullptr) return {errc::null_pointer, "epilogue row_scale: data is null"};
    if (n < c.rows) return {errc::bad_shape, "epilogue row_scale: n must be at least the rows of c", n, c.rows};
    return {};
  }
};

//! x * table[id[row], column]: a row of an embedding in the place of a product (STEM's up projection). Ids are rows of the table.
template <class T> struct times_embedding {
  view<const T, 1> table;
  const int* id = nullptr;
  int n = 0;
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R row, C column) const { return x * lookup(table, lookup(id, row, n), column); }
  constexpr status check(const result_matrix& c) const {
    if (c.rows == 0 || c.cols == 0) return {};
    if (table.data == nullptr || id == nullptr) return {errc::null_pointer, "epilogue times_embedding: table or id is null"};
    if (n < c.rows) return {errc::bad_shape, "epilogue times_embedding: n must be at least the rows of c", n, c.rows};
    if (table.cols < c.cols) return {errc::bad_shape, "epilogue times_embedding: table needs as many columns as c", table.cols, c.cols};
    if (table.stride < table.cols) return {errc::bad_shape, "epilogue times_embedding: stride must be at least the columns of table", table.stride, table.cols};
    return {};
  }
};

//! max(x, 0). NaN becomes 0 or stays NaN as the machine's max decides.
struct relu {
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R, C) const { return max(x, 0.0f); }
};

//! x / (1 + e^-x).
struct silu {
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R, C) const { return over(x, 1.0f + exp2(x * -1.4426950408889634f)); }
};

//! x (1 + erf(x / sqrt 2)) / 2.
struct gelu {
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R, C) const { return x * 0.5f * (1.0f + erf(x * 0.7071067811865476f)); }
};

//! x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2: the approximation that GPT-2 and Gemma were trained with.
struct gelu_tanh {
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R, C) const {
    return x * 0.5f * (1.0f + tanh(x * (1.0f + x * x * 0.044715f) * 0.7978845608028654f));
  }
};

//! x + source[row, column]: the residual stream. `source` may be the result itself (each element is read by the
//! block that writes it, before it does) or memory apart from it.
template <class T> struct residual {
  view<const T, 1> source;
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R row, C column) const { return x + lookup(source, row, column); }
  status check(const result_matrix& c) const {
    if (c.rows == 0 || c.cols == 0) return {};
    if (source.data == nullptr) return {errc::null_pointer, "epilogue residual: source is null"};
    if (source.rows < c.rows) return {errc::bad_shape, "epilogue residual: source needs as many rows as c", source.rows, c.rows};
    if (source.cols < c.cols) return {errc::bad_shape, "epilogue residual: source needs as many columns as c", source.cols, c.cols};
    if (source.stride < source.cols) return {errc::bad_shape, "epilogue residual: stride must be at least the columns of source", source.stride, source.cols};
    const char* first = reinterpret_cast<const char*>(source.data);
    const char* last = first + (static_cast<long long>(c.rows - 1) * source.stride + c.cols) * static_cast<long long>(sizeof(T));
    const bool itself = first == c.first && source.stride * static_cast<long long>(sizeof(T)) == c.stride && last == c.last;
    if (first < c.last && c.first < last && !itself)
      return {errc::aliased, "epilogue residual: source must be c itself (same address, type size and stride) or not overlap it"};
    return {};
  }
};

//! The nearest value of T (round to nearest even), still held as float: what a store to T and a load give.
template <class T> struct cast {
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R, C) const { return rounded_as<T>(x); }
};

//! activation(gate) * up: the first step of a gated layer. The product's right matrix then has 2 N rows, the N of
//! the gate first, and the result N columns.
template <class Activation> struct gated {
  Activation activation;
  template <class V, class R, class C> SMALTI_HD V operator()(V gate, V up, R row, C column) const { return activation(gate, row, column) * up; }
};

//! Whether an epilogue takes the pair (gate, up).
template <class Epilogue> constexpr bool takes_pairs = false;
template <class Activation, class... Rest> constexpr bool takes_pairs<chain<gated<Activation>, Rest...>> = true;

//! The epilogue's own check, of every step in order.
template <class Step> constexpr status check_epilogue(const Step& step, const result_matrix& c) {
  if constexpr (requires { { step.check(c) } -> std::same_as<status>; }) return step.check(c);
  else return {};
}
template <class First, class... Rest> constexpr status check_epilogue(const chain<First, Rest...>& steps, const result_matrix& c) {
  if (const status bad = check_epilogue(steps.first, c); !bad) return bad;
  return check_epilogue(steps.rest, c);
}

template <class Epilogue> consteval bool explain_epilogue() {
  static_assert(std::is_trivially_copyable_v<Epilogue>,
                "smalti: an epilogue is copied to the GPU by value, so it must be trivially copyable: hold pointers and numbers only");
  static_assert(std::is_aggregate_v<Epilogue>,
                "smalti: an epilogue crosses a kernel launch as its fields, so it must be an aggregate: remove constructors and private members");
  return true;
}

}  // namespace smalti::inline SMALTI_DATA::policy
