// Compression of paged caches: the laws that every composition obeys, and each named system against its paper's definition
// in double. Keys and values are random, so a row says which token it is.
#include "compress_problem.hpp"

using namespace smalti;
using namespace test::compressed;

TEST_CASE("laws of every composition of cache compression", "[ops][cache][compress]") {
  laws<cache::snapkv<bf16, D, window>>(apart, 20, 77, 24);
  laws<cache::snapkv<bf16, D, window>>(apart, 5, 9, 8);
  laws<cache::snapkv<bf16, D, window>>(together, window, 64, 17);
  laws<cache::pyramid_kv<bf16, D, window>>(apart, window, 80, 33);
  laws<cache::ada_kv<bf16, D, window>>(apart, window, 77, 20);
  laws<cache::h2o<bf16, D>>(apart, 70, 70, 21);
  laws<cache::scissorhands<bf16, D>>(apart, 70, 70, 20);
  laws<cache::tova<bf16, D>>(together, 1, 65, 12);
  laws<cache::streaming_llm<bf16, D>>(apart, 0, 77, 20, true);
  laws<cache::streaming_llm<bf16, D, 4, policy::compact>>(together, 0, 77, 20, true);
  laws<cache::streaming_llm<bf16, D, 4, policy::keep_original>>({.pages = 60, .page = 8, .kv_heads = 2, .key_dim = D, .value_dim = D, .layers = 2}, 0, 41, 11);
  laws<cache::compress<bf16, D, policy::observation_window<window, 5, policy::pooling::average_inside, policy::over_heads::maximum>, policy::information_density>>(apart, window, 50, 30);
}

TEST_CASE("pages stay or go whole, the best first", "[ops][cache][compress]") {
  constexpr int page = 8;
  using votes_of_pages = policy::in_pages<policy::observation_window<window>, page>;
  using system = cache::compress<bf16, D, votes_of_pages>;
  laws<system>(apart, window, 77, 40);
  laws<cache::compress<bf16, D, policy::in_pages<policy::accumulated<policy::over_heads::sum, 4>, page>, policy::head_adaptive<policy::uniform>>>(apart, 77, 77, 48);
  test::for_each_context(seed, [&](const auto& context) {
    world w(apart, 2, 51);
    w.append(context, 91);
    w.observe<system>(context, window);
    const std::vector<float> scores(w.scores.begin(), w.scores.end());
    const answer a = compress<system>(context, w, 45);
    CAPTURE(a.st.what);
    REQUIRE(a.st.code == errc::ok);
    const int last = (91 - window) / page * page, stay = (45 - (91 - last)) / page;
    for (std::size_t t = 0; t < a.kept.size(); ++t) {
      std::vector<std::pair<float, int>> best;
      for (int p = 0; p < last / page; ++p) best.emplace_back(-*std::max_element(scores.begin() + std::ptrdiff_t(t * world::capacity) + p * page, scores.begin() + std::ptrdiff_t(t * world::capacity) + (p + 1) * page), p);
      std::sort(best.begin(), best.end());
      std::vector<int> want;
      for (int i = 0; i < stay; ++i)
        for (int j = 0; j < page; ++j) want.push_back(best[std::size_t(i)].second * page + j);
      for (int j = last; j < 91; ++j) want.push_back(j);
      std::sort(want.begin(), want.end());
      REQUIRE(a.kept[t] == want);
    }
    system::args y;
    std::vector<int> budgets(std::size_t(apart.tracks()), 12);
    y.cache = &w.pages, y.sequence = w.s, y.pool = w.pool, y.scores = w.score_view(), y.tokens = 45, y.budgets = budgets.data();
    REQUIRE(std::string(system::check(context, y).what).find("budgets: whole pages stay") == 0);
    y.budgets = nullptr, y.tokens = window + page - 2;
    REQUIRE(std::string(system::check(context, y).what).find("tokens must not be below the protected") == 0);
  });
}

TEST_CASE("observe: attention that each token gets, from given and from own log-sum-exps", "[ops][cache][compress]") {
  using sum = cache::snapkv<bf16, D, window>;
  using greatest = cache::compress<bf16, D, policy::observation_window<window, 5, policy::pooling::average_inside, policy::over_heads::maximum>, policy::information_density>;
  test::for_each_context(seed, [&](const auto& context) {
    for (const bool given : {false, true})
      for (const int n : {3, 8, 70}) {
        world w(apart, 2, 5);
        w.append(context, n);
        const int rows = std::min(n, window);
        CAPTURE(seed, n, given);
        w.template observe<sum>(context, given ? rows : std::min(n, 20), -1, given);   // of more rows the window's count
        for (int l = 0; l < 3; ++l)
          for (int h = 0; h < 2; ++h) {
            const auto want = w.votes(l, h, rows, w.all());
            double total = 0;
            for (int j = 0; j < n; ++j) {
              const double got = w.scores[std::size_t(w.shape.track(l, h)) * world::capacity + j];
              total += got;
              if (!(std::abs(got - want[std::size_t(j)]) <= slack_of(rows * w.group))) FAIL("layer " << l << " head " << h << " token " << j << ": " << got << " " << want[std::size_t(j)]);
            }
            REQUIRE(total == Approx(double(rows) * w.group).epsilon(1e-4));             // rows of a softmax sum to one
            REQUIRE(std::isnan(w.scores[std::size_t(w.shape.track(l, h)) * world::capacity + n]));
          }
        w.template observe<greatest>(context, rows, -1, given);
        for (int j = 0; j < n; ++j) {
          double most = 0;
          for (int head = 2; head < 4; ++head) {
            double one = 0;
            for (const auto& p : w.weights(1, head, rows, w.all())) one += p[std::size_t(j)];
            most = std::max(most, one);
          }
          if (!(std::abs(w.scores[std::size_t(w.shape.track(1, 1)) * world::capacity + j] - most) <= slack_of(rows))) FAIL("token " << j);
        }
      }
    // Heads that share their pages: the sum over key heads of the greatest of their query heads.
    world w(together, 2, 6);
    w.append(context, 70);
    using every = cache::compress<bf16, D, policy::accumulated<policy::over_heads::maximum>>;
    for (const int rows : {3, 70}) {                                                      // one tile of queries, and several
      w.template observe<every>(context, rows);
      for (int j = 0; j < 70; ++j) {
        double sum = 0;
        for (int h = 0; h < 2; ++h) {
          double most = 0;
          for (int head = 2 * h; head < 2 * h + 2; ++head) {
            double one = 0;
            for (const auto& p : w.weights(1, head, rows, w.all())) one += p[std::size_t(j)];
            most = std::max(most, one);
          }
          sum += most;
        }
        if (!(std::abs(w.scores[std::size_t(w.shape.track(1, 0)) * world::capacity + j] - sum) <= slack_of(2 * rows))) FAIL("shared, token " << j << " of " << rows);
      }
    }
  });
}

TEST_CASE("snapkv, pyramid_kv, ada_kv: what their papers keep", "[ops][cache][compress]") {
  const int n = 90, tokens = 30, base = tokens - window;
  const auto context = test::any_context();
  for (const unsigned salt : {1u, 2u}) {
    CAPTURE(seed, salt);
    const auto choose = [&](auto system, oracle::pool_kind kind, int kernel, auto budget_of) {
      using S = typename decltype(system)::type;
      if (S::reads_back && !is_host<std::decay_t<decltype(context)>>) return;
      world w(apart, 2, salt);
      w.append(context, n);
      w.template observe<S>(context, window);
      std::vector<oracle::row_of_doubles> scores;
      for (int l = 0; l < 3; ++l)
        for (int h = 0; h < 2; ++h) scores.push_back(oracle::pooled(w.votes(l, h, window, w.all()), n - window, kernel, kind));
      const answer a = compress<S>(context, w, tokens);
      REQUIRE(a.st.code == errc::ok);
      for (int t = 0; t < 6; ++t) {
        REQUIRE(std::abs(int(a.kept[std::size_t(t)].size()) - window - budget_of(scores, t)) <= (S::reads_back ? 1 : 0));
        check_choice(a.kept[std::size_t(t)], scores[std::size_t(t)], 0, n - window, slack_of(2 * window));
      }
    };
    choose(std::type_identity<cache::snapkv<bf16, D, window>>{}, oracle::pool_kind::average, 5, [&](const auto&, int) { return base; });
    // max = 2 base - base / 20 = 42.9, falling to 1.1 over three layers: 42.9, 22, 1.1.
    choose(std::type_identity<cache::pyramid_kv<bf16, D, window>>{}, oracle::pool_kind::average, 5, [&](const auto&, int t) { return t < 2 ? 43 : t < 4 ? 22 : 1; });
    choose(std::type_identity<cache::ada_kv<bf16, D, window>>{}, oracle::pool_kind::maximum, 7, [&](const auto& scores, int t) {
      std::vector<std::pair<double, int>> pool;
      const int l = t / 2;
      for (int h = 0; h < 2; ++h)
        for (int j = 0; j < n - window; ++j) pool.push_back({-scores[std::size_t(2 * l + h)][std::size_t(j)], h});
      std::stable_sort(pool.begin(), pool.end());
      int won[2] = {};
      for (int i = 0; i < 2 * base; ++i) ++won[pool[std::size_t(i)].second];
      return oracle::shares({0.8 * won[0] + 0.2 * base, 0.8 * won[1] + 0.2 * base}, {n - window, n - window}, 2 * base)[std::size_t(t % 2)];
    });
  }
}

TEST_CASE("h2o and scissorhands: scores gather over prefill and steps, evicted tokens stay away", "[ops][cache][compress]") {
  const auto context = test::any_context();
  const auto follow = [&](auto system, float decay, int sinks) {
    using S = typename decltype(system)::type;
    const int n = 40, tokens = 24, recent = (tokens - sinks) / 2;
    world w({.pages = 200, .page = 8, .kv_heads = 2, .key_dim = D, .value_dim = D, .per_head = true}, 2, 9);
    CAPTURE(seed, decay);
    typename S::observe::args settings;
    settings.scorer.decay = decay;
    std::vector<std::vector<int>> alive(2);
    std::vector<oracle::row_of_doubles> s(2);
    for (int step = 0; step < 6; ++step) {
      const int rows = step == 0 ? n : step;                       // a prefill, then steps of one token and more
      w.append(context, rows);
      w.template observe<S>(context, rows, step == 0 ? -1 : rows, false, settings);
      for (int h = 0; h < 2; ++h) {
        for (int i = 0; i < rows; ++i) alive[std::size_t(h)].push_back(w.tokens - rows + i);
        oracle::row_of_doubles& mine = s[std::size_t(h)];
        mine.resize(alive[std::size_t(h)].size(), 0.0);
        for (double& x : mine) x *= std::pow(double(decay), rows);
        for (int head = 2 * h; head < 2 * h + 2; ++head) {
          const auto p = w.weights(0, head, rows, alive[std::size_t(h)]);
          for (int i = 0; i < rows; ++i)
            for (std::size_t j = 0; j < mine.size(); ++j) mine[j] += std::pow(double(decay), rows - 1 - i) * p[std::size_t(i)][j];
        }
        double total = 0;
        for (std::size_t j = 0; j < mine.size(); ++j) {
          const double got = w.scores[std::size_t(h) * world::capacity + j];
          total += got;
          if (!(std::abs(got - mine[j]) <= slack_of(2 * w.tokens))) FAIL("step " << step << " head " << h << " rank " << j << ": " << got << " " << mine[j]);
        }
        if (step == 0 && decay == 1) REQUIRE(total == Approx(2.0 * n).epsilon(1e-4));   // every query's weights sum to one
      }
      const answer a = compress<S>(context, w, tokens);
      REQUIRE(a.st.code == errc::ok);
      for (int h = 0; h < 2; ++h) {
        const int have = int(alive[std::size_t(h)].size());
        REQUIRE(int(a.kept[std::size_t(h)].size()) == tokens);
        check_choice(a.kept[std::size_t(h)], s[std::size_t(h)], sinks, have - recent, slack_of(2 * w.tokens));
        std::vector<int> stay;
        oracle::row_of_doubles left;
        for (const int j : a.kept[std::size_t(h)]) stay.push_back(alive[std::size_t(h)][std::size_t(j)]), left.push_back(s[std::size_t(h)][std::size_t(j)]);
        alive[std::size_t(h)] = stay, s[std::size_t(h)] = left;
      }
      check_rows(w, alive);
    }
  };
  follow(std::type_identity<cache::h2o<bf16, D>>{}, 1, 0);
  follow(std::type_identity<cache::scissorhands<bf16, D>>{}, 0.75f, 4);
}

TEST_CASE("tova: all heads of a layer keep what the last query looks at", "[ops][cache][compress]") {
  using S = cache::tova<bf16, D>;
  const auto context = test::any_context();
  world w(together, 2, 3);
  CAPTURE(seed);
  w.append(context, 75);
  w.observe<S>(context, 1);
  std::vector<oracle::row_of_doubles> scores;
  for (int l = 0; l < 2; ++l) scores.push_back(w.votes(l, 0, 1, w.all(), true));
  const answer a = compress<S>(context, w, 16);
  REQUIRE(a.st.code == errc::ok);
  for (int l = 0; l < 2; ++l) {
    REQUIRE(a.kept[std::size_t(l)].size() == 16);
    check_choice(a.kept[std::size_t(l)], scores[std::size_t(l)], 0, 75, slack_of(1));
  }
}

TEST_CASE("d2o_keep: layers of flat attention keep more, exempt layers everything", "[ops][cache][compress]") {
  using S = cache::d2o_keep<bf16, D>;
  const auto context = test::any_context();
  if constexpr (is_host<std::decay_t<decltype(context)>>) {
    const int n = 60, tokens = 20, base = tokens - 10, candidates = n - 10;
    pool_shape shape = apart;
    shape.layers = 6, shape.pages = 500;
    world w(shape, 2, 4);
    CAPTURE(seed);
    w.append(context, n);
    w.observe<S>(context, n);
    std::vector<double> weight;
    double sum = 0;
    for (int l = 2; l < 5; ++l) sum += (weight.push_back(std::exp(-oracle::concentration({w.votes(l, 0, n, w.all()), w.votes(l, 1, n, w.all())}))), weight.back());
    for (double& x : weight) x /= sum;
    const std::vector<int> want = oracle::shares(weight, {candidates, candidates, candidates}, 3 * base);
    const answer a = compress<S>(context, w, tokens);
    REQUIRE(a.st.code == errc::ok);
    for (int t = 0; t < 12; ++t) {
      const int l = t / 2, kept = int(a.kept[std::size_t(t)].size());
      if (l < 2 || l == 5) REQUIRE(kept == n);
      else REQUIRE(std::abs(kept - 10 - want[std::size_t(l - 2)]) <= 1);
    }
  }
}

TEST_CASE("streaming_llm keeps the first and the newest, and keys have the phase of their policy", "[ops][cache][compress]") {
  const test::array<float> turning = test::array_of(frequencies());
  const auto context = test::any_context();
  const auto follow = [&](auto system, auto phase_of) {
    using S = typename decltype(system)::type;
    world w(apart, 2, 6);
    CAPTURE(seed);
    w.append(context, 50);
    typename S::args settings;
    settings.frequencies = turning.data();
    std::vector<int> alive = w.all();
    for (int step = 0; step < 4; ++step) {
      const answer a = compress<S>(context, w, 20, settings);
      REQUIRE(a.st.code == errc::ok);
      std::vector<int> want;
      for (int j = 0; j < 4; ++j) want.push_back(j);
      for (int j = int(alive.size()) - 16; j < int(alive.size()); ++j) want.push_back(j);
      for (const auto& track : a.kept) REQUIRE(track == want);
      std::vector<int> stay, now;
      for (const int j : want) stay.push_back(alive[std::size_t(j)]), now.push_back(phase_of(int(now.size()), w.tokens, 20));
      alive = stay;
      for (int l = 0; l < 3; ++l)
        w.each_row(cache::plane::keys, l, [&](const bf16* row, int h, int i) {
          const bf16* from = w.k[std::size_t(l)][std::size_t(h)].data() + std::size_t(alive[std::size_t(i)]) * D;
          // Each turn rounds to 2^-9 of an element at most, of which a pair has two; angles are off by 1e-6. Sinks turn at every step.
          const int delta = now[std::size_t(i)] - alive[std::size_t(i)];
          for (int c = 0; c < D / 2; ++c) {
            const double angle = delta * std::pow(10000.0, -2.0 * c / D), x = test::value(from[c]), y = test::value(from[c + D / 2]);
            const double size = std::hypot(x, y), bound = (step + 1) * (size * 0x1p-8 + 2e-6 * size);
            if (std::abs(test::value(row[c]) - (x * std::cos(angle) - y * std::sin(angle))) > bound || std::abs(test::value(row[c + D / 2]) - (y * std::cos(angle) + x * std::sin(angle))) > bound)
              FAIL("step " << step << " rank " << i << " pair " << c);
            if (delta == 0 && step == 0) REQUIRE((row[c].bits == from[c].bits && row[c + D / 2].bits == from[c + D / 2].bits));
          }
        });
      check_rows(w, std::vector<std::vector<int>>(6, alive), false);
      if (!std::is_same_v<S, cache::streaming_llm<bf16, D, 4, policy::close_ranks>>) break;      // the keys of this test come at their place in the text
      w.append(context, 3);
      for (int i = 0; i < 3; ++i) alive.push_back(w.tokens - 3 + i);
    }
  };
  follow(std::type_identity<cache::streaming_llm<bf16, D, 4, policy::compact>>{}, [](int rank, int, int) { return rank; });
  follow(std::type_identity<cache::streaming_llm<bf16, D, 4, policy::close_ranks>>{}, [](int rank, int tokens, int kept) { return tokens - kept + rank; });
}
