// ggml as a peer: y = x w', w in GGUF blocks that ggml has put into the order of whichever of its own kernels is asked for,
// x and y floats. It quantizes x to 8 bits itself, as part of the product.
#pragma once
#if defined(SMALTI_BENCH_GGML)
#  include <ggml-alloc.h>
#  include <ggml-backend.h>
#  include <ggml-cpu.h>
#  include <ggml.h>
#  include <limits.hpp>
#  if defined(__x86_64__)
#    include <immintrin.h>
#  endif

#  include <cstddef>
#  include <cstdint>
#  include <memory>
#  include <stdexcept>
#  include <string>
#  include <vector>

namespace bench::ggml {

inline std::string version() { return std::string("ggml ") + ggml_version(); }

//! The kinds of memory a weight may be put into: ggml's tile and repacked kernels each have one, plain blocks come last.
inline std::vector<ggml_backend_buffer_type_t> layouts() {
  std::vector<ggml_backend_buffer_type_t> found;
  ggml_backend_reg_t reg = ggml_backend_cpu_reg();
  ggml_backend_dev_t device = ggml_backend_reg_dev_get(reg, 0);
  if (auto get = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts")))
    for (ggml_backend_buffer_type_t* one = get(device); one != nullptr && *one != nullptr; ++one) found.push_back(*one);
  found.push_back(ggml_backend_cpu_buffer_type());
  return found;
}

// ggml configures the tile registers once a thread and takes it that nobody else ever does: its configuration is put back before each
// of its runs, and noted after it.
struct own_tiles {
#  if defined(__AMX_TILE__)
  struct alignas(64) configuration {
    unsigned char bytes[64] = {};
  };
  static configuration& noted() {
    static thread_local configuration c;
    return c;
  }
  own_tiles() {
    if (available(instruction::amx_s8)) {
      asm volatile("" ::: "memory");
      _tile_loadconfig(&noted());
    }
  }
  ~own_tiles() {
    if (available(instruction::amx_s8)) {
      _tile_storeconfig(&noted());
      asm volatile("" ::: "memory");
    }
  }
#  else
  own_tiles() {}
  ~own_tiles() {}
#  endif
};

//! Graphs of which each run computes the next.
class in_turns {
 public:
  void run() {
    const own_tiles keep;
    if (ggml_backend_graph_compute(backend_.get(), graphs_[at_]) != GGML_STATUS_SUCCESS) throw std::runtime_error("ggml did not compute");
    last_ = at_;
    at_ = at_ + 1 == graphs_.size() ? 0 : at_ + 1;
  }
  const float* result() const { return static_cast<const float*>(out_[last_]->data); }

 protected:
  explicit in_turns(int threads) : backend_(ggml_backend_cpu_init()) { ggml_backend_cpu_set_n_threads(backend_.get(), threads); }
  //! A graph of at most `nodes` nodes for each result.
  void draw(std::size_t nodes) {
    for (ggml_tensor* one : out_) {
      ggml_cgraph* graph = ggml_new_graph_custom(rest_.get(), nodes, false);
      ggml_build_forward_expand(graph, one);
      graphs_.push_back(graph);
    }
  }

  struct release {
    void operator()(ggml_backend_t p) const { ggml_backend_free(p); }
    void operator()(ggml_context* p) const { ggml_free(p); }
    void operator()(ggml_backend_buffer_t p) const { ggml_backend_buffer_free(p); }
  };
  std::unique_ptr<ggml_backend, release> backend_;
  std::unique_ptr<ggml_context, release> weights_, rest_;
  std::vector<std::unique_ptr<ggml_backend_buffer, release>> buffers_;
  std::vector<ggml_tensor*> out_;
  std::vector<ggml_cgraph*> graphs_;
  std::size_t at_ = 0, last_ = 0;
};

//! One product with `copies` equal weights, of which each run takes the next. usable() is false where the layout has no
//! kernel for it.
class linear : public in_turns {
 public:
  linear(ggml_type type, int m, int n, int k, int copies, const std::vector<std::uint8_t>& blocks, const std::vector<float>& x, ggml_backend_buffer_type_t layout, int threads)
      : in_turns(threads), name_(ggml_backend_buft_name(layout)) {
    weights_.reset(ggml_init({std::size_t(copies + 1) * ggml_tensor_overhead(), nullptr, true}));
    rest_.reset(ggml_init({std::size_t(copies + 4) * ggml_tensor_overhead() + std::size_t(copies) * ggml_graph_overhead_custom(8, false), nullptr, true}));
    std::vector<ggml_tensor*> w;
    for (int i = 0; i < copies; ++i) w.push_back(ggml_new_tensor_2d(weights_.get(), type, k, n));
    ggml_tensor* const in = ggml_new_tensor_2d(rest_.get(), GGML_TYPE_F32, k, m);
    for (ggml_tensor* one : w) out_.push_back(ggml_mul_mat(rest_.get(), one, in));
    buffers_.emplace_back(ggml_backend_alloc_ctx_tensors_from_buft(weights_.get(), layout));
    if (buffers_.back() == nullptr) return;
    if (!ggml_backend_supports_op(backend_.get(), out_[0])) return;
    buffers_.emplace_back(ggml_backend_alloc_ctx_tensors_from_buft(rest_.get(), ggml_backend_cpu_buffer_type()));
    for (ggml_tensor* one : w) ggml_backend_tensor_set(one, blocks.data(), 0, blocks.size());
    ggml_backend_tensor_set(in, x.data(), 0, x.size() * sizeof(float));
    draw(8);
  }
  bool usable() const { return !graphs_.empty(); }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
};

//! One token through `choices` of `experts` experts: sum of w down_e(silu(gate_e x) up_e x), by ggml_mul_mat_id. All experts' weights are of
//! these blocks; each run takes the next experts, and after the last of them the next copy.
class experts : public in_turns {
 public:
  experts(ggml_type type, int wide, int inner, int count, int choices, int copies, const std::vector<std::uint8_t>& in_blocks, const std::vector<std::uint8_t>& out_blocks, const std::vector<float>& x, float weight, int threads)
      : in_turns(threads) {
    const int turns = count / choices, graphs = copies * turns, nodes = 16 + 2 * choices;
    weights_.reset(ggml_init({std::size_t(3 * copies + 1) * ggml_tensor_overhead(), nullptr, true}));
    rest_.reset(ggml_init({std::size_t(graphs * nodes + turns + 4) * ggml_tensor_overhead() + std::size_t(graphs) * ggml_graph_overhead_custom(64, false), nullptr, true}));
    std::vector<ggml_tensor*> gate, up, down, ids;
    for (int i = 0; i < copies; ++i) {
      gate.push_back(ggml_new_tensor_3d(weights_.get(), type, wide, inner, count));
      up.push_back(ggml_new_tensor_3d(weights_.get(), type, wide, inner, count));
      down.push_back(ggml_new_tensor_3d(weights_.get(), type, inner, wide, count));
    }
    ggml_context* const c = rest_.get();
    ggml_tensor* const in = ggml_new_tensor_3d(c, GGML_TYPE_F32, wide, 1, 1);
    ggml_tensor* const share = ggml_new_tensor_3d(c, GGML_TYPE_F32, 1, choices, 1);
    for (int t = 0; t < turns; ++t) ids.push_back(ggml_new_tensor_2d(c, GGML_TYPE_I32, choices, 1));
    for (int i = 0; i < copies; ++i)
      for (int t = 0; t < turns; ++t) {
        ggml_tensor* const h = ggml_mul(c, ggml_silu(c, ggml_mul_mat_id(c, gate[i], in, ids[t])), ggml_mul_mat_id(c, up[i], in, ids[t]));
        ggml_tensor* const made = ggml_mul(c, ggml_mul_mat_id(c, down[i], h, ids[t]), share);
        ggml_tensor* sum = ggml_view_2d(c, made, wide, 1, made->nb[2], 0);
        for (int j = 1; j < choices; ++j) sum = ggml_add(c, sum, ggml_view_2d(c, made, wide, 1, made->nb[2], std::size_t(j) * made->nb[1]));
        out_.push_back(sum);
      }
    for (ggml_context* some : {weights_.get(), rest_.get()}) buffers_.emplace_back(ggml_backend_alloc_ctx_tensors_from_buft(some, ggml_backend_cpu_buffer_type()));
    for (int i = 0; i < copies; ++i)
      for (int e = 0; e < count; ++e)
        for (ggml_tensor* w : {gate[i], up[i], down[i]}) {
          const auto& blocks = w == down[i] ? out_blocks : in_blocks;
          ggml_backend_tensor_set(w, blocks.data(), std::size_t(e) * w->nb[2], blocks.size());
        }
    ggml_backend_tensor_set(in, x.data(), 0, x.size() * sizeof(float));
    const std::vector<float> all(std::size_t(choices), weight);
    ggml_backend_tensor_set(share, all.data(), 0, all.size() * sizeof(float));
    for (int t = 0; t < turns; ++t) {
      std::vector<std::int32_t> named;
      for (int j = 0; j < choices; ++j) named.push_back(t * choices + j);
      ggml_backend_tensor_set(ids[std::size_t(t)], named.data(), 0, named.size() * sizeof(std::int32_t));
    }
    draw(64);
  }
};

}  // namespace bench::ggml
#endif
