// What a kernel for rows is called with: one record, the same for all of them. The host's side is `calls.py`; source.py
// appends a check that both agree on where each field lies.
#pragma once

#include "formats.cuh"

struct StoredPart;

// Rows and their results; null where one is not wanted.
template <class T> struct Rows {
    const T* x;     // (n, k)
    T* out;         // of the same shape
    void* numbers;  // per row: T for LOGSUMEXP, else double
    i64 n, k;
};

// The target of all rows. Null weights are ones.
template <class C> struct Targets {
    const i64* labels;
    const double* sample_weight;
    const double* class_weight;
    double smoothing;
    const C* q;
    const double* divisor_at;  // a pair; null: `divisor` holds it
    double divisor;
};

// How a row is shared out.
struct Sharing {
    i64 length;  // elements that a block has of a row, where that is not a whole one in registers
    int lanes;   // threads of a row, where a block may have several
    int whole;   // whether all arrays allow 16-byte accesses
};

// Where the kernels for segments of rows meet.
struct Segments {
    StoredPart* parts;  // (rows, pieces)
    double* chosen;     // the label's logit of each row, for a gradient that overwrites x
    i64 first_row, pieces;
};

template <class T> struct Call {
    Rows<T> rows;
    Targets<typename Compute<T>::type> targets;
    Sharing sharing;
    Segments segments;
};
