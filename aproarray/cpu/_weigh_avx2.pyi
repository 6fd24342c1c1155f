from aproarray.cpu._weigh import collect_unmarked as collect_unmarked
from aproarray.cpu._weigh import count_unmarked as count_unmarked
from aproarray.cpu._weigh import find_lightest as find_lightest
from aproarray.cpu._weigh import find_pairs as find_pairs
from aproarray.cpu._weigh import join_pairs as join_pairs
from aproarray.cpu._weigh import weigh_edges as weigh_edges
from aproarray.cpu._weigh import weigh_slabs as weigh_slabs
