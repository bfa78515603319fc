// Formats of weights by their names.
#include <stdexcept>
#include "linear.hpp"

namespace generate::inline GENERATE_MACHINE {

namespace io = smalti::io;

namespace {

struct named {
  const char* name;
  maker* make;
};
constexpr named all[] = {{"bf16", make_bf16}, {"int8", make_int8}, {"int4:g128", make_int4}, {"nf4", make_nf4},   {"mxfp4", make_mxfp4}, {"q4_0", make_q4_0},
                         {"q4_1", make_q4_1}, {"q8_0", make_q8_0}, {"fp8", make_fp8},        {"int6", make_int6}, {"int3", make_int3}};

bool is(const io::quantized& q, int bits, bool minimum, int zero) {
  return q.kind == io::code_kind::integer && q.bits == bits && q.group_k == 32 && q.group_n == 1 && !q.flat && q.column_group.empty() && q.stored.form == io::scale_form::single &&
         q.minimum.empty() != minimum && q.zero_points.empty() && q.zero_point == zero;
}
maker* as_in_file(const matrix& w) {
  if (w.coded.empty()) return make_bf16;
  maker* found = nullptr;
  for (const auto& q : w.coded) {
    maker* const mine = is(*q, 4, true, 0) ? make_q4_1 : is(*q, 4, false, 8) ? make_q4_0 : is(*q, 8, false, 128) ? make_q8_0 : nullptr;
    if (mine == nullptr) throw std::runtime_error("--weights native keeps Q4_0, Q4_1, Q8_0 and plain numbers: choose another format for this file");
    if (found != nullptr && found != mine) throw std::runtime_error("--weights native: matrices that are multiplied as one have different formats in this file: choose one");
    found = mine;
  }
  return found;
}

}  // namespace

const std::vector<std::string>& weight_formats() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> n{"native"};
    for (const named& f : all) n.push_back(f.name);
    return n;
  }();
  return names;
}

std::unique_ptr<linear> make_linear(const linear_settings& s, const matrix& w, form f) {
  if (s.weights == "native") return as_in_file(w)(w, f, true, s.int8_activations);
  for (const named& format : all)
    if (s.weights == format.name) return format.make(w, f, false, s.int8_activations);
  std::string known;
  for (const std::string& name : weight_formats()) known += (known.empty() ? "" : ", ") + name;
  throw std::runtime_error("--weights " + s.weights + " is not built: " + known + " are");
}

}  // namespace generate::inline GENERATE_MACHINE
