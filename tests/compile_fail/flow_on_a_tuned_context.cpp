// expect: smalti: attention over many ranks computes on a host_context
#include <smalti/comm/in_process.hpp>
#include <smalti/flow/context_parallel.hpp>
struct somewhere_else {};
int main() {
  smalti::comm::in_process net(1);
  auto end = net.rank(0);
  using op = smalti::flow::context_parallel<smalti::bf16, 64>;
  op::execution<smalti::comm::in_process::endpoint> run(end);
  return bool(run.run(somewhere_else{}, op::args{}, smalti::workspace{}));
}
