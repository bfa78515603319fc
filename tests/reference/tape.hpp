// Gradients of any definition, in double, with how far a machine may be from them. A definition is written down value by value; every value
// knows what it was made of, its slope by each, and the error that roundings of what came before leave in it. One walk back then gives the
// gradient of <y, seed> by every value and, by the same rules, its error:
//     forward    of a sum of products: (terms + 2) unit of the magnitudes, and each factor's error times the other factor
//     backward   of a gradient, at each edge: error times slope, gradient times the slope's error; of the sum over edges: (edges + 2) unit
// A value, or a gradient, that the machine holds in fewer digits is rounded() or gradient_rounded().
#pragma once
#include <cmath>
#include <utility>
#include <vector>

namespace reference {

class tape {
public:
  static constexpr double unit = 0x1p-24;
  explicit tape(double operand = 0) : operand_(operand) {}      // relative error of a factor as a machine reads it (tf32)

  int leaf(double value) { return add({value, 0}); }
  int size() const { return int(nodes_.size()); }      // the place of what is put down next
  double value(int i) const { return nodes_[i].value; }
  double error(int i) const { return nodes_[i].error; }
  double gradient(int i) const { return nodes_[i].gradient; }
  double gradient_error(int i) const { return nodes_[i].gradient_error; }

  // sum of left[k] right[k]
  int dot(const std::vector<std::pair<int, int>>& terms) {
    double sum = 0, error = 0, size = 0;
    for (const auto& [a, b] : terms) {
      const node &x = nodes_[a], &y = nodes_[b];
      sum += x.value * y.value, size += std::abs(x.value * y.value);
      error += std::abs(x.value) * y.error + x.error * (std::abs(y.value) + y.error);
    }
    const int out = add({sum, error * (1 + 0x1p-8) + ((double(terms.size()) + 2) * unit + 2 * operand_) * size});
    for (const auto& [a, b] : terms) {
      edge(a, nodes_[b].value, nodes_[b].error);
      edge(b, nodes_[a].value, nodes_[a].error);
    }
    return out;
  }
  int product(int a, int b) { return dot({{a, b}}); }
  int sum(const std::vector<int>& terms) {
    double sum = 0, error = 0, size = 0;
    for (int t : terms) sum += nodes_[t].value, error += nodes_[t].error, size += std::abs(nodes_[t].value);
    const int out = add({sum, error + (double(terms.size()) + 2) * unit * size});
    for (int t : terms) edge(t, 1, 0);
    return out;
  }
  // f(z), of slope f'(z); the slope changes by at most `bend` a unit and is never above `steepest`
  int apply(int z, double value, double slope, double bend, double steepest) {
    const double off = nodes_[z].error;
    const int out = add({value, steepest * off + 0x1p-18 * std::abs(value) + 0x1p-60});
    edge(z, slope, bend * off + 0x1p-18);
    return out;
  }
  int silu(int z) {
    const double v = nodes_[z].value, s = 1 / (1 + std::exp(-v));
    return apply(z, v * s, s * (1 + v * (1 - s)), 0.5, 1.1);
  }
  int sigmoid(int z) {
    const double s = 1 / (1 + std::exp(-nodes_[z].value));
    return apply(z, s, s * (1 - s), 0.1, 0.25);
  }
  // of a value above `least`
  int reciprocal(int z, double least) {
    const double v = nodes_[z].value;
    return apply(z, 1 / v, -1 / (v * v), 2 / (least * least * least), 1 / (least * least));
  }
  // held with a relative error of `by`: the value, or what comes back to it
  int rounded(int a, double by) {
    const int out = add({nodes_[a].value, nodes_[a].error + by * 1.01 * (std::abs(nodes_[a].value) + nodes_[a].error)});
    edge(a, 1, 0);
    return out;
  }
  int gradient_rounded(int a, double by) {
    const int out = add({nodes_[a].value, nodes_[a].error});
    edge(a, 1, 0);
    nodes_[out].by = by * 1.01;
    return out;
  }

  void seed(int i, double by) { nodes_[i].gradient += by; }
  void back() {
    for (int i = int(nodes_.size()) - 1; i >= 0; --i) {
      node& n = nodes_[i];
      n.gradient_error += (n.uses + 2) * unit * n.size + 2 * operand_ * n.size;
      n.gradient_error += n.by * (std::abs(n.gradient) + n.gradient_error);
      const int end = i + 1 < int(nodes_.size()) ? nodes_[i + 1].first : int(edges_.size());
      for (int e = n.first; e < end; ++e) {
        const made& m = edges_[e];
        node& from = nodes_[m.from];
        from.gradient += n.gradient * m.slope, from.size += std::abs(n.gradient * m.slope), from.uses += 1;
        from.gradient_error += std::abs(n.gradient) * m.slope_error + n.gradient_error * (std::abs(m.slope) + m.slope_error);
      }
    }
  }

private:
  struct node {
    double value, error;
    double gradient = 0, gradient_error = 0, size = 0, by = 0;
    int uses = 0, first = 0;
  };
  struct made {
    int from;
    double slope, slope_error;
  };
  int add(node n) {
    n.first = int(edges_.size());
    nodes_.push_back(n);
    return int(nodes_.size()) - 1;
  }
  void edge(int from, double slope, double slope_error) { edges_.push_back({from, slope, slope_error}); }
  double operand_;
  std::vector<node> nodes_;
  std::vector<made> edges_;
};

}  // namespace reference
