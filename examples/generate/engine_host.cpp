#include "engine_text.hpp"

namespace generate {

std::unique_ptr<engine> make_host_engine(const weights& w, const engine_options& o) {
  const machine on{.threads = o.threads};
  return with_shape(w.shape, [&](auto d, auto layout) -> std::unique_ptr<engine> { return std::make_unique<engine_of<d.value, decltype(layout)>>(on, w, o); });
}

}  // namespace generate
