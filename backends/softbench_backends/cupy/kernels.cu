// The CUDA C++ source of the CuPy backend. Kernels are templates; the host names the instances it wants.
#include "linear.cuh"
#include "primitives.cuh"
#include "resident.cuh"
#include "segments.cuh"
#include "staged.cuh"
