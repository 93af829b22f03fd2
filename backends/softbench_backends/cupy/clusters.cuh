// Shared memory that is asked for at launch, copies into it, and clusters: blocks that read each other's.
#pragma once

#include "groups.cuh"

#ifdef __CUDA_ARCH__

DEVICE unsigned char* block_memory() {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    return dynamic_shared;
}

// One pack of 16 bytes, without passing through registers; every thread has as many on the way as it likes.
template <int V, class T> DEVICE void copy_pack(const T* from, T* to) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from)
                 : "memory");
#else
    *reinterpret_cast<Pack<T, V>*>(to) = *reinterpret_cast<const Pack<T, V>*>(from);
#endif
}

// Wait for the packs that this thread copies.
DEVICE void copied() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

#if __CUDA_ARCH__ >= 900
#define CLUSTER_OF(blocks) __cluster_dims__(blocks, 1, 1)
DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Where the block of this rank has what is at `mine` here.
template <class S> DEVICE const S* of_block(const S* mine, unsigned rank) {
    u64 theirs;
    asm("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank));
    return reinterpret_cast<const S*>(theirs);
}
#else  // never asked for
#define CLUSTER_OF(blocks)
DEVICE void cluster_arrive() {}
DEVICE void cluster_wait() {}
template <class S> DEVICE const S* of_block(const S* mine, unsigned) { return mine; }
#endif

#endif

// `v`, the same in all threads of a block, combined over the blocks of the cluster by a butterfly. `slot`, in shared
// memory, must not be used again before another call with another slot.
template <int BLOCKS, class S, class Operation> DEVICE S over_blocks(S v, S* slot, Operation operation) {
    if constexpr (BLOCKS > 1) {
        if (threadIdx.x == 0) *slot = v;
        cluster_arrive();
        cluster_wait();
        v = *of_block(slot, threadIdx.x % BLOCKS);
        for (int block = BLOCKS / 2; block > 0; block /= 2) v = operation(v, exchange(v, block));
    }
    return v;
}

// A block may end, and its shared memory go, only when no other reads it any more: each says when it has done so.
template <int BLOCKS> DEVICE void leave_blocks() {
    if constexpr (BLOCKS > 1) cluster_arrive();
}
template <int BLOCKS> DEVICE void left_blocks() {
    if constexpr (BLOCKS > 1) cluster_wait();
}
