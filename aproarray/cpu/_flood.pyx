"""Labels from seeds: the minimum spanning forest rooted at the seeds, and votes over small windows.

Both work on images that are padded on all sides by pixels that take no part (label -1), so that a
neighbour is a fixed step away from every pixel. Neither depends on the number of labels.
"""

from libc.math cimport exp
from libc.stdint cimport int32_t
from libc.stdlib cimport free, malloc

from aproarray.cpu._lists cimport (
    DONE,
    N_LISTS,
    Pixel,
    Queue,
    UNREACHED,
    append,
    bits_of_lightest,
    lightest,
    list_of,
    remove,
)


cdef inline void reach(
    Queue *queue, const Py_ssize_t *steps, int n_steps, int32_t pixel, int32_t lightest_bits
) noexcept nogil:
    """Let a pixel's unlabelled neighbours wait for its label, if its edge is the lightest to reach them."""
    cdef int s
    cdef int32_t there, k, label = queue.pixels[pixel].label
    cdef float relief = queue.pixels[pixel].relief
    for s in range(n_steps):
        there = <int32_t> (pixel + steps[s])
        if queue.pixels[there].in_list == DONE:
            continue
        k = list_of(relief + queue.pixels[there].relief, lightest_bits)
        if k < queue.pixels[there].in_list:
            if queue.pixels[there].in_list != UNREACHED:
                remove(queue, there)
            append(queue, there, k, label)


cdef enum Stage:
    LOADING
    SEEDING
    SPREADING
    STORING
    FINISHED


cdef class Flood:
    """A flood of one relief, from all seeds at once, which can be left and resumed.

    Unlabelled pixels (0) of `labels` receive the label that Prim's algorithm brings them. An edge weighs
    relief[u] + relief[v], at most `heaviest`. Weights are compared to 11 significant bits, and as equal below
    heaviest / 2^15. Of equal edges the one reached first goes first, so that a plain area is shared out by
    the number of steps from the seeds. Pixels of label -1 are never entered.
    """

    cdef Queue queue
    cdef const float[::1] relief
    cdef int32_t[::1] labels
    cdef const Py_ssize_t[::1] steps
    cdef int32_t lightest_bits
    cdef Stage stage
    cdef Py_ssize_t at  # the next pixel of this stage

    def __cinit__(
        self, const float[::1] relief, int32_t[::1] labels, const Py_ssize_t[::1] steps, float heaviest
    ):
        cdef Py_ssize_t n = relief.shape[0], i
        self.relief, self.labels, self.steps = relief, labels, steps
        self.lightest_bits = bits_of_lightest(heaviest)
        self.stage, self.at = LOADING, 0
        self.queue.pixels = <Pixel *> malloc(max(n, 1) * sizeof(Pixel))
        self.queue.first = <int32_t *> malloc(N_LISTS * sizeof(int32_t))
        self.queue.last = <int32_t *> malloc(N_LISTS * sizeof(int32_t))
        if self.queue.pixels == NULL or self.queue.first == NULL or self.queue.last == NULL:
            raise MemoryError(f"no memory to flood {n} pixels")
        for i in range(N_LISTS):
            self.queue.first[i] = -1

    def __dealloc__(self):
        free(self.queue.pixels)
        free(self.queue.first)
        free(self.queue.last)

    def run(self, Py_ssize_t pixels):
        """Go on for so many pixels. Return whether there is more to do."""
        cdef Py_ssize_t n = self.relief.shape[0], stop
        cdef int n_steps = <int> self.steps.shape[0]
        cdef int32_t pixel
        cdef Queue *queue = &self.queue
        with nogil:
            if self.stage == SPREADING:
                while pixels > 0:
                    pixel = lightest(queue)
                    if pixel < 0:
                        self.stage, self.at = STORING, 0
                        break
                    remove(queue, pixel)
                    queue.pixels[pixel].in_list = DONE
                    reach(queue, &self.steps[0], n_steps, pixel, self.lightest_bits)
                    pixels -= 1
            else:
                stop = min(n, self.at + pixels)
                while self.at < stop:
                    if self.stage == LOADING:
                        queue.pixels[self.at].in_list = DONE if self.labels[self.at] else UNREACHED
                        queue.pixels[self.at].label = self.labels[self.at]
                        queue.pixels[self.at].relief = self.relief[self.at]
                    elif self.stage == SEEDING:
                        if self.labels[self.at] > 0:
                            reach(queue, &self.steps[0], n_steps, <int32_t> self.at, self.lightest_bits)
                    elif queue.pixels[self.at].in_list == DONE:
                        self.labels[self.at] = queue.pixels[self.at].label
                    self.at += 1
                if self.at == n:
                    self.stage, self.at = <Stage> (self.stage + 1), 0
        return self.stage != FINISHED


cdef struct Spot:
    # A pixel of an image whose axes have units of their own. If it waits, it does at a place of the heap.
    double square_distance  # from its source, in units
    int32_t in_list
    int32_t source  # the seed that its label comes from
    int32_t place
    float relief


cdef struct Heap:
    Spot *spots
    int32_t *pixels
    Py_ssize_t n


cdef inline bint before(const Spot *spots, int32_t u, int32_t v) noexcept nogil:
    """Whether pixel u is entered before v: by weight, by distance, by the numbers of seeds and pixels."""
    if spots[u].in_list != spots[v].in_list:
        return spots[u].in_list < spots[v].in_list
    if spots[u].square_distance != spots[v].square_distance:
        return spots[u].square_distance < spots[v].square_distance
    if spots[u].source != spots[v].source:
        return spots[u].source < spots[v].source
    return u < v


cdef inline void rise(Heap *heap, int32_t pixel, Py_ssize_t place) noexcept nogil:
    """Put a pixel at this place of the heap, or above as far as it comes before."""
    cdef Py_ssize_t above
    while place > 0:
        above = (place - 1) >> 1
        if not before(heap.spots, pixel, heap.pixels[above]):
            break
        heap.pixels[place] = heap.pixels[above]
        heap.spots[heap.pixels[place]].place = <int32_t> place
        place = above
    heap.pixels[place] = pixel
    heap.spots[pixel].place = <int32_t> place


cdef inline int32_t take_first(Heap *heap) noexcept nogil:
    cdef int32_t first = heap.pixels[0], moved
    cdef Py_ssize_t place = 0, below
    heap.n -= 1
    moved = heap.pixels[heap.n]
    while True:
        below = 2 * place + 1
        if below >= heap.n:
            break
        if below + 1 < heap.n and before(heap.spots, heap.pixels[below + 1], heap.pixels[below]):
            below += 1
        if not before(heap.spots, heap.pixels[below], moved):
            break
        heap.pixels[place] = heap.pixels[below]
        heap.spots[heap.pixels[place]].place = <int32_t> place
        place = below
    if heap.n:
        heap.pixels[place] = moved
        heap.spots[moved].place = <int32_t> place
    return first


cdef enum:
    MAX_NDIM = 8


cdef class SpacedFlood:
    """A flood as `Flood` is, of an image (shape) whose pixels are `spacing` apart along each axis.

    Of equal edges the one goes first whose far end is nearest, in units and as the crow flies, to the seed
    that its label comes from. `steps` lead one pixel along one axis each.
    """

    cdef Heap heap
    cdef const float[::1] relief
    cdef int32_t[::1] labels
    cdef const Py_ssize_t[::1] steps
    cdef int ndim
    cdef Py_ssize_t strides[MAX_NDIM]
    cdef double spacing[MAX_NDIM]
    cdef int32_t lightest_bits
    cdef Stage stage
    cdef Py_ssize_t at

    def __cinit__(
        self, const float[::1] relief, int32_t[::1] labels, const Py_ssize_t[::1] steps, float heaviest,
        tuple shape, tuple spacing,
    ):
        cdef Py_ssize_t n = relief.shape[0], stride = 1, axis
        self.relief, self.labels, self.steps = relief, labels, steps
        self.ndim = len(shape)
        for axis in range(self.ndim - 1, -1, -1):
            self.strides[axis] = stride
            self.spacing[axis] = spacing[axis]
            stride *= shape[axis]
        self.lightest_bits = bits_of_lightest(heaviest)
        self.stage, self.at = LOADING, 0
        self.heap.n = 0
        self.heap.spots = <Spot *> malloc(max(n, 1) * sizeof(Spot))
        self.heap.pixels = <int32_t *> malloc(max(n, 1) * sizeof(int32_t))
        if self.heap.spots == NULL or self.heap.pixels == NULL:
            raise MemoryError(f"no memory to flood {n} pixels")

    def __dealloc__(self):
        free(self.heap.spots)
        free(self.heap.pixels)

    def run(self, Py_ssize_t pixels):
        """Go on for so many pixels. Return whether there is more to do."""
        cdef Py_ssize_t n = self.relief.shape[0], stop
        cdef int32_t pixel
        cdef Spot *spots = self.heap.spots
        with nogil:
            if self.stage == SPREADING:
                while pixels > 0:
                    if self.heap.n == 0:
                        self.stage, self.at = STORING, 0
                        break
                    pixel = take_first(&self.heap)
                    spots[pixel].in_list = DONE
                    self.reach(pixel)
                    pixels -= 1
            else:
                stop = min(n, self.at + pixels)
                while self.at < stop:
                    if self.stage == LOADING:
                        spots[self.at].in_list = DONE if self.labels[self.at] else UNREACHED
                        spots[self.at].source = <int32_t> self.at
                        spots[self.at].relief = self.relief[self.at]
                    elif self.stage == SEEDING:
                        if self.labels[self.at] > 0:
                            self.reach(<int32_t> self.at)
                    elif spots[self.at].in_list == DONE and self.labels[self.at] == 0:
                        self.labels[self.at] = self.labels[spots[self.at].source]
                    self.at += 1
                if self.at == n:
                    self.stage, self.at = <Stage> (self.stage + 1), 0
        return self.stage != FINISHED

    cdef void reach(self, int32_t pixel) noexcept nogil:
        """Let a pixel's neighbours wait for its label, if its edge is the lightest to reach them, or as light
        and its seed nearer."""
        cdef Spot *spots = self.heap.spots
        cdef Spot *other
        cdef int32_t there, k, source = spots[pixel].source
        cdef Py_ssize_t step, own_rest = pixel, source_rest = source, axis, s
        cdef double apart[MAX_NDIM]
        cdef double square, along
        for axis in range(self.ndim):
            apart[axis] = <double> (own_rest // self.strides[axis] - source_rest // self.strides[axis])
            own_rest %= self.strides[axis]
            source_rest %= self.strides[axis]
        for s in range(self.steps.shape[0]):
            step = self.steps[s]
            there = <int32_t> (pixel + step)
            other = &spots[there]
            if other.in_list == DONE:
                continue
            k = list_of(spots[pixel].relief + other.relief, self.lightest_bits)
            if k > other.in_list:
                continue
            square = 0
            for axis in range(self.ndim):
                along = apart[axis]
                if step == self.strides[axis]:
                    along += 1
                elif step == -self.strides[axis]:
                    along -= 1
                along *= self.spacing[axis]
                square += along * along
            if k == other.in_list and (
                square > other.square_distance or (square == other.square_distance and source >= other.source)
            ):
                continue
            if other.in_list == UNREACHED:
                other.place = <int32_t> self.heap.n
                self.heap.n += 1
            other.in_list = k
            other.square_distance = square
            other.source = source
            rise(&self.heap, there, other.place)


cdef struct Ballot:
    # Votes of one pixel's window: the labels it holds, in the order they are met, and their votes.
    double *votes
    int32_t *met
    int n_met
    double total


cdef inline void vote_at(
    Ballot *ballot, const int32_t *labels, const int32_t *zones, const float *features, int n_channels,
    const Py_ssize_t *steps, int n_steps, Py_ssize_t pixel, double scale,
) noexcept nogil:
    cdef int s, c, m
    cdef int32_t label
    cdef Py_ssize_t there
    cdef double distance, difference
    ballot.n_met = 1
    ballot.met[0] = labels[pixel]
    ballot.votes[0] = 1  # its own
    ballot.total = 1
    for s in range(n_steps):
        there = pixel + steps[s]
        label = labels[there]
        if label <= 0 or (zones != NULL and zones[there] != zones[pixel]):
            continue
        distance = 0
        for c in range(n_channels):
            difference = features[pixel * n_channels + c] - features[there * n_channels + c]
            distance += difference * difference
        distance = exp(-distance * scale)
        m = 0
        while m < ballot.n_met and ballot.met[m] != label:
            m += 1
        if m == ballot.n_met:
            ballot.met[m] = label
            ballot.votes[m] = 0
            ballot.n_met += 1
        ballot.votes[m] += distance
        ballot.total += distance


def cast_votes(
    const float[:, ::1] features, const int32_t[::1] labels, const int32_t[::1] zones,
    const Py_ssize_t[::1] steps, double scale, const int32_t[::1] active, int32_t[::1] chosen,
    float[:, ::1] shares, Py_ssize_t first, Py_ssize_t last,
):
    """Choose labels for the pixels active[first:last]: that of the largest vote over their window.

    A neighbour at squared distance d in `features` (N, C) votes with exp(-d scale), the pixel itself
    with 1; `steps` lead to the others of the window. Pixels of different `zones` (no entries: there is
    one) do not hear one another. Ties keep the label. `shares` (N, n_labels, or no rows) receives the votes
    as shares.
    """
    cdef int n_steps = <int> steps.shape[0], n_channels = <int> features.shape[1], m, best
    cdef bint wanted = shares.shape[0] > 0
    cdef const int32_t *zones_data = &zones[0] if zones.shape[0] else NULL
    cdef Ballot ballot
    cdef Py_ssize_t i
    if first == last:
        return
    ballot.votes = <double *> malloc((n_steps + 1) * sizeof(double))
    ballot.met = <int32_t *> malloc((n_steps + 1) * sizeof(int32_t))
    if ballot.votes == NULL or ballot.met == NULL:
        free(ballot.votes)
        free(ballot.met)
        raise MemoryError(f"no memory for the votes of {n_steps} pixels")
    with nogil:
        for i in range(first, last):
            vote_at(
                &ballot, &labels[0], zones_data, &features[0, 0], n_channels, &steps[0], n_steps, active[i],
                scale,
            )
            best = 0
            for m in range(ballot.n_met):
                if ballot.votes[m] > ballot.votes[best]:
                    best = m
            chosen[i] = ballot.met[best]
            if wanted:
                for m in range(ballot.n_met):
                    shares[active[i], ballot.met[m] - 1] = <float> (ballot.votes[m] / ballot.total)
        free(ballot.votes)
        free(ballot.met)


def change_labels(
    int32_t[::1] labels, int32_t[::1] active, const int32_t[::1] chosen, unsigned char[::1] queued,
    Py_ssize_t first, Py_ssize_t last, Py_ssize_t n_changed,
):
    """Give the pixels active[first:last] the labels that were chosen, and take them from the queue.

    Those that change are moved to the front of `active`, where n_changed are already. Return how many there
    are now.
    """
    cdef Py_ssize_t i
    cdef int32_t pixel
    with nogil:
        for i in range(first, last):
            pixel = active[i]
            queued[pixel] = 0
            if chosen[i] != labels[pixel]:
                labels[pixel] = chosen[i]
                active[n_changed] = pixel
                n_changed += 1
    return n_changed


def queue_windows(
    const int32_t[::1] labels, const unsigned char[::1] held, const Py_ssize_t[::1] steps,
    const int32_t[::1] changed, unsigned char[::1] queued, int32_t[::1] following,
    Py_ssize_t first, Py_ssize_t last, Py_ssize_t n_queued,
):
    """Queue the pixels whose window holds one of changed[first:last]: others vote as they did before.

    They are written to `following`, where n_queued are already. Return how many there are now.
    """
    cdef Py_ssize_t i, s, n_steps = steps.shape[0], pixel
    with nogil:
        for i in range(first, last):
            for s in range(n_steps + 1):
                pixel = changed[i] + (steps[s] if s < n_steps else 0)
                if labels[pixel] > 0 and not held[pixel] and not queued[pixel]:
                    queued[pixel] = 1
                    following[n_queued] = <int32_t> pixel
                    n_queued += 1
    return n_queued


def with_mixed_window(
    const int32_t[::1] labels, const unsigned char[::1] held, const Py_ssize_t[::1] steps,
    int32_t[::1] pixels, Py_ssize_t first, Py_ssize_t last,
):
    """List those of pixels [first, last) that may change: their window holds another label than theirs.

    They are written to `pixels` from `first` on. Return how many there are.
    """
    cdef Py_ssize_t i, s, count = 0
    cdef int32_t label, other
    with nogil:
        for i in range(first, last):
            label = labels[i]
            if label <= 0 or held[i]:
                continue
            for s in range(steps.shape[0]):
                other = labels[i + steps[s]]
                if other > 0 and other != label:
                    pixels[first + count] = <int32_t> i
                    count += 1
                    break
    return count


def own_shares(const int32_t[::1] labels, float[:, ::1] shares, Py_ssize_t first, Py_ssize_t last):
    """Give pixels [first, last) a share of 1 of the label they have, if any."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(first, last):
            if labels[i] > 0:
                shares[i, labels[i] - 1] = 1
