"""Labels from seeds: the minimum spanning forest rooted at the seeds, and votes over small windows.

Both work on images that are padded on all sides by pixels that take no part (label -1), so that a
neighbour is a fixed step away from every pixel. Neither depends on the number of labels.
"""

cimport cython

import numpy as np

from libc.math cimport M_LOG2E, exp
from libc.stdint cimport int16_t, int32_t, int64_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memset

from aproarray.cpu._levels cimport (
    DONE, N_LISTS, N_TOP_WORDS, N_WORDS, UNREACHED, apro_lowest_bit, bits_of_lightest, list_of,
)
from aproarray.cpu._prefetch cimport prefetch

_PIXEL = np.dtype([("relief", np.float32), ("reached", np.int32)])

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* 2^-x for x from 0 on (2^-126 beyond 126), to 1e-6 of it. Without branches, its limit set among bits:
       compilers make vector code of loops over it. */
    static float apro_half_to(float x) {
        float rest, power;
        int32_t bits, limit = 0x42fc0000, whole;
        memcpy(&bits, &x, 4);
        bits = bits < limit ? bits : limit;
        memcpy(&x, &bits, 4);
        whole = (int32_t) x;
        rest = (float) whole - x;
        bits = (127 - whole) << 23;
        memcpy(&power, &bits, 4);
        return power * (((((9.4755365e-4f * rest + 9.2108756e-3f) * rest + 5.5299607e-2f) * rest
            + 0.24017949f) * rest + 0.6931432f) * rest + 0.99999994f);
    }
    """
    float apro_half_to(float x) noexcept nogil

cdef enum:
    MAX_NDIM = 8
    MAX_STEPS = 2 * MAX_NDIM


cdef enum:
    N_ENTRIES = 15
    FEW_CHUNKS = 1 << 10
    AHEAD = 2  # entries of a list whose pixels are fetched before they are needed


cdef struct Chunk:
    int32_t following  # the next chunk of a list, or the next free one
    int32_t pixels[N_ENTRIES]


cdef struct List:
    # Pixels that wait, in the order in which they came: from `begin` of the first chunk to `end` of the last.
    int32_t first
    int32_t last
    int16_t begin
    int16_t end


cdef struct Queue:
    List *lists
    Chunk *chunks
    int32_t n_chunks
    int32_t capacity
    int32_t free_chunk
    bint failed  # for want of memory
    uint64_t words[N_WORDS]
    uint64_t top_words[N_TOP_WORDS]


cdef int open_queue(Queue *queue) noexcept nogil:
    """Make an empty queue. Return whether there is memory for it."""
    cdef int32_t k
    memset(queue, 0, sizeof(Queue))
    queue.capacity = FEW_CHUNKS
    queue.free_chunk = -1
    queue.lists = <List *> malloc(N_LISTS * sizeof(List))
    queue.chunks = <Chunk *> calloc(FEW_CHUNKS, sizeof(Chunk))
    if queue.lists == NULL or queue.chunks == NULL:
        return False
    for k in range(N_LISTS):
        queue.lists[k].first = -1
    return True


cdef void close_queue(Queue *queue) noexcept nogil:
    free(queue.lists)
    free(queue.chunks)


cdef int32_t new_chunk(Queue *queue) noexcept nogil:
    """Return a chunk that no list has."""
    cdef int32_t chunk = queue.free_chunk, wanted
    cdef Chunk *grown
    if chunk >= 0:
        queue.free_chunk = queue.chunks[chunk].following
        return chunk
    if queue.n_chunks == queue.capacity:
        wanted = 2 * queue.capacity
        grown = <Chunk *> realloc(queue.chunks, wanted * sizeof(Chunk))
        if grown == NULL:
            queue.failed = True
            return 0  # which is overwritten: the flood is given up
        # Pixels are fetched ahead of what was written.
        memset(&grown[queue.capacity], 0, queue.capacity * sizeof(Chunk))
        queue.chunks, queue.capacity = grown, wanted
    queue.n_chunks += 1
    return queue.n_chunks - 1


cdef inline void free_chunk(Queue *queue, int32_t chunk) noexcept nogil:
    queue.chunks[chunk].following = queue.free_chunk
    queue.free_chunk = chunk


cdef inline void append(Queue *queue, int32_t pixel, int32_t k) noexcept nogil:
    """Let a pixel wait at the end of list k."""
    cdef List *waiting = &queue.lists[k]
    cdef int32_t word = k >> 6, chunk
    if waiting.first < 0:
        waiting.first = waiting.last = new_chunk(queue)
        waiting.begin = waiting.end = 0
        queue.words[word] |= <uint64_t> 1 << (k & 63)
        queue.top_words[word >> 6] |= <uint64_t> 1 << (word & 63)
    elif waiting.end == N_ENTRIES:
        chunk = new_chunk(queue)
        queue.chunks[waiting.last].following = chunk
        waiting.last = chunk
        waiting.end = 0
    queue.chunks[waiting.last].pixels[waiting.end] = pixel
    waiting.end += 1


cdef inline int32_t lightest(const Queue *queue) noexcept nogil:
    """The lightest list that is not empty, or -1."""
    cdef int32_t i, word
    for i in range(N_TOP_WORDS):
        if queue.top_words[i]:
            word = (i << 6) + apro_lowest_bit(queue.top_words[i])
            return (word << 6) + apro_lowest_bit(queue.words[word])
    return -1


cdef inline int32_t first_of(const Queue *queue, int32_t k) noexcept nogil:
    """The pixel that has waited longest in list k, which is not empty."""
    return queue.chunks[queue.lists[k].first].pixels[queue.lists[k].begin]


cdef inline void remove_first(Queue *queue, int32_t k) noexcept nogil:
    """Take the pixel that has waited longest out of list k, which is not empty."""
    cdef List *waiting = &queue.lists[k]
    cdef int32_t word = k >> 6, chunk = waiting.first
    waiting.begin += 1
    if chunk == waiting.last:
        if waiting.begin == waiting.end:
            free_chunk(queue, chunk)
            waiting.first = -1
            queue.words[word] &= ~(<uint64_t> 1 << (k & 63))
            if queue.words[word] == 0:
                queue.top_words[word >> 6] &= ~(<uint64_t> 1 << (word & 63))
    elif waiting.begin == N_ENTRIES:
        waiting.first = queue.chunks[chunk].following
        waiting.begin = 0
        free_chunk(queue, chunk)


# The lightest edge that has reached a pixel: its list, and the step that it leads along. Lists alone are
# compared, by `>> STEP_BITS`. Once the pixel has a label, the label takes the place of the list, and the
# number is below 0.
cdef enum:
    STEP_BITS = 4
    STEP_MASK = MAX_STEPS - 1
    ENTERED = -0x7fffffff - 1

MOST_LABELS = (1 << (31 - STEP_BITS)) - 2  # DONE is not one of them


cdef struct Pixel:
    # What a neighbour asks for, in one place, as neighbours are far away in memory.
    float relief
    int32_t reached


cdef inline void reach(
    Queue *queue, Pixel *pixels, const int32_t *steps, int n_steps, int32_t pixel, int32_t lightest_bits
) noexcept nogil:
    """Let a pixel's unlabelled neighbours wait for its label, if its edge is the lightest to reach them.

    They stay where they have waited before, and find that they have their label when it is their turn there.
    """
    cdef int s, t
    cdef int32_t there
    cdef int32_t lists[MAX_STEPS]
    cdef float relief = pixels[pixel].relief
    cdef uint64_t reached = 0  # a bit for each: fewer branches that nobody can predict
    for s in range(n_steps):
        there = pixel + steps[s]
        lists[s] = list_of(relief + pixels[there].relief, lightest_bits)
        reached |= <uint64_t> (lists[s] < pixels[there].reached >> STEP_BITS) << s
    while reached:
        s = apro_lowest_bit(reached)
        reached &= reached - 1
        there = pixel + steps[s]
        pixels[there].reached = lists[s] << STEP_BITS | s
        for t in range(n_steps):  # most pixels that wait have their turn soon
            if steps[t] > 1 or steps[t] < -1:
                prefetch(&pixels[there + steps[t]])
        append(queue, there, lists[s])


cdef inline void fetch_ahead(
    const Queue *queue, const Pixel *pixels, const int32_t *steps, int n_steps, int32_t k
) noexcept nogil:
    """Fetch what will be asked for a few pixels later in list k."""
    cdef const List *waiting = &queue.lists[k]
    cdef int32_t later
    cdef int s
    if waiting.begin + AHEAD < N_ENTRIES:
        later = queue.chunks[waiting.first].pixels[waiting.begin + AHEAD]
        prefetch(&pixels[later])
        for s in range(n_steps):
            if steps[s] > 1 or steps[s] < -1:
                prefetch(&pixels[later + steps[s]])


cdef enum Stage:
    LOADING
    SEEDING
    SPREADING
    STORING
    FINISHED


cdef void copy_steps(int32_t *copied, const Py_ssize_t[::1] steps) noexcept:
    cdef Py_ssize_t s
    for s in range(steps.shape[0]):
        copied[s] = <int32_t> steps[s]


@cython.final
cdef class Flood:
    """A flood of one relief, from all seeds at once, which can be left and resumed.

    Unlabelled pixels (0) of `labels` receive the label that Prim's algorithm brings them. An edge weighs
    relief[u] + relief[v], at most `heaviest`. Weights are compared to 11 significant bits, and as equal below
    heaviest / 2^15. Of equal edges the one reached first goes first, so that a plain area is shared out by
    the number of steps from the seeds. Pixels of label -1 are never entered.

    `order` receives the pixels in the order in which they are entered, `n_entered` of them, and `levels` the
    list of the edge that each is entered by. `directions` receives the step that led to each pixel.
    """

    cdef readonly Py_ssize_t n_entered
    cdef Queue queue
    cdef Pixel[::1] pixels
    cdef const float[::1] relief
    cdef int32_t[::1] labels
    cdef int32_t[::1] order
    cdef uint16_t[::1] levels
    cdef unsigned char[::1] directions
    cdef int32_t steps[MAX_STEPS]
    cdef int n_steps
    cdef int32_t lightest_bits
    cdef Stage stage
    cdef Py_ssize_t at  # the next pixel of this stage

    def __cinit__(
        self, const float[::1] relief, int32_t[::1] labels, const Py_ssize_t[::1] steps, float heaviest,
        int32_t[::1] order, uint16_t[::1] levels, unsigned char[::1] directions,
    ):
        cdef Py_ssize_t n = relief.shape[0]
        self.relief, self.labels = relief, labels
        self.order, self.levels, self.directions = order, levels, directions
        self.n_steps = <int> steps.shape[0]
        copy_steps(self.steps, steps)
        self.lightest_bits = bits_of_lightest(heaviest)
        self.stage, self.at, self.n_entered = LOADING, 0, 0
        self.pixels = np.empty(n, _PIXEL)
        if not open_queue(&self.queue):
            raise MemoryError(f"no memory to flood {n} pixels")

    def __dealloc__(self):
        close_queue(&self.queue)

    def run(self, Py_ssize_t pixels):
        """Go on for so many pixels. Return whether there is more to do."""
        cdef Py_ssize_t n = self.relief.shape[0], stop
        with nogil:
            if self.stage == SPREADING:
                if self.n_steps == 4:
                    self.spread(pixels, 4)
                elif self.n_steps == 6:
                    self.spread(pixels, 6)
                else:
                    self.spread(pixels, self.n_steps)
            else:
                stop = min(n, self.at + pixels)
                if self.stage == LOADING:
                    self.load(stop)
                elif self.stage == SEEDING:
                    self.seed(stop)
                else:
                    self.store(stop)
                self.at = stop
                if stop == n:
                    self.stage, self.at = <Stage> (self.stage + 1), 0
        if self.queue.failed:
            raise MemoryError(f"no memory to flood {n} pixels")
        return self.stage != FINISHED

    cdef void load(self, Py_ssize_t stop) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(self.at, stop):
            self.pixels[i].relief = self.relief[i]
            if self.labels[i] > 0:
                self.pixels[i].reached = ENTERED | self.labels[i] << STEP_BITS | STEP_MASK
            else:
                self.pixels[i].reached = DONE if self.labels[i] else UNREACHED << STEP_BITS

    cdef void seed(self, Py_ssize_t stop) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(self.at, stop):
            if self.labels[i] > 0:
                reach(
                    &self.queue, &self.pixels[0], self.steps, self.n_steps, <int32_t> i, self.lightest_bits
                )

    cdef inline void spread(self, Py_ssize_t n, int n_steps) noexcept nogil:
        cdef Queue *queue = &self.queue
        cdef Pixel *pixels = &self.pixels[0]
        cdef int32_t *order = &self.order[0]
        cdef uint16_t *levels = &self.levels[0]
        cdef int32_t pixel, k, step
        cdef Py_ssize_t entered = self.n_entered
        while n > 0:
            k = lightest(queue)
            if k < 0:
                self.stage, self.at = STORING, 0
                break
            pixel = first_of(queue, k)
            fetch_ahead(queue, pixels, self.steps, n_steps, k)
            remove_first(queue, k)
            step = pixels[pixel].reached & STEP_MASK
            if pixels[pixel].reached < 0:
                continue
            pixels[pixel].reached = pixels[pixel - self.steps[step]].reached & ~STEP_MASK | step
            order[entered] = pixel
            levels[entered] = <uint16_t> k
            entered += 1
            reach(queue, pixels, self.steps, n_steps, pixel, self.lightest_bits)
            n -= 1
        self.n_entered = entered

    cdef void store(self, Py_ssize_t stop) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(self.at, stop):
            self.directions[i] = <unsigned char> (self.pixels[i].reached & STEP_MASK)
            if self.pixels[i].reached < DONE:
                self.labels[i] = (self.pixels[i].reached & ~ENTERED) >> STEP_BITS


cdef enum:
    NO_RANK = 0x7fffffff  # of a pixel without a label
    NO_PART = -0x7fffffff - 1  # of a pixel that takes no part
    FOUND = UNREACHED << STEP_BITS | 1  # instead of UNREACHED: it is listed as a start


cdef struct Mark:
    # Of a pixel, for a repair.
    int32_t rank  # when it was entered: its place in the order, or for a seed its index - N
    int32_t reached  # as of a `Pixel`, by new edges alone


MARK = np.dtype([("rank", np.int32), ("reached", np.int32)])


def mark_pixels(
    const int32_t[::1] seeds, const int32_t[::1] order, Py_ssize_t n_entered, Mark[::1] marks
):
    """Write the marks of all pixels, which no new edge has reached."""
    cdef Py_ssize_t i, n = seeds.shape[0]
    with nogil:
        for i in range(n):
            marks[i].rank = NO_RANK if seeds[i] == 0 else <int32_t> (i - n) if seeds[i] > 0 else NO_PART
            marks[i].reached = UNREACHED << STEP_BITS
        rank_from(marks, order, 0, n_entered)


cdef inline void rank_from(
    Mark[::1] marks, const int32_t[::1] order, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(first, last):
        prefetch(&marks[order[min(i + 32, last - 1)]])
        marks[order[i]].rank = <int32_t> i


cdef enum RepairStage:
    CLEARING
    BORDERING
    ADVANCING
    RELABELLING
    MERGING
    RANKING
    REPAIRED


@cython.final
cdef class Repair:
    """The flood of one relief from other seeds than before, which enters anew only what they change.

    See `Flood` for the arguments. All arrays are as that flood has left them, and `marks` are those of
    `mark_pixels`. `seeds` are the labels to flood from. `added` and `removed` are indices of seeds that came
    and went. A seed of another label is in both. `new_order` and `new_levels` receive what `order` and
    `levels` are to be, and those are spoiled. `marks` are kept up.

    Pixels that were entered from removed seeds are cleared first. Then the order of the flood that was is
    passed once more, without entering anything: it tells when edges of the new flood have their turn. A new
    edge goes before an old one if its list is lighter, or as light and it was reached earlier. Where it leads
    to a pixel that has no label yet at that time, it enters. The result is that of a flood from the start,
    because

    * edges whose pixels were entered along the same way from the same seed come in the same order in both
      floods, whatever else waits, so that the order that was may be kept for pixels that keep their way;
    * a pixel that was entered from one that a new edge has won is also won, as the same edge is reached
      earlier now. Edges that were too late in the flood that was are therefore too late again, but for those
      into cleared pixels. These are the new edges at the start, together with those of added seeds.
    """

    cdef readonly Py_ssize_t n_entered
    cdef Queue queue
    cdef const float[::1] relief
    cdef int32_t[::1] labels
    cdef int32_t[::1] order
    cdef uint16_t[::1] levels
    cdef unsigned char[::1] directions
    cdef Mark[::1] marks
    cdef const int32_t[::1] seeds
    cdef const int32_t[::1] added
    cdef int32_t[::1] new_order
    cdef uint16_t[::1] new_levels
    cdef int32_t[::1] cleared
    cdef Py_ssize_t n_cleared
    cdef int32_t[::1] starts  # ranks of the pixels whose edges are new, ascending
    cdef Py_ssize_t n_starts
    cdef int32_t[::1] entered  # by new edges, in their order
    cdef Py_ssize_t n_new
    cdef Py_ssize_t n_placed  # of them, in the new order
    cdef int32_t steps[MAX_STEPS]
    cdef int n_steps
    cdef int32_t lightest_bits
    cdef RepairStage stage
    cdef Py_ssize_t at  # of what the stage works on: the next one
    cdef Py_ssize_t passed  # of the order that was
    cdef Py_ssize_t started  # of the starts

    def __cinit__(
        self, const float[::1] relief, int32_t[::1] labels, const Py_ssize_t[::1] steps, float heaviest,
        int32_t[::1] order, uint16_t[::1] levels, unsigned char[::1] directions, Py_ssize_t n_entered,
        Mark[::1] marks, const int32_t[::1] seeds, const int32_t[::1] added, const int32_t[::1] removed,
        int32_t[::1] new_order, uint16_t[::1] new_levels,
    ):
        cdef Py_ssize_t n = relief.shape[0], i
        self.relief, self.labels = relief, labels
        self.order, self.levels, self.directions = order, levels, directions
        self.n_entered, self.marks, self.seeds, self.added = n_entered, marks, seeds, added
        self.new_order, self.new_levels = new_order, new_levels
        self.n_steps = <int> steps.shape[0]
        copy_steps(self.steps, steps)
        self.lightest_bits = bits_of_lightest(heaviest)
        self.cleared = np.empty(n if removed.shape[0] else 0, np.int32)
        self.entered = np.empty(n, np.int32)
        self.stage, self.at, self.passed, self.started = CLEARING, 0, 0, 0
        self.n_cleared, self.n_starts, self.n_new, self.n_placed = 0, 0, 0, 0
        self.starts = np.empty(n, np.int32)
        for i in range(removed.shape[0]):
            self.clear(removed[i])
        if not open_queue(&self.queue):
            raise MemoryError(f"no memory to flood {n} pixels")

    def __dealloc__(self):
        close_queue(&self.queue)

    def run(self, Py_ssize_t pixels):
        """Go on for so many pixels. Return whether there is more to do."""
        if self.stage == CLEARING:
            with nogil:
                self.clear_entered(pixels)
            if self.stage == BORDERING:
                with nogil:
                    self.add_seeds()
        elif self.stage == BORDERING:
            with nogil:
                self.find_borders(pixels)
            if self.stage == ADVANCING:
                np.asarray(self.starts)[:self.n_starts].sort()
        else:
            with nogil:
                if self.stage == ADVANCING:
                    self.advance(pixels)
                elif self.stage == RELABELLING:
                    self.relabel(pixels)
                elif self.stage == MERGING:
                    self.merge(pixels)
                elif self.stage == RANKING:
                    self.rank(pixels)
        if self.queue.failed:
            raise MemoryError(f"no memory to flood {self.relief.shape[0]} pixels")
        return self.stage != REPAIRED

    cdef inline void forget(self, int32_t pixel) noexcept nogil:
        """Take a pixel out of the order that was, if it is there."""
        if 0 <= self.marks[pixel].rank < NO_RANK:
            self.order[self.marks[pixel].rank] = -1
            self.levels[self.marks[pixel].rank] = 0

    cdef inline void clear(self, int32_t pixel) noexcept nogil:
        self.forget(pixel)
        self.marks[pixel].rank = NO_RANK
        self.labels[pixel] = 0
        self.cleared[self.n_cleared] = pixel
        self.n_cleared += 1

    cdef void clear_entered(self, Py_ssize_t pixels) noexcept nogil:
        """Clear all that was entered from cleared pixels."""
        cdef Py_ssize_t stop = self.at + pixels
        cdef int32_t pixel, there
        cdef int s
        while self.at < self.n_cleared and self.at < stop:
            pixel = self.cleared[self.at]
            for s in range(self.n_steps):
                there = pixel + self.steps[s]
                if 0 <= self.marks[there].rank < NO_RANK and self.directions[there] == s:
                    self.clear(there)
            self.at += 1
        if self.at == self.n_cleared:
            self.stage, self.at = BORDERING, 0

    cdef void add_seeds(self) noexcept nogil:
        cdef Py_ssize_t i, n = self.relief.shape[0]
        cdef int32_t pixel
        for i in range(self.added.shape[0]):
            pixel = self.added[i]
            self.forget(pixel)
            self.marks[pixel].rank = <int32_t> (pixel - n)
            self.labels[pixel] = self.seeds[pixel]
            self.marks[pixel].reached = DONE
            self.add_start(pixel)

    cdef inline void add_start(self, int32_t pixel) noexcept nogil:
        self.starts[self.n_starts] = self.marks[pixel].rank
        self.n_starts += 1

    cdef void find_borders(self, Py_ssize_t pixels) noexcept nogil:
        """Find the pixels with a label beside cleared ones."""
        cdef Py_ssize_t stop = min(self.n_cleared, self.at + pixels)
        cdef int32_t pixel, there
        cdef int s
        while self.at < stop:
            pixel = self.cleared[self.at]
            for s in range(self.n_steps):
                there = pixel + self.steps[s]
                if (
                    self.marks[pixel].reached >= 0 and self.marks[there].reached == UNREACHED << STEP_BITS
                    and self.marks[there].rank != NO_RANK and self.marks[there].rank != NO_PART
                ):
                    self.marks[there].reached = FOUND
                    self.add_start(there)
            self.at += 1
        if self.at == self.n_cleared:
            self.stage, self.at = ADVANCING, 0

    cdef void advance(self, Py_ssize_t pixels) noexcept nogil:
        """Pass on along the order that was, and enter what new edges lead to, each in its turn."""
        cdef Queue *queue = &self.queue
        cdef Mark *marks = &self.marks[0]
        cdef int32_t pixel, k
        cdef Py_ssize_t limit, before
        while pixels > 0:
            pixels -= 1
            k = lightest(queue)
            limit = self.n_entered
            if self.started < self.n_starts:
                limit = max(0, <Py_ssize_t> self.starts[self.started] + 1)
                if k < 0:
                    self.passed = limit
            elif k < 0:
                self.stage, self.at = RELABELLING, 0
                break
            if k >= 0:
                pixel = first_of(queue, k)
                if marks[pixel].reached >= 0 and marks[pixel].rank >= self.passed:
                    before = self.passed
                    self.pass_earlier(pixel, k, limit)
                    pixels -= (self.passed - before) >> 2
            if self.passed == limit and self.started < self.n_starts:
                self.start_next()
                continue
            remove_first(queue, k)
            if marks[pixel].reached < 0:
                continue
            if marks[pixel].rank < self.passed:
                marks[pixel].reached = UNREACHED << STEP_BITS
                continue
            self.forget(pixel)
            marks[pixel].rank = <int32_t> self.passed
            marks[pixel].reached |= ENTERED
            self.entered[self.n_new] = pixel
            self.n_new += 1
            self.reach_open(pixel, True)

    cdef inline void pass_earlier(self, int32_t pixel, int32_t k, Py_ssize_t limit) noexcept nogil:
        """Pass what was entered before it is the turn of a new edge, of list k, that leads to a pixel."""
        cdef const Mark *marks = &self.marks[0]
        cdef const uint16_t *levels = &self.levels[0]
        cdef int step = marks[pixel].reached & STEP_MASK
        cdef const Mark *source = &marks[pixel - self.steps[step]]
        # A new pixel has come before the old one of its rank.
        cdef int64_t time = 2 * <int64_t> source.rank + (source.reached >= 0 or source.rank < 0)
        cdef Py_ssize_t passed = self.passed
        while passed < limit and (
            levels[passed] < k
            or (levels[passed] == k and self.came_before(self.order[passed], time, step))
        ):
            passed += 1
        self.passed = passed

    cdef inline bint came_before(self, int32_t pixel, int64_t time, int step) noexcept nogil:
        """Whether a pixel of the order that was, was reached before a time, or then by an earlier step."""
        cdef int64_t own
        if pixel < 0:
            return True
        own = 2 * <int64_t> self.marks[pixel - self.steps[self.directions[pixel]]].rank + 1
        return own < time or (own == time and self.directions[pixel] < step)

    cdef void start_next(self) noexcept nogil:
        """Let the edges wait that are new from here on."""
        cdef int32_t rank = self.starts[self.started]
        cdef int32_t pixel = (
            self.order[rank] if rank >= 0 else <int32_t> (rank + self.relief.shape[0])
        )
        self.started += 1
        if pixel < 0:  # a new edge has won it before
            return
        if self.marks[pixel].reached == FOUND:
            self.marks[pixel].reached = UNREACHED << STEP_BITS
        self.reach_open(pixel, self.marks[pixel].reached < 0)

    cdef inline void reach_open(self, int32_t pixel, bint all_) noexcept nogil:
        """Let a pixel's neighbours wait for its label, as `reach` does: all of them, or the cleared ones."""
        cdef Mark *marks = &self.marks[0]
        cdef const float *relief = &self.relief[0]
        cdef int s, t
        cdef int32_t there, k
        for s in range(self.n_steps):
            there = pixel + self.steps[s]
            if (
                marks[there].reached < 0 or marks[there].rank < self.passed
                or not (all_ or marks[there].rank == NO_RANK)
            ):
                continue
            k = list_of(relief[pixel] + relief[there], self.lightest_bits)
            if k < marks[there].reached >> STEP_BITS:
                marks[there].reached = k << STEP_BITS | s
                for t in range(self.n_steps):
                    if self.steps[t] > 1 or self.steps[t] < -1:
                        prefetch(&marks[there + self.steps[t]])
                        prefetch(&relief[there + self.steps[t]])
                append(&self.queue, there, k)

    cdef void relabel(self, Py_ssize_t pixels) noexcept nogil:
        cdef Py_ssize_t i, stop = min(self.n_new, self.at + pixels)
        cdef int32_t pixel
        for i in range(self.at, stop):
            pixel = self.entered[min(i + 16, stop - 1)]
            prefetch(&self.marks[pixel])
            prefetch(&self.labels[pixel])
            prefetch(&self.directions[pixel])
            pixel = self.entered[i]
            self.directions[pixel] = <unsigned char> (self.marks[pixel].reached & STEP_MASK)
            self.labels[pixel] = self.labels[pixel - self.steps[self.directions[pixel]]]
        self.at = stop
        if stop == self.n_new:
            for i in range(self.added.shape[0]):
                self.marks[self.added[i]].reached = UNREACHED << STEP_BITS
            self.stage, self.at, self.passed = MERGING, 0, 0

    cdef void merge(self, Py_ssize_t pixels) noexcept nogil:
        """Put the pixels that were entered, and those that are left of the order that was, in one order."""
        cdef Py_ssize_t stop = min(self.n_entered, self.passed + pixels), until, at = self.at
        cdef int32_t pixel
        while True:
            # New pixels come before the old one of their rank.
            until = stop
            if self.n_placed < self.n_new:
                until = min(stop, <Py_ssize_t> self.marks[self.entered[self.n_placed]].rank)
            while self.passed < until:
                pixel = self.order[self.passed]
                self.new_order[at] = pixel
                self.new_levels[at] = self.levels[self.passed]
                at += pixel >= 0
                self.passed += 1
            if self.passed == stop and (
                self.n_placed == self.n_new or self.marks[self.entered[self.n_placed]].rank > stop
                or stop < self.n_entered
            ):
                break
            pixel = self.entered[self.n_placed]
            self.n_placed += 1
            self.new_order[at] = pixel
            self.new_levels[at] = <uint16_t> ((self.marks[pixel].reached & NO_RANK) >> STEP_BITS)
            self.marks[pixel].reached = UNREACHED << STEP_BITS
            at += 1
        self.at = at
        if stop == self.n_entered:
            self.n_entered = at
            self.stage, self.at = RANKING, 0

    cdef void rank(self, Py_ssize_t pixels) noexcept nogil:
        cdef Py_ssize_t stop = min(self.n_entered, self.at + pixels)
        rank_from(self.marks, self.new_order, self.at, stop)
        self.at = stop
        if stop == self.n_entered:
            self.stage = REPAIRED


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


@cython.final
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
    # The same, roughly, of each neighbour that is heard.
    float *rough_votes
    int32_t *heard
    float error  # of rough votes, at most


cdef inline bint is_mixed(
    const int32_t *labels, const Py_ssize_t *steps, int n_steps, Py_ssize_t pixel
) noexcept nogil:
    """Whether a pixel's window holds another label than its own."""
    cdef int s
    cdef int32_t label
    for s in range(n_steps):
        label = labels[pixel + steps[s]]
        if label > 0 and label != labels[pixel]:
            return True
    return False


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


cdef inline float most_of(const float *votes, const int32_t *heard, int32_t label, int n) noexcept nogil:
    """Return the votes for a label less those for others, of n neighbours."""
    cdef float lanes[8]
    cdef float total = 0
    cdef int i, lane
    for lane in range(8):
        lanes[lane] = 0
    for i in range(0, n - 7, 8):
        for lane in range(8):
            lanes[lane] += votes[i + lane] if heard[i + lane] == label else -votes[i + lane]
    for i in range(n & ~7, n):
        total += votes[i] if heard[i] == label else -votes[i]
    for lane in range(8):
        total += lanes[lane]
    return total


cdef inline bint keeps_label(
    Ballot *ballot, const int32_t *labels, const int32_t *zones, const float *features, int n_channels,
    const Py_ssize_t *steps, int n_steps, Py_ssize_t pixel, float scale,
) noexcept nogil:
    """Whether a pixel's own label has more than half of its window's votes, by far more than their error.

    If not, votes have to be counted with care.
    """
    cdef int s, c, i, n = 0
    cdef Py_ssize_t there
    cdef float distance, difference
    cdef const float *own = &features[pixel * n_channels]
    cdef float *votes = ballot.rough_votes
    cdef int32_t *heard = ballot.heard
    cdef int32_t label
    for s in range(n_steps):
        there = pixel + steps[s]
        label = labels[there]
        if label <= 0 or (zones != NULL and zones[there] != zones[pixel]):
            continue
        distance = 0
        for c in range(n_channels):
            difference = own[c] - features[there * n_channels + c]
            distance += difference * difference
        heard[n] = label
        votes[n] = distance
        n += 1
    for i in range(n):
        votes[i] = apro_half_to(votes[i] * scale)
    return 1 + most_of(votes, heard, labels[pixel], n) > n * ballot.error


cdef void close_ballot(Ballot *ballot) noexcept nogil:
    free(ballot.votes)
    free(ballot.met)
    free(ballot.rough_votes)
    free(ballot.heard)


def cast_votes(
    const float[:, ::1] features, const int32_t[::1] labels, const int32_t[::1] zones,
    const Py_ssize_t[::1] steps, double scale, const int32_t[::1] active, int32_t[::1] chosen,
    float[:, :] shares, Py_ssize_t first, Py_ssize_t last,
):
    """Choose labels for the pixels active[first:last]: that of the largest vote over their window.

    A neighbour at squared distance d in `features` (N, C) votes with exp(-d scale), the pixel itself
    with 1; `steps` lead to the others of the window. Pixels of different `zones` (no entries: there is
    one) do not hear one another. Ties keep the label. `shares` (N, n_labels, or no rows) receives the votes
    as shares, where there is more than one label.
    """
    cdef int n_steps = <int> steps.shape[0], n_channels = <int> features.shape[1], m, best
    cdef bint wanted = shares.shape[0] > 0
    cdef const int32_t *zones_data = &zones[0] if zones.shape[0] else NULL
    cdef float rough_scale = <float> (scale * M_LOG2E)
    cdef Ballot ballot
    cdef Py_ssize_t i
    if first == last:
        return
    ballot.votes = <double *> malloc((n_steps + 1) * sizeof(double))
    ballot.met = <int32_t *> malloc((n_steps + 1) * sizeof(int32_t))
    ballot.rough_votes = <float *> malloc((n_steps + 1) * sizeof(float))
    ballot.heard = <int32_t *> malloc((n_steps + 1) * sizeof(int32_t))
    if ballot.votes == NULL or ballot.met == NULL or ballot.rough_votes == NULL or ballot.heard == NULL:
        close_ballot(&ballot)
        raise MemoryError(f"no memory for the votes of {n_steps} pixels")
    # Of a power, of distances in float32, where their share of a vote is largest, and of sums of votes.
    ballot.error = <float> (1e-5 + 1e-7 * n_channels + 1e-7 * n_steps)
    with nogil:
        for i in range(first, last):
            if not is_mixed(&labels[0], &steps[0], n_steps, active[i]) or (
                not wanted and keeps_label(
                    &ballot, &labels[0], zones_data, &features[0, 0], n_channels, &steps[0], n_steps,
                    active[i], rough_scale,
                )
            ):
                chosen[i] = labels[active[i]]
                continue
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
        close_ballot(&ballot)


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


cdef enum:
    BLOCK = 64


cdef inline int32_t differences(
    const int32_t *labels, const Py_ssize_t *steps, int n_steps, Py_ssize_t n
) noexcept nogil:
    """Return 0 if the labels that the steps lead to, from n pixels, are the pixels' own."""
    cdef Py_ssize_t i, step
    cdef int s
    cdef int32_t found = 0
    for s in range(n_steps):
        step = steps[s]
        for i in range(n):
            found |= labels[i] ^ labels[i + step]
    return found


def find_borders(
    const int32_t[::1] labels, const Py_ssize_t[::1] steps, int32_t[::1] pixels, Py_ssize_t first,
    Py_ssize_t last,
):
    """List those of pixels [first, last) that have a label, and a neighbour with another or none.

    They are written to `pixels` from `first` on. Return how many there are. `steps` lead to neighbours. The
    first and the last pixels have no label, so many that no step from the others leads out.
    """
    cdef Py_ssize_t i, start, stop, margin = 0, n = labels.shape[0], count = 0
    cdef int s, n_steps = <int> steps.shape[0]
    cdef const int32_t *own = &labels[0]
    cdef const Py_ssize_t *to = &steps[0]
    with nogil:
        for s in range(n_steps):
            margin = max(margin, to[s])
        start, stop = max(first, margin), min(last, n - margin)
        while start < stop:
            if differences(own + start, to, n_steps, min(BLOCK, stop - start)):
                for i in range(start, min(start + BLOCK, stop)):
                    if own[i] > 0 and differences(own + i, to, n_steps, 1):
                        pixels[first + count] = <int32_t> i
                        count += 1
            start += BLOCK
    return count


def own_shares(const int32_t[::1] labels, float[:, :] shares, Py_ssize_t first, Py_ssize_t last):
    """Give pixels [first, last) a share of 1 of the label they have, if any."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(first, last):
            if labels[i] > 0:
                shares[i, labels[i] - 1] = 1


def find_differences(
    const int32_t[::1] before, const int32_t[::1] labels, int32_t[::1] pixels, Py_ssize_t first,
    Py_ssize_t last, Py_ssize_t count,
):
    """List those of pixels [first, last) that have another label than before, beside `count` that are listed.

    Return how many there are.
    """
    cdef Py_ssize_t i, start = first
    with nogil:
        while start < last:
            if memcmp(&before[start], &labels[start], min(BLOCK, last - start) * sizeof(int32_t)):
                for i in range(start, min(start + BLOCK, last)):
                    pixels[count] = <int32_t> i
                    count += before[i] != labels[i]
            start += BLOCK
    return count


cdef inline void queue_pixel(
    const int32_t *labels, Py_ssize_t pixel, unsigned char *queued, int32_t *listed, Py_ssize_t *n_listed
) noexcept nogil:
    if labels[pixel] >= 0 and not queued[pixel]:
        queued[pixel] = 1
        listed[n_listed[0]] = <int32_t> pixel
        n_listed[0] += 1


def queue_differences(
    const int32_t[::1] before, const int32_t[::1] labels, const Py_ssize_t[::1] near,
    const Py_ssize_t[::1] steps, const int32_t[::1] differing, unsigned char[::1] queued,
    int32_t[::1] listed, Py_ssize_t first, Py_ssize_t last, Py_ssize_t n_listed,
):
    """Queue the pixels whose votes may differ from those before, as differing[first:last] have other labels.

    They are those whose window, before or now, holds more than one label and a pixel that differs. Windows
    are boxes. One like that therefore holds a pixel that differs and has, before or now, a neighbour with
    another label, by a step that is `near`. They are written to `listed`, where n_listed are already. Return
    how many there are now.
    """
    cdef Py_ssize_t i, s, n_near = near.shape[0], pixel
    cdef int32_t found
    with nogil:
        for i in range(first, last):
            pixel = differing[i]
            found = 0
            for s in range(n_near):
                found |= labels[pixel] ^ labels[pixel + near[s]]
                found |= before[pixel] ^ before[pixel + near[s]]
            if found:
                queue_pixel(&labels[0], pixel, &queued[0], &listed[0], &n_listed)
                for s in range(steps.shape[0]):
                    queue_pixel(&labels[0], pixel + steps[s], &queued[0], &listed[0], &n_listed)
    return n_listed


def queue_pixels(
    const int32_t[::1] labels, const int32_t[::1] pixels, unsigned char[::1] queued, int32_t[::1] listed,
    Py_ssize_t n_listed,
):
    """Queue pixels. They are written to `listed`, where n_listed are. Return how many there are now."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(pixels.shape[0]):
            queue_pixel(&labels[0], pixels[i], &queued[0], &listed[0], &n_listed)
    return n_listed


def find_voters(
    const int32_t[::1] labels, const unsigned char[::1] held, const int32_t[::1] listed,
    int32_t[::1] voters, Py_ssize_t first, Py_ssize_t last, Py_ssize_t count,
):
    """Write those of listed[first:last] to `voters` that have a label and are not held, beside `count`."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(first, last):
            voters[count] = listed[i]
            count += labels[listed[i]] > 0 and not held[listed[i]]
    return count


def change_as_before(
    int32_t[::1] labels, const unsigned char[::1] queued, const int32_t[::1] pixels,
    const int32_t[::1] changed_to, int32_t[::1] changed, Py_ssize_t first, Py_ssize_t last,
    Py_ssize_t n_changed,
):
    """Change those of pixels[first:last] that are not queued, as a vote before did.

    They are written to `changed`, where n_changed are already. Return how many there are now.
    """
    cdef Py_ssize_t i
    cdef int32_t pixel
    with nogil:
        for i in range(first, last):
            pixel = pixels[i]
            if not queued[pixel]:
                labels[pixel] = changed_to[i]
                changed[n_changed] = pixel
                n_changed += 1
    return n_changed


def change_voters(
    int32_t[::1] labels, const int32_t[::1] voters, const int32_t[::1] chosen, int32_t[::1] changed,
    Py_ssize_t first, Py_ssize_t last, Py_ssize_t n_changed,
):
    """Give voters[first:last] the labels that were chosen.

    Those that change are written to `changed`, where n_changed are already. Return how many there are now.
    """
    cdef Py_ssize_t i
    with nogil:
        for i in range(first, last):
            if labels[voters[i]] != chosen[i]:
                labels[voters[i]] = chosen[i]
                changed[n_changed] = voters[i]
                n_changed += 1
    return n_changed
