// How uneven experts' loads are when the router likes some more than others, and what a learned bias makes of it. Logits are -s ln(rank of the
// expert) plus Gumbel noise, so that first choices follow a Zipf law of skew s.
//     example.27_draw_loads [FOLDER]     writes FOLDER/route_loads.svg (default: the current folder)
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>
#include <smalti/core/workspace_pool.hpp>
#include <smalti/ops/route.hpp>

using namespace smalti;

constexpr int tokens = 2048, experts = 64, choices = 4;
const host_context context{};

struct batch {
  std::vector<float> logits, weights = std::vector<float>(tokens * choices);
  std::vector<int> ids = std::vector<int>(tokens * choices), demand = std::vector<int>(experts);
  batch(double skew, unsigned seed) : logits(tokens * experts) {
    std::mt19937 random(seed);
    for (int i = 0; i < tokens * experts; ++i) {
      const double u = (random() + 0.5) / 4294967296.0;
      logits[i] = float(-skew * std::log(1.0 + i % experts) - std::log(-std::log(u)));
    }
  }
  // The slots of each expert, and how many of them a capacity keeps.
  template <class Router> int route_with(const float* bias, int capacity) {
    typename Router::args x{.logits = {logits.data(), tokens, experts, experts}, .tokens = tokens, .experts = experts, .choices = choices, .ids = ids.data(), .weights = weights.data()};
    if constexpr (requires { x.bias.data; }) x.bias.data = bias;
    route::index::args g{.ids = ids.data(), .tokens = tokens, .choices = choices, .experts = experts, .capacity = policy::expert_capacity::fixed(capacity), .order = policy::slot_order::choice, .demand = demand.data()};
    std::vector<std::byte> memory(route::index::index_bytes(g) + 256);
    g.memory = memory.data() + (256 - reinterpret_cast<std::uintptr_t>(memory.data()) % 256) % 256;
    workspace_pool pool(context);
    status st = Router::run(context, x);
    if (st) st = pool.reserve(route::index::workspace_bytes(context, g));
    if (st) st = route::index::run(context, g, pool.memory());
    if (!st) std::printf("refused: %s\n", st.what), std::exit(1);
    return route::index::of(g).rows.total();
  }
  double unevenness() const { return double(*std::max_element(demand.begin(), demand.end())) * experts / (tokens * choices); }
};

struct point {
  double skew, plain, learned, kept;
};
point measure(double skew) {
  using mixtral = route::mixtral<route::up_to<experts>>;
  using balanced = route::router<policy::sigmoid_scorer, policy::expert_bias, policy::top_k, policy::sum_norm, route::up_to<experts>>;
  const int capacity = policy::expert_capacity::tutel(1.25, tokens, experts, choices);
  batch b(skew, 11);
  point p{.skew = skew, .plain = 0, .learned = 0, .kept = b.route_with<mixtral>(nullptr, capacity) / double(tokens * choices)};
  p.plain = b.unevenness();
  std::vector<float> bias(experts, 0.0f);
  std::vector<batch> seen;
  for (unsigned i = 0; i < 4; ++i) seen.emplace_back(skew, 100 + i);             // other tokens than those that are measured
  for (int step = 0; step < 240; ++step) {                                       // smaller steps at the end
    batch& training = seen[std::size_t(step % 4)];
    training.route_with<balanced>(bias.data(), tokens);
    if (!route::sign_bias::run(context, {.controller = {step < 160 ? 0.0125f : 0.002f}, .counts = training.demand.data(), .bias = bias.data(), .experts = experts})) std::exit(1);
  }
  b.route_with<balanced>(bias.data(), tokens);
  p.learned = b.unevenness();
  return p;
}

bool draw(const std::string& path, const std::vector<point>& points) {
  std::FILE* f = std::fopen(path.c_str(), "w");
  if (f == nullptr) return false;
  const double w = 520, h = 260, left = 60, top = 44, most = 16;
  const auto px = [&](double x) { return left + w * x / 1.5; };
  const auto py = [&](double y) { return top + h - h * std::log2(y) / std::log2(most); };
  std::fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 840 370\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"840\" height=\"370\" fill=\"white\"/>\n");
  std::fprintf(f, "<text x=\"%.0f\" y=\"22\" font-size=\"15\">Slots of the fullest expert, as a multiple of the mean, against skew</text>", left);
  std::fprintf(f, "<text x=\"%.0f\" y=\"358\" fill=\"#555\">%d tokens, %d experts, %d choices; first choices follow a Zipf law of that exponent</text>\n", left, tokens, experts, choices);
  for (double y = 1; y <= most; y *= 2) std::fprintf(f, "<path d=\"M%.1f %.1fh%.0f\" stroke=\"#ddd\"/><text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%.0f</text>\n", left, py(y), w, left - 6, py(y) + 4, y);
  for (const point& p : points) std::fprintf(f, "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%.2f</text>\n", px(p.skew), top + h + 18, p.skew);
  const struct { const char *name, *colour; double point::*y; } curves[] = {{"top k of the logits (Mixtral)", "#b3261e", &point::plain}, {"the same, with a learned bias (DeepSeek-V3)", "#1756a9", &point::learned}};
  double label = top + 10;
  for (const auto& c : curves) {
    std::fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", c.colour);
    for (const point& p : points) std::fprintf(f, "%.1f,%.1f ", px(p.skew), py(p.*c.y));
    std::fprintf(f, "\"/>\n<path d=\"M%.0f %.1fh18\" stroke=\"%s\" stroke-width=\"2\"/><text x=\"%.0f\" y=\"%.1f\">%s</text>\n", left + w - 480 + 20, label - 4, c.colour, left + w - 480 + 44, label, c.name);
    label += 18;
  }
  for (const point& p : points) std::fprintf(f, "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\" fill=\"#555\">%.0f %%</text>\n", px(p.skew), top + h + 34, 100 * (1 - p.kept));
  std::fprintf(f, "<text x=\"%.0f\" y=\"%.0f\" fill=\"#555\">dropped at capacity 1.25, Mixtral</text>\n</svg>\n", left + w + 30, top + h + 34);
  return std::fclose(f) == 0;
}

int main(int count, char** words) {
  std::vector<point> points;
  for (int i = 0; i <= 6; ++i) points.push_back(measure(0.25 * i));
  for (const point& p : points) std::printf("skew %.2f: fullest expert %.2f of the mean, with a learned bias %.2f, kept at capacity 1.25: %.3f\n", p.skew, p.plain, p.learned, p.kept);
  bool ok = draw((count > 1 ? std::string(words[1]) : std::string(".")) + "/route_loads.svg", points);
  for (const point& p : points) ok &= p.learned < 2 && p.learned <= p.plain * 1.2;
  ok &= points.back().plain > 4 && points.back().kept < points.front().kept;
  std::printf("loads drawn%s\n", ok ? "" : "  WRONG");
  return !ok;
}
