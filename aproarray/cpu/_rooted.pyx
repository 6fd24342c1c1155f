"""Trees with a root: lay nodes out breadth first, and sum over all pairs of nodes with products along paths.

S_ij is the product of the weights of the edges between i and j. Sums over j come from two passes [1]:

    up:    A_i = phi_i + sum of w_c A_c over the children c of i  (all below i)
    down:  (S phi)_i = (1 - w_i^2) A_i + w_i (S phi)_parent       (all)

Nodes are numbered by their *places*, breadth first from the roots of all trees of a forest. The places of
parents then never fall, so that both passes stream through memory.

[1] L. Song et al., "Learnable Tree Filter for Structure-preserving Feature Transform", NeurIPS 2019.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t

from aproarray.cpu._prefetch cimport prefetch

ctypedef fused real:
    float
    double

ctypedef fused index_t:
    int32_t
    int64_t

MAX_COLUMNS = 16

cdef enum:
    AHEAD = 12  # places whose pixels are prefetched before their turn
    LEFT = -2  # in place of the gap of a node's first edge: its neighbours have been laid out


def root_trees(
    const index_t[::1] order, const index_t[:, ::1] gap_edges, index_t[::1] first, index_t[:, ::1] ends,
    uint8_t[::1] seen, index_t[::1] nodes, index_t[::1] parents, index_t[::1] gaps,
):
    """Lay a forest of n > 0 nodes out breadth first, and return how many roots there are.

    nodes, parents and gaps (n) get, by places, the node, the place of its parent and the gap of the edge to
    it; for roots, which come first, their own place and -1. Roots are the first nodes of trees on the line.
    first (n + 2), ends (2 n, 2) and seen (n) are room to work in.

    Anybody can make a tree: a ValueError says where order or gap_edges are none. No other function looks.
    """
    cdef Py_ssize_t n = order.shape[0], p, place, begin, end, stop, node, side, last, n_roots = 0
    cdef bint in_range = True, is_forest = True
    with nogil:
        first[:] = 0
        seen[:] = 0
        for p in range(-1, n - 1):
            if p >= 0 and gap_edges[p, 0] >= 0:
                for side in range(2):
                    node = gap_edges[p, side]
                    if 0 <= node < n:
                        first[node + 2] += 1
                    else:
                        in_range = False
                continue
            node = order[p + 1]
            if 0 <= node < n and (p < 0 or gap_edges[p, 1] < 0):
                is_forest = is_forest and not seen[node]
                seen[node] = 1
                nodes[n_roots] = <index_t> node
                parents[n_roots] = <index_t> n_roots
                gaps[n_roots] = -1
                n_roots += 1
            else:
                in_range = False
    if not in_range:
        raise ValueError(
            f"a tree of {n} pixels must have numbers of pixels from 0 to {n - 1} in order and gap_edges, and "
            "-1 at both ends of a missing edge"
        )
    with nogil:
        for p in range(2, n + 1):
            first[p] += first[p - 1]
        # first[u + 1] moves from the start of the ends at u to their stop, where those at u + 1 start.
        for p in range(n - 1):
            if gap_edges[p, 0] >= 0:
                for side in range(2):
                    node = gap_edges[p, side]
                    end = first[node + 1]
                    ends[end, 0] = gap_edges[p, 1 - side]
                    ends[end, 1] = <index_t> p
                    first[node + 1] += 1
        last = n_roots
        place = 0
        # A node that has been left has no ends any more. There is room for all, if each is left once.
        while is_forest and place < last:
            node = nodes[place]
            begin = first[node]
            stop = first[node + 1]
            if begin < stop:
                is_forest = ends[begin, 1] != LEFT and last + stop - begin - (place >= n_roots) <= n
                if not is_forest:
                    break
                for end in range(begin, stop):
                    if ends[end, 1] != gaps[place]:
                        nodes[last] = ends[end, 0]
                        parents[last] = <index_t> place
                        gaps[last] = ends[end, 1]
                        last += 1
                ends[begin, 1] = LEFT
            place += 1
    if not is_forest or last < n:
        raise ValueError(
            f"gap_edges must be the edges of a tree, or of a forest whose trees begin in order where an edge "
            f"is missing; those of this tree of {n} pixels close a circle or leave pixels out"
        )
    return n_roots


def edge_distances(const real[:, :] features, const index_t[:, :] gap_edges, real[::1] out):
    """Fill out (N-1) with |f_u - f_v|^2 of features (N, C) for every gap's edge, inf where there is none.

    Return whether those of all edges are finite.
    """
    cdef Py_ssize_t p, u, v, c
    cdef bint finite = True
    cdef real difference, total
    with nogil:
        for p in range(out.shape[0]):
            u = gap_edges[p, 0]
            v = gap_edges[p, 1]
            total = 0
            if u < 0:
                total = <real> INFINITY
            else:
                for c in range(features.shape[1]):
                    difference = features[u, c] - features[v, c]
                    total += difference * difference
                finite = finite and total < INFINITY
            out[p] = total
    return finite


cdef inline void sum_up(
    double *up, const index_t *parents, const double *weights, Py_ssize_t n_roots, Py_ssize_t n, int count,
) noexcept nogil:
    """Turn phi into A, in rows of `count` columns."""
    cdef Py_ssize_t place, parent
    cdef int c
    cdef double w
    for place in range(n - 1, n_roots - 1, -1):
        parent = parents[place]
        w = weights[place]
        for c in range(count):
            up[parent * count + c] += w * up[place * count + c]


cdef inline void sum_down(
    double *total, const index_t *parents, const double *weights, Py_ssize_t n_roots, Py_ssize_t n, int count,
) noexcept nogil:
    """Turn A into S phi."""
    cdef Py_ssize_t place, parent
    cdef int c
    cdef double w, rest
    for place in range(n_roots, n):
        parent = parents[place]
        w = weights[place]
        rest = 1 - w * w
        for c in range(count):
            total[place * count + c] = rest * total[place * count + c] + w * total[parent * count + c]


cdef void sum_all(
    double *rows, const index_t *parents, const double *weights, Py_ssize_t n_roots, Py_ssize_t n, int count,
) noexcept nogil:
    """Turn phi into S phi. Frequent numbers of columns are constants to the compiler."""
    if count == 1:
        sum_up(rows, parents, weights, n_roots, n, 1)
        sum_down(rows, parents, weights, n_roots, n, 1)
    elif count == 8:
        sum_up(rows, parents, weights, n_roots, n, 8)
        sum_down(rows, parents, weights, n_roots, n, 8)
    elif count == 16:
        sum_up(rows, parents, weights, n_roots, n, 16)
        sum_down(rows, parents, weights, n_roots, n, 16)
    else:
        sum_up(rows, parents, weights, n_roots, n, count)
        sum_down(rows, parents, weights, n_roots, n, count)


cdef inline void gather(
    const real[:, :] values, const index_t[::1] nodes, const double *divisors, double *rows, int count,
) noexcept nogil:
    """Take values (N, count) of pixels to places, divided by those of the pixels, if there are any."""
    cdef Py_ssize_t place, node, n = nodes.shape[0]
    cdef int c
    for place in range(n):
        if place + AHEAD < n:
            prefetch(<const char *> &values[nodes[place + AHEAD], 0])
        node = nodes[place]
        for c in range(count):
            rows[place * count + c] = values[node, c]
            if divisors != NULL:
                rows[place * count + c] = rows[place * count + c] / divisors[place]


def normalizers(
    const index_t[::1] parents, const double[::1] weights, Py_ssize_t n_roots, double self_weight,
    double[::1] out,
):
    """Fill out (n) with S 1 by places, S_ii being self_weight."""
    cdef Py_ssize_t place, n = parents.shape[0]
    with nogil:
        out[:] = 1
        sum_all(&out[0], &parents[0], &weights[0], n_roots, n, 1)
        for place in range(n):
            out[place] -= 1 - self_weight


def filter_columns(
    const real[:, :] values, real[:, :] out, const index_t[::1] nodes, const index_t[::1] parents,
    const double[::1] weights, Py_ssize_t n_roots, double self_weight, const double[::1] normalizers,
    bint transposed, double[::1] rows,
):
    """Fill out (N, count) with S values, S_ii being self_weight.

    With normalizers (n), which are S 1 by places, it is divided by them or, transposed, the values are.
    `rows` (n count) is room to work in.
    """
    cdef Py_ssize_t place, node, n = nodes.shape[0]
    cdef int c, count = <int> values.shape[1]
    cdef const double *divisors = &normalizers[0] if normalizers.shape[0] else NULL
    cdef const double *before = divisors if transposed else NULL
    cdef double result
    with nogil:
        gather(values, nodes, before, &rows[0], count)
        sum_all(&rows[0], &parents[0], &weights[0], n_roots, n, count)
        for place in range(n):
            node = nodes[place]
            for c in range(count):
                result = rows[place * count + c]
                if self_weight != 1:
                    if before != NULL:
                        result -= (1 - self_weight) * (values[node, c] / before[place])
                    else:
                        result -= (1 - self_weight) * values[node, c]
                if divisors != NULL and not transposed:
                    result = result / divisors[place]
                out[node, c] = <real> result


def weight_gradient(
    const real[:, :] grad, const real[:, :] values, const real[:, :] result, const index_t[::1] nodes,
    const index_t[::1] parents, const index_t[::1] gaps, const double[::1] weights, Py_ssize_t n_roots,
    const double[::1] normalizers, double[::1] up, double[::1] total, double[::1] out,
):
    """Add to out (N-1) the gradient of -log w of every gap, from grad (N, count) = dL/dresult of S values.

    With normalizers (n), result is S values / S 1. With a the gradient divided by S 1,
    b = sum_c a_c result_c, and A and O the sums below and above an edge, as its ends see them:

        dL/dw = sum_c (A[a_c] O[phi_c] + O[a_c] A[phi_c]) - A[b] O[1] - O[b] A[1]

    up and total (n (2 count + 2)) are room to work in.
    """
    cdef Py_ssize_t place, parent, n = nodes.shape[0]
    cdef int c, count = <int> values.shape[1], width = 2 * count + 2
    cdef bint normalised = normalizers.shape[0] != 0
    cdef double w, found, dot
    cdef double *a
    cdef double *beyond
    with nogil:
        for place in range(n):
            a = &up[place * width]
            dot = 0
            for c in range(count):
                a[c] = grad[nodes[place], c]
                a[count + c] = values[nodes[place], c]
                if normalised:
                    a[c] = a[c] / normalizers[place]
                    dot += a[c] * result[nodes[place], c]
            a[2 * count] = dot
            a[2 * count + 1] = 1
        sum_up(&up[0], &parents[0], &weights[0], n_roots, n, width)
        total[:n * width] = up[:n * width]
        sum_down(&total[0], &parents[0], &weights[0], n_roots, n, width)
        for place in range(n_roots, n):
            parent = parents[place]
            w = weights[place]
            a = &up[place * width]
            beyond = &total[parent * width]
            found = 0
            for c in range(count):
                found += a[c] * (beyond[count + c] - w * a[count + c])
                found += (beyond[c] - w * a[c]) * a[count + c]
            if normalised:
                c = 2 * count
                found -= a[c] * (beyond[c + 1] - w * a[c + 1]) + (beyond[c] - w * a[c]) * a[c + 1]
            out[gaps[place]] -= w * found
