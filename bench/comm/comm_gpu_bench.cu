// Packing of strided memory on a GPU: the share of the bandwidth that a copy of the same bytes would have. No peer takes part.
#include <gpu.hpp>
#include <smalti/comm/strided.hpp>
#include <smalti/core/cuda_context.hpp>

#include <memory>
#include <string>
#include <vector>

namespace {

using namespace bench;
using gpu::demand;
using smalti::comm::strided;
using smalti::comm::strided_block;

gpu::outcome move_block(const strided_block& block, std::int64_t extent, bool packs) {
  std::vector<unsigned char> bytes(static_cast<std::size_t>(extent));
  for (std::int64_t i = 0; i < extent; ++i) bytes[std::size_t(i)] = static_cast<unsigned char>(i * 7 + i / 251);
  const gpu::array<std::byte> memory(bytes.size()), packed(static_cast<std::size_t>(block.bytes()));
  demand(cudaMemcpy(memory.data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "the memory could not be filled");
  const strided::args x{block, memory.data(), packed.data()};
  const auto on = [x](bool pack) {
    return [x, pack](cudaStream_t stream) {
      static smalti::cuda_context context;
      if (context.stream != stream || !context.ready) context = smalti::cuda_context::on(stream);
      if (const auto st = pack ? strided::pack(context, x) : strided::unpack(context, x); !st) throw std::runtime_error(st.what);
    };
  };
  on(true)(nullptr);
  demand(cudaMemset(memory.data(), 0, bytes.size()), "the memory could not be cleared");
  on(false)(nullptr);
  demand(cudaDeviceSynchronize(), "smalti failed");
  std::vector<unsigned char> got(bytes.size()), piece(static_cast<std::size_t>(block.bytes()));
  demand(cudaMemcpy(got.data(), memory.data(), got.size(), cudaMemcpyDeviceToHost), "the result could not be read");
  demand(cudaMemcpy(piece.data(), packed.data(), piece.size(), cudaMemcpyDeviceToHost), "the result could not be read");
  std::size_t next = 0;
  bool right = true;
  block.each([&](std::int64_t at) {
    for (std::int64_t i = 0; i < block.count[0]; ++i, ++next) right &= piece[next] == bytes[std::size_t(at + i)] && got[std::size_t(at + i)] == piece[next];
  });
  if (!right) throw std::runtime_error("smalti gave a wrong answer: its time means nothing");
  return gpu::measure({.subject = on(packs), .bytes = 2.0 * double(block.bytes())});
}

}  // namespace

int main(int argc, char** argv) {
  // Half of each row of a matrix, with rows of the block of 64 bytes to 4 KiB; a face of a cube; 256 MiB of memory.
  constexpr std::int64_t extent = std::int64_t(256) << 20;
  for (const bool packs : {true, false}) {
    const std::string name = packs ? "strided/pack/" : "strided/unpack/";
    for (const std::int64_t run : {64, 128, 512, 4096})
      gpu::enter(name + "rows:" + std::to_string(run), [=] { return move_block(strided_block::dense(run, run / 2).repeated(extent / (2 * run), 2 * run), extent, packs); });
    gpu::enter(name + "box:512x256x128", [=] {
      const std::int64_t all[] = {512, 512, 256}, first[] = {0, 128, 64}, size[] = {512, 256, 128};
      return move_block(strided_block::box(all, first, size, 4), extent, packs);
    });
  }
  return gpu::main(argc, argv, [] { return gpu::peers_here{}; });
}
