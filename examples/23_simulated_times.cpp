// Which schedule when: all-reduce of float over nodes of 8 ranks, simulated; time against the length of the vector, and against
// the number of ranks. Each curve is one schedule, each point one simulation of every message.
//     example.23_simulated_times [FOLDER]     writes FOLDER/simulated_sizes.svg and simulated_ranks.svg (default: the current folder)
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>
#include <smalti/comm/schedule/direct.hpp>
#include <smalti/comm/schedule/doubling.hpp>
#include <smalti/comm/schedule/hierarchical.hpp>
#include <smalti/comm/schedule/ring.hpp>
#include <smalti/comm/schedule/tree.hpp>
#include <smalti/comm/simulator.hpp>

using namespace smalti;

struct curve {
  const char* name;
  const char* colour;
  std::vector<double> x, y;  // bytes or ranks, seconds
};

// Both axes logarithmic; a line of each power of ten, of two or four along x.
bool draw(const std::string& path, const char* title, const char* below, const std::vector<curve>& curves, bool bytes) {
  std::FILE* f = std::fopen(path.c_str(), "w");
  if (f == nullptr) return false;
  const double w = 560, h = 330, left = 64, top = 40, low = 2e-6, high = 2e-1, first = curves[0].x.front(), last = curves[0].x.back();
  const auto px = [&](double x) { return left + w * std::log(x / first) / std::log(last / first); };
  const auto py = [&](double y) { return top + h - h * std::log(y / low) / std::log(high / low); };
  std::fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 840 430\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"840\" height=\"430\" fill=\"white\"/>\n");
  std::fprintf(f, "<text x=\"%.0f\" y=\"22\" font-size=\"15\">%s</text><text x=\"%.0f\" y=\"420\" fill=\"#555\">%s</text>\n", left, title, left, below);
  for (double y = 1e-5; y <= 0.1001; y *= 10) {
    const char* unit = y < 9e-4 ? "us" : "ms";
    std::fprintf(f, "<path d=\"M%.1f %.1fh%.0f\" stroke=\"#ddd\"/><text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%.0f %s</text>\n", left, py(y), w, left - 6, py(y) + 4, y < 9e-4 ? y * 1e6 : y * 1e3, unit);
  }
  for (double x = first; x <= last * 1.001; x *= bytes ? 16 : 2) {
    const double shown = !bytes || x < 1024 ? x : x < 1 << 20 ? x / 1024 : x / (1 << 20);
    std::fprintf(f, "<path d=\"M%.1f %.1fv%.0f\" stroke=\"#eee\"/><text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%.0f%s</text>\n", px(x), top, h, px(x), top + h + 18, shown,
                 !bytes ? "" : x < 1024 ? " B" : x < 1 << 20 ? " KiB" : " MiB");
  }
  double label = top + 10;
  for (const curve& c : curves) {
    std::fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", c.colour);
    for (std::size_t i = 0; i < c.x.size(); ++i) std::fprintf(f, "%.1f,%.1f ", px(c.x[i]), py(c.y[i]));
    std::fprintf(f, "\"/>\n<path d=\"M%.0f %.1fh18\" stroke=\"%s\" stroke-width=\"2\"/><text x=\"%.0f\" y=\"%.1f\">%s</text>\n", left + w + 10, label - 4, c.colour, left + w + 34, label, c.name);
    label += 20;
  }
  std::fprintf(f, "</svg>\n");
  return std::fclose(f) == 0;
}

int main(int count, char** words) {
  const std::string folder = count > 1 ? words[1] : ".";
  constexpr int group = 8;
  const comm::network net{.inside = {2e-6, 1 / 150e9}, .across = {8e-6, 1 / 25e9}, .group = group};  // assumed links, not measured ones
  int wrong = 0, points = 0;
  const auto add = [&](curve& c, double x, std::int64_t bytes, const auto& schedule) {
    const comm::simulation s = comm::simulate(schedule, bytes / 4, net);
    wrong += !s.what, ++points;
    c.x.push_back(x), c.y.push_back(s.seconds);
  };
  const auto every = [&](std::vector<curve>& to, double x, int ranks, std::int64_t bytes) {
    if (to.empty()) to = {{"ring", "#1756a9", {}, {}}, {"recursive doubling", "#e8850c", {}, {}}, {"halving-doubling", "#2e8b57", {}, {}},
                          {"double binary tree, 16 pieces", "#8e44ad", {}, {}}, {"NVRAR", "#b3261e", {}, {}}, {"direct, halving-doubling", "#607d8b", {}, {}}};
    add(to[0], x, bytes, comm::ring(ranks));
    add(to[1], x, bytes, comm::recursive_doubling(ranks));
    add(to[2], x, bytes, comm::halving_doubling(ranks));
    add(to[3], x, bytes, comm::double_binary_tree(ranks, comm::collective::all_reduce, 16));
    add(to[4], x, bytes, comm::nvrar(group, ranks / group));
    add(to[5], x, bytes, comm::compose(comm::direct(group, comm::collective::reduce_scatter), comm::halving_doubling(ranks / group), comm::direct(group, comm::collective::all_gather)));
  };
  const char* links = "simulated: 150 GB/s and 2 us inside a node of 8 ranks, 25 GB/s a rank and 8 us across";
  std::vector<curve> sizes, ranks;
  for (std::int64_t bytes = 1024; bytes <= 256 << 20; bytes *= 4) every(sizes, double(bytes), 256, bytes);
  for (int p = 16; p <= 1024; p *= 2) every(ranks, p, p, 1 << 20);
  wrong += !draw(folder + "/simulated_sizes.svg", "All-reduce over 256 ranks against the bytes of the vector", links, sizes, true);
  wrong += !draw(folder + "/simulated_ranks.svg", "All-reduce of 1 MiB against the number of ranks", links, ranks, false);
  // What the page says of these curves: few bytes want few messages, many bytes want few bytes across nodes.
  wrong += !(sizes[4].y.front() < sizes[0].y.front()) || !(sizes[5].y.back() < sizes[1].y.back()) || !(ranks[4].y.back() < ranks[0].y.back());
  std::printf("%d simulations drawn%s\n", points, wrong == 0 ? "" : "  WRONG");
  return wrong != 0;
}
