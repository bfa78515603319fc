// A user's program that reads files: nothing here comes from smalti's own build.
#include <cstdio>
#include <smalti/io/ggml_blocks.hpp>
#include <smalti/io/safetensors_index.hpp>

int main() {
  smalti::io::safetensors_model model;
  char text[smalti::description_size];
  const smalti::io::file_status s = model.open("no-such-file.safetensors");
  std::puts(smalti::io::describe(s, text));
  return s.rule == smalti::io::file_rule::cannot_open ? 0 : 1;
}
