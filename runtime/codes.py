"""The codes of calls and data (GC055. to GC057.), memory (GC06..) and training (GC08..)."""

from __future__ import annotations

from gradc.frontend.codes.codes import Code

_CALLS = (
    Code(
        "GC0551",
        "not an array of numbers",
        "Inputs and parameters are NumPy arrays, or anything that NumPy or DLPack makes one of "
        "without\n"
        "looking inside Python objects. Lists of unequal length, strings and objects are not.",
    ),
    Code(
        "GC0552",
        "an array of another element type",
        "The element types of a call are those of the program: `float` is f32 unless another "
        "precision\n"
        "was chosen, `int` is i32. Types are not converted silently where values could be lost: "
        "use\n"
        "`astype`.",
    ),
    Code(
        "GC0553",
        "an array is missing",
        "A call hands in every input that the results need, by its name in the program, and every\n"
        "parameter and state, by its path.",
    ),
    Code(
        "GC0554",
        "an unknown name",
        "There is no input, parameter or result of this name. Parameters are called by their "
        "paths, such\n"
        "as `fc1.w` or `blocks.3.attn.qkv.b`.",
    ),
    Code(
        "GC0555",
        "an array of another shape",
        "The dimensions of an array are those that the program declares, with what the other "
        "arrays, the\n"
        "defaults and `dims=` have bound.",
    ),
    Code(
        "GC0556",
        "values that are not finite",
        "An array that must hold finite numbers holds NaN or infinity. The message counts them "
        "and\n"
        "names the first.",
    ),
    Code(
        "GC0557",
        "an array that cannot be used in place",
        "Compiled code reads dense, aligned, row-major arrays and writes to writable ones.\n"
        "`numpy.ascontiguousarray` makes such an array.",
    ),
    Code(
        "GC0558",
        "an operation that refuses its operands",
        "While a NumPy function was traced, an operation got operands whose types or shapes it "
        "does not\n"
        "take. The message is the operation's own, the place the line of the function.",
    ),
    Code(
        "GC0559",
        "a traced value that was left over",
        "While a function is traced, its arrays have no numbers. One of them was kept (in a "
        "global, say) and\n"
        "used after the tracing was over. Return it from the function instead.",
    ),
    Code(
        "GC0560",
        "a function that cannot be traced",
        "The function calls something of NumPy, or with options, for which there is no "
        "equivalent in the\n"
        "tensor IR. The message lists what is supported, or the nearest name.",
    ),
    Code(
        "GC0561",
        "a value that is not known while tracing",
        "A traced value has a type and a shape but no numbers: it cannot decide an `if`, become "
        "a Python\n"
        "number, or be changed in place. Choose with `numpy.where`.",
    ),
    Code(
        "GC0562",
        "no derivative",
        "Derivatives are taken of and by floating-point values. Integers and booleans have none, "
        "and states\n"
        "are not differentiated.",
    ),
    Code(
        "GC0563",
        "an unknown target or number of threads",
        "The target is one that this build compiles for, and `threads` a whole number of at "
        "least 1.",
    ),
    Code(
        "GC0564",
        "a command-line option that does not fit",
        "`-D NAME=N` binds a dimension to a whole number; counts and sizes are numbers in their "
        "range.",
    ),
    Code(
        "GC0565",
        "a function that returns something else than an array",
        "A traced function returns one array or number. `value_and_grad` and `grad` need a "
        "single number.",
    ),
    Code(
        "GC0566",
        "derivatives that do not fit the arguments",
        "Tangents and cotangents have the structure and shapes of what they belong to; `argnums` "
        "and\n"
        "`argnames` name arguments that the call has.",
    ),
    Code(
        "GC0567",
        "an unknown diagnostic code",
        "`gradc explain` takes a code as diagnostics show it: `GC` and four digits.",
    ),
    Code(
        "GC0568",
        "a peer that cannot take part",
        "`gradc bench --against` knows torch and jax. A peer must be installed, and it cannot "
        "run a model\n"
        "that draws random numbers, since every system draws others.",
    ),
    Code(
        "GC0569",
        "systems that disagree",
        "Loss and gradients of all systems must agree before they are timed. They may differ "
        "where a model\n"
        "truncates a loop or states a pullback of its own: the peers differentiate what was "
        "computed.",
    ),
)

_FILES = (
    Code(
        "GC0570",
        "a data file cannot be read",
        "Data are read from .npz files, as `numpy.savez(FILE, x=..., y=...)` writes them. The "
        "file is\n"
        "missing, is not such an archive, or is damaged.",
    ),
    Code(
        "GC0571",
        "data that are not numbers",
        "Arrays of Python objects, strings or structures are refused: reading them could run "
        "code. Convert\n"
        "the values to numbers and save the file again.",
    ),
    Code(
        "GC0572",
        "too much data in a file",
        "The number of arrays in a file and the bytes they unpack to are limited, so that a "
        "small file\n"
        "cannot fill the memory.",
    ),
    Code(
        "GC0573",
        "a file or folder cannot be written",
        "The operating system refused; the message gives its reason. Files are written beside "
        "their place\n"
        "and then moved, so what was there before is untouched.",
    ),
    Code(
        "GC0574",
        "a weight file that is not valid",
        "Weights are .safetensors files. The header or the sizes contradict the content, a name "
        "stands\n"
        "twice, or the file was cut short.",
    ),
    Code(
        "GC0575",
        "no checkpoint to resume from",
        "The folder holds no intact checkpoint of an earlier `gradc train`.",
    ),
    Code(
        "GC0576",
        "a damaged checkpoint was passed over",
        "A warning: the newest checkpoint fails its digest, so the one before it is used. The "
        "steps between\n"
        "them are repeated.",
    ),
    Code(
        "GC0577",
        "an unknown machine",
        "Code is compiled for this machine or for one of the named others. The message lists them.",
    ),
    Code(
        "GC0578",
        "the linker failed",
        "A shared object is linked with the system's C compiler; its last words are given. The "
        "object file\n"
        "can be linked by other means.",
    ),
    Code(
        "GC0579",
        "an id out of range",
        "Class and token ids name rows: of a table that is looked up in, of the classes of a "
        "loss. An id that names\n"
        "none reads NaN, or leaves its sample out. Which inputs hold ids, and of how many rows, "
        "is read off the\n"
        "program. Ids count from 0, so the largest of V rows is V - 1.",
    ),
    Code(
        "GC0580",
        "refused by the operating system",
        "A file or folder could not be read, written, listed or made. The message names it and "
        "gives the reason: a\n"
        "missing permission, a full disk, a working folder that was deleted meanwhile.",
    ),
    Code(
        "GC0581",
        "a name that C does not allow",
        "The entry of an object is called after its model. A word of C or C++, a symbol of the C "
        "library or one of\n"
        "gradc's own cannot be its name: no compiler would take the header, or other code would "
        "call the model in\n"
        "place of what it wants.",
    ),
    Code(
        "GC0582",
        "a library that gradc needs is missing",
        "gradc is written in Python and needs a few libraries beside it; `pip install gradc` "
        "brings them. The\n"
        "message names the one that is missing, or cannot be loaded, in the Python that runs "
        "here, and the command\n"
        "that installs it there. Another Python of this machine may have it.",
    ),
    Code(
        "GC0590",
        "a gradient that can become infinite or NaN",
        "For finite inputs and parameters this operation, or its derivative, can be infinite or "
        "NaN: the\n"
        "square root at 0, a division by 0, an exponential that overflows. Write it as the help "
        "says, or\n"
        "guard it with `where`: what a condition excludes contributes exactly nothing.",
    ),
    Code(
        "GC0591",
        "too large to write down",
        "As SymPy expressions every element of every array is a symbol and every operation a "
        "line. Give\n"
        "small dimensions: the formulas of `gradc explain` and `net.formulas()` hold for all "
        "sizes. Integers that\n"
        "depend on floating numbers, such as the place of a largest element, cannot be written "
        "down at all.",
    ),
    Code(
        "GC0595",
        "machine code for CUDA cannot be made here",
        "Kernels for graphics processors are compiled by Numba, NVVM and nvJitLink, which the "
        "extra `cuda`\n"
        "brings (about 800 MB; no driver or device is needed). The message names what is missing. "
        "Code that was\n"
        "compiled before, or elsewhere, runs without it.",
    ),
    Code(
        "GC0596",
        "no CUDA driver",
        "Programs run on a graphics processor through NVIDIA's driver, `libcuda.so.1`. It is part "
        "of the system,\n"
        "not of any Python package: install the driver, or run elsewhere. Without it everything "
        "can be compiled\n"
        "and looked at: `gradc compile --target cuda --emit cuda,ptx,cubin,sass`.",
    ),
    Code(
        "GC0597",
        "no such CUDA device",
        "The driver is there but finds no device, or fewer than asked for. `CUDA_VISIBLE_DEVICES` "
        "hides devices;\n"
        "`GRADC_CUDA_DEVICE` chooses one by its number, from 0.",
    ),
    Code(
        "GC0598",
        "the CUDA driver refused",
        "A call of the driver failed: no memory was left on the device, the code is for another "
        "kind of device, or\n"
        "a kernel stopped. The message names the call and the driver's word for it.",
    ),
    Code(
        "GC0599",
        "a program that the CUDA target cannot run",
        "The message names what it lacks. The same program runs with `--target cpu`.",
    ),
)

_MEMORY = (
    Code(
        "GC0601",
        "not a memory size",
        "A budget is a number of bytes with an optional unit: 64MiB, 1.5GB, 4096.",
    ),
    Code(
        "GC0602",
        "a budget that cannot be kept",
        "Even with everything recomputed that can be, the program needs more memory than the "
        "budget. The\n"
        "message gives the smallest peak that was found and the largest tensors; notes say what "
        "a smaller batch,\n"
        "bf16 or one thread would need. Fewer bytes than the arrays of the call alone no plan "
        "can do with.",
    ),
    Code(
        "GC0603",
        "a budget larger than the machine",
        "The budget is more memory than this machine has. `gradc plan` and `gradc compile` warn, "
        "since\n"
        "the program may be meant for another machine; what is to run here is refused.",
    ),
    Code(
        "GC0604",
        "not enough memory",
        "An array or the arena of a call could not be had. `gradc plan` says, without running "
        "anything, how\n"
        "many bytes a call needs and for what; a budget makes the program recompute instead of "
        "keep.",
    ),
)

_PROOF = (
    Code(
        "GC0701",
        "not a certificate",
        "`gradc verify --replay` reads what `gradc verify --json` wrote: a JSON file with the "
        "schema\n"
        "`gradc-certificate-1`. The message says what is missing or of another kind.",
    ),
)

_TRAINING = (
    Code(
        "GC0801",
        "an option of training that does not fit",
        "`clip_norm` and `clip_value` are positive, `accumulate` is a whole number of at least 1.",
    ),
    Code(
        "GC0802",
        "no dimension that counts samples",
        "Training cuts the data into batches along one free dimension, which stands first in the "
        "inputs\n"
        "that hold one entry per sample and has no default: `dim B`, `x: float[B, D]`.",
    ),
    Code(
        "GC0803",
        "arrays of different numbers of samples",
        "All arrays that hold one entry per sample have the same, positive length.",
    ),
    Code(
        "GC0804",
        "a folder that holds a run already",
        "A run is not overwritten. Give another folder, or `--resume` to go on with this one. "
        "While a\n"
        "process trains in a folder, no other may, resuming included.",
    ),
    Code(
        "GC0805",
        "a run of another program",
        "The run in the folder was started with another program, other settings or other data "
        "(`run.json` holds\n"
        "a digest of every number in them), so going on with it would not be the same training.",
    ),
    Code(
        "GC0806",
        "the loss, a gradient or the weights are not finite any more",
        "Training stopped because the loss, a gradient, a parameter or a state of the optimiser "
        "became NaN or\n"
        "infinite. A step whose loss or gradients are so changes nothing: weights and optimiser "
        "are those of\n"
        "before it, and `gradc train` saves them. Lower the learning rate, clip the gradients, or "
        "look at the data.",
    ),
    Code(
        "GC0807",
        "samples that depend on each other",
        "Accumulating gradients over parts of a batch equals the whole batch only if no "
        "operation mixes\n"
        "samples before they are summed, as batch normalisation does, or a convolution over the "
        "batch.",
    ),
    Code(
        "GC0808",
        "a batch that cannot be cut",
        "The size of the batch must be a multiple of the number of parts.",
    ),
    Code(
        "GC0809",
        "values stop being finite",
        "The first operation of a training step whose result holds NaN or infinity though its "
        "operands are\n"
        "finite. The step is run once more by the reference interpreter to find it. In f16 the "
        "usual cause is\n"
        "a gradient beyond 65504: a smaller loss scale avoids it (`--loss-scale dynamic` halves "
        "it by itself).\n"
        "In f32 look for a division by zero, a logarithm of zero, or a learning rate that is too "
        "large.",
    ),
    Code(
        "GC0811",
        "a validation loss that is not finite",
        "The loss on the data of `--valid` is NaN or infinite while the weights are finite: the "
        "model meets values\n"
        "there that it cannot take, or an overflow of its own. The run goes on.",
    ),
    Code(
        "GC0812",
        "damaged lines in the metrics of a run",
        "A warning: lines of `metrics.jsonl` are not what a run writes there, so they are "
        "dropped. The training goes\n"
        "on from the checkpoint, which does not depend on them.",
    ),
    Code(
        "GC0813",
        "data that train badly",
        "A warning before the first step: features that do not vary or whose sizes lie far apart "
        "or far from 1,\n"
        "targets far from zero or a few far from all others, a class that hardly occurs, samples "
        "that are trained\n"
        "on and validated on. `gradc diagnose` tries whether it matters.",
    ),
    Code(
        "GC0814",
        "a training that does not go as it should",
        "A warning while training: the loss is no lower than that of outputs which are the same "
        "for every sample,\n"
        "three times above its least, or negative where it cannot be; updates are out of "
        "proportion to the\n"
        "weights, most steps are clipped, the loss scale falls again and again, units have died or "
        "attention\n"
        "looks at one place only since the start. The message has the numbers; `gradc diagnose "
        "--run` tries what\n"
        "lowers the loss.",
    ),
    Code(
        "GC0820",
        "a step for ranks that are not there",
        "A training step was made for a number of ranks, which plans it; to run it, the ranks "
        "must exist. Start\n"
        "them with `mpiexec -n R`, and give `ranks=MPI.COMM_WORLD` of mpi4py.",
    ),
    Code(
        "GC0821",
        "ranks that do different things",
        "All ranks of a job run the same program with the same settings; what they exchange was "
        "compared before\n"
        "the first step, and differs. The message names the ranks that are not like rank 0.",
    ),
    Code(
        "GC0822",
        "MPI is missing",
        "Ranks talk through MPI: the package mpi4py and an MPI library with its `mpiexec`. "
        "`pip install 'gradc[mpi]'`\n"
        "brings both as wheels; a cluster has its own.",
    ),
    Code(
        "GC0823",
        "another number of ranks than asked for",
        "`--ranks R` starts R ranks itself. Under an `mpiexec` or `srun` of your own all "
        "processes of the job are\n"
        "ranks, and --ranks, if given, must be their number. Where a launcher starts more "
        "processes than MPI joins,\n"
        "each would train alone: under Slurm choose what your MPI was built for (`srun "
        "--mpi=list`).",
    ),
    Code(
        "GC0824",
        "a dimension that cannot be cut among ranks",
        "`--shard-dim H=2` cuts the parameters that have `H` between two ranks. What is "
        "multiplied elementwise, added\n"
        "up or normalised along `H` can be cut; what is sorted or accumulated along it cannot.",
    ),
    Code(
        "GC0825",
        "a rank that is slower than the others",
        "Every step ends when its slowest rank has ended, and this one takes much longer than the "
        "others for its own\n"
        "part. Something else may run on its machine, or its processor may be throttled.",
    ),
)

CODES = (*_CALLS, *_FILES, *_MEMORY, *_PROOF, *_TRAINING)
