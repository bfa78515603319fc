#include "matrix.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "linear.hpp"
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

// The rows of a table that begins with `head`; none of another one's.
std::vector<row> rows_of(const std::string& path, const std::string& head) {
  std::vector<row> rows;
  std::ifstream in(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  if (text.compare(0, head.size(), head) != 0) return rows;
  std::istringstream lines(text.substr(head.size()));
  for (std::string line; std::getline(lines, line);) {
    std::vector<std::string> cells;
    std::istringstream cut(line.substr(1));
    for (std::string cell; std::getline(cut, cell, '|');) cells.push_back(cell.size() > 2 ? cell.substr(1, cell.size() - 2) : cell);
    if (cells.size() < 7) continue;
    row r{cells[0], cells[1], cells[2], cells[5], cells[6], cells.size() > 7 ? cells[7] : ""};
    r.mib = std::stod(cells[3]), r.mib_per_token = std::stod(cells[4]), r.bits_per_byte = std::stod(cells[5]);
    rows.push_back(std::move(r));
  }
  return rows;
}
void write(const std::string& path, const std::string& head, const std::vector<row>& rows) {
  const bool recall = head.find("| recall |") != std::string::npos;
  std::ofstream out(path, std::ios::binary);
  out << head;
  for (const row& r : rows)
    out << "| " << r.weights << " | " << r.kv << " | " << r.attention << " | " << shown(r.mib, 2) << " | " << shown(r.mib_per_token, 2) << " | " << r.bits << " | " << r.perplexity << " |"
        << (recall ? " " + r.recall + " |" : "") << "\n";
  if (!out.flush()) throw std::runtime_error(path + " cannot be written");
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
  // Colours tell caches and attentions apart; the weights' names stand at the points of a plain cache under dense attention.
  const char* const colours[] = {"#1f6fb4", "#e07b00", "#2a9d4a", "#c0392b", "#7d4fb5", "#8c6d4f", "#d65aa6", "#666666"};
  std::vector<std::string> kinds;
  for (const row& r : rows) {
    const std::string kind = "kv " + r.kv + ", " + r.attention;
    std::size_t k = std::size_t(std::find(kinds.begin(), kinds.end(), kind) - kinds.begin());
    if (k == kinds.size()) kinds.push_back(kind);
    k %= std::size(colours);
    out << "<circle cx=\"" << x_of(r.mib_per_token) << "\" cy=\"" << y_of(r.bits_per_byte) << "\" r=\"4\" fill=\"" << colours[k] << "\"/>";
    if (k == 0) out << "<text x=\"" << x_of(r.mib_per_token) + 7 << "\" y=\"" << y_of(r.bits_per_byte) + 13 << "\">" << r.weights << "</text>";
    out << "\n";
  }
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    const double x = width - right + 20, y = top + 10 + 20 * double(k);
    out << "<circle cx=\"" << x << "\" cy=\"" << y << "\" r=\"4\" fill=\"" << colours[k % std::size(colours)] << "\"/><text x=\"" << x + 10 << "\" y=\"" << y + 4 << "\">" << kinds[k] << "</text>\n";
  }
  out << "</svg>\n";
  if (!out.flush()) throw std::runtime_error(path + " cannot be written");
}

}  // namespace

engine_options settings_of(const options& o, const config& shape) {
  return {.linear = {.weights = o.weights, .int8_activations = o.activations == "int8"},
          .attention = {.attention = o.attention, .kv = o.kv, .cache = o.cache, .page = o.page, .tokens = std::min(std::max(o.context, o.window), shape.context), .sequences = o.recall.empty() ? 1 : 2},
          .threads = o.threads, .ranks = o.ranks};
}

std::unique_ptr<engine> make_machine_engine(const weights& w, const options& o) {
  const engine_options settings = settings_of(o, w.shape);
  if (o.activations == "f32") {
    if (o.machine == "cuda") throw std::runtime_error("--activations f32 is built for --machine host");
    return make_f32_engine(w, settings);
  }
  return o.machine == "cuda" ? make_cuda_engine(w, settings) : make_host_engine(w, settings);
}

int run_matrix(const model_file& model, const tokenizer& t, const options& o) {
  if (o.ranks != 1) throw std::runtime_error("--matrix is not built with --ranks");
  if (o.eval.empty()) throw std::runtime_error("--matrix needs --eval: the text whose bits are counted");
  std::string head = "# " + model.name() + ", activations in " + o.activations + "\n\n";
  head += (o.windows > 0 ? "The first " + std::to_string(o.windows) + " windows" : std::string("Windows")) + " of " + std::to_string(o.window) + " tokens, " + std::to_string(o.skip) + " of each not scored.\n\n";
  head += std::string("| weights | kv | attention | MiB of weights | MiB for each token | bits per byte | perplexity |") + (o.recall.empty() ? "" : " recall |") + "\n|---|---|---|---|---|---|---|" + (o.recall.empty() ? "" : "---|") + "\n";
  const std::string title = model.name() + ", activations in " + o.activations, svg = o.matrix.substr(0, o.matrix.rfind(".md")) + ".svg";
  // A table of the same text is carried on: long sweeps come in pieces, and an interrupted one loses a row.
  std::vector<row> rows = rows_of(o.matrix, head);
  for (const std::string& weights : listed(o.weights, weight_formats()))
    for (const std::string& kv : listed(o.kv, {"bf16", "fp8", "int8", "int4"}))
      for (const std::string& attention : listed(o.attention, {"flash", "hip:128", "window:128"})) {
        if (kv != "bf16" && attention != "flash") continue;      // no other attention reads them
        if (std::any_of(rows.begin(), rows.end(), [&](const row& r) { return r.weights == weights && r.kv == kv && r.attention == attention; })) continue;
        options one = o;
        one.weights = weights, one.kv = kv, one.attention = attention, one.json = false;
        row r;
        r.weights = weights, r.kv = kv, r.attention = attention;
        std::unique_ptr<engine> e;
        try {
          e = make_machine_engine(model.weights(), one);
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
        write(o.matrix, head, rows);
        plot(rows, title, svg);
      }
  write(o.matrix, head, rows);
  plot(rows, title, svg);
  std::printf("%s and %s: %zu rows\n", o.matrix.c_str(), svg.c_str(), rows.size());
  return 0;
}

}  // namespace generate
