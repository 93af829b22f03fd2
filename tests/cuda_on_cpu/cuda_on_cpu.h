// Runs CUDA C++ source on the CPU: include this first, then the unmodified kernels.
//
// One block, or the blocks of one cluster, run at a time. Their threads are fibers, resumed in turn, that wait at
// __syncthreads, at cluster barriers and at shuffles until every thread of the block, cluster or warp has arrived. With
// CUDA_ON_CPU_THREADS they are operating system threads instead, so that -fsanitize=thread can look for races on shared
// and global memory.
//
// This shows what the source computes. It cannot show what depends on the device: lockstep, alignment faults, launch
// limits, register spills, speed. What passes here is "source executed on CPU", never "tested on a GPU".
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef CUDA_ON_CPU_THREADS
#include <pthread.h>

#include <atomic>
#include <functional>
#include <map>
#include <thread>
#else
#include <csetjmp>
#include <ucontext.h>
#endif

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(...)
#define __shared__  // as `static __shared__`, and not in clusters: one block at a time, so it is the block's own
#define CLUSTER_OF(blocks)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

constexpr unsigned WARP = 32, MAX_CLUSTER = 8, MAX_SHARED = 227 * 1024;

// Dynamic shared memory of the blocks of a cluster.
alignas(128) inline unsigned char shared_memory[MAX_CLUSTER][MAX_SHARED];
inline thread_local unsigned block_rank;

#ifdef CUDA_ON_CPU_THREADS

// Not std::barrier: its waiters meet in a table they share with other barriers, which hides races from the sanitizer.
class Barrier {
    pthread_barrier_t barrier;

  public:
    explicit Barrier(unsigned threads) { pthread_barrier_init(&barrier, nullptr, threads); }
    ~Barrier() { pthread_barrier_destroy(&barrier); }
    void wait() { pthread_barrier_wait(&barrier); }
};

struct Warp {
    Barrier barrier;
    uint64_t slots[WARP][2];
    explicit Warp(unsigned lanes) : barrier(lanes) {}
};

struct Block {
    Barrier barrier;
    std::atomic<int> votes = 0;
    std::atomic<unsigned> ended = 0;
    std::vector<std::unique_ptr<Warp>> warps;
    explicit Block(unsigned threads) : barrier(threads) {
        for (unsigned first = 0; first < threads; first += WARP)
            warps.push_back(std::make_unique<Warp>(threads - first < WARP ? threads - first : WARP));
    }
};

inline thread_local Block* block = nullptr;
inline Barrier* cluster = nullptr;

// Threads that stay from launch to launch, because starting one takes longer than most blocks. They are never ended: the
// process takes them with it.
class Team {
    Barrier begin, end;
    std::function<void(unsigned)> work;

  public:
    explicit Team(unsigned threads) : begin(threads + 1), end(threads + 1) {
        for (unsigned t = 0; t < threads; ++t)
            std::thread([this, t] {
                for (;;) {
                    begin.wait();
                    work(t);
                    end.wait();
                }
            }).detach();
    }
    void run(std::function<void(unsigned)> what) {
        work = std::move(what);
        begin.wait();
        end.wait();
    }
    static Team& of(unsigned threads) {
        static auto& teams = *new std::map<unsigned, Team*>();
        Team*& team = teams[threads];
        if (!team) team = new Team(threads);
        return *team;
    }
};

template <class Run> int run_blocks(unsigned threads, unsigned blocks, dim3 first, dim3 grid, Run run) {
    std::vector<std::unique_ptr<Block>> here;
    for (unsigned b = 0; b < blocks; ++b) here.push_back(std::make_unique<Block>(threads));
    Barrier all(threads * blocks);
    cluster = &all;
    Team::of(threads * blocks).run([&](unsigned t) {
        block = here[t / threads].get();
        block_rank = t / threads;
        threadIdx = {t % threads, 0, 0};
        blockIdx = {first.x + t / threads, first.y, first.z};
        blockDim = {threads, 1, 1};
        gridDim = grid;
        run();
    });
    return 0;
}

inline void synchronize_cluster() { cluster->wait(); }

inline Block& this_block() { return *block; }

inline void synchronize() { block->barrier.wait(); }

inline int any_of_block(int vote) {
    if (vote) block->votes = 1;
    synchronize();
    const int result = block->votes;
    synchronize();
    block->votes = 0;
    synchronize();
    return result;
}

inline void exchange(const void* mine, void* theirs, size_t size, unsigned lane) {
    Warp& warp = *block->warps[threadIdx.x / WARP];
    std::memcpy(warp.slots[threadIdx.x % WARP], mine, size);
    warp.barrier.wait();
    std::memcpy(theirs, warp.slots[lane], size);
    warp.barrier.wait();
}

#else

// Threads that wait for one another; a thread is at most one round ahead, so two sets of slots are enough.
struct Rendezvous {
    unsigned members = 0, arrived = 0, round = 0;
};

struct Fiber {
    ucontext_t start;
    jmp_buf at;
    bool started = false, done = false;
    static constexpr size_t stack_size = 64 * 1024;
    std::unique_ptr<char[]> stack{new char[stack_size]};
};

struct Warp {
    Rendezvous meeting;
    uint64_t slots[2][WARP][2];
};

struct Block {
    std::vector<Warp> warps;
    Rendezvous meeting;
    int votes = 0;
    unsigned ended = 0;
};

struct Scheduler {
    std::vector<Fiber> fibers;
    std::vector<Block> blocks;
    Rendezvous cluster;
    dim3 first;
    unsigned threads = 0, current = 0;
    unsigned long progress = 0;
    jmp_buf home;
    void (*entry)(void*) = nullptr;
    void* argument = nullptr;
};

inline Scheduler scheduler;

inline void fiber_main() {
    scheduler.entry(scheduler.argument);
    Scheduler& s = scheduler;
    s.fibers[s.current].done = true;
    ++s.progress;
    _longjmp(s.home, 1);
}

__attribute__((noinline)) inline void resume(unsigned t) {
    Scheduler& s = scheduler;
    if (_setjmp(s.home)) return;
    s.current = t;
    block_rank = t / s.threads;
    threadIdx.x = t % s.threads;
    blockIdx.x = s.first.x + block_rank;
    Fiber& f = s.fibers[t];
    if (f.started) _longjmp(f.at, 1);
    f.started = true;
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.get();
    f.start.uc_stack.ss_size = Fiber::stack_size;
    f.start.uc_link = nullptr;
    makecontext(&f.start, fiber_main, 0);
    setcontext(&f.start);
}

__attribute__((noinline)) inline void yield() {
    Scheduler& s = scheduler;
    if (!_setjmp(s.fibers[s.current].at)) _longjmp(s.home, 1);
}

inline void wait_at(Rendezvous& meeting) {
    ++scheduler.progress;
    const unsigned round = meeting.round;
    if (++meeting.arrived == meeting.members) {
        meeting.arrived = 0;
        ++meeting.round;
        return;
    }
    while (meeting.round == round) yield();
}

// 0, or 1 if some thread waited for one that had left or gone elsewhere.
template <class Run> int run_blocks(unsigned threads, unsigned blocks, dim3 first, dim3 grid, Run run) {
    Scheduler& s = scheduler;
    if (s.fibers.size() < threads * blocks) s.fibers.resize(threads * blocks);
    s.blocks.assign(blocks, Block());
    for (Block& block : s.blocks) {
        block.warps.assign((threads + WARP - 1) / WARP, Warp());
        for (unsigned w = 0; w < block.warps.size(); ++w)
            block.warps[w].meeting.members = threads - w * WARP < WARP ? threads - w * WARP : WARP;
        block.meeting = {threads, 0, 0};
    }
    s.cluster = {threads * blocks, 0, 0};
    s.first = blockIdx = first;
    s.threads = threads;
    s.entry = [](void* r) { (*static_cast<Run*>(r))(); };
    s.argument = &run;
    for (unsigned t = 0; t < threads * blocks; ++t) s.fibers[t].started = s.fibers[t].done = false;
    threadIdx = {0, 0, 0};
    blockDim = {threads, 1, 1};
    gridDim = grid;
    for (bool alive = true; alive;) {
        const unsigned long before = s.progress;
        alive = false;
        for (unsigned t = 0; t < threads * blocks; ++t) {
            if (s.fibers[t].done) continue;
            resume(t);
            alive = alive || !s.fibers[t].done;
        }
        if (alive && s.progress == before) return 1;
    }
    return 0;
}

inline Block& this_block() { return scheduler.blocks[block_rank]; }

inline void synchronize() { wait_at(this_block().meeting); }

inline void synchronize_cluster() { wait_at(scheduler.cluster); }

inline int any_of_block(int vote) {
    Block& block = this_block();
    block.votes |= vote != 0;
    wait_at(block.meeting);
    const int result = block.votes;
    wait_at(block.meeting);
    block.votes = 0;
    wait_at(block.meeting);
    return result;
}

inline void exchange(const void* mine, void* theirs, size_t size, unsigned lane) {
    Warp& warp = this_block().warps[threadIdx.x / WARP];
    auto& slots = warp.slots[warp.meeting.round % 2];
    std::memcpy(slots[threadIdx.x % WARP], mine, size);
    wait_at(warp.meeting);
    std::memcpy(theirs, slots[lane], size);
}

#endif

// When the last thread of a block ends, its shared memory goes to another block: whoever still reads it reads garbage.
inline void end_thread(size_t shared) {
    if (++this_block().ended == blockDim.x) std::memset(shared_memory[block_rank], 0xa5, shared);
}

inline std::mutex one_launch;

struct Launch {
    dim3 grid, block;
    size_t shared;
    unsigned cluster = 1;  // blocks along x
    dim3 from = {0, 0, 0};  // the blocks before are left out
};

template <class... A> int launch(void (*kernel)(A...), const Launch& how, void** args) {
    const std::lock_guard<std::mutex> lock(one_launch);
    if (how.shared > MAX_SHARED || how.block.y * how.block.z != 1 || how.block.x > 1024) return 2;
    if (how.grid.x == 0 || how.grid.y == 0 || how.grid.y > 65535 || how.grid.z > 65535) return 2;
    if (how.cluster == 0 || how.cluster > MAX_CLUSTER || how.grid.x % how.cluster != 0) return 2;
    for (unsigned z = how.from.z; z < how.grid.z; ++z)
        for (unsigned y = how.from.y; y < how.grid.y; ++y)
            for (unsigned x = how.from.x; x < how.grid.x; x += how.cluster) {
                for (unsigned b = 0; b < how.cluster; ++b)
                    std::memset(shared_memory[b], 0xa5, how.shared);  // garbage on entry, as on the device
                const int failed = run_blocks(how.block.x, how.cluster, {x, y, z}, how.grid, [&] {
                    [&]<size_t... I>(std::index_sequence<I...>) {
                        kernel(*static_cast<std::remove_reference_t<A>*>(args[I])...);
                    }(std::index_sequence_for<A...>{});
                    end_thread(how.shared);
                });
                if (failed) return failed;
            }
    return 0;
}

// ex2.approx.ftz.f32: no relative error beyond 2^-22, which here is in one result of two up, in the other down, but none at
// integers, where there is nothing to interpolate (taken for granted; on a card the kit sees it in gradients that are 0
// exactly); subnormal results are 0.
inline float approximate_exp2(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, sizeof bits);
    const float e = std::exp2(v) * (v == std::trunc(v) ? 1.0f : bits & 1 ? 1 + 0x1p-22f : 1 - 0x1p-22f);
    return e < 0x1p-126f ? 0.0f : e;
}

// One instance of a kernel template, by the name the host asks for it.
struct Instance {
    const char* name;
    int (*launch)(const Launch&, void**);
};

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_INSTANCE(...)                                                             \
    {                                                                                         \
        #__VA_ARGS__, [](const cuda_on_cpu::Launch& how, void** args) {                       \
            return cuda_on_cpu::launch(&__VA_ARGS__, how, args);                              \
        }                                                                                     \
    }

// ---- what CUDA C++ has built in ----

inline void __syncthreads() { cuda_on_cpu::synchronize(); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __syncthreads_or(int vote) { return cuda_on_cpu::any_of_block(vote); }

// ---- what clusters.cuh has in PTX ----

inline unsigned char* block_memory() { return cuda_on_cpu::shared_memory[cuda_on_cpu::block_rank]; }

template <int V, class T> void copy_pack(const T* from, T* to) { std::memcpy(to, from, V * sizeof(T)); }
inline void copied() {}

// One barrier in two halves: whoever arrives waits at once, which only makes it stricter than on a device.
inline void cluster_arrive() { cuda_on_cpu::synchronize_cluster(); }
inline void cluster_wait() {}

template <class S> const S* of_block(const S* mine, unsigned rank) {
    const size_t at = reinterpret_cast<const unsigned char*>(mine) - block_memory();
    return reinterpret_cast<const S*>(cuda_on_cpu::shared_memory[rank] + at);
}

template <class V> V __shfl_xor_sync(unsigned, V v, int lane) {
    V theirs;
    cuda_on_cpu::exchange(&v, &theirs, sizeof v, (threadIdx.x % cuda_on_cpu::WARP) ^ static_cast<unsigned>(lane));
    return theirs;
}

inline int __any_sync(unsigned mask, int vote) {
    for (int lane = cuda_on_cpu::WARP / 2; lane > 0; lane /= 2) {
        const int theirs = __shfl_xor_sync(mask, vote, lane);
        vote = vote || theirs;
    }
    return vote;
}

inline unsigned long long atomicMin(unsigned long long* at, unsigned long long v) {
    static std::mutex mutex;
    const std::lock_guard<std::mutex> lock(mutex);
    const unsigned long long old = *at;
    if (v < old) *at = v;
    return old;
}

inline int __float_as_int(float v) {
    int bits;
    std::memcpy(&bits, &v, sizeof bits);
    return bits;
}
inline float __int_as_float(int bits) {
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}
inline double __hiloint2double(int hi, int lo) {
    const uint64_t bits = static_cast<uint64_t>(static_cast<uint32_t>(hi)) << 32 | static_cast<uint32_t>(lo);
    double v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}
inline int __double2hiint(double v) {
    uint64_t bits;
    std::memcpy(&bits, &v, sizeof bits);
    return static_cast<int>(bits >> 32);
}
inline int __double2loint(double v) {
    uint64_t bits;
    std::memcpy(&bits, &v, sizeof bits);
    return static_cast<int>(bits);
}

// Build with -ffp-contract=off: each of these is one rounding.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
