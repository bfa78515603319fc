// Draws systems of attention over many ranks: whose block is where in which step, how much of it, and what goes home; and says how many
// bytes that is.
//     example.22_draw_rotations [FOLDER]     writes FOLDER/rotation_<name>.svg (default: the current folder)
#include <cstdio>
#include <string>
#include <smalti/comm/layout.hpp>
#include <smalti/flow/route.hpp>
#include <smalti/policy/masks/window.hpp>

using namespace smalti;

constexpr int across = 130, down = 52, left = 70, top = 66;

// Boxes are blocks at hand, filled as far as they still have rows; arrows are transfers, dashed ones yields on their way home.
template <class Mask> bool draw(const flow::travel<Mask>& trip, const char* title, const std::string& path) {
  std::FILE* f = std::fopen(path.c_str(), "w");
  if (f == nullptr) return false;
  const flow::route& way = trip.way;
  const bool keys = way.by.what == flow::moves::keys;
  const int cells = left + (way.steps() + (keys ? 1 : 2)) * across, words = 20 + 8 * int(std::string(title).size()), width = cells > words ? cells : words, height = top + way.ranks * down + 8;
  std::fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", width, height);
  std::fprintf(f, "<rect width=\"%d\" height=\"%d\" fill=\"white\"/><text x=\"10\" y=\"22\" font-size=\"15\">%s</text>\n", width, height, title);
  const auto x_of = [](int step) { return left + step * across; };
  const auto y_of = [](int rank) { return top + rank * down; };
  const auto box = [&](int rank, int step, int stream, int home) {
    const double rows = step == 0 ? 1.0 : double(trip.carried_rows(home, stream, step)) / trip.moving().rows(home);
    if (rows == 0) return;
    const int y = y_of(rank) + (way.streams() == 2 && step > 0 ? stream * 22 : 0), tall = way.streams() == 2 && step > 0 ? 18 : 32, hue = home * 360 / way.ranks;
    std::fprintf(f, "<rect x=\"%d\" y=\"%d\" width=\"52\" height=\"%d\" fill=\"none\" stroke=\"hsl(%d,60%%,42%%)\"/><rect x=\"%d\" y=\"%d\" width=\"%.0f\" height=\"%d\" fill=\"hsl(%d,60%%,82%%)\"/>", x_of(step), y, tall, hue,
                 x_of(step), y, 52 * rows, tall, hue);
    std::fprintf(f, "<text x=\"%d\" y=\"%d\">%s %d</text>\n", x_of(step) + 8, y + tall / 2 + 4, keys ? "KV" : "Q", home);
  };
  const auto arrow = [&](int from, int step, int to, int later, int hue, const char* style) {
    std::fprintf(f, "<path d=\"M%d %dL%d %d\" stroke=\"hsl(%d,60%%,42%%)\" stroke-width=\"1.5\"%s/><circle cx=\"%d\" cy=\"%d\" r=\"3\" fill=\"hsl(%d,60%%,42%%)\"/>\n", x_of(step) + 54, y_of(from) + 16, x_of(later) - 4,
                 y_of(to) + 16, hue, style, x_of(later) - 4, y_of(to) + 16, hue);
  };
  for (int step = 0; step <= way.steps(); ++step) std::fprintf(f, "<text x=\"%d\" y=\"50\" fill=\"#555\">step %d</text>\n", x_of(step), step);
  for (int rank = 0; rank < way.ranks; ++rank) {
    std::fprintf(f, "<text x=\"10\" y=\"%d\">rank %d</text>\n", y_of(rank) + 20, rank);
    box(rank, 0, 0, rank);
    for (int stream = 0; stream < way.streams(); ++stream)
      for (int hop = 1; hop <= way.hops(stream); ++hop) {
        const int home = way.home(rank, stream, hop), hue = home * 360 / way.ranks;
        if (trip.carried_rows(home, stream, hop) == 0) continue;
        box(rank, hop, stream, home);
        arrow(way.by.relayed ? way.holder(home, stream, hop - 1) : home, hop - 1, rank, hop, hue, "");
        if (!keys) arrow(rank, hop, home, way.by.home == flow::returns::at_end ? way.steps() + 1 : hop + 1, hue, " stroke-dasharray=\"4 4\" opacity=\"0.7\"");
      }
  }
  std::fprintf(f, "</svg>\n");
  return std::fclose(f) == 0;
}

int main(int count, char** words) {
  const std::string folder = count > 1 ? words[1] : ".";
  constexpr int p = 4, tokens = 8 * p, heads = 32, kv_heads = 8, d = 128;
  flow::ledger zig(comm::zigzag(p), &tokens, 1), plain(comm::contiguous(p), &tokens, 1);
  int wrong = 0, drawn = 0;
  const auto show = [&](const char* file, const char* title, flow::ledger& deal, flow::rotation how, auto mask, double share) {
    const flow::travel<decltype(mask)> trip{{p, how}, deal.table(), deal.table(), mask};
    // Elements of 2 bytes move; yields are values and a log-sum-exp in float.
    const bool keys = how.what == flow::moves::keys;
    const std::int64_t row = keys ? kv_heads * 2 * d * 2 : heads * d * 2, yield = keys ? 0 : heads * (d + 1) * 4;
    const comm::traffic there = trip.traffic(row, 0), all = trip.traffic(row, yield);
    const double whole = double(p - 1) * tokens * row;
    const bool right = draw(trip, title, folder + "/rotation_" + file + ".svg") && double(there.sent) == share * whole;
    wrong += !right, ++drawn;
    std::printf("%-20s %5.1f %% of whole blocks, %7lld bytes there, %7lld home, busiest link %7lld%s\n", file, 100 * double(there.sent) / whole, static_cast<long long>(there.sent),
                static_cast<long long>(all.sent - there.sent), static_cast<long long>(all.busiest_link), right ? "" : "  WRONG");
  };
  const policy::causal causal{};
  show("ring", "Ring attention, zigzag, causal: keys go to the next lower rank; past rank 0 half a block is enough", zig, flow::ring_attention, causal, 0.75);
  show("ring_upward", "The same upward: the later half is still wanted by the highest rank", zig, flow::upward_ring, causal, 1 - 1 / (2.0 * p));
  show("ring_contiguous", "Contiguous shares upward: a block ends at the last rank", plain, flow::upward_ring, causal, 0.5);
  show("ring_window", "A window of one share: a block is wanted next door", plain, flow::upward_ring, policy::window_keys(9), 0.25);
  show("bidirectional_ring", "Bidirectional ring: half around either way", zig, flow::bidirectional_ring, policy::full{}, 1);
  show("pass_q", "Pass-Q: queries go round, partial results return in one all-to-all", zig, flow::pass_q, causal, 0.75);
  show("token_ring", "TokenRing: queries go one way, partial results return at once", zig, flow::token_ring, causal, 0.75);
  show("dist_attention", "DistAttention: queries go straight to each holder of keys", plain, flow::dist_attention, policy::full{}, 1);
  std::printf("%d rotations drawn, %d wrong\n", drawn, wrong);
  return wrong;
}
