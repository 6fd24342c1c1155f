from aproarray.cpu._weigh import weigh_edges as weigh_edges
from aproarray.cpu._weigh import weigh_slabs as weigh_slabs
