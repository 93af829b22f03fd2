// What is neither softmax nor loss: argmax, log loss, checks of labels and targets, sums over rows.
#pragma once

#include "groups.cuh"
#include "rows.cuh"

// ---- argmax: exact, so the order of combination is free ----

template <class C> struct Best {
    C v;
    i64 k;
};

// A NaN wins over every number, then the larger value, then the lower index.
template <class C> DEVICE bool beats(const Best<C>& a, const Best<C>& b) {
    const bool a_nan = a.v != a.v, b_nan = b.v != b.v;
    if (a_nan != b_nan) return a_nan;
    if (!a_nan && a.v != b.v) return a.v > b.v;
    return a.k < b.k;
}

template <class C> DEVICE Best<C> exchange(const Best<C>& b, int lane) {
    return {exchange(b.v, lane), exchange(b.k, lane)};
}

struct Better {
    template <class C> __device__ __forceinline__ Best<C> operator()(const Best<C>& a, const Best<C>& b) const {
        return beats(b, a) ? b : a;
    }
};

template <class T, int V>
__global__ void __launch_bounds__(MOST_LANES)
argmax(const T* x, i64* out, i64 n_rows, i64 n_classes, int lanes, int whole) {
    typedef typename Compute<T>::type C;
    static __shared__ Best<C> slots[32];
    const int lane = threadIdx.x & (lanes - 1), rows_per_block = blockDim.x / lanes;
    for (i64 first = (i64)blockIdx.x * rows_per_block; first < n_rows; first += (i64)gridDim.x * rows_per_block) {
        const i64 row = first + threadIdx.x / lanes;
        Best<C> best = {-infinity<C>(), n_classes};
        if (row < n_rows) {
            for (i64 k = (i64)lane * V; k < n_classes; k += (i64)lanes * V) {
                C v[V];
                load<V>(x + row * n_classes + k, whole, v);
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    const Best<C> next = {v[j], k + j};
                    if (beats(next, best)) best = next;
                }
            }
        }
        best = over_lanes(best, lanes, slots, Better());
        if (row < n_rows && lane == 0) out[row] = best.k;
    }
}

// ---- log loss of probabilities ----

// -log p, +0 at 1.
DEVICE double minus_log(double p) { return 0.0 - log(p); }

template <class T>
__global__ void log_loss_index(const T* p, double* loss, i64 n_rows, i64 n_classes, const i64* labels,
                               const double* sample_weight, const double* class_weight) {
    for (i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x; row < n_rows; row += (i64)gridDim.x * blockDim.x) {
        const i64 label = labels[row];
        double result = label == IGNORED ? 0.0 : not_a_number();
        if (label >= 0) {
            const double w = class_weight ? class_weight[label] : 1.0;
            const double weight = sample_weight ? sample_weight[row] * w : w, probability = widen(p[row * n_classes + label]);
            // A weight of 0 contributes 0, even to a probability of 0.
            result = weight == 0 && probability == 0 ? 0.0 : minus_log(probability) * weight;
        }
        loss[row] = result;
    }
}

template <class T>
__global__ void __launch_bounds__(MOST_LANES)
log_loss_soft(const T* p, double* loss, i64 n_rows, i64 n_classes, int lanes, const typename Compute<T>::type* q) {
    static __shared__ Sum<double> slots[32];
    const int lane = threadIdx.x & (lanes - 1), rows_per_block = blockDim.x / lanes;
    for (i64 first = (i64)blockIdx.x * rows_per_block; first < n_rows; first += (i64)gridDim.x * rows_per_block) {
        const i64 row = first + threadIdx.x / lanes;
        Sum<double> sum;
        if (row < n_rows) {
            for (i64 k = lane; k < n_classes; k += lanes) {
                const double weight = q[row * n_classes + k], probability = widen(p[row * n_classes + k]);
                if (weight != 0) sum.add_product(weight, minus_log(probability));
                else if (probability != probability) sum.add_term(probability);
            }
        }
        sum = over_lanes(sum, lanes, slots, Added());
        if (row < n_rows && lane == 0) loss[row] = value(sum.v);
    }
}

// ---- checks: the first offender, by integer minimum, which no order can change ----

// Labels of any integer type as int64: a class, IGNORED or INVALID.
template <class L>
__global__ void check_labels(const L* labels, i64* out, i64 n, i64 n_classes, int ignores, i64 ignored,
                             u64* first_invalid) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) {
        const L label = labels[i];
        i64 result = (i64)label;
        if (ignores && label == (L)ignored) {
            result = IGNORED;
        } else if ((u64)result >= (u64)n_classes) {  // negative ones are huge, and no class has the number 2^63
            result = INVALID;
            if (first_invalid) atomicMin(first_invalid, (u64)i);
        }
        out[i] = result;
    }
}

template <class T> __global__ void check_range(const T* values, i64 n, double low, double high, u64* first_outside) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) {
        const double v = widen(values[i]);
        if (!(v == 0 || (v >= low && v <= high))) atomicMin(first_outside, (u64)i);
    }
}

// Rows that hold a negative number or a NaN, or whose sum is not 1.
template <class T>
__global__ void __launch_bounds__(MOST_LANES)
check_distribution(const T* y, i64 n_rows, i64 n_classes, int lanes, double tolerance, u64* first_wrong) {
    static __shared__ Sum<double> slots[32];
    const int lane = threadIdx.x & (lanes - 1), rows_per_block = blockDim.x / lanes;
    for (i64 first = (i64)blockIdx.x * rows_per_block; first < n_rows; first += (i64)gridDim.x * rows_per_block) {
        const i64 row = first + threadIdx.x / lanes;
        Sum<double> sum;
        if (row < n_rows) {
            for (i64 k = lane; k < n_classes; k += lanes) {
                const double v = widen(y[row * n_classes + k]);
                sum.add_term(v >= 0 ? v : not_a_number());
            }
        }
        sum = over_lanes(sum, lanes, slots, Added());
        if (row < n_rows && lane == 0 && !(fabs(value(sum.v) - 1.0) <= tolerance))
            atomicMin(first_wrong, (u64)row);
    }
}

// ---- dtypes that the array module may not convert ----

template <class From, class To> __global__ void convert(const From* from, To* to, i64 n) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x)
        narrow(widen(from[i]), to[i]);
}

// ---- soft targets with weights, smoothing and the divisor of a mean folded in, rounded once ----

template <class Y, class C>
__global__ void soft_rows(const Y* y, C* q, i64 n, i64 n_classes, double smoothing, const double* class_weight,
                          const double* sample_weight, const double* divisor_at, double divisor) {
    const Pair by = divisor_of(divisor_at, divisor);
    const Pair keep = two_sum(1.0, -smoothing), each = quotient(Pair{smoothing, 0}, Pair{(double)n_classes, 0});
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) {
        const i64 row = i / n_classes;
        Pair v = sum(times(keep, widen(y[i])), each);
        if (class_weight) v = times(v, class_weight[i - row * n_classes]);
        v = times(v, sample_weight ? sample_weight[row] : 1.0);
        q[i] = (C)value(quotient(v, by));
    }
}

// ---- sums over rows, whose order depends on N alone ----

// A sum, and that of the same terms times 2^-LOWERED, which counts where the sum itself overflows: a mean need not.
static constexpr int LOWERED = 64;

struct Chunk {
    Pair sum, lowered;
};

// values null: the weights s_i w[y_i] of rows not ignored; rows whose label is no class have class weight 1. labels
// null: the weights s_i.
__global__ void __launch_bounds__(SUM_BLOCK)
sum_chunks(const double* values, const i64* labels, const double* sample_weight, const double* class_weight, i64 n,
           Chunk* chunks) {
    static __shared__ Sum<double> slots[32];
    Sum<double> sum, lowered;
    const i64 begin = (i64)blockIdx.x * SUM_CHUNK, end = begin + SUM_CHUNK < n ? begin + SUM_CHUNK : n;
    for (i64 i = begin + threadIdx.x; i < end; i += blockDim.x) {
        if (values) {
            sum.add_term(values[i]);
            lowered.add_term(values[i] * power_of_two(-LOWERED));
        } else if (!labels || labels[i] != IGNORED) {
            const double w = class_weight && labels[i] >= 0 ? class_weight[labels[i]] : 1.0;
            sum.add_product(sample_weight ? sample_weight[i] : 1.0, w);
        }
    }
    sum = over_lanes(sum, blockDim.x, slots, Added());
    lowered = over_lanes(lowered, blockDim.x, slots, Added());
    if (threadIdx.x == 0) chunks[blockIdx.x] = {sum.v, lowered.v};
}

// The total, over a divisor where there is one (`divides`), rounded once; or, with `pair`, two numbers that are it.
__global__ void __launch_bounds__(SUM_BLOCK)
sum_total(const Chunk* chunks, i64 n_chunks, int divides, const double* divisor_at, double divisor, int pair,
          double* total) {
    static __shared__ Sum<double> slots[32];
    Sum<double> sum, lowered;
    for (i64 i = threadIdx.x; i < n_chunks; i += blockDim.x) {
        sum = combined(sum, Sum<double>{chunks[i].sum});
        lowered = combined(lowered, Sum<double>{chunks[i].lowered});
    }
    sum = over_lanes(sum, blockDim.x, slots, Added());
    lowered = over_lanes(lowered, blockDim.x, slots, Added());
    if (threadIdx.x != 0) return;
    const double rounded = value(sum.v);
    total[0] = rounded;
    if (pair) {
        total[1] = is_finite(rounded) ? (sum.v.hi - rounded) + sum.v.lo : 0.0;
    } else if (divides) {
        const Pair by = divisor_of(divisor_at, divisor);
        const double low = value(lowered.v);
        if (is_finite(rounded)) total[0] = value(quotient(sum.v, by));
        else total[0] = is_finite(low) ? value(quotient(lowered.v, by)) * power_of_two(LOWERED) : low / by.hi;
    }
}
