// What the two halves of the program share: one problem, and a function for each machine. Only types of core cross the
// border between the files (views, elements, status): they are the same for every compiler. What computes, like
// gemm::dense, is a different type in a file that nvcc compiles and is named there.
#pragma once
#include <vector>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>

// c = gelu(a w' + bias), by rows: a is tokens x inputs, w is outputs x inputs, c is tokens x outputs.
struct layer_problem {
  int tokens, inputs, outputs;
  std::vector<smalti::bf16> a, w;
  std::vector<float> bias;
};

smalti::status on_host(const layer_problem& p, std::vector<float>& c);    // host.cpp
smalti::status on_gpu(const layer_problem& p, std::vector<float>& c);     // gpu.cu
