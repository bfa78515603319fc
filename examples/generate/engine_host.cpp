#include "engine_text.hpp"

namespace generate {

std::unique_ptr<linear> make_linear(const std::string& format, const matrix& w) {
  if (format == "native" || format == "bf16") return make_bf16(w);
  throw std::runtime_error("--weights " + format + " is not built: bf16 is");
}

std::unique_ptr<engine> make_host_engine(const weights& w, const engine_options& o) {
  const machine on{.threads = o.threads};
  return with_shape(w.shape, [&](auto d, auto layout) -> std::unique_ptr<engine> { return std::make_unique<engine_of<d.value, decltype(layout)>>(on, w, o); });
}

}  // namespace generate
