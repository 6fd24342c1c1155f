// Votes over small windows: aproarray/cpu/_flood.pyx, cast_votes. Sums are in the CPU's order.
//
// Images are padded by pixels of label -1, so that a window is the same steps from every pixel with another label.

#include "common.cuh"

struct Ballots {
    const float *features;  // (n, channels)
    const int *labels;
    const int *zones;  // pixels of different ones do not hear one another; or null
    const u8 *held;
    const int *steps;  // to the others of a window
    u32 n_steps, channels;
    double scale;
    __device__ int heard(u64 pixel, u32 s) const {
        const u64 there = pixel + steps[s];
        const int label = labels[there];
        return label > 0 && (!zones || zones[there] == zones[pixel]) ? label : 0;
    }
    __device__ double vote(u64 pixel, u32 s) const {
        const float *const own = features + pixel * channels, *const other = features + (pixel + steps[s]) * channels;
        double distance = 0;
        for (u32 c = 0; c < channels; c++) {
            const double difference = exact_subtract(own[c], other[c]);
            distance = exact_add(distance, exact_multiply(difference, difference));
        }
        return exp(exact_multiply(-distance, scale));
    }
    // The votes for a label, of those that are heard from step `first` on.
    __device__ double votes_for(u64 pixel, int label, u32 first, double sum) const {
        for (u32 s = first; s < n_steps; s++)
            if (heard(pixel, s) == label) sum = exact_add(sum, vote(pixel, s));
        return sum;
    }
};

// The label of the largest vote, for every pixel at once. Ties keep a pixel's own, and then the first that is met.
//
// shares (n_labels, n), or null, gets the votes as shares, where windows hold more than one label; it begins as those of
// the labels that there are.
KERNEL cast_votes(const Ballots ballots, u32 n, int *chosen, float *shares, u32 *n_changed) {
    FOR_EACH(pixel, n) {
        const int own = ballots.labels[pixel];
        chosen[pixel] = own;
        if (own <= 0 || ballots.held[pixel]) continue;
        // Neither zones nor votes matter to whether there is another label.
        bool is_mixed = false;
        for (u32 s = 0; s < ballots.n_steps && !is_mixed; s++) {
            const int label = ballots.labels[pixel + ballots.steps[s]];
            is_mixed = label > 0 && label != own;
        }
        if (!is_mixed) continue;
        const double of_own = ballots.votes_for(pixel, own, 0, 1);
        double most = of_own, total = 1;
        int best = own;
        if (shares) {
            for (u32 s = 0; s < ballots.n_steps; s++)
                if (ballots.heard(pixel, s)) total = exact_add(total, ballots.vote(pixel, s));
            shares[(u64)(own - 1) * n + pixel] = (float)(of_own / total);
        }
        for (u32 s = 0; s < ballots.n_steps; s++) {
            const int label = ballots.heard(pixel, s);
            bool is_new = label > 0 && label != own;
            for (u32 before = 0; before < s && is_new; before++) is_new = ballots.heard(pixel, before) != label;
            if (!is_new) continue;
            const double votes = ballots.votes_for(pixel, label, s, 0);
            if (votes > most) {
                most = votes;
                best = label;
            }
            if (shares) shares[(u64)(label - 1) * n + pixel] = (float)(votes / total);
        }
        chosen[pixel] = best;
        if (best != own) *n_changed = 1;
    }
}

// A share of 1 of the label that a pixel has; shares (n_labels, n) begin as 0.
KERNEL own_shares(const int *labels, u32 n, float *shares) {
    FOR_EACH(pixel, n) {
        if (labels[pixel] > 0) shares[(u64)(labels[pixel] - 1) * n + pixel] = 1;
    }
}
