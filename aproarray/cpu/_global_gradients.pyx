"""Gradients of global propagation to a tree's weights, and from there to features.

With y = K phi / z, g the gradient of y, and a = g / z, the weight w of the merge of the sides L and R has

    dL/dw = -exp(-w/zeta^2) / zeta^2 * (sum_c (A_Lc Phi_Rc + A_Rc Phi_Lc) - B_L n_R - B_R n_L),

where A, Phi, B and n are sums of a, phi, sum_c a_c y_c and 1 over a side. One pass along the line finds these
sums. Its stack holds the left sides of merges whose right sides are still to come.
"""

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc, realloc

from aproarray._zeta import inverse_square

from aproarray.cpu._prefetch cimport prefetch

ctypedef fused real:
    float
    double

ctypedef fused weight_t:
    float
    double

ctypedef fused index_t:
    int32_t
    int64_t

MAX_COLUMNS = 32

cdef enum:
    AHEAD = 12  # pixels that are prefetched before their turn


cdef struct Rows:
    # The address of the first column at pixel 0, and bytes from one pixel to the next.
    const char *first
    Py_ssize_t stride


cdef struct Stack:
    Py_ssize_t capacity
    Py_ssize_t *merges  # the place of each entry's gap, gaps falling upwards
    double *sums  # of each entry's left side: A, Phi, B and n


cdef bint grow(Stack *stack, int width) noexcept nogil:
    cdef Py_ssize_t capacity = 2 * stack.capacity
    cdef void *moved = realloc(stack.sums, capacity * width * sizeof(double))
    if moved == NULL:
        return False
    stack.sums = <double *> moved
    moved = realloc(stack.merges, capacity * sizeof(Py_ssize_t))
    if moved == NULL:
        return False
    stack.merges = <Py_ssize_t *> moved
    stack.capacity = capacity
    return True


cdef inline bint side_sums(
    Rows grad, Rows values, Rows result, const index_t *order, const weight_t *gaps, const double *kappa,
    const real *sums, Py_ssize_t n, int count, double scale, double *out, Stack *stack,
) noexcept nogil:
    """Add dL/dw of all merges to `out`, as far as `count` columns make it. False: out of memory."""
    cdef Py_ssize_t p, pixel, ahead, top = 0  # entries 1 to top are in use
    cdef int c, width = 2 * count + 2
    cdef double right[2 * 32 + 2]
    cdef double *left
    cdef double inverse, dot
    cdef const real *g
    cdef const real *phi
    cdef const real *y
    for p in range(n):
        if p + AHEAD < n:
            ahead = order[p + AHEAD]
            prefetch(grad.first + ahead * grad.stride)
            prefetch(values.first + ahead * values.stride)
            prefetch(result.first + ahead * result.stride)
        pixel = order[p]
        g = <const real *> (grad.first + pixel * grad.stride)
        phi = <const real *> (values.first + pixel * values.stride)
        y = <const real *> (result.first + pixel * result.stride)
        inverse = 1 / <double> sums[p]
        dot = 0
        for c in range(count):
            right[c] = g[c] * inverse
            right[count + c] = phi[c]
            dot += right[c] * y[c]
        right[2 * count] = dot
        right[2 * count + 1] = 1

        # A merge no heavier than the next gap has its right side complete. At affinity 0, all merges have.
        while top > 0 and (p + 1 == n or kappa[p] == 0 or gaps[stack.merges[top]] <= gaps[p]):
            left = stack.sums + top * width
            dot = -left[2 * count] * right[2 * count + 1] - right[2 * count] * left[2 * count + 1]
            for c in range(count):
                dot += left[c] * right[count + c] + right[c] * left[count + c]
            out[stack.merges[top]] -= kappa[stack.merges[top]] * scale * dot
            for c in range(width):
                right[c] += left[c]
            top -= 1
        if p + 1 == n or kappa[p] == 0:
            continue
        top += 1
        if top == stack.capacity and not grow(stack, width):
            return False
        stack.merges[top] = p
        left = stack.sums + top * width
        for c in range(width):
            left[c] = right[c]
    return True


def gap_gradient(
    const real[:, :] grad, const real[:, :] values, const real[:, :] result, const index_t[::1] order,
    const weight_t[::1] gaps, const double[::1] kappa, const real[::1] sums, double zeta, double[::1] out,
):
    """Add dL/dgap to out (N-1), for grad = dL/dresult of result = GP of values, all (N, C), C at most 32.

    The columns of a pixel are consecutive. `order` (N) names the pixels along the line; `sums` is its z.
    """
    cdef Py_ssize_t n = values.shape[0]
    cdef int count = <int> values.shape[1]
    cdef double scale = inverse_square(zeta)
    cdef Rows grad_rows, value_rows, result_rows
    cdef Stack stack
    cdef bint done = False
    if n < 2 or count == 0:
        return
    grad_rows.first = <const char *> &grad[0, 0]
    grad_rows.stride = grad.strides[0]
    value_rows.first = <const char *> &values[0, 0]
    value_rows.stride = values.strides[0]
    result_rows.first = <const char *> &result[0, 0]
    result_rows.stride = result.strides[0]
    with nogil:
        stack.capacity = 64
        stack.merges = <Py_ssize_t *> malloc(stack.capacity * sizeof(Py_ssize_t))
        stack.sums = <double *> malloc(stack.capacity * (2 * count + 2) * sizeof(double))
        if stack.merges != NULL and stack.sums != NULL and count == 1:  # a constant, for its loops
            done = side_sums(
                grad_rows, value_rows, result_rows, &order[0], &gaps[0], &kappa[0], &sums[0], n, 1,
                scale, &out[0], &stack,
            )
        elif stack.merges != NULL and stack.sums != NULL:
            done = side_sums(
                grad_rows, value_rows, result_rows, &order[0], &gaps[0], &kappa[0], &sums[0], n, count,
                scale, &out[0], &stack,
            )
        free(stack.merges)
        free(stack.sums)
    if not done:
        raise MemoryError(f"no memory for the stack of a sweep over {n} pixels and {count} channels")


cdef enum:
    TOGETHER = 4  # channels: vectors, where compilers cannot tell that rows are apart


def feature_gradient(
    const double[::1] gap_gradient, const real[:, ::1] features, const index_t[:, ::1] gap_edges,
    real[:, ::1] out,
):
    """Add to out (N, C) the gradient of features (N, C), from dL/dw of w = |f_u - f_v|^2 for all gaps."""
    cdef Py_ssize_t p, u, v, c, k, n = gap_edges.shape[0], n_channels = features.shape[1]
    cdef double twice
    cdef real change[TOGETHER]
    cdef const real *rows
    cdef real *found
    if n == 0 or n_channels == 0:
        return
    rows, found = &features[0, 0], &out[0, 0]
    with nogil:
        for p in range(n):
            if p + AHEAD < n and gap_edges[p + AHEAD, 0] >= 0:
                u = gap_edges[p + AHEAD, 0] * n_channels
                v = gap_edges[p + AHEAD, 1] * n_channels
                prefetch(rows + u)
                prefetch(rows + v)
                prefetch(found + u)
                prefetch(found + v)
            if gap_edges[p, 0] < 0:  # between the trees of a forest
                continue
            u = gap_edges[p, 0] * n_channels
            v = gap_edges[p, 1] * n_channels
            twice = 2 * gap_gradient[p]
            for c in range(0, n_channels - TOGETHER + 1, 4):  # TOGETHER
                for k in range(TOGETHER):
                    change[k] = <real> (twice * (<double> rows[u + c + k] - rows[v + c + k]))
                for k in range(TOGETHER):
                    found[u + c + k] += change[k]
                for k in range(TOGETHER):
                    found[v + c + k] -= change[k]
            for c in range(n_channels - n_channels % TOGETHER, n_channels):
                change[0] = <real> (twice * (<double> rows[u + c] - rows[v + c]))
                found[u + c] += change[0]
                found[v + c] -= change[0]
