/* Trains the digit classifier without Python: the compiled step, a data file, and libc.
 *
 * usage: train DATA.bin EPOCHS THREADS
 *
 * DATA.bin is what reference.py exports: the initial parameters in the order of the ports, the number of images,
 * then images and classes. All memory is allocated here; the step itself allocates nothing.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "mlp.h"

#define BATCH (MLP_STEP_Y_SIZE)
#define PIXELS (MLP_STEP_X_SIZE / MLP_STEP_Y_SIZE)

static void *take(FILE *in, size_t count, size_t size) {
  void *array = calloc(count, size);
  if (array == NULL || fread(array, size, count, in) != count) {
    fprintf(stderr, "the data file is too short\n");
    exit(1);
  }
  return array;
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: %s DATA.bin EPOCHS THREADS\n", argv[0]);
    return 2;
  }
  FILE *in = fopen(argv[1], "rb");
  if (in == NULL) {
    perror(argv[1]);
    return 1;
  }
  static float velocity_w1[MLP_STEP_FC1_W_SIZE], velocity_b1[MLP_STEP_FC1_B_SIZE];
  static float velocity_w2[MLP_STEP_FC2_W_SIZE], velocity_b2[MLP_STEP_FC2_B_SIZE];
  static float logits[MLP_STEP_LOGITS_SIZE];
  static _Alignas(MLP_STEP_ARENA_ALIGNMENT) unsigned char arena[MLP_STEP_ARENA_BYTES];
  float loss = 0;
  int32_t step = 0;

  void *ports[MLP_STEP_PORTS] = {0};
  ports[MLP_STEP_FC1_W] = take(in, MLP_STEP_FC1_W_SIZE, sizeof(float));
  ports[MLP_STEP_FC1_B] = take(in, MLP_STEP_FC1_B_SIZE, sizeof(float));
  ports[MLP_STEP_FC2_W] = take(in, MLP_STEP_FC2_W_SIZE, sizeof(float));
  ports[MLP_STEP_FC2_B] = take(in, MLP_STEP_FC2_B_SIZE, sizeof(float));
  ports[MLP_STEP_FC1_W_V] = velocity_w1;
  ports[MLP_STEP_FC1_B_V] = velocity_b1;
  ports[MLP_STEP_FC2_W_V] = velocity_w2;
  ports[MLP_STEP_FC2_B_V] = velocity_b2;
  ports[MLP_STEP_STEP] = &step;
  ports[MLP_STEP_LOSS] = &loss;
  ports[MLP_STEP_LOGITS] = logits;

  int32_t *count = take(in, 1, sizeof(int32_t));
  float *images = take(in, (size_t)*count * PIXELS, sizeof(float));
  int32_t *classes = take(in, (size_t)*count, sizeof(int32_t));
  fclose(in);

  int batches = *count / BATCH;
  for (int epoch = 1; epoch <= atoi(argv[2]); ++epoch) {
    double sum = 0;
    for (int batch = 0; batch < batches; ++batch) {
      ports[MLP_STEP_X] = images + (size_t)batch * BATCH * PIXELS;
      ports[MLP_STEP_Y] = classes + (size_t)batch * BATCH;
      if (mlp_step(ports, arena, atoi(argv[3])) != 0) return 1;
      sum += loss;
    }
    printf("epoch %d loss %.17g\n", epoch, sum / batches);
  }
  printf("%d steps\n", (int)step);
  return 0;
}
