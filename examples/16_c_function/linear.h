/* A layer of the library behind two C functions: for programs in C, in older C++, or in anything that calls C. */
#ifndef LINEAR_H
#define LINEAR_H
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct linear_layer {
  const unsigned short* a; /* tokens x inputs, the bits of bf16 */
  const unsigned short* w; /* outputs x inputs, the bits of bf16 */
  const float* bias;       /* outputs */
  float* c;                /* tokens x outputs: silu(a w' + bias) */
  int tokens, inputs, outputs;
  int threads;             /* 0: all */
} linear_layer;

/* Bytes of scratch memory, on a boundary of 256, that linear_run needs. */
size_t linear_workspace_bytes(const linear_layer* layer);

/* 0, or a code with a sentence in *why. */
int linear_run(const linear_layer* layer, void* workspace, size_t bytes, const char** why);

#ifdef __cplusplus
}
#endif
#endif
