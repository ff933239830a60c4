/* A stand-in for libcuda.so.1: device memory is memory of the host, streams run at once, kernels are
 * run by a function that the test gives (double_hook), in the order in which a device would.
 *
 * Graphs hold what was captured. Every call is logged (double_log). double_fail makes the next call
 * of a name return an error. A program without such a function sets DOUBLE_FOLDER: device memory is
 * then the file `memory` there, every kernel and every word that is set a line of `launches`, and
 * before a copy the command DOUBLE_REPLAY is run, which does what those lines say in that file.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <fcntl.h>
#include <unistd.h>

typedef int (*hook_t)(const char *tag, const char *name, uint32_t grid, uint32_t threads, uint32_t shared, const void *packed, size_t size);
typedef enum { KERNEL, SET8, SET32, UP, DOWN } kind_t;
typedef struct op {
  kind_t kind;
  char name[128];
  const char *tag;
  uint32_t grid, threads, shared;
  uint64_t a, b;
  size_t size;
  unsigned char packed[1024];
  struct op *next;
} op;
typedef struct { op *first, *last; size_t count; } graph;
typedef struct { char tag[64]; } module_t; /* what its image begins with: modules of a test differ */
typedef struct { char name[128]; const char *tag; unsigned shared; } kernel; /* shared: what it may be given */

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_IMAGE = 200, NOT_FOUND = 500, LAUNCH_FAILED = 719, NOT_INITIALIZED = 3 };

static hook_t hook;
static __thread graph *capturing; /* ranks are threads, each with a device of its own */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[1 << 22];
static size_t log_size;
static char failing[64];
static int failing_with, devices = 1, started;
static __thread int context_set;
static size_t limit = (size_t)1 << 40, taken;
static char *memory_file;
static size_t memory_used, memory_size = (size_t)1 << 28;
static int pending;
static size_t launched, graph_launches, live_blocks;

static int enter(const char *name) {
  size_t n = strlen(name);
  int status = OK;
  pthread_mutex_lock(&lock);
  if (log_size + n + 2 < sizeof log_text) {
    memcpy(log_text + log_size, name, n);
    log_size += n;
    log_text[log_size++] = '\n';
    log_text[log_size] = 0;
  }
  if (failing[0] && !strcmp(failing, name)) { failing[0] = 0; status = failing_with; }
  pthread_mutex_unlock(&lock);
  return status;
}
static void count(size_t *what, size_t by) { __atomic_add_fetch(what, by, __ATOMIC_SEQ_CST); }
#define CALL(name) do { int status = enter(name); if (status) return status; } while (0)

/* ---- for tests */
void double_hook(hook_t given) { hook = given; }
const char *double_log(void) { return log_text; }
void double_reset(void) { log_size = 0; log_text[0] = 0; failing[0] = 0; launched = graph_launches = 0; }
void double_fail(const char *name, int status) { strncpy(failing, name, sizeof failing - 1); failing_with = status; }
void double_devices(int count) { devices = count; }
void double_limit(size_t bytes) { limit = bytes; }
size_t double_taken(void) { return taken; }
size_t double_blocks(void) { return live_blocks; }
size_t double_launched(void) { return launched; }
size_t double_graph_launches(void) { return graph_launches; }

/* ---- the driver */
int cuInit(unsigned flags) { CALL("cuInit"); if (!devices) return NO_DEVICE; started = 1; return OK; }
int cuGetErrorName(int status, const char **name) {
  switch (status) {
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case NOT_INITIALIZED: *name = "CUDA_ERROR_NOT_INITIALIZED"; break;
    case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
    case INVALID_IMAGE: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
    case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case LAUNCH_FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
    default: *name = 0; return INVALID_VALUE;
  }
  return OK;
}
int cuDriverGetVersion(int *version) { CALL("cuDriverGetVersion"); *version = 13000; return OK; }
int cuDeviceGetCount(int *count) { CALL("cuDeviceGetCount"); *count = devices; return OK; }
int cuDeviceGet(int *device, int number) {
  CALL("cuDeviceGet");
  if (!started) return NOT_INITIALIZED;
  if (number < 0 || number >= devices) return INVALID_DEVICE;
  *device = number;
  return OK;
}
int cuDeviceGetName(char *name, int size, int device) { CALL("cuDeviceGetName"); snprintf(name, size, "Double %d", device); return OK; }
/* Bytes of shared memory that a block may have. */
static unsigned block_bytes(void) {
  const char *given = getenv("DOUBLE_BLOCK_BYTES");
  return given ? (unsigned)atoi(given) : 227 << 10;
}
int cuDeviceGetAttribute(int *value, int which, int device) {
  CALL("cuDeviceGetAttribute");
  const char *count = getenv("DOUBLE_PROCESSORS");
  *value = which == 16 ? (count ? atoi(count) : 132) : which == 39 ? 2048 : which == 81 ? 233472 : which == 82 ? 65536 : which == 75 ? 9 : which == 76 ? 0 : which == 13 ? 1980000 : which == 36 ? 2619000 : which == 37 ? 5120 : which == 97 ? (int)block_bytes() : 1;
  return OK;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { CALL("cuDeviceTotalMem"); *bytes = limit; return OK; }
int cuDevicePrimaryCtxRetain(void **context, int device) { CALL("cuDevicePrimaryCtxRetain"); *context = (void *)(intptr_t)(device + 16); return OK; }
int cuCtxSetCurrent(void *context) { context_set = context != 0; return OK; }
int cuStreamCreate(void **stream, unsigned flags) { CALL("cuStreamCreate"); *stream = (void *)(intptr_t)4096; return OK; }
int cuStreamSynchronize(void *stream) { CALL("cuStreamSynchronize"); return OK; }
int cuMemGetInfo_v2(size_t *left, size_t *all) { CALL("cuMemGetInfo"); *left = limit - taken; *all = limit; return OK; }

static int in_file(void) {
  const char *folder = getenv("DOUBLE_FOLDER");
  char path[4096];
  if (!folder || memory_file) return memory_file != 0;
  snprintf(path, sizeof path, "%s/memory", folder);
  int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (file < 0 || ftruncate(file, memory_size)) return 0;
  memory_file = mmap(0, memory_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory_file == MAP_FAILED) memory_file = 0;
  return memory_file != 0;
}
/* Blocks know their size: it stands before them. */
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  CALL("cuMemAlloc");
  if (!context_set) return NOT_INITIALIZED;
  if (taken + bytes > limit) return OUT_OF_MEMORY;
  char *block = 0;
  if (in_file()) {
    size_t whole = (bytes + 511) / 256 * 256;
    if (memory_used + whole > memory_size) return OUT_OF_MEMORY;
    block = memory_file + memory_used;
    memory_used += whole;
  } else if (posix_memalign((void **)&block, 256, bytes + 256)) return OUT_OF_MEMORY;
  memset(block, 0xFF, bytes + (memory_file ? 0 : 256));
  if (!memory_file) { memcpy(block, &bytes, sizeof bytes); block += 256; }
  count(&taken, bytes);
  count(&live_blocks, 1);
  *address = (uint64_t)(uintptr_t)block;
  return OK;
}
int cuMemFree_v2(uint64_t address) {
  CALL("cuMemFree");
  count(&live_blocks, -1);
  if (memory_file) return OK;
  char *block = (char *)(uintptr_t)address - 256;
  size_t bytes;
  memcpy(&bytes, block, sizeof bytes);
  count(&taken, -bytes);
  memset(block, 0xFF, bytes + 256);
  free(block);
  return OK;
}
int cuMemHostAlloc(void **address, size_t bytes, unsigned flags) { CALL("cuMemHostAlloc"); *address = malloc(bytes); return OK; }
int cuMemFreeHost(void *address) { CALL("cuMemFreeHost"); free(address); return OK; }

static FILE *lines(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s/launches", getenv("DOUBLE_FOLDER"));
  return fopen(path, "a");
}
static unsigned long long place(uint64_t address) { return address - (uint64_t)(uintptr_t)memory_file; }
static int replay(void) {
  const char *command = getenv("DOUBLE_REPLAY");
  if (hook || !memory_file || !command || !pending) return OK;
  pending = 0;
  return system(command) ? LAUNCH_FAILED : OK;
}
static int run(const op *o) {
  int is_deferred = !hook && memory_file;
  FILE *file;
  switch (o->kind) {
    case SET8:
      if (replay()) return LAUNCH_FAILED;
      memset((void *)(uintptr_t)o->a, (int)o->b, o->size);
      return OK;
    case SET32:
      if (is_deferred) {
        pending = 1;
        if (!(file = lines())) return LAUNCH_FAILED;
        for (size_t n = 0; n < o->size; n++)
          fprintf(file, "= %llu %u\n", place(o->a) + 4 * n, (unsigned)o->b);
        fclose(file);
        return OK;
      }
      for (size_t n = 0; n < o->size; n++) ((uint32_t *)(uintptr_t)o->a)[n] = (uint32_t)o->b;
      return OK;
    case UP: case DOWN:
      if (replay()) return LAUNCH_FAILED;
      memcpy((void *)(uintptr_t)o->a, (void *)(uintptr_t)o->b, o->size);
      return OK;
    case KERNEL: break;
  }
  count(&launched, 1);
  if (hook) return hook(o->tag, o->name, o->grid, o->threads, o->shared, o->packed, o->size) ? LAUNCH_FAILED : OK;
  if (!is_deferred || !(file = lines())) return LAUNCH_FAILED;
  pending = 1;
  fprintf(file, "%s %u %u %u", o->name, o->grid, o->threads, o->shared);
  for (size_t n = 0; n < o->size / 8; n++) {
    uint64_t word;
    memcpy(&word, o->packed + 8 * n, 8);
    fprintf(file, " %llu", place(word));
  }
  fprintf(file, "\n");
  fclose(file);
  return OK;
}
static int add(op o) {
  if (!capturing) return run(&o);
  op *kept = malloc(sizeof o);
  *kept = o;
  kept->next = 0;
  if (capturing->last) capturing->last->next = kept; else capturing->first = kept;
  capturing->last = kept;
  capturing->count++;
  return OK;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
  CALL("cuMemcpyHtoDAsync");
  return add((op){.kind = UP, .a = to, .b = (uint64_t)(uintptr_t)from, .size = size});
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
  CALL("cuMemcpyDtoHAsync");
  return add((op){.kind = DOWN, .a = (uint64_t)(uintptr_t)to, .b = from, .size = size});
}
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size) { return cuMemcpyHtoDAsync_v2(to, from, size, 0); }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size) { return cuMemcpyDtoHAsync_v2(to, from, size, 0); }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, void *stream) {
  CALL("cuMemcpyDtoDAsync");
  return add((op){.kind = UP, .a = to, .b = from, .size = size});
}
int cuMemsetD8Async(uint64_t to, unsigned char byte, size_t size, void *stream) {
  CALL("cuMemsetD8Async");
  return add((op){.kind = SET8, .a = to, .b = byte, .size = size});
}
int cuMemsetD32Async(uint64_t to, uint32_t word, size_t size, void *stream) {
  CALL("cuMemsetD32Async");
  return add((op){.kind = SET32, .a = to, .b = word, .size = size});
}
int cuModuleLoadData(void **module, const void *image) {
  CALL("cuModuleLoadData");
  if (memcmp(image, "\x7f" "ELF", 4)) return INVALID_IMAGE;
  module_t *made = calloc(1, sizeof *made); /* modules live as long as the process, for their tags */
  snprintf(made->tag, sizeof made->tag, "%s", (const char *)image);
  *module = made;
  return OK;
}
int cuModuleUnload(void *module) { CALL("cuModuleUnload"); return OK; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
  CALL("cuModuleGetFunction");
  kernel *made = malloc(sizeof *made); /* functions live as long as the process */
  snprintf(made->name, sizeof made->name, "%s", name);
  made->tag = ((module_t *)module)->tag;
  made->shared = 48 << 10;
  *function = made;
  return OK;
}
int cuFuncSetAttribute(void *function, int which, int value) {
  CALL("cuFuncSetAttribute");
  if (which != 8 || value < 0 || (unsigned)value > block_bytes()) return INVALID_VALUE;
  ((kernel *)function)->shared = (unsigned)value;
  return OK;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void *stream, void **parameters, void **extra) {
  CALL("cuLaunchKernel");
  if (!gx || gy != 1 || gz != 1 || !bx || bx > 1024 || by != 1 || bz != 1 || !extra) return INVALID_VALUE;
  if (shared > ((kernel *)function)->shared) return INVALID_VALUE;
  op o = {.kind = KERNEL, .grid = gx, .threads = bx, .shared = shared};
  snprintf(o.name, sizeof o.name, "%s", ((kernel *)function)->name);
  o.tag = ((kernel *)function)->tag;
  for (void **e = extra; *e; e += 2) {
    if (*e == (void *)2) o.size = *(size_t *)e[1];
  }
  if (o.size > sizeof o.packed) return INVALID_VALUE;
  for (void **e = extra; *e; e += 2)
    if (*e == (void *)1) memcpy(o.packed, e[1], o.size);
  return add(o);
}
int cuStreamBeginCapture_v2(void *stream, int mode) {
  CALL("cuStreamBeginCapture");
  if (capturing) return INVALID_VALUE;
  capturing = calloc(1, sizeof *capturing);
  return OK;
}
int cuStreamEndCapture(void *stream, void **found) {
  CALL("cuStreamEndCapture");
  *found = capturing;
  capturing = 0;
  return OK;
}
int cuGraphInstantiateWithFlags(void **executable, void *captured, unsigned long long flags) {
  CALL("cuGraphInstantiateWithFlags");
  graph *copy = malloc(sizeof *copy);
  *copy = *(graph *)captured;
  *executable = copy;
  return OK;
}
int cuGraphDestroy(void *captured) { CALL("cuGraphDestroy"); free(captured); return OK; }
int cuGraphExecDestroy(void *executable) {
  CALL("cuGraphExecDestroy");
  for (op *o = ((graph *)executable)->first, *next; o; o = next) { next = o->next; free(o); }
  free(executable);
  return OK;
}
int cuGraphLaunch(void *executable, void *stream) {
  CALL("cuGraphLaunch");
  count(&graph_launches, 1);
  for (op *o = ((graph *)executable)->first; o; o = o->next) {
    int status = run(o);
    if (status) return status;
  }
  return OK;
}
int cuEventCreate(void **event, unsigned flags) { CALL("cuEventCreate"); *event = malloc(1); return OK; }
int cuEventDestroy_v2(void *event) { CALL("cuEventDestroy"); free(event); return OK; }
int cuEventRecord(void *event, void *stream) { CALL("cuEventRecord"); return OK; }
int cuEventSynchronize(void *event) { CALL("cuEventSynchronize"); return OK; }
int cuEventElapsedTime(float *ms, void *start, void *end) { CALL("cuEventElapsedTime"); *ms = 1.0f; return OK; }
