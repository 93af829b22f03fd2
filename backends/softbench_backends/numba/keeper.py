"""The part of `results` that runs whenever memory is freed, in LLVM's language."""

from __future__ import annotations

from typing import Final

__all__ = ["KEEPER"]

# State: most bytes to keep, bytes kept, number of pieces, their addresses, the oldest first.
KEEPER: Final = """
declare i32 @madvise(ptr, i64, i32)
declare i32 @munmap(ptr, i64)
declare void @free(ptr)
declare ptr @memmove(ptr, ptr, i64)

define i64 @size_of(ptr %address) {
  %at = getelementptr i64, ptr %address, i64 -6
  %size = load i64, ptr %at
  ret i64 %size
}

define void @unmap(ptr %address) {
  %header = getelementptr i64, ptr %address, i64 -8
  %total_at = getelementptr i64, ptr %address, i64 -7
  %base = load ptr, ptr %header
  %total = load i64, ptr %total_at
  call i32 @munmap(ptr %base, i64 %total)
  ret void
}

; Take piece i away from those that are kept.
define ptr @remove(ptr %state, i64 %i) {
  %kept_at = getelementptr i64, ptr %state, i64 1
  %count_at = getelementptr i64, ptr %state, i64 2
  %slots = getelementptr i64, ptr %state, i64 3
  %slot = getelementptr i64, ptr %slots, i64 %i
  %next = getelementptr i64, ptr %slot, i64 1
  %address = load ptr, ptr %slot
  %size = call i64 @size_of(ptr %address)
  %kept = load i64, ptr %kept_at
  %left = sub i64 %kept, %size
  store i64 %left, ptr %kept_at
  %count = load i64, ptr %count_at
  %fewer = sub i64 %count, 1
  store i64 %fewer, ptr %count_at
  %behind = sub i64 %fewer, %i
  %bytes = shl i64 %behind, 3
  call ptr @memmove(ptr %slot, ptr %next, i64 %bytes)
  ret ptr %address
}

; NumPy's free: keep a mapping, and give the oldest ones back where that is too much.
define void @release(ptr %state, ptr %address, i64 %unused) {
entry:
  %header = getelementptr i64, ptr %address, i64 -8
  %total_at = getelementptr i64, ptr %address, i64 -7
  %total = load i64, ptr %total_at
  %allocated = icmp eq i64 %total, 0
  br i1 %allocated, label %by_c, label %mapped
by_c:
  %base = load ptr, ptr %header
  call void @free(ptr %base)
  ret void
mapped:
  %size = call i64 @size_of(ptr %address)
  %limit = load i64, ptr %state
  %possible = icmp ule i64 %size, %limit
  br i1 %possible, label %advise, label %give_back
advise:
  %failed = call i32 @madvise(ptr %address, i64 %size, i32 {advice})
  %done = icmp eq i32 %failed, 0
  br i1 %done, label %look, label %give_back
look:
  %kept_at = getelementptr i64, ptr %state, i64 1
  %count_at = getelementptr i64, ptr %state, i64 2
  %kept = load i64, ptr %kept_at
  %count = load i64, ptr %count_at
  %sum = add i64 %kept, %size
  %too_much = icmp ugt i64 %sum, %limit
  %too_many = icmp uge i64 %count, {slots}
  %full = or i1 %too_much, %too_many
  br i1 %full, label %evict, label %keep
evict:
  %oldest = call ptr @remove(ptr %state, i64 0)
  call void @unmap(ptr %oldest)
  br label %look
keep:
  %slots = getelementptr i64, ptr %state, i64 3
  %slot = getelementptr i64, ptr %slots, i64 %count
  store ptr %address, ptr %slot
  %more = add i64 %count, 1
  store i64 %sum, ptr %kept_at
  store i64 %more, ptr %count_at
  ret void
give_back:
  call void @unmap(ptr %address)
  ret void
}

; The smallest piece of at least and at most so many bytes, no longer kept; null if there is none.
define ptr @take(ptr %state, i64 %least, i64 %most) {
entry:
  %count_at = getelementptr i64, ptr %state, i64 2
  %slots = getelementptr i64, ptr %state, i64 3
  %count = load i64, ptr %count_at
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %after, %compare ]
  %best = phi i64 [ -1, %entry ], [ %best_now, %compare ]
  %best_size = phi i64 [ %most, %entry ], [ %best_size_now, %compare ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %compare, label %end
compare:
  %slot = getelementptr i64, ptr %slots, i64 %i
  %address = load ptr, ptr %slot
  %size = call i64 @size_of(ptr %address)
  %enough = icmp uge i64 %size, %least
  %smaller = icmp ule i64 %size, %best_size
  %better = and i1 %enough, %smaller
  %best_now = select i1 %better, i64 %i, i64 %best
  %best_size_now = select i1 %better, i64 %size, i64 %best_size
  %after = add i64 %i, 1
  br label %next
end:
  %none = icmp eq i64 %best, -1
  br i1 %none, label %nothing, label %found
nothing:
  ret ptr null
found:
  %taken = call ptr @remove(ptr %state, i64 %best)
  ret ptr %taken
}
"""
