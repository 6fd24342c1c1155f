// Which label a pixel takes where floods disagree: aproarray/cpu/_settle.pyx, in its order of sums.

#include "common.cuh"

#define LANES 8

struct Evidence {
    const int *begins;  // blocks of each label's seeds
    const double *places;  // (blocks, axes, LANES)
    const double *colours;  // (blocks, channels, LANES)
    const float *features;  // (n, channels)
    u32 n_axes, channels;
    u64 strides[8];
    double spacing[8];
    // How far the nearest seed of a label is, and how much the most alike one differs.
    __device__ void nearest(u64 pixel, int label, double *distance, double *difference) const {
        double near = infinity(), alike = near;
        for (int block = begins[label]; block < begins[label + 1]; block++) {
            for (u32 lane = 0; lane < LANES; lane++) {
                double square = 0;
                u64 rest = pixel;
                for (u32 axis = 0; axis < n_axes; axis++) {
                    const double place = exact_multiply((double)(rest / strides[axis]), spacing[axis]);
                    rest %= strides[axis];
                    const double step = exact_subtract(place, places[((u64)block * n_axes + axis) * LANES + lane]);
                    square = exact_add(square, exact_multiply(step, step));
                }
                if (square < near) near = square;
                square = 0;
                for (u32 c = 0; c < channels; c++) {
                    const double own = features[pixel * channels + c];
                    const double step = exact_subtract(own, colours[((u64)block * channels + c) * LANES + lane]);
                    square = exact_add(square, exact_multiply(step, step));
                }
                if (square < alike) alike = square;
            }
        }
        *distance = sqrt(near);
        *difference = sqrt(alike);
    }
    __device__ static double infinity() { return from_bits(infinity_bits((u64)0)); }
};

// Distances and differences of pixels to the seeds of their labels.
KERNEL measure(
    const Evidence evidence, const u32 *pixels, const int *labels, u32 n, double *distances, double *differences
) {
    FOR_EACH(i, n) evidence.nearest(pixels[i], labels[pixels[i]], distances + i, differences + i);
}

struct Scores {
    double trust[3];
    double strength, most;
    const double *per_distance;
    const double *per_difference;
};

// Give pixels, of the three labels that maps (3, n_all) bring, the one of the highest score.
KERNEL choose(
    const Evidence evidence, const Scores scores, const int *maps, u32 n_all, const long long *pixels, u32 n, int *labels
) {
    FOR_EACH(i, n) {
        const u64 pixel = (u64)pixels[i];
        const int brought[3] = {maps[pixel], maps[n_all + pixel], maps[2 * (u64)n_all + pixel]};
        const double *const trust = scores.trust;
        int best_label = brought[0];
        double best = 0;
        if (brought[1] == brought[2] && trust[1] + trust[2] - trust[0] > scores.most) {
            labels[pixel] = brought[1];
            continue;
        }
        if ((brought[0] == brought[1] && trust[0] + trust[1] - trust[2] > scores.most)
            || (brought[0] == brought[2] && trust[0] + trust[2] - trust[1] > scores.most)) {
            labels[pixel] = brought[0];
            continue;
        }
        for (u32 k = 0; k < 3; k++) {
            const int label = brought[k];
            if (k > 0 && (label == brought[0] || (k == 2 && label == brought[1]))) continue;
            double score = trust[k], distance, difference;
            for (u32 other = k + 1; other < 3; other++)
                if (brought[other] == label) score += trust[other];
            if (k > 0 && score <= best) continue;
            evidence.nearest(pixel, label, &distance, &difference);
            const double far = exact_add(1, exact_multiply(scores.per_distance[label], distance));
            const double unlike = exact_add(1, exact_multiply(scores.per_difference[label], difference));
            score = exact_subtract(score, exact_multiply(scores.strength, log(exact_multiply(far, unlike))));
            if (k == 0 || score > best) {
                best_label = label;
                best = score;
            }
        }
        labels[pixel] = best_label;
    }
}
