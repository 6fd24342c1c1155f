// Which label a pixel takes where floods disagree: aproarray/cpu/_settle.pxi, in its order of sums.

#include "common.cuh"

#define LANES 8
#define RANKS 32

struct Evidence {
    const int *begins;  // blocks of each label's seeds
    const float *seeds;  // (blocks, axes + channels, LANES): places and colours
    const float *features;  // (n, channels)
    u32 n_axes, channels;
    u32 strides[8];
    long long origin[8];  // of the array in the image
    float spacing[8];
    u32 ratios[8];
    // How far the nearest seed of a label is, and how much the most alike one differs.
    __device__ void nearest(u32 pixel, int label, float *distance, float *difference) const {
        float near = 3e38f, alike = near;
        for (int block = begins[label]; block < begins[label + 1]; block++) {
            const float *const places = seeds + (u64)block * (n_axes + channels) * LANES;
            for (u32 lane = 0; lane < LANES; lane++) {
                float square = 0;
                u32 rest = pixel;
                for (u32 axis = 0; axis < n_axes; axis++) {
                    const float place = exact_multiply((float)(rest / strides[axis] + origin[axis]), spacing[axis]);
                    rest %= strides[axis];
                    const float step = exact_subtract(place, places[axis * LANES + lane]);
                    square = exact_add(square, exact_multiply(step, step));
                }
                if (square < near) near = square;
                square = 0;
                for (u32 c = 0; c < channels; c++) {
                    const float own = features[(u64)pixel * channels + c];
                    const float step = exact_subtract(own, places[(n_axes + c) * LANES + lane]);
                    square = exact_add(square, exact_multiply(step, step));
                }
                if (square < alike) alike = square;
            }
        }
        *distance = exact_root(near);
        *difference = exact_root(alike);
    }
    // The leading zeros of a pixel's key, of which the last rank has the others, too.
    __device__ u32 rank(u32 pixel) const {
        u32 key = 0;
        for (u32 axis = 0; axis < n_axes; axis++) {
            key += (u32)(pixel / strides[axis] + origin[axis]) * ratios[axis];
            pixel %= strides[axis];
        }
        u32 zeros = 0;
        while (zeros < RANKS - 1 && !(key >> (31 - zeros))) zeros++;
        return zeros;
    }
};

// How many pixels there are of each label, on which all maps agree, and of each rank: counts (labels, RANKS), from 0 on.
// With `lowest` (labels) instead, marks those that are of such a rank or higher.
KERNEL survey(
    const Evidence evidence, const int *maps, const int *seeds, u32 n, const int *lowest, u32 *counts, u8 *marks
) {
    FOR_EACH(i, n) {
        const int label = maps[i];
        const bool agreed =
            label > 0 && seeds[i] <= 0 && label == maps[n + i] && label == maps[2 * (u64)n + i];
        if (lowest) {
            marks[i] = agreed && (int)evidence.rank((u32)i) >= lowest[label];
        } else if (agreed) {
            atomicAdd(&counts[(u64)label * RANKS + evidence.rank((u32)i)], 1u);
        }
    }
}

// Distances and differences of pixels to the seeds of their labels.
KERNEL measure(
    const Evidence evidence, const u32 *pixels, const int *labels, u32 n, float *distances, float *differences,
    u32 *ranks
) {
    FOR_EACH(i, n) {
        evidence.nearest(pixels[i], labels[pixels[i]], distances + i, differences + i);
        ranks[i] = evidence.rank(pixels[i]);
    }
}

struct Leads {
    float of_two[3], of_first[3];
    const float *per_distance, *per_difference;
    __device__ float against(const Evidence &evidence, u32 pixel, int label) const {
        float distance, difference;
        evidence.nearest(pixel, label, &distance, &difference);
        const float far = exact_add(1, exact_multiply(per_distance[label], distance));
        return exact_multiply(far, exact_add(1, exact_multiply(per_difference[label], difference)));
    }
};

// Give pixels, of the three labels that maps (3, n_all) bring, the one with least against it.
KERNEL choose(
    const Evidence evidence, const Leads leads, const int *maps, u32 n_all, const u32 *pixels, u32 n, int *labels
) {
    const float infinite = from_bits(infinity_bits(0u));
    FOR_EACH(i, n) {
        const u32 pixel = pixels[i];
        const int brought[3] = {maps[pixel], maps[n_all + (u64)pixel], maps[2 * (u64)n_all + pixel]};
        if (brought[0] != brought[1] && brought[0] != brought[2] && brought[1] != brought[2]) {
            int label = brought[0];
            if (leads.of_first[1] != infinite || leads.of_first[2] != infinite) {
                float least = leads.against(evidence, pixel, label);
                for (u32 k = 1; k < 3; k++) {
                    if (!(least > leads.of_first[k])) continue;  // there is at least 1 against a label
                    const float against =
                        exact_multiply(leads.of_first[k], leads.against(evidence, pixel, brought[k]));
                    if (against < least) {
                        label = brought[k];
                        least = against;
                    }
                }
            }
            labels[pixel] = label;
            continue;
        }
        const u32 lone = brought[1] == brought[2] ? 0 : brought[0] == brought[2] ? 1 : 2, two = lone == 0;
        labels[pixel] = brought[two];
        if (leads.of_two[lone] == infinite) continue;
        const float least = leads.against(evidence, pixel, brought[two]);
        if (least < leads.of_two[lone]) continue;
        const float against = exact_multiply(leads.of_two[lone], leads.against(evidence, pixel, brought[lone]));
        if (against < least || (against == least && lone == 0)) labels[pixel] = brought[lone];
    }
}
