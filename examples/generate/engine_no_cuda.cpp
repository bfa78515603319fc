// In place of engine_cuda.cu where the program is built without its GPU half.
#include <stdexcept>
#include "engine.hpp"

namespace generate {

std::unique_ptr<engine> make_cuda_engine(const weights&, const engine_options&) {
  throw std::runtime_error("--machine cuda is not built: this program was compiled without it; configure with -DSMALTI_CUDA=ON -DSMALTI_GENERATE_CUDA=ON, or take --machine host");
}

}  // namespace generate
