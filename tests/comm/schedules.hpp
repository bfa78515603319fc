// Every schedule of the library for a number of ranks, by name: what the tests of this room run over.
#pragma once
#include <bit>
#include <cstdint>
#include <string>

#include <smalti/comm/schedule/direct.hpp>
#include <smalti/comm/schedule/doubling.hpp>
#include <smalti/comm/schedule/hierarchical.hpp>
#include <smalti/comm/schedule/ring.hpp>
#include <smalti/comm/schedule/tree.hpp>

namespace test {

//! Calls visit(name, schedule_view) for each flat schedule of `ranks` ranks.
template <class Visit> void for_each_flat_schedule(int ranks, Visit visit) {
  using namespace smalti::comm;
  const auto go = [&](std::string name, const auto& s) { visit(name + " " + smalti::comm::name(s.kind) + " of " + std::to_string(ranks), schedule_view(s)); };
  for (const collective kind : {collective::all_reduce, collective::reduce_scatter, collective::all_gather}) {
    go("ring", ring(ranks, kind));
    go("ring in 3 pieces", ring(ranks, kind, 3));
    go("bidirectional ring", bidirectional_ring(ranks, kind));
    go("direct", direct(ranks, kind));
    if (reduces(kind)) go("direct by tree", direct(ranks, kind, combine_order::rank_tree));
    if (kind == collective::all_reduce || std::has_single_bit(unsigned(ranks))) go("halving-doubling", halving_doubling(ranks, kind));
  }
  go("recursive doubling", recursive_doubling(ranks));
  go("double binary tree", double_binary_tree(ranks));
  go("double binary tree in 4 pieces", double_binary_tree(ranks, collective::all_reduce, 4));
  go("bruck", bruck(ranks));
  go("bruck", bruck(ranks, collective::all_to_all));
  go("direct", direct(ranks, collective::all_to_all));
  go("pairwise", pairwise(ranks));
  for (const int root : {0, ranks / 2, ranks - 1}) {
    if (root > 0 && root == ranks / 2 && root == ranks - 1) continue;
    const std::string at = " from " + std::to_string(root);
    for (const int pieces : {1, 4}) {
      go("chain" + at, ring(ranks, collective::broadcast, pieces, root));
      for (const collective kind : {collective::all_reduce, collective::reduce, collective::broadcast}) go("binary tree" + at, binary_tree(ranks, kind, pieces, root));
      go("send_recv" + at, send_recv(ranks, root, ranks / 3, pieces));
    }
    for (const collective kind : {collective::all_reduce, collective::reduce, collective::broadcast, collective::gather, collective::scatter})
      go("star" + at, star(ranks, kind, root));
  }
}

//! The same for schedules of groups of `group` ranks.
template <class Visit> void for_each_nested_schedule(int group, int groups, Visit visit) {
  using namespace smalti::comm;
  const auto go = [&](std::string name, const auto& s) {
    visit(name + " " + smalti::comm::name(s.kind) + " of " + std::to_string(group) + " x " + std::to_string(groups), schedule_view(s));
  };
  go("nvrar", nvrar(group, groups));
  for (const collective kind : {collective::all_reduce, collective::reduce_scatter, collective::all_gather, collective::all_to_all})
    go("two levels", two_level(group, groups, kind));
  const ring scatter(group, collective::reduce_scatter), gather(group, collective::all_gather);
  const direct by_tree(group, collective::reduce_scatter, combine_order::rank_tree), all(group, collective::all_gather);
  go("ring in ring", compose(scatter, ring(groups, collective::reduce_scatter)));
  go("ring in ring", compose(gather, ring(groups, collective::all_gather)));
  go("ring in ring in pieces", compose(scatter, ring(groups, collective::all_reduce, 2), gather));
  go("halving-doubling in ring", compose(scatter, halving_doubling(groups), gather));
  go("trees in ring", compose(scatter, double_binary_tree(groups, collective::all_reduce, 3), gather));
  go("doubling in direct by tree", compose(by_tree, recursive_doubling(groups), all));
  go("bidirectional ring in direct", compose(by_tree, bidirectional_ring(groups), all));
  go("star in direct", compose(by_tree, star(groups), all));
  go("bruck in pairwise", compose(pairwise(group), bruck(groups, collective::all_to_all)));
  go("ring in bruck", compose(bruck(group), ring(groups, collective::all_gather)));
}

//! Three levels.
template <class Visit> void for_each_schedule_of_three_levels(int pair, int pairs, int nodes, Visit visit) {
  using namespace smalti::comm;
  const std::string of = " of " + std::to_string(pair) + " x " + std::to_string(pairs) + " x " + std::to_string(nodes);
  for (const collective kind : {collective::all_reduce, collective::reduce_scatter, collective::all_gather, collective::all_to_all}) {
    const auto s = three_level(pair, pairs, nodes, kind);
    visit(std::string("three levels ") + smalti::comm::name(kind) + of, schedule_view(s));
  }
  const auto rings = compose(ring(pair, collective::reduce_scatter),
                             compose(ring(pairs, collective::reduce_scatter), ring(nodes), ring(pairs, collective::all_gather)),
                             ring(pair, collective::all_gather));
  visit("three rings all_reduce" + of, schedule_view(rings));
}

}  // namespace test
