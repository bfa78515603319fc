// Every reader and every importer of io on arbitrary bytes: what is accepted must keep its promises, what is refused must name a
// rule. Sanitizers watch the memory. `tests/fuzz/README.md` says how to run it.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../io/walk.hpp"
#include "../io/walk_import.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const smalti::io::bytes file(reinterpret_cast<const std::byte*>(data), size);
  static volatile std::uint64_t seen;
  std::uint64_t sum = 0;
  if (size >= 4 && std::memcmp(data, "GGUF", 4) == 0) {
    if (test::walk_gguf(file, sum)) {
      smalti::io::gguf f;
      test::must(bool(f.read(file)), "a file is accepted twice");
      test::walk_imports(f, sum);
    }
  } else if (size > 0 && data[0] == '{') {
    if (!test::walk_index(file, sum)) {
      smalti::io::tensor state{"s", smalti::io::dtype::u8, {std::int64_t(size)}, file};
      smalti::io::bitsandbytes_layer layer;
      if (smalti::io::read_quant_state(state, layer))
        test::must(layer.block >= 1 && layer.nested_block >= 1, "a quant_state's blocks are positive");
    }
  } else if (test::walk_safetensors(file, sum)) {
    smalti::io::safetensors f;
    test::must(bool(f.read(file)), "a file is accepted twice");
    test::walk_imports(f, sum);
  }
  seen = seen + sum;
  return 0;
}
