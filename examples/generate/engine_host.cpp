#include "engine_text.hpp"

namespace generate {

std::unique_ptr<engine> make_host_engine(const weights& w, const engine_options& o) { return make_engine(machine{.threads = o.threads}, w, o); }

}  // namespace generate
