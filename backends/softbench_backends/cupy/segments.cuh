// Rows too long to stay on chip: each row is cut into up to 256 segments, and a block works on one segment.
//
// `segment_sums` reads a segment once, online: it leaves (m, s) and, for soft targets, two more sums. `segment_write`
// combines the segments of its row in a fixed order and writes what belongs to its own. The cuts depend on K alone, so
// a row gives the same bits alone or in a batch; few long rows still fill the machine.
//
// The online sum runs over the *losers*: of the running maximum and the next element the smaller is added and the
// larger is kept, so that s, the sum without one argmax, never contains the maximum. It is anchored near its own
// largest term, not at the maximum: no s is too small.
#pragma once

#include "sums.cuh"

// How far above its anchor a term may lie; it bounds how often a sum is rescaled, and every rescaling rounds.
template <class C> struct Anchor {
    static constexpr C slack = 16;
};

// Part of a row: maximum m, s in units of exp(anchor) 2^-unit, sums over w_k as in Stats (of m - x_k from this m).
template <class C> struct Part {
    double m = -infinity<double>(), anchor = -infinity<double>();
    double lowest = infinity<double>();  // least x_k of weight other than 0
    Sum<C> s, weight, distance;
};

// One part of a row as it lies in memory.
struct StoredPart {
    double m, anchor, lowest;
    Pair s, weight, distance;
};

template <class W> DEVICE Pair stored(W v) { return {v.hi, trailing(v)}; }

template <class C> DEVICE void raise_distance(Sum<C>& distance, const Sum<C>& weight, double from, double to) {
    if (!(to > from) || from == -infinity<double>()) return;  // so far only -inf, whose distance needs no raising
    constexpr double unit = DistanceUnit<C>::unit;
    double r;
    const double d = two_difference(to, from, r);
    if (!is_finite(d)) return;  // `lowest` tells
    distance.add_product(weight.v.hi, d * unit);
    distance.add_term((trailing(weight.v) * d + weight.v.hi * r) * unit);
}

template <bool FIRST, class A, class B> struct Either { typedef A type; };
template <class A, class B> struct Either<false, A, B> { typedef B type; };

struct Least {
    __device__ __forceinline__ double operator()(double a, double b) const { return b < a ? b : a; }
};

// Combine parts in a fixed order: `count` of each of a power of two of lanes, own(0), own(1) ...; every lane receives the
// whole. All parts are rescaled once, to the anchor of the whole, because every rescaling rounds.
template <class C, bool SPREAD, class Own>
DEVICE Part<C> over_parts(const Own& own, int count, int lanes, double* maxima, Sum<C>* sums, int* counts) {
    Part<C> whole;
    for (int j = 0; j < count; ++j) whole.m = maximum(whole.m, own(j).m);
    const double m = whole.m = over_lanes(whole.m, lanes, maxima, Largest());
    int ties = 0;
    for (int j = 0; j < count; ++j) ties += own(j).m == m;
    ties = over_lanes(ties, lanes, counts, Plus());
    for (int j = 0; j < count; ++j) {
        const Part<C> p = own(j);
        // All maxima but one become losers.
        const double loser = ties > 1 ? m : m > p.m ? p.m : -infinity<double>();
        whole.anchor = maximum(whole.anchor, maximum(p.anchor, loser));
    }
    const double anchor = whole.anchor = over_lanes(whole.anchor, lanes, maxima, Largest());
    for (int j = 0; j < count; ++j) {
        Part<C> p = own(j);
        if (p.anchor > -infinity<double>()) p.s.v = times(p.s.v, wide_exp(p.anchor, anchor, 1.0, 0));
        if (m > p.m && p.m > -infinity<double>()) p.s.add_term(wide_exp(p.m, anchor, 1.0, Exp<C>::unit));
        whole.s = combined(whole.s, p.s);
        if (SPREAD) {
            raise_distance(p.distance, p.weight, p.m, m);
            whole.weight = combined(whole.weight, p.weight);
            whole.distance = combined(whole.distance, p.distance);
            whole.lowest = Least()(whole.lowest, p.lowest);
        }
    }
    whole.s = over_lanes(whole.s, lanes, sums, Added());
    if (ties > 1) whole.s.add_term(scaled(ties - 1.0, Exp<C>::unit));
    if (SPREAD) {
        whole.weight = over_lanes(whole.weight, lanes, sums, Added());
        whole.distance = over_lanes(whole.distance, lanes, sums, Added());
        whole.lowest = over_lanes(whole.lowest, lanes, maxima, Least());
        if (!(m - whole.lowest < infinity<double>())) whole.distance.v = wide<Wide<C>>(infinity<double>());
    }
    return whole;
}

template <class T, int OP, int V>
__global__ void __launch_bounds__(SEGMENT_BLOCK, 1) segment_sums(const Call<T> call) {
    typedef typename Compute<T>::type C;
    constexpr bool spread = OP == SMOOTH || OP == SOFT;
    constexpr int W = V > 4 ? V : 4;  // elements per step
    static __shared__ double maxima[32];
    static __shared__ Sum<C> sums[32];
    static __shared__ int counts[32];
    const i64 n_classes = call.rows.k, length = call.sharing.length;
    const bool whole = call.sharing.whole;
    const i64 row = call.segments.first_row + blockIdx.y, begin = blockIdx.x * length;
    const i64 end = begin + length < n_classes ? begin + length : n_classes;
    const T* from = call.rows.x + row * n_classes;
    const auto weights = weights_of<OP>(call.targets, row, n_classes);
    if (OP == INDEX || OP == SMOOTH) {
        const i64 label = call.targets.labels[row];
        if (label < 0) return;  // the whole block
        if (threadIdx.x == 0 && label >= begin && label < end) call.segments.chosen[blockIdx.y] = widen(from[label]);
    }

    // logsumexp has no row to look at twice: its exponentials are exact.
    typedef typename ExpOf<typename Either<OP == LOGSUMEXP, C, T>::type>::type Exponential;
    C m = -infinity<C>(), anchor = -infinity<C>(), lowest = infinity<C>();
    Exponential exponential(anchor);
    Sum<C> s, weight, distance;
    for (i64 base = begin; base < end; base += (i64)W * blockDim.x) {
        C v[W];
#pragma unroll
        for (int i = 0; i < W; i += V) {
            const i64 k = base + ((i64)(i / V) * blockDim.x + threadIdx.x) * V;
            if (k < end) load<V>(from + k, whole, v + i);
            else fill<V>(v + i, -infinity<C>());
        }
        C larger = m, loser[W], most = -infinity<C>();
#pragma unroll
        for (int i = 0; i < W; ++i) {
            loser[i] = v[i] < larger ? v[i] : larger;
            larger = maximum(larger, v[i]);
            most = loser[i] > most ? loser[i] : most;
        }
        if (most > anchor + Anchor<C>::slack) {  // always at first
            if (anchor > -infinity<C>()) s.v = times(s.v, wide_exp(anchor, most, 1.0, 0));
            else s = Sum<C>();  // without an anchor there were no numbers
            anchor = most;
            exponential = Exponential(anchor);
        }
        if constexpr (spread) {
            raise_distance(distance, weight, m, larger);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                const i64 k = base + ((i64)(i / V) * blockDim.x + threadIdx.x) * V + i % V;
                if (k >= end) continue;
                const double w = weights.wide(k);
                weight.add_term(w);
                if (w != 0 && !(v[i] >= lowest)) lowest = v[i];
                if (is_finite(v[i])) add_distance(distance, w, v[i], larger);
            }
        }
        m = larger;
        C e[W];
#pragma unroll
        for (int i = 0; i < W; ++i) e[i] = exponential(loser[i]);
        add_terms<T, W>(s, e);
    }
    if (!(anchor > -infinity<C>())) s = Sum<C>();
    Part<C> part;
    part.m = m;
    part.anchor = anchor;
    part.lowest = lowest;
    part.s = s;
    part.weight = weight;
    part.distance = distance;
    part = over_parts<C, spread>([&](int) { return part; }, 1, blockDim.x, maxima, sums, counts);
    if (threadIdx.x == 0)
        call.segments.parts[blockIdx.y * gridDim.x + blockIdx.x] = {
            part.m, part.anchor, part.lowest, stored(part.s.v), stored(part.weight.v), stored(part.distance.v)};
}

// Grid: (segments, rows), or (1, rows) and `out` null where only a number per row is wanted. The sums of a row are
// read by its warp 0, which takes part as a whole.
template <class T, int OP, int V>
__global__ void __launch_bounds__(SEGMENT_BLOCK, 1) segment_write(const Call<T> call) {
    typedef typename Compute<T>::type C;
    typedef Wide<C> W;
    constexpr bool spread = OP == SMOOTH || OP == SOFT;
    static __shared__ RowResult<C> shared;
    const Rows<T>& rows = call.rows;
    const Targets<C>& targets = call.targets;
    const i64 n_classes = rows.k, length = call.sharing.length;
    const bool whole = call.sharing.whole;
    const i64 row = call.segments.first_row + blockIdx.y;
    const int segments = (int)call.segments.pieces;
    const i64 label = OP == INDEX || OP == SMOOTH ? targets.labels[row] : 0;
    const bool read = label >= 0;
    const auto weights = weights_of<OP>(targets, row, n_classes);

    if (threadIdx.x < 32) {
        const auto own = [&](int j) {
            Part<C> part;
            const int segment = j * 32 + threadIdx.x;
            if (read && segment < segments) {
                const StoredPart stored = call.segments.parts[(i64)blockIdx.y * segments + segment];
                part.m = stored.m;
                part.anchor = stored.anchor;
                part.lowest = stored.lowest;
                part.s.v = wide<W>(stored.s.hi, stored.s.lo);
                part.weight.v = wide<W>(stored.weight.hi, stored.weight.lo);
                part.distance.v = wide<W>(stored.distance.hi, stored.distance.lo);
            }
            return part;
        };
        const Part<C> part = over_parts<C, spread>(own, (segments + 31) / 32, 32, nullptr, nullptr, nullptr);
        // s = part.s exp(anchor - m) 2^-unit, whose exponent stays apart.
        SumExcludingMax<W> s = {wide<W>(0), 0};
        if (part.anchor > -infinity<double>()) {
            double error;
            int n;
            const double d = two_difference(part.anchor, part.m, error);
            const double f = 1.0 + Exp<double>::parts(d, error, n);
            if (d >= -2600.0) s = {times(part.s.v, f), n - Exp<C>::unit};
        }
        Row<C> r = row_of<OP>(targets, row, n_classes);
        if ((OP == INDEX || OP == SMOOTH) && read) r.xy = call.segments.chosen[blockIdx.y];
        const W weight = weights.summed() ? part.weight.v : wide<W>((double)n_classes);
        const RowResult<C> result = finish<OP>(r, (C)part.m, s, weight, part.distance.v);
        if (threadIdx.x == 0) shared = result;
        if (threadIdx.x == 0 && blockIdx.x == 0 && rows.numbers) set_row<OP, T>(rows.numbers, row, result);
    }
    __syncthreads();
    if (!rows.out) return;

    const RowResult<C> result = shared;
    const RowExp<T> exponential(result.m);
    const i64 begin = blockIdx.x * length, end = begin + length < n_classes ? begin + length : n_classes;
    const T* from = rows.x + row * n_classes;
    T* to = rows.out + row * n_classes;
    for (i64 k = begin + (i64)threadIdx.x * V; k < end; k += (i64)blockDim.x * V) {
        C v[V];
        if (read) load<V>(from + k, whole, v);
        else fill<V>(v, result.m);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if constexpr (OP == LOG_SOFTMAX) v[j] = log_entry<T>(result, v[j]);
            else if constexpr (OP != LOGSUMEXP) v[j] = entry<OP>(result, exponential(v[j]), weights[k + j]);
        }
        if constexpr (OP != LOG_SOFTMAX && OP != LOGSUMEXP) {
            if (needs_care<OP, T, V>(result, v)) {
                write_slowly<OP>(result, exponential, weights, from + k, k, V, to + k);
                continue;
            }
        }
        store<V>(v, whole, to + k);
    }
    // The thread that wrote the label's entry overwrites it.
    if (OP == INDEX || OP == SMOOTH) {
        if (!result.undefined && label >= begin && label < end && (label - begin) / V % blockDim.x == threadIdx.x)
            to[label] = rounded<T>(result.label_gradient);
    }
}
