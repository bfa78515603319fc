// The oracle of attention: one head of one sequence, naive, in double. What is visible, what becomes of a score and how a row
// of logits is normalized are functions, so that any variant is said in a line. Gradients by the chain rule, written out
// apart from the library's, and by central differences of the forward pass, which knows no derivative at all.
#pragma once
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

namespace oracle {

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

//! What a normalizer makes of one row of logits (-infinity: masked).
struct row_weights {
  std::vector<double> w;          // o = sum_j w[j] v[j]
  double lse = minus_infinity;    // base e; what a sink adds is inside
};
using normalizer = std::function<row_weights(const std::vector<double>& z)>;

//! w = exp(z - lse), lse = log(sum exp z + exp sink). No key and no sink: no weight, lse = -infinity.
inline normalizer softmax(double sink = minus_infinity) {
  return [sink](const std::vector<double>& z) {
    double top = sink;
    for (double x : z) top = x > top ? x : top;
    row_weights r{std::vector<double>(z.size(), 0.0)};
    if (top == minus_infinity) return r;
    double sum = sink == minus_infinity ? 0 : std::exp(sink - top);
    for (double x : z) sum += x == minus_infinity ? 0 : std::exp(x - top);
    r.lse = top + std::log(sum);
    for (std::size_t j = 0; j < z.size(); ++j) r.w[j] = z[j] == minus_infinity ? 0 : std::exp(z[j] - r.lse);
    return r;
  };
}
//! w = f(z), 0 where masked: no statistics of the row.
inline normalizer pointwise(std::function<double(double)> f) {
  return [f](const std::vector<double>& z) {
    row_weights r{std::vector<double>(z.size(), 0.0)};
    for (std::size_t j = 0; j < z.size(); ++j)
      if (z[j] != minus_infinity) r.w[j] = f(z[j]);
    return r;
  };
}

struct attention_problem {
  int queries = 0, keys = 0, d = 0, dv = 0;
  std::vector<double> q, k, v;                                                   // [queries][d], [keys][d], [keys][dv]
  double scale = 1;
  std::function<bool(int, int)> visible = [](int, int) { return true; };
  std::function<double(double, int, int)> logit = [](double s, int, int) { return s; };        // of the scaled score
  std::function<double(double, int, int)> slope = [](double, int, int) { return 1.0; };        // its derivative
  normalizer normalize = softmax();
  std::function<double(int, int)> gate = [](int, int) { return 1.0; };                         // of query i, element e: times o
};

struct attention_result {
  std::vector<double> o, lse;          // [queries][dv], [queries] in base e
  std::vector<double> size;            // [queries][dv]: sum_j |w_j v_j|, which errors of weights scale with
  std::vector<double> reach;           // [queries]: the largest sum_c |q_c k_c| * scale over visible keys: errors of scores
};

inline std::vector<double> attention_scores(const attention_problem& p, int i) {
  std::vector<double> s(p.keys);
  for (int j = 0; j < p.keys; ++j)
    for (int c = 0; c < p.d; ++c) s[j] += p.q[std::size_t(i) * p.d + c] * p.k[std::size_t(j) * p.d + c] * p.scale;
  return s;
}
inline row_weights attention_row(const attention_problem& p, int i) {
  std::vector<double> z = attention_scores(p, i);
  for (int j = 0; j < p.keys; ++j) z[j] = p.visible(i, j) ? p.logit(z[j], i, j) : minus_infinity;
  return p.normalize(z);
}

inline attention_result attention(const attention_problem& p) {
  attention_result r{std::vector<double>(std::size_t(p.queries) * p.dv), std::vector<double>(p.queries),
                     std::vector<double>(std::size_t(p.queries) * p.dv), std::vector<double>(p.queries)};
  for (int i = 0; i < p.queries; ++i) {
    const row_weights row = attention_row(p, i);
    r.lse[i] = row.lse;
    for (int j = 0; j < p.keys; ++j) {
      if (!p.visible(i, j)) continue;      // what is not visible may hold NaN
      double reach = 0;
      for (int c = 0; c < p.d; ++c) reach += std::abs(p.q[std::size_t(i) * p.d + c] * p.k[std::size_t(j) * p.d + c] * p.scale);
      r.reach[i] = reach > r.reach[i] ? reach : r.reach[i];
      for (int e = 0; e < p.dv; ++e) {
        const double x = row.w[j] * p.v[std::size_t(j) * p.dv + e] * p.gate(i, e);
        r.o[std::size_t(i) * p.dv + e] += x;
        r.size[std::size_t(i) * p.dv + e] += std::abs(x);
      }
    }
  }
  return r;
}

struct attention_gradients {
  std::vector<double> dq, dk, dv;      // as q, k, v
  std::vector<double> dz;              // [queries][keys]: of the logits
  std::vector<double> ds;              // [queries][keys]: of the scaled scores; of an additive bias where that comes first
  double dsink = 0;
};

//! Gradients of softmax attention for the cotangents d_o [queries][dv] and d_lse [queries] (base e). `sink` must be the one
//! that p.normalize was made with.
inline attention_gradients softmax_gradients(const attention_problem& p, const std::vector<double>& d_o, const std::vector<double>& d_lse,
                                             double sink = minus_infinity) {
  attention_gradients g{std::vector<double>(p.q.size()), std::vector<double>(p.k.size()), std::vector<double>(p.v.size()),
                        std::vector<double>(std::size_t(p.queries) * p.keys), std::vector<double>(std::size_t(p.queries) * p.keys)};
  for (int i = 0; i < p.queries; ++i) {
    const std::vector<double> s = attention_scores(p, i);
    const row_weights row = attention_row(p, i);
    std::vector<double> dw(p.keys);
    double mean = 0;                                             // sum_j w_j dw_j = o . d_o
    for (int j = 0; j < p.keys; ++j) {
      if (!p.visible(i, j)) continue;
      for (int e = 0; e < p.dv; ++e) {
        dw[j] += d_o[std::size_t(i) * p.dv + e] * p.v[std::size_t(j) * p.dv + e];
        g.dv[std::size_t(j) * p.dv + e] += row.w[j] * d_o[std::size_t(i) * p.dv + e];
      }
      mean += row.w[j] * dw[j];
    }
    if (sink != minus_infinity) g.dsink += std::exp(sink - row.lse) * (d_lse[i] - mean);
    for (int j = 0; j < p.keys; ++j) {
      if (!p.visible(i, j)) continue;
      const double dz = row.w[j] * (dw[j] - mean + d_lse[i]), ds = dz * p.slope(s[j], i, j);
      g.dz[std::size_t(i) * p.keys + j] = dz;
      g.ds[std::size_t(i) * p.keys + j] = ds;
      for (int c = 0; c < p.d; ++c) {
        g.dq[std::size_t(i) * p.d + c] += ds * p.scale * p.k[std::size_t(j) * p.d + c];
        g.dk[std::size_t(j) * p.d + c] += ds * p.scale * p.q[std::size_t(i) * p.d + c];
      }
    }
  }
  return g;
}

//! Gradients where each weight is f of its own logit, f' = slope_of_f.
inline attention_gradients pointwise_gradients(const attention_problem& p, const std::function<double(double)>& f,
                                               const std::function<double(double)>& slope_of_f, const std::vector<double>& d_o) {
  attention_gradients g{std::vector<double>(p.q.size()), std::vector<double>(p.k.size()), std::vector<double>(p.v.size()),
                        std::vector<double>(std::size_t(p.queries) * p.keys), std::vector<double>(std::size_t(p.queries) * p.keys)};
  for (int i = 0; i < p.queries; ++i) {
    const std::vector<double> s = attention_scores(p, i);
    for (int j = 0; j < p.keys; ++j) {
      if (!p.visible(i, j)) continue;
      const double z = p.logit(s[j], i, j);
      double dw = 0;
      for (int e = 0; e < p.dv; ++e) {
        dw += d_o[std::size_t(i) * p.dv + e] * p.v[std::size_t(j) * p.dv + e];
        g.dv[std::size_t(j) * p.dv + e] += f(z) * d_o[std::size_t(i) * p.dv + e];
      }
      const double dz = dw * slope_of_f(z), ds = dz * p.slope(s[j], i, j);
      g.dz[std::size_t(i) * p.keys + j] = dz;
      g.ds[std::size_t(i) * p.keys + j] = ds;
      for (int c = 0; c < p.d; ++c) {
        g.dq[std::size_t(i) * p.d + c] += ds * p.scale * p.k[std::size_t(j) * p.d + c];
        g.dk[std::size_t(j) * p.d + c] += ds * p.scale * p.q[std::size_t(i) * p.d + c];
      }
    }
  }
  return g;
}

//! sum o . d_o + sum lse . d_lse: the number whose gradients the functions above give. Rows without keys add nothing.
inline double attention_loss(const attention_problem& p, const std::vector<double>& d_o, const std::vector<double>& d_lse) {
  const attention_result r = attention(p);
  double sum = 0;
  for (std::size_t n = 0; n < r.o.size(); ++n) sum += r.o[n] * d_o[n];
  for (int i = 0; i < p.queries; ++i)
    if (r.lse[i] != minus_infinity) sum += r.lse[i] * d_lse[i];
  return sum;
}

//! The derivative of loss() by *x, by central differences of two step sizes (Richardson): the error is of order h^4.
template <class Loss> double central_difference(Loss loss, double* x, double h = 1e-3) {
  const double at = *x;
  const auto slope = [&](double step) {
    *x = at + step;
    const double up = loss();
    *x = at - step;
    const double down = loss();
    *x = at;
    return (up - down) / (2 * step);
  };
  const double wide = slope(h), narrow = slope(h / 2);
  return (4 * narrow - wide) / 3;
}

//! Partial results over disjoint parts of the keys, as one: lse in base e.
inline std::pair<std::vector<double>, double> merged_partials(const std::vector<std::pair<std::vector<double>, double>>& parts) {
  double top = minus_infinity;
  for (const auto& [o, lse] : parts) top = lse > top ? lse : top;
  std::vector<double> sum(parts.empty() ? 0 : parts.front().first.size());
  if (top == minus_infinity) return {sum, top};
  double weight = 0;
  for (const auto& part : parts) {
    if (part.second == minus_infinity) continue;
    const double w = std::exp(part.second - top);
    weight += w;
    for (std::size_t e = 0; e < sum.size(); ++e) sum[e] += w * part.first[e];
  }
  for (double& x : sum) x /= weight;
  return {sum, top + std::log(weight)};
}

}  // namespace oracle
