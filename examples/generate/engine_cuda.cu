// The engine on a GPU. nvcc compiles this and, once more, the files of formats and attentions: see CMakeLists.txt.
#include "engine_text.hpp"

namespace generate {

inline namespace on_gpu {
std::unique_ptr<ranks> make_ranks(const decoder&, const machine&, const engine_options& o) {
  if (o.ranks != 1) throw std::runtime_error("--ranks is built for --machine host: transports in the order of a stream are not built for attention");
  return nullptr;
}
}  // namespace on_gpu

std::unique_ptr<engine> make_cuda_engine(const weights& w, const engine_options& o) {
  const machine on = machine::on(nullptr);
  if (!on.ready) {
    char text[512];
    throw std::runtime_error(std::string("--machine cuda: ") + smalti::describe(on.ready, text));
  }
  return make_engine(on, w, o);
}

}  // namespace generate
