#include "matrix.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "reports.hpp"

namespace generate {

namespace {

struct row {
  std::string weights, kv, attention, bits, perplexity, recall;
  double bits_per_byte = 0, mib_per_token = 0, mib = 0;
};

std::vector<std::string> listed(const std::string& text, const std::vector<std::string>& all) {
  if (text == "all") return all;
  std::vector<std::string> names;
  std::stringstream in(text);
  for (std::string name; std::getline(in, name, ',');) names.push_back(name);
  return names;
}
std::string shown(double x, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, x);
  return text;
}

// Points with their names; both axes are linear and begin where the points do.
void plot(const std::vector<row>& rows, const std::string& title, const std::string& path) {
  std::ofstream out(path);
  const double width = 860, height = 520, left = 70, right = 200, top = 40, bottom = 60;
  double x0 = 1e300, x1 = -1e300, y0 = 1e300, y1 = -1e300;
  for (const row& r : rows) {
    x0 = std::min(x0, r.mib_per_token), x1 = std::max(x1, r.mib_per_token);
    y0 = std::min(y0, r.bits_per_byte), y1 = std::max(y1, r.bits_per_byte);
  }
  const double dx = std::max((x1 - x0) * 0.05, 1e-3), dy = std::max((y1 - y0) * 0.08, 1e-4);
  x0 -= dx, x1 += dx, y0 -= dy, y1 += dy;
  const auto x_of = [&](double x) { return left + (x - x0) / (x1 - x0) * (width - left - right); };
  const auto y_of = [&](double y) { return height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom); };
  out << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << width << "\" height=\"" << height << "\" font-family=\"sans-serif\" font-size=\"12\">\n"
      << "<rect width=\"100%\" height=\"100%\" fill=\"white\"/><text x=\"" << left << "\" y=\"24\" font-size=\"15\">" << title << "</text>\n";
  for (int i = 0; i <= 5; ++i) {
    const double x = x0 + (x1 - x0) * i / 5, y = y0 + (y1 - y0) * i / 5;
    out << "<line x1=\"" << x_of(x) << "\" x2=\"" << x_of(x) << "\" y1=\"" << top << "\" y2=\"" << height - bottom << "\" stroke=\"#ddd\"/>"
        << "<text x=\"" << x_of(x) << "\" y=\"" << height - bottom + 18 << "\" text-anchor=\"middle\">" << shown(x, x1 < 30 ? 2 : 0) << "</text>\n"
        << "<line x1=\"" << left << "\" x2=\"" << width - right << "\" y1=\"" << y_of(y) << "\" y2=\"" << y_of(y) << "\" stroke=\"#ddd\"/>"
        << "<text x=\"" << left - 6 << "\" y=\"" << y_of(y) + 4 << "\" text-anchor=\"end\">" << shown(y, 3) << "</text>\n";
  }
  out << "<text x=\"" << (left + width - right) / 2 << "\" y=\"" << height - 16 << "\" text-anchor=\"middle\">MiB read for each token: weights, keys and values</text>\n"
      << "<text x=\"16\" y=\"" << height / 2 << "\" transform=\"rotate(-90 16 " << height / 2 << ")\" text-anchor=\"middle\">bits per byte</text>\n";
  for (const row& r : rows) {
    std::string name = r.weights + (r.kv == "bf16" ? "" : ", kv " + r.kv) + (r.attention == "flash" ? "" : ", " + r.attention);
    out << "<circle cx=\"" << x_of(r.mib_per_token) << "\" cy=\"" << y_of(r.bits_per_byte) << "\" r=\"4\" fill=\"#1f6fb4\"/><text x=\"" << x_of(r.mib_per_token) + 7 << "\" y=\""
        << y_of(r.bits_per_byte) - 5 << "\">" << name << "</text>\n";
  }
  out << "</svg>\n";
  if (!out.flush()) throw std::runtime_error(path + " cannot be written");
}

}  // namespace

engine_options settings_of(const options& o, const config& shape) {
  return {.linear = {.weights = o.weights, .int8_activations = o.activations == "int8"},
          .attention = {.attention = o.attention, .kv = o.kv, .cache = o.cache, .page = o.page, .tokens = std::min(std::max(o.context, o.window), shape.context), .sequences = o.recall.empty() ? 1 : 2},
          .threads = o.threads};
}

int run_matrix(const model_file& model, const tokenizer& t, const options& o) {
  if (o.eval.empty()) throw std::runtime_error("--matrix needs --eval: the text whose bits are counted");
  std::vector<row> rows;
  for (const std::string& weights : listed(o.weights, weight_formats()))
    for (const std::string& kv : listed(o.kv, {"bf16", "fp8", "int8", "int4"}))
      for (const std::string& attention : listed(o.attention, {"flash", "hip:128", "window:128"})) {
        if (kv != "bf16" && attention != "flash") continue;      // no other attention reads them
        options one = o;
        one.weights = weights, one.kv = kv, one.attention = attention, one.json = false;
        row r;
        r.weights = weights, r.kv = kv, r.attention = attention;
        std::unique_ptr<engine> e;
        try {
          e = make_host_engine(model.weights(), settings_of(one, model.weights().shape));
        } catch (const std::exception& refused) {      // such as 8-bit activations for a table of floats
          std::fprintf(stderr, "%s, %s, %s: %s\n", weights.c_str(), kv.c_str(), attention.c_str(), refused.what());
          continue;
        }
        const text_score s = score_text(*e, t, one);
        const engine_bytes b = e->bytes();
        const std::size_t colon = attention.find(':');
        const int seen = colon == std::string::npos ? one.window : std::min(one.window, std::stoi(attention.substr(colon + 1)));
        const double cache = double(b.cache) / double(std::max(one.context, one.window)) * seen, mib = 1024.0 * 1024.0;
        r.bits_per_byte = s.bits_per_byte, r.mib_per_token = (double(b.read) + cache) / mib, r.mib = double(b.read) / mib;
        if (!o.recall.empty()) {
          const recall_score found = score_recall(*e, one);
          for (const auto& [length, p] : found.by_length) r.recall += (r.recall.empty() ? "" : ", ") + std::to_string(length) + ": " + std::to_string(p.right) + "/" + std::to_string(p.asked);
        }
        std::fprintf(stderr, "%-10s kv %-5s %-10s %.5f bits per byte, %.2f MiB of weights, %.2f MiB for each token  %s\n", weights.c_str(), kv.c_str(), attention.c_str(), r.bits_per_byte, r.mib,
                     r.mib_per_token, r.recall.c_str());
        r.bits = shown(s.bits_per_byte, 5), r.perplexity = shown(s.perplexity, 4);
        rows.push_back(std::move(r));
      }
  std::ofstream out(o.matrix);
  out << "# " << model.name() << ", activations in " << o.activations << "\n\nWindows of " << o.window << " tokens, " << o.skip << " of each not scored.\n\n"
      << "| weights | kv | attention | MiB of weights | MiB for each token | bits per byte | perplexity |" << (o.recall.empty() ? "" : " recall |") << "\n|---|---|---|---|---|---|---|"
      << (o.recall.empty() ? "" : "---|") << "\n";
  for (const row& r : rows)
    out << "| " << r.weights << " | " << r.kv << " | " << r.attention << " | " << shown(r.mib, 2) << " | " << shown(r.mib_per_token, 2) << " | " << r.bits << " | " << r.perplexity << " |"
        << (o.recall.empty() ? "" : " " + r.recall + " |") << "\n";
  if (!out.flush()) throw std::runtime_error(o.matrix + " cannot be written");
  const std::string svg = o.matrix.substr(0, o.matrix.rfind(".md")) + ".svg";
  plot(rows, model.name() + ", activations in " + o.activations, svg);
  std::printf("%s and %s: %zu rows\n", o.matrix.c_str(), svg.c_str(), rows.size());
  return 0;
}

}  // namespace generate
