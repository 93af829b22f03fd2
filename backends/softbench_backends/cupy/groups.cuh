// Reductions over the threads that share a row: a power of two of lanes within a warp, or a whole block.
//
// All are butterflies: every lane ends up with the same bits, and the order of combination depends on the number of
// lanes alone. Lanes of one warp always take part together, whichever rows they work on.
#pragma once

#include "arithmetic.cuh"

static constexpr unsigned FULL = 0xffffffffu;

DEVICE float exchange(float v, int lane) { return __shfl_xor_sync(FULL, v, lane); }
DEVICE double exchange(double v, int lane) { return __shfl_xor_sync(FULL, v, lane); }
DEVICE int exchange(int v, int lane) { return __shfl_xor_sync(FULL, v, lane); }
DEVICE i64 exchange(i64 v, int lane) { return __shfl_xor_sync(FULL, v, lane); }
DEVICE Sum<float> exchange(Sum<float> s, int lane) {
    s.v.hi = exchange(s.v.hi, lane);
    return s;
}
DEVICE Sum<double> exchange(Sum<double> s, int lane) {
    s.v = {exchange(s.v.hi, lane), exchange(s.v.lo, lane)};
    return s;
}

struct Largest {
    template <class C> __device__ __forceinline__ C operator()(C a, C b) const { return maximum(a, b); }
};

struct Added {
    template <class S> __device__ __forceinline__ S operator()(S a, S b) const { return combined(a, b); }
};

struct Plus {
    __device__ __forceinline__ int operator()(int a, int b) const { return a + b; }
};

// Lanes are a power of two: rows per block, and the row of a thread among them, are shifts.
DEVICE int shift_of(int lanes) { return __ffs(lanes) - 1; }

template <class S, class Operation> DEVICE S over_warp(S v, int lanes, Operation operation) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2)
        if (lane < lanes) v = operation(v, exchange(v, lane));
    return v;
}

// What each warp of a block left in `slots`, combined.
template <class S, class Operation> DEVICE S over_slots(const S* slots, int warps, Operation operation) {
    return over_warp(slots[threadIdx.x & (warps - 1)], warps, operation);
}

// `v` of all lanes of the row, combined. Blocks are at most 1024 threads, so at most 32 warps meet in `slots`.
template <class S, class Operation> DEVICE S over_lanes(S v, int lanes, S* slots, Operation operation) {
    v = over_warp(v, lanes, operation);
    if (lanes > 32) {
        __syncthreads();  // the slots may still be read from an earlier reduction
        if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = v;
        __syncthreads();
        v = over_slots(slots, lanes / 32, operation);
    }
    return v;
}

// The same, but of a row that a block shares only warp 0 receives it; and nobody reads the slots from before.
template <class S, class Operation> DEVICE S over_lanes_to_warp_0(S v, int lanes, S* slots, Operation operation) {
    v = over_warp(v, lanes, operation);
    if (lanes > 32) {
        if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = v;
        __syncthreads();
        if (threadIdx.x < 32) v = over_slots(slots, lanes / 32, operation);
    }
    return v;
}
