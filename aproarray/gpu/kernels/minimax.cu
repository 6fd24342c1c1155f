// The largest gaps between pairs of positions: maxima over groups of 8, over groups of 8 groups, and so on.

#include "common.cuh"

#define GROUP 8

// Fills result (Q) with the largest of gaps[first:last] for every pair; it begins as zeros.
COOPERATIVE_KERNEL largest_between(
    const REAL *gaps, u32 n, REAL *groups, const long long *first, const long long *last, u32 n_pairs, REAL *result,
    u32 *barrier
) {
    const REAL *things = gaps;
    REAL *next = groups;
    for (u32 count = n; count > GROUP; ) {
        const u32 fewer = (count + GROUP - 1) / GROUP;
        FOR_EACH(group, fewer) {
            REAL most = 0;
            for (u64 i = group * GROUP; i < (group + 1) * GROUP && i < count; i++)
                if (things[i] > most) most = things[i];
            next[group] = most;
        }
        grid_sync(barrier);
        things = next;
        next += fewer;
        count = fewer;
    }
    FOR_EACH(pair, n_pairs) {
        u64 from = first[pair], to = last[pair];
        u32 count = n;
        REAL most = 0;
        const REAL *level = gaps;
        for (const REAL *above = groups; from < to; above += count) {
            const bool top = count <= GROUP;
            while (from < to && (top || from % GROUP)) {
                if (level[from] > most) most = level[from];
                from++;
            }
            while (from < to && to % GROUP) {
                to--;
                if (level[to] > most) most = level[to];
            }
            from /= GROUP;
            to /= GROUP;
            count = (count + GROUP - 1) / GROUP;
            level = above;
        }
        result[pair] = most;
    }
}
