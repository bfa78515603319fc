// Draws collective schedules: who sends what to whom in which step. A schedule of one's own is written in 15 lines, proved
// free of deadlock and complete, simulated, run on ranks in this process, and drawn like those of the library.
//     example.12_draw_schedule [FOLDER]     writes FOLDER/schedule_<name>.svg (default: the current folder)
#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>
#include <smalti/comm/schedule/hierarchical.hpp>
#include <smalti/comm/schedule/ring.hpp>
#include <smalti/comm/schedule/tree.hpp>
#include <smalti/comm/simulator.hpp>
#include <smalti/comm/together.hpp>
#include <smalti/comm/verify.hpp>

using namespace smalti;

// [own schedule]
// An all-gather along a line: no link between the last rank and the first. Parts go up and down, one hop a step.
struct line_gather : comm::schedule_base {
  explicit line_gather(int ranks) : schedule_base{comm::collective::all_gather, ranks, ranks} {}
  int steps() const { return ranks; }
  void step(int rank, int step, comm::action_list& list) const {
    using comm::content, comm::input_slot, comm::output_slot;
    if (step == 0) return list.copy(output_slot, input_slot, {rank});
    const int up = rank - step + 1, down = rank + step - 1;  // the parts that this rank passes on
    if (rank + 1 < ranks && up >= 0) list.send(rank + 1, output_slot, {up}, content::input);
    if (rank > 0 && down < ranks) list.send(rank - 1, output_slot, {down}, content::input);
    if (rank > 0 && up - 1 >= 0) list.recv(rank - 1, output_slot, {up - 1}, content::input);
    if (rank + 1 < ranks && down + 1 < ranks) list.recv(rank + 1, output_slot, {down + 1}, content::input);
  }
};
// [own schedule]

// One arrow for each message: left end the sender in its row, right end the receiver; colour and label are its chunks.
// Thin: items as given; dashed: partial sums; thick: finished sums.
int draw(const comm::schedule_view& s, const char* title, const std::string& path) {
  const int across = 108, down = 46, left = 70, top = 64, width = left + s.steps() * across + 12, height = top + s.ranks * down;
  std::FILE* f = std::fopen(path.c_str(), "w");
  if (f == nullptr) return -1;
  std::fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", width, height);
  std::fprintf(f, "<rect width=\"%d\" height=\"%d\" fill=\"white\"/><text x=\"10\" y=\"22\" font-size=\"15\">%s</text>\n", width, height, title);
  for (int t = 0; t < s.steps(); ++t) std::fprintf(f, "<text x=\"%d\" y=\"46\" fill=\"#555\">step %d</text>\n", left + t * across + 8, t);
  int arrows = 0;
  std::vector<comm::action> room(4096);
  for (int r = 0; r < s.ranks; ++r) {
    const int y = top + r * down + 12;
    std::fprintf(f, "<text x=\"10\" y=\"%d\">rank %d</text><path d=\"M%d %dH%d\" stroke=\"#ddd\"/>\n", y + 4, r, left, y, width - 10);
    for (int t = 0; t < s.steps(); ++t) {
      comm::action_list list(room.data(), int(room.size()));
      s.step(r, t, list);
      for (int i = 0; i < list.size(); ++i) {
        const comm::action& a = list[i];
        if (a.does != comm::verb::send) continue;
        std::string chunks;
        do chunks += (chunks.empty() ? "" : ",") + std::to_string(list[i].chunks.first) + (list[i].chunks.count > 1 ? "-" + std::to_string(list[i].chunks.last() - 1) : "");
        while (++i < list.size() && list[i].joined);
        --i, ++arrows;
        const int x = left + t * across + 8, to = x + across - 26, y2 = top + a.peer * down + 12, hue = a.chunks.first * 360 / s.chunks();
        std::fprintf(f, "<path d=\"M%d %dL%d %d\" stroke=\"hsl(%d,70%%,42%%)\" stroke-width=\"%s\"%s/><circle cx=\"%d\" cy=\"%d\" r=\"3\" fill=\"hsl(%d,70%%,42%%)\"/>", x,
                     y, to, y2, hue, a.what == comm::content::result ? "3" : "1.5", a.what == comm::content::partial ? " stroke-dasharray=\"5 3\"" : "", to, y2, hue);
        std::fprintf(f, "<text x=\"%d\" y=\"%d\" font-size=\"10\" fill=\"hsl(%d,70%%,32%%)\">%s</text>\n", x + (to - x) / 9, y + (y2 - y) / 9 - 3, hue, chunks.c_str());
      }
    }
  }
  std::fprintf(f, "</svg>\n");
  return std::fclose(f) == 0 ? arrows : -1;
}

int main(int count, char** words) {
  const std::string folder = count > 1 ? words[1] : ".";
  int wrong = 0, drawn = 0;
  const auto show = [&](const char* file, const char* title, const auto& s) {
    const comm::verdict v = comm::verify(s);
    const int arrows = draw(comm::schedule_view(s), title, folder + "/schedule_" + file + ".svg");
    if (!v || arrows != comm::traffic_of(s, s.cut(64LL * s.chunks())).messages) std::printf("%s: %s\n", title, v ? "not drawn" : v.what.what), ++wrong;
    ++drawn;
  };
  const line_gather own(5);
  show("line", "line: all-gather of 5 ranks, our own", own);
  show("ring", "ring: all-reduce of 4 ranks", comm::ring(4));
  show("bidirectional_ring", "bidirectional ring: all-reduce of 4 ranks", comm::bidirectional_ring(4));
  show("binary_tree", "binary tree: broadcast from rank 0 to 8 ranks, 2 pieces", comm::binary_tree(8, comm::collective::broadcast, 2));
  show("double_binary_tree", "double binary tree: all-reduce of 6 ranks", comm::double_binary_tree(6));
  show("recursive_doubling", "recursive doubling: all-reduce of 6 ranks", comm::recursive_doubling(6));
  show("halving_doubling", "halving-doubling: all-reduce of 8 ranks", comm::halving_doubling(8));
  show("bruck", "Bruck: all-to-all of 5 ranks", comm::bruck(5, comm::collective::all_to_all));
  show("pairwise", "pairwise: all-to-all of 4 ranks", comm::pairwise(4));
  show("direct", "direct: all-reduce of 4 ranks", comm::direct(4));
  show("star", "star: all-reduce of 5 ranks, root 2", comm::star(5, comm::collective::all_reduce, 2));
  show("nvrar", "NVRAR: all-reduce of 4 nodes of 2 ranks", comm::nvrar(2, 4));
  show("three_level", "three levels: reduce-scatter of 2 x 2 x 2 ranks", comm::three_level(2, 2, 2, comm::collective::reduce_scatter));
  // [simulate]
  const comm::network net{.inside = {2e-6, 1 / 150e9}, .across = {8e-6, 1 / 25e9}, .group = 4};  // seconds, seconds per byte
  const comm::simulation s = comm::simulate(comm::nvrar(4, 256), 1 << 18, net);                 // 1,024 ranks, 1 MiB of float
  // [simulate]
  // Our own, on ranks of this thread: rank r holds the three items 3r, 3r + 1, 3r + 2.
  comm::in_process ranks(own.ranks, {.seed = 7});
  std::vector<comm::in_process::endpoint> ends;
  std::vector<comm::execution<comm::sum<float>, comm::in_process::endpoint>> runs;
  std::vector<std::vector<float>> in, out;
  std::vector<std::vector<std::max_align_t>> memory;
  for (int r = 0; r < own.ranks; ++r) ends.push_back(ranks.rank(r)), in.push_back({3.0f * r, 3.0f * r + 1, 3.0f * r + 2}), out.emplace_back(15);
  for (int r = 0; r < own.ranks; ++r) {
    runs.emplace_back(ends[r]);
    const comm::arguments<comm::sum<float>> x{.input = in[r].data(), .output = out[r].data(), .items = 15};
    const std::size_t size = runs[r].workspace_bytes(own, x);
    memory.emplace_back((size + 256) / sizeof(std::max_align_t) + 1);
    void* at = memory[r].data();
    std::size_t left = size + 256;
    wrong += !runs[r].start(own, x, {std::align(256, size, at, left), size});
  }
  wrong += !comm::run_together(ranks, runs);
  for (int r = 0; r < own.ranks; ++r)
    for (int i = 0; i < 15; ++i) wrong += out[r][i] != float(i) || !runs[r].failure();
  std::printf("%d schedules drawn and proved; 1 MiB over 1,024 simulated ranks by NVRAR: %.0f us%s\n", drawn, s.seconds * 1e6, wrong == 0 && s.what ? "" : "  WRONG");
  return wrong != 0 || !s.what;
}
